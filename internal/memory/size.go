package memory

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

var units = []struct {
	name  string
	bytes float64
}{
	{"", 1}, {"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
}

// ParseSize reads a number of bytes: 4GiB, 4G (the same), 4.5GB, 800MiB, 4294967296.
func ParseSize(text string) (int64, error) {
	t := strings.TrimSpace(text)
	end := strings.LastIndexAny(t, "0123456789.") + 1
	v, err := strconv.ParseFloat(t[:end], 64)
	unit := strings.TrimSpace(t[end:])
	for _, u := range units {
		if err == nil && strings.EqualFold(u.name, unit) {
			if n := v * u.bytes; n >= 1 && n < math.MaxInt64 {
				return int64(n), nil
			}
			return 0, fmt.Errorf("size %q: want a positive number of bytes", text)
		}
	}
	return 0, fmt.Errorf("size %q: want a number with a unit, such as 4GiB, 800MiB or 6GB", text)
}

// Size is a number of bytes in words, such as "1.81 GiB", rounded up.
func Size(n int64) string {
	switch v := float64(n); {
	case v >= 1<<30:
		return fmt.Sprintf("%.2f GiB", math.Ceil(v/(1<<30)*100)/100)
	case v >= 1<<20:
		return fmt.Sprintf("%.0f MiB", math.Ceil(v/(1<<20)))
	}
	return fmt.Sprintf("%d KiB", (n+1023)>>10)
}

// Decimal is a number of bytes for people, in decimal units as those of files are.
func Decimal(n int64) string {
	const units = "kMGT"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1000, 0
	for v >= 999.5 && u < len(units)-1 {
		v /= 1000
		u++
	}
	if v < 10 {
		return fmt.Sprintf("%.2f %cB", v, units[u])
	}
	if v < 100 {
		return fmt.Sprintf("%.1f %cB", v, units[u])
	}
	return fmt.Sprintf("%.0f %cB", v, units[u])
}
