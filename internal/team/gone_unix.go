//go:build unix

package team

import (
	"errors"
	"syscall"
)

// gone says that there surely is no such process on this machine.
func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
