// Package disk has what every writer of files here needs of the disk.
package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// ErrNotRegular is wrapped by the error for a FIFO, device or folder where a
// file of bytes is meant.
var ErrNotRegular = errors.New("not a regular file")

// ErrLocked is wrapped by the error for a lock that another has.
var ErrLocked = errors.New("locked by another process")

// ErrTooLarge is wrapped by the error for a file that exceeds its limit.
var ErrTooLarge = errors.New("too large")

// PlainName says whether name is a file right inside its folder, on any system.
func PlainName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\\:\x00") && filepath.IsLocal(name)
}

// SyncFolder makes the names in a folder durable. Windows has no such call,
// and some network file systems refuse it.
func SyncFolder(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}

// ReadFile reads a regular file of at most limit bytes. It looks before it
// opens: to open a FIFO waits for a writer, and a device may never end.
func ReadFile(path string, limit int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if err := regular(path, st); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, path, limit, st.Size())
}

// ReadText is ReadFile without the byte order mark that editors on Windows put
// before a text.
func ReadText(path string, limit int64) ([]byte, error) {
	data, err := ReadFile(path, limit)
	return bytes.TrimPrefix(data, []byte("\ufeff")), err
}

// ReadFS is ReadFile in a file system; path is the file's name for errors.
func ReadFS(fsys fs.FS, name, path string, limit int64) ([]byte, error) {
	st, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if err := regular(path, st); err != nil {
		return nil, err
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, path, limit, st.Size())
}

// ReadAll reads r, called path in errors, to its end; it fails beyond limit bytes.
func ReadAll(r io.Reader, path string, limit int64) ([]byte, error) {
	return readAll(r, path, limit, 0)
}

// readAll has memory for about size bytes from the start: nothing is copied as
// what was read grows.
func readAll(r io.Reader, path string, limit, size int64) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(int(min(size, limit)) + bytes.MinRead)
	if _, err := b.ReadFrom(io.LimitReader(r, limit+1)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	data := b.Bytes()
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", path, ErrTooLarge, limit)
	}
	return data, nil
}

func regular(path string, st fs.FileInfo) error {
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s: %w (%s)", path, ErrNotRegular, kind(st.Mode()))
	}
	return nil
}

// Regular fails for what is there but is neither a regular file nor a folder.
func Regular(path string) error {
	st, err := os.Stat(path)
	if err != nil || st.IsDir() {
		return nil // opening says the same, and better
	}
	return regular(path, st)
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeDevice != 0:
		return "a device"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return m.Type().String()
}
