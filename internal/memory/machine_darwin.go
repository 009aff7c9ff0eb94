package memory

import (
	"math"

	"golang.org/x/sys/unix"
)

// machine is the memory of the machine in bytes, or 0.
func machine() int64 {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil || n > math.MaxInt64 {
		return 0
	}
	return int64(n)
}
