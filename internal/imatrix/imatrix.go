// Package imatrix reads and writes llama.cpp's importance matrices: of each matrix of a
// model the sums of the squares of its inputs over a text, input by input.
package imatrix

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/wire"
)

// ErrFormat is wrapped by every error about what a file holds.
var ErrFormat = errors.New("not a valid importance matrix")

// The names in files of the GGUF form (llama.cpp's tools/imatrix).
const (
	typeKey      = "general.type"
	typeValue    = "imatrix"
	datasetsKey  = "imatrix.datasets"
	chunksKey    = "imatrix.chunk_count"
	chunkSizeKey = "imatrix.chunk_size"
	sumsSuffix   = ".in_sum2"
	countsSuffix = ".counts"
)

// File is an importance matrix.
type File struct {
	Entries   []Entry
	Datasets  []string // what the text was called
	Chunks    int      // pieces of text
	ChunkSize int      // tokens of a piece; 0 if it is not known
}

// Entry is about one matrix of the model, or several that are stacked: experts.
type Entry struct {
	Name string // of the tensor in the model's GGUF file
	// Sums are over the squares of inputs, for each matrix one after the other.
	Sums []float32
	// Counts say over how many inputs, for each matrix or, where there is one of them,
	// for all. A mean is a sum by its count; the older form counts pieces of the text,
	// and its sums are means times that.
	Counts []float32
}

// Read reads a file of either form. Errors wrap ErrFormat or are those of the file
// system. No value of what is returned is negative, infinite or not a number.
func Read(path string) (*File, error) {
	if err := disk.Regular(path); err != nil {
		return nil, err
	}
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return nil, err
	}
	magic := make([]byte, len(gguf.Magic))
	if _, err := r.ReadAt(magic, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	f := &File{}
	if string(magic) == gguf.Magic {
		err = f.readGGUF(r, info.Size())
	} else {
		err = f.readOlder(bufio.NewReader(r), info.Size())
	}
	if err == nil {
		err = f.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrFormat, err)
	}
	return f, nil
}

// check refuses what is no sum of squares.
func (f *File) check() error {
	if len(f.Entries) == 0 {
		return errors.New("no entries")
	}
	for _, e := range f.Entries {
		if len(e.Sums) == 0 || len(e.Counts) == 0 || len(e.Sums)%len(e.Counts) != 0 {
			return fmt.Errorf("entry %q: %d sums and %d counts", e.Name, len(e.Sums), len(e.Counts))
		}
		for _, p := range []struct {
			what   string
			values []float32
		}{{"sum", e.Sums}, {"count", e.Counts}} {
			if i := slices.IndexFunc(p.values, func(v float32) bool { return !(v >= 0) || v-v != 0 }); i >= 0 {
				return fmt.Errorf("entry %q: %s %d is %g, want a number of at least 0", e.Name, p.what, i, p.values[i])
			}
		}
	}
	return nil
}

func (f *File) readGGUF(r io.ReaderAt, size int64) error {
	g, err := gguf.Parse(r, size)
	if err != nil {
		return err
	}
	if v, _ := g.Value(typeKey); v != typeValue {
		return fmt.Errorf("key %q: %q, want %q", typeKey, fmt.Sprint(v), typeValue)
	}
	if v, ok := g.Value(datasetsKey); ok {
		f.Datasets, _ = v.([]string)
	}
	for key, to := range map[string]*int{chunksKey: &f.Chunks, chunkSizeKey: &f.ChunkSize} {
		if v, ok := g.Value(key); ok {
			n, _ := v.(uint32)
			*to = int(n)
		}
	}
	for _, t := range g.Tensors() {
		name, ok := strings.CutSuffix(t.Name, sumsSuffix)
		if !ok {
			if name, ok = strings.CutSuffix(t.Name, countsSuffix); ok {
				if _, ok := g.Tensor(name + sumsSuffix); !ok {
					return fmt.Errorf("tensor %q: there is no %q beside it", t.Name, name+sumsSuffix)
				}
			}
			continue // other statistics
		}
		e := Entry{Name: name}
		if e.Sums, err = g.Floats(t.Name); err != nil {
			return err
		}
		if e.Counts, err = g.Floats(name + countsSuffix); err != nil {
			return err
		}
		f.Entries = append(f.Entries, e)
	}
	return nil
}

