// Package weights has what the readers of weight files share: an interface to
// tensors by name, and views that rename, reorder and join them without
// copying.
package weights

import (
	"fmt"
	"path/filepath"

	"github.com/golowbit/lowbit/safetensors"
)

// Tensors reads tensors by name. It is safe for concurrent use until Close.
type Tensors interface {
	// Names lists the tensors in file order.
	Names() []string
	// Info describes a tensor: its name, type and shape.
	Info(name string) (safetensors.TensorInfo, bool)
	// ReadAt fills p with the tensor's bytes from offset off on, row-major and
	// little-endian.
	ReadAt(name string, p []byte, off int64) error
	// Path names the file that holds the tensor, or the folder, for messages.
	Path(name string) string
	Close() error
}

// Safetensors is a safetensors file or folder as Tensors; dir is its folder.
func Safetensors(r safetensors.Reader, dir string) Tensors { return &safe{r, dir} }

type safe struct {
	safetensors.Reader
	dir string
}

func (s *safe) ReadAt(name string, p []byte, off int64) error {
	r, err := s.Section(name)
	if err != nil {
		return err
	}
	if err := CheckRange(s, name, r.Size(), p, off); err != nil {
		return err
	}
	if n, err := r.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("%s: tensor %q: reading: %w", s.Path(name), name, err)
	}
	return nil
}

func (s *safe) Path(name string) string {
	if info, ok := s.Info(name); ok {
		return filepath.Join(s.dir, info.File)
	}
	return s.dir
}

// CheckRange refuses to read outside a tensor of size bytes.
func CheckRange(t Tensors, name string, size int64, p []byte, off int64) error {
	if off < 0 || off > size || int64(len(p)) > size-off {
		return fmt.Errorf("%s: tensor %q: bytes %d to %d of %d asked for", t.Path(name), name, off, off+int64(len(p)), size)
	}
	return nil
}

// Entry is a tensor of a view.
type Entry struct {
	Name string // in the view
	From string // in what is viewed
	// Row gives the row of From that row i of the view is; nil: the same.
	Row func(i int) int
}

// View gives some tensors of src, in the order of the entries, under other
// names. Closing it closes src.
func View(src Tensors, entries []Entry) (Tensors, error) {
	v := &view{src: src, entries: map[string]Entry{}}
	for _, e := range entries {
		if other, twice := v.entries[e.Name]; twice {
			return nil, fmt.Errorf("%s: tensors %q and %q are both %q", src.Path(e.From), other.From, e.From, e.Name)
		}
		if _, ok := src.Info(e.From); !ok {
			return nil, fmt.Errorf("%s: no tensor %q", src.Path(e.From), e.From)
		}
		v.entries[e.Name] = e
		v.names = append(v.names, e.Name)
	}
	return v, nil
}

type view struct {
	src     Tensors
	names   []string
	entries map[string]Entry
}

func (v *view) Names() []string { return append([]string(nil), v.names...) }

func (v *view) Info(name string) (safetensors.TensorInfo, bool) {
	e, ok := v.entries[name]
	if !ok {
		return safetensors.TensorInfo{}, false
	}
	t, ok := v.src.Info(e.From)
	t.Name = name
	return t, ok
}

func (v *view) Path(name string) string {
	if e, ok := v.entries[name]; ok {
		return v.src.Path(e.From)
	}
	return v.src.Path("")
}

func (v *view) Close() error { return v.src.Close() }

func (v *view) ReadAt(name string, p []byte, off int64) error {
	e, ok := v.entries[name]
	if !ok {
		return fmt.Errorf("%s: no tensor %q", v.src.Path(""), name)
	}
	t, _ := v.src.Info(e.From)
	if e.Row == nil || len(p) == 0 {
		return v.src.ReadAt(e.From, p, off)
	}
	if err := CheckRange(v, name, t.Size(), p, off); err != nil {
		return err
	}
	row := t.Size() / int64(t.Shape[0])
	for len(p) > 0 {
		r, at := off/row, off%row
		n := min(int64(len(p)), row-at)
		if err := v.src.ReadAt(e.From, p[:n], int64(e.Row(int(r)))*row+at); err != nil {
			return err
		}
		p = p[n:]
		off += n
	}
	return nil
}
