package safetensors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/wire"
)

// Writer writes a model's tensors into a folder: one model.safetensors, or
// shards and their index. All sizes are known beforehand, so headers and places
// are fixed when it is made, and tensors may come in any order, in pieces, from
// many goroutines; nothing is held in memory, and the bytes of the result do not
// depend on the order.
//
// Files carry temporary names until Close, which syncs and renames them, the
// index last; before that, and after any error, nothing is there under a final
// name. Every Writer must be closed or aborted; Abort after Close does nothing,
// so it can be deferred.
type Writer struct {
	dir    string
	disk   disk.FS
	shards []shard
	places map[string]*place

	mu     sync.RWMutex // held for reading while bytes are written
	closed bool
	files  []*tempFile

	failMu sync.Mutex
	failed error // the first error of the disk: after it the result cannot be whole
}

// place is a tensor of the plan and what of it has been written.
type place struct {
	info  TensorInfo
	shard int
	mu    sync.Mutex
	done  spans
}

// output is the part of os.File a Writer uses.
type output interface {
	io.WriterAt
	Sync() error
	Close() error
}

// tempFile is one open file under its temporary name.
type tempFile struct {
	output
	path string
}

// NewWriter lays out the plan (Name, DType and Shape of every tensor, in the
// order wanted) in the existing folder dir, which must hold no model yet, and
// takes the disk space: a full disk is an error here, where the system can
// reserve space, and not hours later.
func NewWriter(dir string, plan []TensorInfo, opts Options) (*Writer, error) {
	return NewWriterOn(disk.FS{}, dir, plan, opts)
}

// NewWriterOn is NewWriter on a disk that tests let fail.
func NewWriterOn(d disk.FS, dir string, plan []TensorInfo, opts Options) (*Writer, error) {
	w, err := newWriter(dir, plan, opts, func(path string, size int64) (output, error) {
		if d.Fail == nil {
			return createTemp(path, size)
		}
		if err := d.Before("create", path); err != nil {
			return nil, err
		}
		f, err := createTemp(path, size)
		if err != nil {
			return nil, err
		}
		return d.Wrap(f.(*os.File)), nil
	})
	if err != nil {
		return nil, err
	}
	w.disk = d
	return w, nil
}

