package ggufmodel

import (
	"bytes"
	"io/fs"
	"maps"
	"path"
	"slices"
	"time"
)

// memFS is a file system of files in memory, made when the first is
// opened. An error of making them is one of every file.
type memFS func() (map[string][]byte, error)

// Open implements fs.FS.
func (m memFS) Open(name string) (fs.File, error) {
	files, err := m()
	data, ok := files[name]
	switch {
	case !fs.ValidPath(name):
		err = fs.ErrInvalid
	case err == nil && !ok:
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &memFile{Reader: bytes.NewReader(data), name: path.Base(name)}, nil
}

// Names lists the files.
func (m memFS) Names() ([]string, error) {
	files, err := m()
	return slices.Sorted(maps.Keys(files)), err
}

// memFile is an open file, and its own description.
type memFile struct {
	*bytes.Reader
	name string
}

func (f *memFile) Stat() (fs.FileInfo, error) { return f, nil }

func (f *memFile) Close() error { return nil }

func (f *memFile) Name() string { return f.name }

func (f *memFile) Mode() fs.FileMode { return 0o444 }

func (f *memFile) ModTime() time.Time { return time.Time{} }

func (f *memFile) IsDir() bool { return false }

func (f *memFile) Sys() any { return nil }
