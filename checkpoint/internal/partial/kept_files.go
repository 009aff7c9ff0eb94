package partial

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// kept is where what is kept of a kind lies.
func (f *Folder) kept(what string) string {
	if f.team != nil {
		what += fmt.Sprintf("-%d", f.team.Part.Index)
	}
	return filepath.Join(f.path, keptPrefix+what)
}

// PutKept keeps what write writes in place of what was kept of its kind before. It is not
// brought to the disk: whether all of it is there is for the reader to find out.
func (f *Folder) PutKept(what string, write func(io.Writer) error) error {
	tmp := f.kept(what) + ".tmp"
	out, err := f.disk.Create(tmp)
	if err != nil {
		return err
	}
	err = write(out)
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = f.disk.Rename(tmp, f.kept(what))
	}
	if err != nil {
		err = errors.Join(err, os.Remove(tmp))
	}
	return err
}

// OpenKept opens what PutKept has kept; nil if it has not.
func (f *Folder) OpenKept(what string) (*os.File, error) {
	file, err := os.Open(f.kept(what))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return file, err
}

// RemoveKept removes it, and what a run that was killed has left of it.
func (f *Folder) RemoveKept(what string) error {
	return errors.Join(f.disk.RemoveAll(f.kept(what)), f.disk.RemoveAll(f.kept(what)+".tmp"))
}

// RemoveAllKept removes what was kept of all kinds.
func (f *Folder) RemoveAllKept() error {
	list, err := filepath.Glob(f.kept("*"))
	for _, path := range list {
		err = errors.Join(err, f.disk.RemoveAll(path))
	}
	return err
}
