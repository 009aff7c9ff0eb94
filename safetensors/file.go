package safetensors

import (
	"io"
	"maps"
	"os"
	"slices"
)

// Reader is what a File and a Folder have in common. All methods but Close may
// be called concurrently.
//
// The Read methods use dst's memory where its capacity suffices, allocate where
// it does not, and return a slice of exactly the length read. An unknown name is
// an error that wraps ErrNotFound.
type Reader interface {
	// Names returns the tensors' names in the order of their data, shard after shard.
	Names() []string
	// Info describes a tensor. Its Shape must not be changed.
	Info(name string) (TensorInfo, bool)
	// Metadata returns a copy of the header's free strings, nil where there are none.
	Metadata() map[string]string
	// Section gives a tensor's bytes as they lie in the file, to copy any dtype in pieces.
	Section(name string) (*io.SectionReader, error)
	// ReadBytes reads a tensor's bytes as they lie in the file.
	ReadBytes(name string, dst []byte) ([]byte, error)
	// ReadFloat32 reads a tensor of F32, F16, BF16 or F64 as float32, row-major.
	// F64 is rounded to nearest, ties to even; what is too large becomes an
	// infinity. Other types give an error that wraps ErrDType.
	ReadFloat32(name string, dst []float32) ([]float32, error)
	// ReadRows is ReadFloat32 for the rows r0 <= r < r1 of a matrix.
	ReadRows(name string, r0, r1 int, dst []float32) ([]float32, error)
	// Close closes the files. Reads after it fail.
	Close() error
}

var (
	_ Reader = (*File)(nil)
	_ Reader = (*Folder)(nil)
)

// File is one safetensors file, its header checked. It implements Reader.
type File struct {
	r      io.ReaderAt
	closer io.Closer // nil where the file is the caller's
	path   string
	head   *header
	index  map[string]int // name to its place in head.tensors
}

// Open opens a file and checks its header against the format and the file's size.
func Open(path string) (*File, error) {
	// Opening a pipe would wait for its other end.
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fileErrorf(ErrInvalid, path, "not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if st, err = f.Stat(); err != nil {
		f.Close()
		return nil, err
	}
	file, err := NewFile(f, st.Size(), path)
	if err != nil {
		f.Close()
		return nil, err
	}
	file.closer = f
	return file, nil
}

// NewFile reads the safetensors file of size bytes behind r, as Open does. The
// name stands in errors. Close leaves r open.
func NewFile(r io.ReaderAt, size int64, name string) (*File, error) {
	head, err := readHeader(r, size, name)
	if err != nil {
		return nil, err
	}
	f := &File{r: r, path: name, head: head, index: make(map[string]int, len(head.tensors))}
	for i, t := range head.tensors {
		f.index[t.Name] = i
	}
	return f, nil
}

// Names implements Reader.
func (f *File) Names() []string {
	names := make([]string, len(f.head.tensors))
	for i, t := range f.head.tensors {
		names[i] = t.Name
	}
	return names
}

// Info implements Reader.
func (f *File) Info(name string) (TensorInfo, bool) {
	i, ok := f.index[name]
	if !ok {
		return TensorInfo{}, false
	}
	return f.head.tensors[i], true
}

// Metadata implements Reader.
func (f *File) Metadata() map[string]string { return maps.Clone(f.head.metadata) }

// Close implements Reader.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Section implements Reader.
func (f *File) Section(name string) (*io.SectionReader, error) {
	t, err := f.find(name)
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(f.r, f.head.dataStart+t.Begin, t.End-t.Begin), nil
}

// ReadBytes implements Reader.
func (f *File) ReadBytes(name string, dst []byte) ([]byte, error) {
	t, err := f.find(name)
	if err != nil {
		return nil, err
	}
	size := t.End - t.Begin
	if uint64(size) > maxInt {
		return nil, tensorErrorf(ErrInvalid, f.path, name, "%d bytes do not fit this machine's memory", size)
	}
	dst = grow(dst, int(size))
	if err := readFull(f.r, dst, f.head.dataStart+t.Begin); err != nil {
		return nil, f.readError(name, err)
	}
	return dst, nil
}

// ReadFloat32 implements Reader.
func (f *File) ReadFloat32(name string, dst []float32) ([]float32, error) {
	t, err := f.find(name)
	if err != nil {
		return nil, err
	}
	return f.readFloats(t, 0, t.Elements(), dst)
}

// ReadRows implements Reader.
func (f *File) ReadRows(name string, r0, r1 int, dst []float32) ([]float32, error) {
	t, err := f.find(name)
	if err != nil {
		return nil, err
	}
	if len(t.Shape) != 2 {
		return nil, tensorErrorf(nil, f.path, name, "shape %s, want a matrix", shapeText(t.Shape))
	}
	rows, cols := t.Shape[0], t.Shape[1]
	if r0 < 0 || r0 > r1 || r1 > rows {
		return nil, tensorErrorf(nil, f.path, name, "rows %d to %d of %d asked for", r0, r1, rows)
	}
	return f.readFloats(t, r0*cols, (r1-r0)*cols, dst)
}

func (f *File) find(name string) (*TensorInfo, error) {
	i, ok := f.index[name]
	if !ok {
		return nil, tensorErrorf(ErrNotFound, f.path, name, "no such tensor")
	}
	return &f.head.tensors[i], nil
}

func (f *File) readError(name string, err error) error {
	if err == io.ErrUnexpectedEOF {
		return tensorErrorf(err, f.path, name, "the file has become shorter since it was opened")
	}
	return tensorErrorf(err, f.path, name, "reading: %v", err)
}

// grow returns dst with length n.
func grow[T any](dst []T, n int) []T {
	if cap(dst) >= n {
		return dst[:n]
	}
	return slices.Grow(dst[:0], n)[:n]
}
