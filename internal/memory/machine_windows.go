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

// memoryCounters is PROCESS_MEMORY_COUNTERS.
type memoryCounters struct {
	size, faults     uint32
	peakWorking      uintptr
	working          uintptr
	pools            [4]uintptr
	page, peakPaging uintptr
}

// used is the most memory that the process has had, or 0.
func used() int64 {
	var c memoryCounters
	c.size = uint32(unsafe.Sizeof(c))
	ok, _, _ := windows.NewLazySystemDLL("kernel32.dll").NewProc("K32GetProcessMemoryInfo").Call(uintptr(windows.CurrentProcess()), uintptr(unsafe.Pointer(&c)), uintptr(c.size))
	if ok == 0 {
		return 0
	}
	return int64(c.peakWorking)
}
