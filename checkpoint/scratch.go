package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/golowbit/lowbit/internal/disk"
)

// ScratchFile holds what a run needs only as long as it goes on. It must be
// closed before Finish.
type ScratchFile struct{ *disk.File }

// Scratch makes a file for what this run does not want to hold in memory. It lies
// in the partial folder and is gone when it is closed, or the process ends;
// what an earlier run has left of its own is overwritten.
func (w *Writer) Scratch() (*ScratchFile, error) {
	f, err := w.disk.Create(w.partial.Scratch())
	if err != nil {
		return nil, err
	}
	// Where a file may lose its name while it is open, no kill leaves it behind.
	_ = os.Remove(f.Name())
	return &ScratchFile{f}, nil
}

// Scratch makes such a file in a folder, for work before there is a Writer.
func Scratch(dir string) (*ScratchFile, error) {
	f, err := disk.FS{}.Create(filepath.Join(dir, fmt.Sprintf(".lowbit-%d.scratch", os.Getpid())))
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name())
	return &ScratchFile{f}, nil
}

// Close removes the file. Of nil it does nothing.
func (s *ScratchFile) Close() error {
	if s == nil {
		return nil
	}
	err := s.File.Close()
	if gone := os.Remove(s.Name()); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}
