package memory

import (
	"math"
	"unsafe"

	"golang.org/x/sys/windows"
)

// memoryStatus is MEMORYSTATUSEX.
type memoryStatus struct {
	length, load                                                   uint32
	total, free, totalPage, freePage, totalVirtual, freeVirtual, x uint64
}

// machine is the memory of the machine in bytes, or 0.
func machine() int64 {
	var s memoryStatus
	s.length = uint32(unsafe.Sizeof(s))
	ok, _, _ := windows.NewLazySystemDLL("kernel32.dll").NewProc("GlobalMemoryStatusEx").Call(uintptr(unsafe.Pointer(&s)))
	if ok == 0 || s.total > math.MaxInt64 {
		return 0
	}
	return int64(s.total)
}
