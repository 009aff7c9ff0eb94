// Package rounding rounds stored tensors to nearest as they are read, in pieces
// that stay in the caches.
package rounding

import (
	"context"
	"fmt"
	"sync"

	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// Source reads parts of stored tensors [out, in].
type Source interface {
	Rows(name string, r0, r1 int, dst []float32) ([]float32, error)
	Halves(name string, r0, r1 int, dst []uint16) ([]uint16, error)
	Columns(name string, c0, c1 int, dst *tensor.Matrix) error
}

// Stored rounds a tensor of a type to q, which has its shape, grid and memory. importance
// is that of quant.Weight.RoundWeighted.
func Stored(ctx context.Context, q *quant.Weight, src Source, name string, t safetensors.DType, importance []float32, workers int) error {
	r := &layerReader{q: q, src: src, name: name, dtype: t, importance: importance}
	// A piece is some lines, 512 KB or so of the file.
	lines := min(max(1, 512<<10/max(1, q.LineLen()*t.Bits()/8)), q.Lines())
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
	src   Source
	name  string
	dtype safetensors.DType

	importance []float32
}

// rows rounds the output rows l0 to l1.
func (r *layerReader) rows(b *piece, l0, l1 int) error {
	var err error
	if r.dtype == safetensors.F32 || r.importance != nil {
		if b.floats, err = r.src.Rows(r.name, l0, l1, b.floats); err != nil {
			return err
		}
		return r.named(r.q.RoundWeighted(l0, tensor.FromSlice(l1-l0, r.q.In, b.floats), r.importance))
	}
	if b.halves, err = r.src.Halves(r.name, l0, l1, b.halves); err != nil {
		return err
	}
	if r.dtype == safetensors.BF16 {
		return r.named(r.q.RoundBF16(l0, b.halves))
	}
	return r.named(r.q.RoundF16(l0, b.halves))
}

// columns rounds the input columns l0 to l1.
func (r *layerReader) columns(b *piece, l0, l1 int) error {
	if err := r.src.Columns(r.name, l0, l1, &b.lines); err != nil {
		return err
	}
	return r.named(r.q.RoundLines(l0, &b.lines))
}

// named says which tensor could not be rounded.
func (r *layerReader) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("tensor %q: %w", r.name, err)
}

// Matrix rounds a matrix [out, in] to q. importance is that of quant.Weight.RoundWeighted.
func Matrix(q *quant.Weight, name string, w *tensor.Matrix, importance []float32) error {
	if q.Scheme.Axis == quant.IC {
		w = w.T()
	}
	return (&layerReader{q: q, name: name}).named(q.RoundWeighted(0, w, importance))
}
