package disk

import (
	"os"
	"path/filepath"
)

// Free is how many bytes can be written to the file system where path is, or
// will be; ok is false where the system does not tell.
func (d FS) Free(path string) (n int64, ok bool) {
	if d.Room != nil {
		return d.Room(path)
	}
	for dir := path; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			return free(dir)
		}
		if dir == filepath.Dir(dir) {
			return 0, false
		}
	}
}

// product is a*b, or the most there is.
func product(a, b uint64) int64 {
	const most = 1<<63 - 1
	if b > 0 && a > most/b {
		return most
	}
	return int64(a * b)
}