func newWriter(dir string, plan []TensorInfo, opts Options, create func(path string, size int64) (output, error)) (*Writer, error) {
	if st, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !st.IsDir() {
		return nil, fmt.Errorf("%s: not a folder", dir)
	}
	shards, err := planShards(dir, plan, opts)
	if err != nil {
		return nil, err
	}
	w := &Writer{dir: dir, shards: shards, places: map[string]*place{}}
	for _, name := range append(w.Files(), SingleName, IndexName) {
		// An old single file would be read in place of new shards.
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return nil, fileErrorf(fs.ErrExist, filepath.Join(dir, name), "exists already")
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	for i := range shards {
		s := &shards[i]
		for _, t := range s.tensors {
			w.places[t.Name] = &place{info: t, shard: i}
		}
		path := w.path(s.name) + tempSuffix()
		f, err := create(path, s.size)
		if err != nil {
			w.drop()
			return nil, fileErrorf(err, w.path(s.name), "reserving %d bytes: %s", s.size, writeText(err))
		}
		w.files = append(w.files, &tempFile{f, path})
		if err := writeFull(f, s.head, 0); err != nil {
			w.drop()
			return nil, fileErrorf(err, w.path(s.name), "writing the header: %s", writeText(err))
		}
	}
	return w, nil
}

// tempSuffix makes a name that no reader takes for a model.
func tempSuffix() string { return fmt.Sprintf(".%016x.tmp", rand.Uint64()) }

func createTemp(path string, size int64) (output, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	if err := reserve(f, size); err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	return f, nil
}

// Files returns the base names of the files that Close leaves: the shards in
// order, then the index if there is one.
func (w *Writer) Files() []string {
	var names []string
	for _, s := range w.shards {
		names = append(names, s.name)
	}
	if len(w.shards) > 1 {
		names = append(names, IndexName)
	}
	return names
}

// Info describes a planned tensor and where it goes.
func (w *Writer) Info(name string) (TensorInfo, bool) {
	p, ok := w.places[name]
	if !ok {
		return TensorInfo{}, false
	}
	return p.info, true
}

// WriteAt writes a piece of a tensor's bytes, at offset off from its begin. Every
// byte is written exactly once. An error of the disk spoils the whole Writer: Close
// returns it again and leaves nothing.
func (w *Writer) WriteAt(name string, data []byte, off int64) error {
	p, ok := w.places[name]
	if !ok {
		return tensorErrorf(ErrNotFound, w.dir, name, "not in the plan")
	}
	file, size := w.path(p.info.File), p.info.End-p.info.Begin
	if off < 0 || off > size || int64(len(data)) > size-off {
		return tensorErrorf(nil, file, name, "%d bytes at %d, the tensor has %d", len(data), off, size)
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return tensorErrorf(fs.ErrClosed, file, name, "the writer is closed")
	}
	p.mu.Lock()
	fresh := p.done.add(off, off+int64(len(data)))
	p.mu.Unlock()
	if !fresh {
		return tensorErrorf(nil, file, name, "bytes from %d to %d written twice", off, off+int64(len(data)))
	}
	start := int64(len(w.shards[p.shard].head)) + p.info.Begin
	if err := writeFull(w.files[p.shard], data, start+off); err != nil {
		return w.fail(tensorErrorf(err, file, name, "writing %d bytes: %s", len(data), writeText(err)))
	}
	writeback(w.files[p.shard].output, start+off, int64(len(data)))
	return nil
}

func (w *Writer) fail(err error) error {
	w.failMu.Lock()
	defer w.failMu.Unlock()
	if w.failed == nil {
		w.failed = err
	}
	return err
}

// WriteTensor writes all bytes of a tensor, as they shall lie in the file.
func (w *Writer) WriteTensor(name string, data []byte) error {
	if p, ok := w.places[name]; ok && int64(len(data)) != p.info.Size() {
		return tensorErrorf(nil, w.path(p.info.File), name, "%d bytes, shape %s of %s takes %d",
			len(data), shapeText(p.info.Shape), p.info.DType, p.info.Size())
	}
	return w.WriteAt(name, data, 0)
}

// WriteFrom writes all bytes of a tensor from r, which must hold exactly as many,
// piece by piece: with a Reader's Section it copies a tensor of any dtype.
func (w *Writer) WriteFrom(name string, r io.Reader) error {
	p, ok := w.places[name]
	if !ok {
		return tensorErrorf(ErrNotFound, w.dir, name, "not in the plan")
	}
	file, size := w.path(p.info.File), p.info.Size()
	buf := make([]byte, min(size, 1<<20)+1) // one more, to see an end that is not there
	for off := int64(0); ; {
		n, err := io.ReadFull(r, buf[:min(size-off, 1<<20)+1])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return tensorErrorf(err, file, name, "reading its source: %v", err)
		}
		if int64(n) > size-off {
			return tensorErrorf(nil, file, name, "the source holds more than %d bytes", size)
		}
		if werr := w.WriteAt(name, buf[:n], off); werr != nil {
			return werr
		}
		off += int64(n)
		if err != nil { // the source has ended
			if off != size {
				return tensorErrorf(io.ErrUnexpectedEOF, file, name, "the source holds %d bytes, want %d", off, size)
			}
			return nil
		}
	}
}

// WriteFloat32 writes a tensor of F32, F16 or BF16 from row-major float32 values,
// rounding to nearest, ties to even. A finite value too large for the type is an
// error; other types give an error that wraps ErrDType.
func (w *Writer) WriteFloat32(name string, values []float32) error {
	p, ok := w.places[name]
	if !ok {
		return tensorErrorf(ErrNotFound, w.dir, name, "not in the plan")
	}
	info, file := p.info, w.path(p.info.File)
	t, ok := info.DType.wireType()
	if !ok || info.DType == F64 {
		return tensorErrorf(ErrDType, file, name, "dtype %s, want F32, F16 or BF16", info.DType)
	}
	if len(values) != info.Elements() {
		return tensorErrorf(nil, file, name, "%d values, shape %s takes %d", len(values), shapeText(info.Shape), info.Elements())
	}
	off := int64(0)
	bad, err := wire.EncodePieces(t, values, func(raw []byte) error {
		err := w.WriteAt(name, raw, off)
		off += int64(len(raw))
		return err
	})
	if err != nil {
		return err
	}
	if bad >= 0 {
		return tensorErrorf(ErrDType, file, name, "value %g at %d is too large for %s", values[bad], bad, info.DType)
	}
	return nil
}