// older reads the numbers of the form without a header and knows how much is left.
type older struct {
	r    io.Reader
	left int64
}

// readOlder reads the form that was written before the one in GGUF: the number of
// entries, of each the length of its name, the name, the pieces of text, the number of
// values and these, and at the end, where it is there, the pieces of text in all and
// the name of the text.
func (f *File) readOlder(r io.Reader, size int64) error {
	d := &older{r, size}
	n, err := d.count("entries", 12)
	if err != nil {
		return err
	}
	for i := range n {
		e, err := d.entry()
		if err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if slices.ContainsFunc(f.Entries, func(o Entry) bool { return o.Name == e.Name }) {
			return fmt.Errorf("entry %q is there twice", e.Name)
		}
		f.Entries = append(f.Entries, e)
	}
	if d.left == 0 {
		return nil
	}
	if f.Chunks, err = d.number(); err != nil || d.left == 0 {
		return err
	}
	text, err := d.text("the text's name")
	if err != nil || text == "" {
		return err
	}
	f.Datasets = []string{text}
	return nil
}

func (d *older) entry() (e Entry, err error) {
	if e.Name, err = d.text("the name"); err != nil {
		return e, err
	}
	calls, err := d.number()
	if err != nil {
		return e, err
	}
	n, err := d.count("values", 4)
	if err != nil {
		return e, fmt.Errorf("%q: %w", e.Name, err)
	}
	data := make([]byte, 4*n)
	if err := d.fill(data); err != nil {
		return e, err
	}
	e.Sums, e.Counts = make([]float32, n), []float32{float32(max(calls, 1))}
	wire.Decode(e.Sums, wire.F32, data)
	return e, nil
}

func (d *older) fill(p []byte) error {
	if int64(len(p)) > d.left {
		return fmt.Errorf("%d bytes are left, want %d: %w", d.left, len(p), io.ErrUnexpectedEOF)
	}
	n, err := io.ReadFull(d.r, p)
	d.left -= int64(n)
	return err
}

func (d *older) number() (int, error) {
	var b [4]byte
	err := d.fill(b[:])
	return int(int32(binary.LittleEndian.Uint32(b[:]))), err
}

// count reads a number of things that take so many bytes each.
func (d *older) count(what string, each int64) (int, error) {
	n, err := d.number()
	if err == nil && (n < 0 || int64(n) > d.left/each) {
		err = fmt.Errorf("%d %s in the %d bytes that are left", n, what, d.left)
	}
	return n, err
}

func (d *older) text(what string) (string, error) {
	n, err := d.count("bytes of "+what, 1)
	if err != nil {
		return "", err
	}
	b := make([]byte, n)
	err = d.fill(b)
	return string(b), err
}

// Write writes the GGUF form, as llama-imatrix does: entries by their names.
func (f *File) Write(path string) error {
	entries := slices.SortedFunc(slices.Values(f.Entries), func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	datasets := f.Datasets
	if datasets == nil {
		datasets = []string{}
	}
	kv := []gguf.KV{
		{Key: typeKey, Value: typeValue}, {Key: datasetsKey, Value: datasets},
		{Key: chunksKey, Value: uint32(f.Chunks)}, {Key: chunkSizeKey, Value: uint32(f.ChunkSize)},
	}
	var tensors []gguf.Tensor
	for _, e := range entries {
		tensors = append(tensors,
			gguf.Tensor{Name: e.Name + sumsSuffix, Type: gguf.F32, Dims: []int{len(e.Sums) / len(e.Counts), len(e.Counts)}},
			gguf.Tensor{Name: e.Name + countsSuffix, Type: gguf.F32, Dims: []int{1, len(e.Counts)}})
	}
	w, err := gguf.Create(path, kv, tensors)
	if err != nil {
		return err
	}
	for _, e := range entries {
		for name, v := range map[string][]float32{sumsSuffix: e.Sums, countsSuffix: e.Counts} {
			data := make([]byte, 4*len(v))
			err := gguf.F32.Encode(data, v)
			if err == nil {
				err = w.Append(e.Name+name, data)
			}
			if err != nil {
				return errors.Join(err, w.Abort())
			}
		}
	}
	return w.Close()
}
