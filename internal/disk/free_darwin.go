package disk

import "golang.org/x/sys/unix"

func free(path string) (int64, bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil || s.Blocks == 0 {
		return 0, false
	}
	return product(s.Bavail, uint64(s.Bsize)), true
}