// Close checks that every byte of the plan has been written, syncs the files and
// gives them their final names. On an error nothing is left: one that wraps
// ErrIncomplete names the tensors that are missing.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fileErrorf(fs.ErrClosed, w.dir, "the writer is closed")
	}
	w.closed = true
	err := w.failed
	if err == nil {
		err = w.missing()
	}
	if err == nil {
		err = w.syncAll()
	}
	if err == nil {
		err = w.publish()
	}
	if err != nil {
		w.drop()
	}
	return err
}

// Abort removes what has been written. After Close it does nothing.
func (w *Writer) Abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		w.drop()
	}
}

// missing lists the tensors that lack bytes, in file order.
func (w *Writer) missing() error {
	const limit = 5
	var names []string
	count := 0
	for _, s := range w.shards {
		for _, t := range s.tensors {
			if !w.places[t.Name].done.cover(t.Size()) {
				count++
				if count <= limit {
					names = append(names, nameText(t.Name))
				}
			}
		}
	}
	if count == 0 {
		return nil
	}
	if count > limit {
		names = append(names, fmt.Sprintf("and %d more", count-limit))
	}
	return fileErrorf(ErrIncomplete, w.dir, "%d of %d tensors are missing or incomplete: %s", count, len(w.places), strings.Join(names, ", "))
}

// syncAll writes the index beside the shards and brings everything to the disk.
func (w *Writer) syncAll() error {
	if len(w.shards) > 1 {
		text := encodeIndex(w.shards)
		path := w.path(IndexName) + tempSuffix()
		f, err := createTemp(path, int64(len(text)))
		if err != nil {
			return fileErrorf(err, w.path(IndexName), "creating: %s", writeText(err))
		}
		w.files = append(w.files, &tempFile{f, path})
		if err := writeFull(f, text, 0); err != nil {
			return fileErrorf(err, w.path(IndexName), "writing: %s", writeText(err))
		}
	}
	for i, f := range w.files {
		name := w.path(w.Files()[i])
		if err := f.Sync(); err != nil {
			return fileErrorf(err, name, "syncing: %s", writeText(err))
		}
		out := f.output
		f.output = nil
		if err := out.Close(); err != nil {
			return fileErrorf(err, name, "closing: %s", writeText(err))
		}
	}
	return nil
}

// publish renames the files, the index last: without it shards are no model.
func (w *Writer) publish() error {
	for i, f := range w.files {
		name := w.path(w.Files()[i])
		// Rename would replace a file that has appeared since the Writer was made.
		_, err := os.Lstat(name)
		if err == nil {
			return fileErrorf(fs.ErrExist, name, "exists already")
		}
		if err := w.disk.Rename(f.path, name); err != nil {
			return fileErrorf(err, name, "renaming: %v", err)
		}
		f.path = name // drop removes it from here
	}
	if err := w.disk.SyncFolder(w.dir); err != nil {
		return fileErrorf(err, w.dir, "syncing the folder: %s", writeText(err))
	}
	return nil
}

// drop closes and removes every file.
func (w *Writer) drop() {
	for _, f := range w.files {
		if f.output != nil {
			f.Close()
		}
		os.Remove(f.path)
	}
	w.files = nil
}

func (w *Writer) path(name string) string { return filepath.Join(w.dir, name) }

// writeFull writes all of p, a short write being io.ErrShortWrite.
func writeFull(f io.WriterAt, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	n, err := f.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// writeText leaves the temporary name out.
func writeText(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return err.Error()
}

func putLength(head []byte) {
	binary.LittleEndian.PutUint64(head, uint64(len(head)-lengthSize))
}

// spans are disjoint byte ranges, sorted; neighbours that touch are one.
type spans []struct{ begin, end int64 }

// add puts [begin, end) in, or returns false where it meets what is there.
func (s *spans) add(begin, end int64) bool {
	if begin == end {
		return true
	}
	list := *s
	i := 0
	for i < len(list) && list[i].end <= begin {
		i++
	}
	if i < len(list) && list[i].begin < end {
		return false
	}
	left := i > 0 && list[i-1].end == begin
	right := i < len(list) && list[i].begin == end
	switch {
	case left && right:
		list[i-1].end = list[i].end
		list = slices.Delete(list, i, i+1)
	case left:
		list[i-1].end = end
	case right:
		list[i].begin = begin
	default:
		list = slices.Insert(list, i, struct{ begin, end int64 }{begin, end})
	}
	*s = list
	return true
}

// cover says whether the spans are all of [0, size).
func (s spans) cover(size int64) bool {
	return size == 0 || len(s) == 1 && s[0].begin == 0 && s[0].end == size
}
