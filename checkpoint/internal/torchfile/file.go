package torchfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/golowbit/lowbit/safetensors"
)

// Reader is what a File and a Folder have in common. All methods but Close may
// be called concurrently.
type Reader interface {
	// Names returns the tensors' names in the order of the state dict.
	Names() []string
	// Info describes a tensor; its File is a base name, Begin and End are not
	// set. Its Shape must not be changed.
	Info(name string) (safetensors.TensorInfo, bool)
	// ReadAt fills p with the tensor's bytes from offset off on, row-major and
	// little-endian, whatever the strides in the file are. An unknown name is
	// an error that wraps ErrNotFound.
	ReadAt(name string, p []byte, off int64) error
	// Path names the file that holds the tensor, or the folder if none does.
	Path(name string) string
	// Close closes the files. Reads after it fail.
	Close() error
}

var (
	_ Reader = (*File)(nil)
	_ Reader = (*Folder)(nil)
)

// File is one file of torch.save. It implements Reader.
type File struct {
	r      io.ReaderAt
	closer io.Closer // nil where the file is the caller's
	path   string
	names  []string
	places map[string]*place

	mu       sync.Mutex
	gathered string // the tensor that data holds
	data     []byte
}

// place is a tensor and where its storage begins in the file.
type place struct {
	tensor
	begin int64
}

// Open opens a file and reads its pickle. Every storage that a tensor needs
// must be there whole.
func Open(path string) (*File, error) {
	// Opening a pipe would wait for its other end.
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, invalidf("%s: not a regular file", path)
	}
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	f, err := NewFile(r, st.Size(), path)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	f.closer = r
	return f, nil
}

// NewFile reads the torch file of size bytes behind r, as Open does. The name
// stands in errors. Close leaves r open.
func NewFile(r io.ReaderAt, size int64, name string) (*File, error) {
	f := &File{r: r, path: name, places: map[string]*place{}}
	if err := f.load(size); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

func (f *File) load(size int64) error {
	var head [4]byte
	if size < int64(len(head)) {
		return invalidf("a file of %d bytes is no PyTorch checkpoint", size)
	}
	if err := readFull(f.r, head[:], 0); err != nil {
		return err
	}
	var root value
	var begins map[string]span
	var err error
	switch {
	case string(head[:]) == "PK\x03\x04":
		root, begins, err = readZip(f.r, size)
	case head[0] == '\x80':
		root, begins, err = readLegacy(f.r, size)
	case string(head[:3]) == "ver" && isPointer(f.r, size):
		return invalidf("a Git LFS pointer, not the file itself: fetch it with git lfs pull")
	default:
		return invalidf("not a PyTorch checkpoint: it begins with % x, neither a zip file nor a pickle", head)
	}
	if err != nil {
		return err
	}
	d, err := stateDict(root)
	if err != nil {
		return err
	}
	return f.add(d, begins)
}

// isPointer recognizes what Git leaves in the place of a large file.
func isPointer(r io.ReaderAt, size int64) bool {
	const text = "version https://git-lfs"
	var p [len(text)]byte
	return size >= int64(len(p)) && readFull(r, p[:], 0) == nil && string(p[:]) == text
}

// span is a storage's bytes in the file.
type span struct{ begin, size int64 }

// add takes the tensors of a state dict. What else is in it (versions, extra
// states, numbers) is left out.
func (f *File) add(d *dict, spans map[string]span) error {
	for i, k := range d.keys {
		name, ok := k.(string)
		t, ok2 := d.values[i].(*tensor)
		if !ok || !ok2 {
			continue
		}
		p := &place{tensor: *t}
		if (safetensors.TensorInfo{DType: t.dtype, Shape: t.shape}).Elements() > 0 {
			s, ok := spans[t.store.key]
			if !ok {
				return invalidf("tensor %s: storage %s is not in the file", nameText(name), nameText(t.store.key))
			}
			if need := t.store.elems * t.store.width(); s.size < need {
				return invalidf("tensor %s: truncated: storage %s has %d bytes, want %d", nameText(name), nameText(t.store.key), s.size, need)
			}
			p.begin = s.begin
		}
		if _, twice := f.places[name]; !twice {
			f.names = append(f.names, name)
		}
		f.places[name] = p
	}
	return nil
}

// wrappers are the keys under which training programs put the state dict.
var wrappers = []string{"state_dict", "model", "model_state_dict", "module"}

// stateDict finds the dict of tensors in what was saved.
func stateDict(root value) (*dict, error) {
	d, ok := root.(*dict)
	if !ok {
		return nil, invalidf("holds %s, want a dict of tensors", kindText(root))
	}
	for _, key := range wrappers {
		for i, k := range d.keys {
			if inner, ok := d.values[i].(*dict); ok && k == value(key) && hasTensor(inner) {
				return inner, nil
			}
		}
	}
	if !hasTensor(d) {
		return nil, invalidf("no tensors in the dict it holds, nor under %q", wrappers)
	}
	return d, nil
}

func hasTensor(d *dict) bool {
	for i, v := range d.values {
		if _, ok := v.(*tensor); ok {
			if _, ok := d.keys[i].(string); ok {
				return true
			}
		}
	}
	return false
}

// Names implements Reader.
func (f *File) Names() []string { return append([]string(nil), f.names...) }

// Info implements Reader.
func (f *File) Info(name string) (safetensors.TensorInfo, bool) {
	p, ok := f.places[name]
	if !ok {
		return safetensors.TensorInfo{}, false
	}
	return safetensors.TensorInfo{Name: name, DType: p.dtype, Shape: p.shape, File: filepath.Base(f.path)}, true
}

// Path implements Reader.
func (f *File) Path(string) string { return f.path }

// Close implements Reader.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// ReadAt implements Reader.
func (f *File) ReadAt(name string, p []byte, off int64) error {
	t, ok := f.places[name]
	if !ok {
		return &fault{ErrNotFound, fmt.Sprintf("%s: tensor %s: no such tensor", f.path, nameText(name))}
	}
	info, _ := f.Info(name)
	if size := info.Size(); off < 0 || off > size || int64(len(p)) > size-off {
		return fmt.Errorf("%s: tensor %s: bytes %d to %d of %d asked for", f.path, nameText(name), off, off+int64(len(p)), size)
	}
	if len(p) == 0 {
		return nil
	}
	if err := f.read(t, name, p, off, info.Size()); err != nil {
		if err == io.ErrUnexpectedEOF {
			err = errors.New("the file has become shorter since it was opened")
		}
		return fmt.Errorf("%s: tensor %s: reading: %w", f.path, nameText(name), err)
	}
	return nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
