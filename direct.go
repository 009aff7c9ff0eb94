package lowbit

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/golowbit/lowbit/checkpoint"
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
func (j *job) runDirect(ctx context.Context) error {
	workers := parallel.Workers(j.set.workers)
	lanes := min(workers, directLayers)
	var mu sync.Mutex
	free := make(chan *quant.Weight, lanes)
	for range lanes {
		free <- &quant.Weight{}
	}
	return parallel.For(ctx, lanes, len(j.order), func(i int) error {
		p := j.order[i]
		r := p.report()
		if !p.dense {
			s := p.layer(p.arms[0]).Scheme
			q := <-free
			defer func() { free <- q }()
			reshape(q, p.out, p.in, s)
			if err := roundLayer(ctx, q, j.layers, p.name+".weight", max(1, workers/lanes)); err != nil {
				return err
			}
			r.Arm, r.Scheme = p.arms[0].String(), s
			r.Bits = float64(q.StorageBits()) / float64(p.out*p.in)
			if err := j.out.Put(p.name, q, nil); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if !p.dense {
			j.made[p.name] = p.layer(p.arms[0])
		}
		j.finish(r, false)
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
	_, quantized := src.Layer(strings.TrimSuffix(name, ".weight"))
	if quantized {
		w, err := src.Matrix(name)
		if err != nil {
			return err
		}
		if q.Scheme.Axis == quant.IC {
			w = w.T()
		}
		return r.named(q.RoundLines(0, w))
	}
	// A piece is some lines, 512 KB or so of the file.
	lines := min(max(1, 512<<10/max(1, q.LineLen()*t.Bits()/8)), q.Lines())
	if q.Scheme.Axis == quant.IC {
		lines = min(1024, q.Lines()) // long runs of a row
	}
	err := parallel.For(ctx, workers, (q.Lines()+lines-1)/lines, func(i int) error {
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
	if err != nil && ctx.Err() == nil {
		// Where a weight is not finite, the file and element say more.
		return cmp.Or(src.CheckFinite(name), err)
	}
	return err
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
	var err error
	if r.dtype == safetensors.F32 {
		if b.floats, err = r.src.Rows(r.name, l0, l1, b.floats); err != nil {
			return err
		}
		return r.named(r.q.RoundLines(l0, tensor.FromSlice(l1-l0, r.q.In, b.floats)))
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
