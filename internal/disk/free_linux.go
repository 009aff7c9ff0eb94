package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

func free(path string) (int64, bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil || s.Blocks == 0 { // some have no blocks to count
		return 0, false
	}
	blocks, size := s.Bavail, s.Frsize
	if os.Geteuid() == 0 {
		blocks = s.Bfree // what is kept for it counts
	}
	if size <= 0 {
		size = s.Bsize
	}
	return product(blocks, uint64(size)), true
}
