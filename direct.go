package lowbit

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"unsafe"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// directLayers is how many layers are under way at once: while one is
// written another is read. More workers share the lines of a layer.
const directLayers = 4

// runDirect quantizes layers that need no calibration, which is rounding to
// nearest: weights are read, rounded, packed and written in pieces that stay
// in the caches, several layers at a time.
func (j *job) runDirect() error {
	workers := parallel.Workers(j.Workers)
	lanes := min(workers, directLayers)
	var mu sync.Mutex
	free := make(chan *quant.Weight, lanes)
	for range lanes {
		free <- &quant.Weight{}
	}
	return parallel.For(j.ctx, lanes, len(j.order), func(i int) error {
		p := j.order[i]
		r := &LayerReport{Name: p.name, Out: p.out, In: p.in, Dense: p.dense, Scheme: p.scheme}
		if !p.dense {
			s := p.scheme
			s.Axis = p.arms[0].Axis
			q := <-free
			defer func() { free <- q }()
			reshape(q, p.out, p.in, s)
			if err := roundLayer(j.ctx, q, j.src, p.name+".weight", max(1, workers/lanes)); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			r.Arm, r.Scheme = p.arms[0].String(), s
			r.Bits = float64(q.StorageBits()) / float64(p.out*p.in)
			if err := j.out.Put(p.name, q, nil); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		j.finish(r)
		return nil
	})
}

// reshape gives q the shape and reuses its memory. All of it will be written.
func reshape(q *quant.Weight, out, in int, s quant.Scheme) {
	old := *q
	*q = quant.Weight{Out: out, In: in, Scheme: s}
	groups := q.Lines() * q.Groups()
	q.Codes = sized(old.Codes, q.Lines()*q.WordsPerLine())
	q.Scales = sized(old.Scales, groups)
	q.Zeros = sized(old.Zeros, groups)
}

func sized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// roundLayer rounds a tensor of the model to q.
func roundLayer(ctx context.Context, q *quant.Weight, src *checkpoint.Model, name string, workers int) error {
	t, _ := src.DType(name)
	r := &layerReader{q: q, src: src, name: name, dtype: t}
	switch t {
	case safetensors.F32, safetensors.F16, safetensors.BF16:
	default:
		w, err := src.Matrix(name)
		if err != nil {
			return err
		}
		if q.Scheme.Axis == quant.IC {
			w = w.T()
		}
		return q.RoundLines(0, w)
	}
	// A piece is some lines, 512 KB or so of the file.
	lines := min(max(1, 512<<10/(q.LineLen()*int(t.Bits())/8)), q.Lines())
	if q.Scheme.Axis == quant.IC {
		lines = min(1024, q.Lines()) // long runs of a row
	}
	return parallel.For(ctx, workers, (q.Lines()+lines-1)/lines, func(i int) error {
		b, _ := pieces.Get().(*piece)
		if b == nil {
			b = new(piece)
		}
		defer pieces.Put(b)
		l0, l1 := i*lines, min((i+1)*lines, q.Lines())
		if q.Scheme.Axis == quant.IC {
			return r.columns(b, l0, l1)
		}
		return r.rows(b, l0, l1)
	})
}

// piece is the memory for one piece of a tensor.
type piece struct {
	halves []uint16
	floats []float32
	lines  tensor.Matrix
}

var pieces sync.Pool

// layerReader rounds parts of one tensor.
type layerReader struct {
	q     *quant.Weight
	src   *checkpoint.Model
	name  string
	dtype safetensors.DType
}

// rows rounds the output rows l0 to l1.
func (r *layerReader) rows(b *piece, l0, l1 int) error {
	n := (l1 - l0) * r.q.In
	if err := r.read(b, n, l0*r.q.In); err != nil {
		return err
	}
	switch r.dtype {
	case safetensors.BF16:
		return r.q.RoundBF16(l0, b.halves)
	case safetensors.F16:
		return r.q.RoundF16(l0, b.halves)
	}
	return r.q.RoundLines(l0, tensor.FromSlice(l1-l0, r.q.In, b.floats))
}

// columns rounds the input columns l0 to l1. They lie across the file, whose
// rows are read in pieces.
func (r *layerReader) columns(b *piece, l0, l1 int) error {
	const band = 16 // rows
	out, in, n := r.q.Out, r.q.In, l1-l0
	m := &b.lines
	m.Rows, m.Cols, m.Stride, m.Data = n, out, out, sized(m.Data, n*out)
	wide := make([]float32, band*n)
	for r0 := 0; r0 < out; r0 += band {
		r1 := min(r0+band, out)
		for i := r0; i < r1; i++ {
			if err := r.read(b, n, i*in+l0); err != nil {
				return err
			}
			row := wide[(i-r0)*n : (i-r0+1)*n]
			switch r.dtype {
			case safetensors.BF16:
				tensor.BF16ToF32(row, b.halves)
			case safetensors.F16:
				tensor.F16ToF32(row, b.halves)
			default:
				copy(row, b.floats)
			}
		}
		kernel.Transpose(m.Data[r0:], out, wide, n, r1-r0, n, 1)
	}
	return r.q.RoundLines(l0, m)
}

// read reads n elements from element off on into b.halves or b.floats.
func (r *layerReader) read(b *piece, n, off int) error {
	if r.dtype == safetensors.F32 {
		b.floats = sized(b.floats, n)
		raw := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(b.floats))), 4*n)
		if err := r.src.ReadAt(r.name, raw, 4*int64(off)); err != nil {
			return err
		}
		swap(raw, 4)
		return nil
	}
	b.halves = sized(b.halves, n)
	raw := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(b.halves))), 2*n)
	if err := r.src.ReadAt(r.name, raw, 2*int64(off)); err != nil {
		return err
	}
	swap(raw, 2)
	return nil
}

// swap brings little-endian words to the machine's order.
func swap(raw []byte, size int) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return
	}
	for i := 0; i < len(raw); i += size {
		for a, b := i, i+size-1; a < b; a, b = a+1, b-1 {
			raw[a], raw[b] = raw[b], raw[a]
		}
	}
}
