//go:build !linux

package safetensors

import "os"

// reserve sets the size of a file; the space is taken as it is written.
func reserve(f *os.File, size int64) error { return f.Truncate(size) }
