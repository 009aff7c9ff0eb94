package memory

import (
	"runtime"
	"runtime/debug"
)

// Hold makes the garbage collector keep the program within limit bytes, as far
// as what is in use allows; one that is lower already stays. The function that
// it returns sets back what was before.
func Hold(limit int64) (release func()) {
	before := debug.SetMemoryLimit(-1)
	if limit <= 0 || limit >= before {
		return func() {}
	}
	debug.SetMemoryLimit(limit)
	return func() { debug.SetMemoryLimit(before) }
}

// Collect gives back what is not in use any more, where pieces of n bytes are
// about. Memory is in matrices here, which the collector need not look into: it
// takes about a millisecond.
func Collect(n int64) {
	const worth = 8 << 20
	if n >= worth {
		runtime.GC()
	}
}

// Default is the limit where none is given: 80 % of what is available, or 0, none,
// if that is unknown.
func Default() int64 { return Available() / 5 * 4 }
