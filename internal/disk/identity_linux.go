package disk

import (
	"fmt"
	"io/fs"
	"syscall"
)

// FileID tells a file from all others that exist now; "" where the system
// does not say.
func FileID(st fs.FileInfo) string {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d:%d", s.Dev, s.Ino)
}

// Identity changes whenever a file's bytes do, and sometimes when they do not:
// size, times of change, inode. The device is not in it: of a folder on the network it is
// another on every machine.
func Identity(st fs.FileInfo) string {
	id := fmt.Sprintf("%d bytes, %s", st.Size(), st.ModTime().UTC().Format("2006-01-02 15:04:05.999999999"))
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		// The time of change sees also what sets the time of modification back.
		id += fmt.Sprintf(", inode %d, changed %d.%09d", s.Ino, s.Ctim.Sec, s.Ctim.Nsec)
	}
	return id
}
