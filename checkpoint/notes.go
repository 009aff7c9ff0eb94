package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// notePrefix begins the names of the files that hold notes, beside the folders
// of finished layers.
const notePrefix = "note-"

// Note keeps data under a name across a resume, beside the finished layers:
// what was decided for several of them. It is durable when Note returns. With
// Direct, of which nothing is resumed, it lasts as long as the Writer.
func (w *Writer) Note(name string, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errors.New("the writer is closed")
	}
	if !w.o.Direct {
		if err := w.hashInputs(); err != nil {
			return err
		}
		if err := w.disk.WriteFile(w.notePath(name), slices.Concat([]byte(checksum(data)), []byte("\n"), data)); err != nil {
			return fmt.Errorf("note %q: %w", name, err)
		}
	}
	w.notes[name] = slices.Clone(data)
	return nil
}

// Noted returns what Note was given, now or by the run that is resumed; ok is
// false if it was not.
func (w *Writer) Noted(name string) (data []byte, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	data, ok = w.notes[name]
	return slices.Clone(data), ok
}

func (w *Writer) notePath(name string) string {
	return filepath.Join(w.partial, spoolFolder, notePrefix+url.PathEscape(name))
}

// resumeNotes reads the notes of the run that is resumed. What is not whole
// was damaged later: they get their names last.
func (w *Writer) resumeNotes() error {
	folder := filepath.Join(w.partial, spoolFolder)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		escaped, ok := strings.CutPrefix(e.Name(), notePrefix)
		if !ok {
			continue
		}
		path := filepath.Join(folder, e.Name())
		if strings.HasSuffix(escaped, ".tmp") {
			if err := w.disk.Remove(path); err != nil {
				return err
			}
			continue
		}
		name, err := url.PathUnescape(escaped)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		data, err := readSmall(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		sum, data, _ := bytes.Cut(data, []byte("\n"))
		if got := checksum(data); got != string(sum) {
			if err := w.setAside(path, fmt.Errorf("note %q: checksum %s, want %s: the file is damaged", name, got, sum)); err != nil {
				return err
			}
			continue
		}
		w.notes[name] = data
	}
	return nil
}
