//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package disk

import (
	"errors"
	"os"
	"syscall"
)

// Lock takes a lock that ends with the process, on a file that it makes where
// there is none. The error wraps ErrLocked if another has it.
func Lock(path string) (*os.File, error) { return lock(path, syscall.LOCK_EX) }

// LockShared is Lock for a lock that any number may have, as long as none has it by Lock.
func LockShared(path string) (*os.File, error) { return lock(path, syscall.LOCK_SH) }

func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(ErrLocked, f.Close())
	}
	// File systems without locks are no reason to fail.
	return f, nil
}
