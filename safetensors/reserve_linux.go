package safetensors

import (
	"errors"
	"os"
	"syscall"
)

// reserve takes the disk space of a file, so that a full disk shows before the
// work starts. A file system that cannot do it gets a sparse file.
func reserve(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	// A signal may interrupt it each time where it is slow.
	for range 100 {
		err := syscall.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case err == nil:
			return nil
		case err == syscall.EINTR:
			continue
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EFBIG), errors.Is(err, syscall.EDQUOT):
			return err
		}
		break
	}
	return f.Truncate(size)
}
