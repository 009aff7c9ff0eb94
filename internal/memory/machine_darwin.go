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

// used is the most memory that the process has had, or 0.
func used() int64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Maxrss
}
