//go:build linux && amd64

package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var everyCall = flag.Bool("syscalls", false, "TestKillAtCalls kills at every system call that changes the disk")

// traced runs the command and kills it as it enters the n-th system call that
// changes what lies at out or beside it under a longer name; ended is false if
// there was one. calls is how many there were.
func traced(t *testing.T, out string, n int, args ...string) (calls int, ended bool) {
	t.Helper()
	runtime.LockOSThread() // whoever starts the process must trace it
	defer runtime.UnlockOSThread()
	exe, err := os.Executable()
	require.NoError(t, err)
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	require.NoError(t, err)
	defer stderr.Close()
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	pid, err := syscall.ForkExec(exe, append([]string{exe}, args...), &syscall.ProcAttr{
		Env: append(os.Environ(), asCommand+"=1"), Files: []uintptr{null.Fd(), stderr.Fd(), stderr.Fd()},
		Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err == syscall.EPERM {
		t.Skip("needs a system where a process may trace what it has started")
	}
	require.NoError(t, err)
	writes := map[string]int{}
	var status syscall.WaitStatus
	_, err = syscall.Wait4(pid, &status, 0, nil)
	require.NoError(t, err)
	require.True(t, status.Stopped())
	require.NoError(t, syscall.PtraceSetOptions(pid, unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_EXITKILL))
	require.NoError(t, syscall.PtraceSyscall(pid, 0))
	for {
		tid, err := syscall.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		if err == syscall.EINTR {
			continue
		}
		require.NoError(t, err)
		switch {
		case tid == pid && status.Signaled():
			require.Equal(t, n+1, calls)
			return calls, false
		case tid == pid && status.Exited():
			text, _ := os.ReadFile(stderr.Name())
			require.Zero(t, status.ExitStatus(), "%s", text)
			return calls, true
		case !status.Stopped():
			continue // a thread has ended
		}
		pass := 0
		switch sig := status.StopSignal(); sig {
		case syscall.SIGTRAP | 0x80:
			if calls <= n && changes(pid, tid, out, writes) {
				if calls++; calls == n+1 {
					require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
				}
			}
		case syscall.SIGTRAP, syscall.SIGSTOP: // a thread has been made
		default:
			pass = int(sig)
		}
		_ = syscall.PtraceSyscall(tid, pass) // fails where it was killed
	}
}

// changes reports whether a thread enters a call that changes the disk at out. Of
// the writes to a file, which writes counts, the first few stand for all.
func changes(pid, tid int, out string, writes map[string]int) bool {
	var r syscall.PtraceRegs
	// On its way out a call has another result than this.
	if syscall.PtraceGetRegs(tid, &r) != nil || int64(r.Rax) != -int64(syscall.ENOSYS) {
		return false
	}
	switch r.Orig_rax {
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE, unix.SYS_FCHMOD, unix.SYS_FALLOCATE,
		unix.SYS_COPY_FILE_RANGE, unix.SYS_FLOCK:
		fd := r.Rdi
		if r.Orig_rax == unix.SYS_COPY_FILE_RANGE {
			fd = r.Rdx
		}
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
		if r.Orig_rax == unix.SYS_WRITE || r.Orig_rax == unix.SYS_PWRITE64 {
			if writes[path]++; writes[path] > 5 {
				return false
			}
		}
		return err == nil && (strings.HasPrefix(path, out) || path == filepath.Dir(out))
	case unix.SYS_OPENAT:
		return r.Rdx&syscall.O_CREAT != 0 && strings.HasPrefix(textAt(tid, uintptr(r.Rsi)), out)
	case unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_FCHMODAT:
		return strings.HasPrefix(textAt(tid, uintptr(r.Rsi)), out)
	case unix.SYS_MKDIR, unix.SYS_RENAME, unix.SYS_UNLINK, unix.SYS_RMDIR, unix.SYS_CREAT, unix.SYS_TRUNCATE, unix.SYS_CHMOD:
		return strings.HasPrefix(textAt(tid, uintptr(r.Rdi)), out)
	}
	return false
}

// textAt reads a string of a thread that is traced.
func textAt(tid int, at uintptr) string {
	data := make([]byte, 4096)
	n, _ := syscall.PtracePeekData(tid, at, data)
	s, _, _ := strings.Cut(string(data[:n]), "\x00")
	return s
}

// TestKillAtCalls kills runs of the command with SIGKILL as they enter each of the
// system calls that change the disk, or some of them, and resumes them: none is
// stuck, leaves anything behind or has other bytes than a run that was not disturbed.
func TestKillAtCalls(t *testing.T) {
	quantized := filepath.Join(t.TempDir(), "quantized")
	words, err := os.ReadFile(heldout)
	require.NoError(t, err)
	short := filepath.Join(t.TempDir(), "short.txt")
	require.NoError(t, os.WriteFile(short, words[:500], 0o666))
	succeed(t, "quantize", embedded, "-q", "-o", quantized, "--method", "rtn", "--axis", "oc", "--bits", "4", "--group-size", "32", "--sym")
	for name, args := range map[string][]string{
		"best to gguf, streams in a file": {"quantize", embedded, "--calib", calibration, "--samples", "2", "--per-document", "--target", "llama.cpp", "--skip", `layers\.[1-3]|mlp`},
		"convert to compressed-tensors":   {"convert", quantized, "--format", "compressed-tensors"},
		"rounded to dense":                {"quantize", embedded, "--method", "rtn", "--axis", "oc", "--format", "dense"},
		"folded and measured":             {"quantize", embedded, "--calib", calibration, "--samples", "1", "--per-document", "--format", "gptq", "--axis", "oc", "--bits", "4", "--group-size", "32", "--skip", `layers\.[23]|mlp`, "--eval", short, "--window", "32"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasSuffix(name, "in a file") {
				// The least memory that is enough leaves the text no room.
				refused := runCommand(t, append(args, "-o", filepath.Join(t.TempDir(), "out"), "--memory", "10MiB")...)
				least := regexp.MustCompile(`(\d+) MiB are needed`).FindStringSubmatch(refused.stderr)
				require.Len(t, least, 2, refused.stderr)
				args = append(args, "--memory", least[1]+"MiB")
				require.Positive(t, planned(t, args[1:]...).Memory.InFile)
			}
			dir := t.TempDir()
			whole, out := filepath.Join(dir, "whole"), filepath.Join(dir, "out")
			run := func(out string) []string {
				return append([]string{args[0], args[1], "-q", "--resume", "-o", out}, args[2:]...)
			}
			total, ended := traced(t, whole, 1<<30, run(whole)...)
			require.True(t, ended)
			want := tree(t, whole)
			step := 1
			if !*everyCall {
				step = max(1, total/4)
			}
			kills := 0
			for n := 0; ; n++ {
				if n%step != 0 && n < total-4 {
					continue // the last calls clean up, each in its own way
				}
				_, ended := traced(t, out, n, run(out)...)
				names, err := filepath.Glob(out + "*")
				require.NoError(t, err)
				if !ended && !slices.Equal(names, []string{out}) {
					succeed(t, run(out)...)
				}
				if !ended {
					kills++
				}
				require.Equal(t, want, tree(t, out), "call %d", n)
				names, err = filepath.Glob(out + "*")
				require.NoError(t, err)
				require.Equal(t, []string{out}, names, "call %d", n)
				require.NoError(t, os.RemoveAll(out))
				if ended {
					break
				}
			}
			t.Logf("%d calls that change the disk, %d kills", total, kills)
			require.Greater(t, kills, 3)
		})
	}
}
