package partial

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

func (f *Folder) streams() string { return filepath.Join(f.path, StreamsFile) }

// PutStreams keeps what write writes in place of what was kept before. It is not brought
// to the disk: whether all of it is there is for the reader to find out.
func (f *Folder) PutStreams(write func(io.Writer) error) error {
	tmp := f.streams() + ".tmp"
	out, err := f.disk.Create(tmp)
	if err != nil {
		return err
	}
	err = write(out)
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = f.disk.Rename(tmp, f.streams())
	}
	if err != nil {
		err = errors.Join(err, os.Remove(tmp))
	}
	return err
}

// Streams opens what PutStreams has kept; nil if it has not.
func (f *Folder) Streams() (*os.File, error) {
	file, err := os.Open(f.streams())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return file, err
}

// RemoveStreams removes it, and what a run that was killed has left of it.
func (f *Folder) RemoveStreams() error {
	return errors.Join(f.disk.RemoveAll(f.streams()), f.disk.RemoveAll(f.streams()+".tmp"))
}
