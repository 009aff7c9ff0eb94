//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package disk

import "os"

// Lock locks nothing where the system has no flock, and keeps no file open in
// the folder: some systems could not remove it then.
func Lock(string) (*os.File, error) { return os.Open(os.DevNull) }

// LockShared is Lock.
func LockShared(path string) (*os.File, error) { return Lock(path) }
