package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// FS changes the disk. The zero value is the system's.
type FS struct {
	// Fail, if set, is asked before every call and may make it fail: tests of
	// full and broken disks.
	Fail func(call, path string) error
	// Room, if set, is asked instead of the system how much a path has: tests of
	// small disks.
	Room func(path string) (n int64, ok bool)
}

func (d FS) before(call, path string) error {
	if d.Fail == nil {
		return nil
	}
	return d.Fail(call, path)
}

// File is a file that is being written.
type File struct {
	*os.File
	disk FS
}

// Wrap is a file as one of d.
func (d FS) Wrap(f *os.File) *File { return &File{f, d} }

// Create is os.Create.
func (d FS) Create(path string) (*File, error) {
	if err := d.before("create", path); err != nil {
		return nil, err
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return d.Wrap(f), nil
}

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) {
	if err := f.disk.before("write", f.Name()); err != nil {
		// What a full disk does.
		n, _ := f.File.Write(p[:len(p)/2])
		return n, err
	}
	return f.File.Write(p)
}

// WriteAt implements io.WriterAt.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.disk.before("write", f.Name()); err != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		return n, err
	}
	return f.File.WriteAt(p, off)
}

// Sync brings the file to the disk.
func (f *File) Sync() error {
	if err := f.disk.before("sync", f.Name()); err != nil {
		return err
	}
	return f.File.Sync()
}

// Truncate sets the file's size.
func (f *File) Truncate(size int64) error {
	if err := f.disk.before("truncate", f.Name()); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

// Before asks whether a call that is made elsewhere is to fail.
func (d FS) Before(call, path string) error { return d.before(call, path) }

// Mkdir is os.Mkdir.
func (d FS) Mkdir(path string, perm fs.FileMode) error {
	if err := d.before("mkdir", path); err != nil {
		return err
	}
	return os.Mkdir(path, perm)
}

// MkdirAll is os.MkdirAll.
func (d FS) MkdirAll(path string, perm fs.FileMode) error {
	if err := d.before("mkdir", path); err != nil {
		return err
	}
	return os.MkdirAll(path, perm)
}

// Remove is os.Remove, but what is not there is no error.
func (d FS) Remove(path string) error {
	if err := d.before("remove", path); err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// RemoveAll is os.RemoveAll. Where it can fail it asks for everything that it
// removes.
func (d FS) RemoveAll(path string) error {
	if d.Fail == nil {
		return os.RemoveAll(path)
	}
	entries, err := os.ReadDir(path) // of a file none
	for _, e := range entries {
		if err := d.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return d.Remove(path)
}

// Rename is os.Rename.
func (d FS) Rename(from, to string) error {
	if err := d.before("rename", to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// SyncFolder makes the names in a folder durable.
func (d FS) SyncFolder(path string) error {
	if err := d.before("sync folder", path); err != nil {
		return err
	}
	return SyncFolder(path)
}

// WriteFile writes a file and brings it to the disk; a reader finds the old
// one or the new one whole, whenever the machine stops.
func (d FS) WriteFile(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := d.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = d.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return d.SyncFolder(filepath.Dir(path))
}

// CreateSync makes a file and brings what write puts into it to the disk.
func (d FS) CreateSync(path string, write func(io.Writer) error) error {
	f, err := d.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// SyncFile brings a file that is there to the disk.
func (d FS) SyncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Wrap(f).Sync(), f.Close())
}

type fsKey struct{}

// With hands a disk to what is called with the context.
func With(ctx context.Context, d FS) context.Context { return context.WithValue(ctx, fsKey{}, d) }

// From is the disk of the context, or the system's.
func From(ctx context.Context) FS {
	d, _ := ctx.Value(fsKey{}).(FS)
	return d
}
