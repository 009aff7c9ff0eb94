package team

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/disk"
)

func folder(t *testing.T, path string, p Part) *Folder {
	f := NewFolder(path, p, disk.FS{})
	require.NoError(t, f.Make())
	return f
}

func never() (bool, error) { return false, nil }

func TestPut(t *testing.T) {
	f := folder(t, t.TempDir(), Part{1, 2})
	got, err := f.Open("a")
	require.NoError(t, err)
	require.Nil(t, got)
	for _, text := range []string{"one", "another"} {
		require.NoError(t, f.Put("a", func(w io.Writer) error { _, err := io.WriteString(w, text); return err }))
		data, err := os.ReadFile(f.Path("a"))
		require.NoError(t, err)
		require.Equal(t, text, string(data))
	}
	broken := errors.New("broken")
	require.ErrorIs(t, f.Put("a", func(io.Writer) error { return broken }), broken)
	entries, err := os.ReadDir(f.Path(""))
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.NoError(t, f.Remove("a"))
	require.NoError(t, f.Remove("a"))
	require.NotEqual(t, f.Unique("x"), f.Unique("x"))
}

// TestWait: what is waited for is found, and a context that ends is noticed at once.
func TestWait(t *testing.T) {
	f := folder(t, t.TempDir(), Part{1, 2})
	n := 0
	require.NoError(t, f.Wait(t.Context(), "it", 2, func() (bool, error) { n++; return n == 3, nil }))
	broken := errors.New("broken")
	require.ErrorIs(t, f.Wait(t.Context(), "it", 2, func() (bool, error) { return false, broken }), broken)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, f.Wait(ctx, "it", 2, never), context.Canceled)
}

func TestSigns(t *testing.T) {
	path := t.TempDir()
	a, b := folder(t, path, Part{1, 2}), folder(t, path, Part{2, 2})
	require.Contains(t, a.of(2), "has not begun")
	stop := b.Alive()
	require.Contains(t, a.of(2), "is at work")
	a.seen["alive-2"] = sign{a.seen["alive-2"].text, time.Now().Add(-2 * silent)}
	require.Contains(t, a.of(2), "gives no sign of life for 2m0s")
	stop()
	require.Contains(t, a.of(2), "has stopped")
}

// TestLease: one at a time has it.
func TestLease(t *testing.T) {
	path := t.TempDir()
	var holders, had atomic.Int32
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			l, err := folder(t, path, Part{i + 1, 4}).Lease(t.Context(), "merge", never)
			if err != nil {
				t.Error(err)
				return
			}
			if holders.Add(1) != 1 {
				t.Error("two have it")
			}
			had.Add(1)
			holders.Add(-1)
			if err := l.End(); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	require.EqualValues(t, 4, had.Load())
	entries, err := os.ReadDir(path)
	require.NoError(t, err)
	require.Empty(t, entries)

	l, err := folder(t, path, Part{1, 2}).Lease(t.Context(), "merge", func() (bool, error) { return true, nil })
	require.NoError(t, err)
	require.Nil(t, l)
}

// TestLeaseOfTheDead is taken over: of a process of this machine at once, of another after
// a time without signs of life; of one that lives never.
func TestLeaseOfTheDead(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("signs of life alone tell there")
	}
	host, err := os.Hostname()
	require.NoError(t, err)
	host = strings.Join(strings.Fields(host), "-")
	f := folder(t, t.TempDir(), Part{1, 2})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for text, after := range map[string]time.Duration{
		"4194305 2 " + host: 0, // beyond the largest number that Linux gives
		"1 2 elsewhere":     2 * silent,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(f.path, "merge"), []byte(text+"\n7\n"), 0o666))
		if after > 0 {
			_, err = f.Lease(ctx, "merge", never)
			require.ErrorIs(t, err, context.Canceled)
			f.seen["merge"] = sign{text + "\n7\n", time.Now().Add(-after)}
		}
		l, err := f.Lease(t.Context(), "merge", never)
		require.NoError(t, err)
		_, err = f.Lease(ctx, "merge", never)
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, l.End())
	}
}
