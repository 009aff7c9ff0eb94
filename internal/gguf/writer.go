package gguf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/golowbit/lowbit/internal/disk"
)

// Writer writes a file. Tensors are appended to piece by piece, in any order
// and concurrently for different tensors. Nothing is seen under the file's
// name until Close has succeeded.
type Writer struct {
	path    string
	disk    disk.FS
	tmp     *disk.File
	tensors map[string]*slot
	done    bool
}

// slot is the place of a tensor in the file.
type slot struct {
	mu             sync.Mutex
	begin, at, end int64
}

// Create lays out a file with the metadata and tensors; their Offset is not
// looked at. The alignment is the value of "general.alignment" if kv has it.
func Create(path string, kv []KV, tensors []Tensor) (*Writer, error) {
	return CreateOn(disk.FS{}, path, kv, tensors)
}

// CreateOn is Create on a disk that tests let fail.
func CreateOn(d disk.FS, path string, kv []KV, tensors []Tensor) (*Writer, error) {
	head, slots, size, err := layout(kv, tensors)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := d.Before("create", path); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return nil, err
	}
	tmp := d.Wrap(file)
	w := &Writer{path: path, disk: d, tmp: tmp, tensors: slots}
	// Padding is what the file holds where nothing is written: zeros.
	err = tmp.Truncate(size)
	if err == nil {
		_, err = tmp.WriteAt(head, 0)
	}
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	return w, nil
}

// Size is how many bytes the file that Create lays out takes.
func Size(kv []KV, tensors []Tensor) (int64, error) {
	_, _, size, err := layout(kv, tensors)
	return size, err
}

// layout returns the bytes before the data, the tensors' places and the size.
func layout(kv []KV, tensors []Tensor) (head []byte, slots map[string]*slot, size int64, err error) {
	var b bytes.Buffer
	b.WriteString(Magic)
	putU32(&b, version)
	putU64(&b, uint64(len(tensors)))
	putU64(&b, uint64(len(kv)))
	keys := File{keys: map[string]int{}, kv: kv}
	for i, e := range kv {
		if e.Key == "" {
			return nil, nil, 0, fmt.Errorf("key %d is empty", i)
		}
		if _, twice := keys.keys[e.Key]; twice {
			return nil, nil, 0, fmt.Errorf("key %q is there twice", e.Key)
		}
		keys.keys[e.Key] = i
		putString(&b, e.Key)
		if err := putValue(&b, e.Value); err != nil {
			return nil, nil, 0, fmt.Errorf("key %q: %w", e.Key, err)
		}
	}
	align, err := keys.alignment()
	if err != nil {
		return nil, nil, 0, err
	}
	slots = make(map[string]*slot, len(tensors))
	var sum int64
	for _, t := range tensors {
		if err := t.check(); err != nil {
			return nil, nil, 0, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if _, twice := slots[t.Name]; twice {
			return nil, nil, 0, fmt.Errorf("tensor %q is there twice", t.Name)
		}
		putString(&b, t.Name)
		putU32(&b, uint32(len(t.Dims)))
		for _, d := range t.Dims {
			putU64(&b, uint64(d))
		}
		putU32(&b, uint32(t.Type))
		putU64(&b, uint64(sum))
		slots[t.Name] = &slot{begin: sum, at: sum, end: sum + t.Bytes()}
		if sum = pad(sum+t.Bytes(), align); sum > 1<<61 {
			return nil, nil, 0, fmt.Errorf("tensor %q: the file is too large", t.Name)
		}
	}
	data := pad(int64(b.Len()), align)
	for _, s := range slots {
		s.begin += data
		s.at += data
		s.end += data
	}
	return b.Bytes(), slots, data + sum, nil
}

// Append writes the next bytes of a tensor.
func (w *Writer) Append(name string, p []byte) error {
	s, ok := w.tensors[name]
	if !ok {
		return fmt.Errorf("%s: no tensor %q was announced", w.path, name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if int64(len(p)) > s.end-s.at {
		return fmt.Errorf("%s: tensor %q: more than the %d bytes announced", w.path, name, s.end-s.begin)
	}
	n, err := w.tmp.WriteAt(p, s.at)
	s.at += int64(n)
	return err
}

// Close completes the file: all tensors must be there. On an error nothing
// is left behind.
func (w *Writer) Close() error {
	if w.done {
		return errors.New("gguf: Close after Close or Abort")
	}
	for name, s := range w.tensors {
		if s.at != s.end {
			err := fmt.Errorf("%s: tensor %q: %d of %d bytes written", w.path, name, s.at-s.begin, s.end-s.begin)
			return errors.Join(err, w.Abort())
		}
	}
	if err := w.tmp.Sync(); err != nil {
		return errors.Join(err, w.Abort())
	}
	w.done = true
	err := w.tmp.Close()
	if err == nil {
		err = w.disk.Rename(w.tmp.Name(), w.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(w.tmp.Name()))
	}
	return w.disk.SyncFolder(filepath.Dir(w.path))
}

// Abort throws the file away. After Close it does nothing.
func (w *Writer) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	return errors.Join(w.tmp.Close(), os.Remove(w.tmp.Name()))
}
