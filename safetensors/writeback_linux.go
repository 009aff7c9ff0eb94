package safetensors

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// writeback asks the system to begin bringing what has just been written to
// the disk, so that the sync in the end has little left to do. It is a hint:
// errors show in that sync.
func writeback(w io.WriterAt, off, n int64) {
	const least = 256 << 10 // small pieces are left to the system
	f, ok := w.(*os.File)
	if !ok || n < least {
		return
	}
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) { _ = unix.SyncFileRange(int(fd), off, n, unix.SYNC_FILE_RANGE_WRITE) })
}
