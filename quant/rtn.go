package quant

import (
	"context"
	"fmt"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/tensor"
)

// RTN rounds every weight to the nearest point of its group's grid. It needs
// no calibration data; with some, Scheme.ClipInput weighs errors by the
// diagonal of H.
type RTN struct {
	Workers int `json:"-"` // goroutines; 0 means GOMAXPROCS
}

// NeedsCalibration implements DataFree: it returns false.
func (q RTN) NeedsCalibration() bool { return false }

// NeedsPairs implements Unpaired: it returns false.
func (q RTN) NeedsPairs() bool { return false }

// WithWorkers implements Parallel.
func (q RTN) WithWorkers(n int) Quantizer { return RTN{Workers: n} }

// Quantize implements Quantizer. Errors wrap ErrScheme, ErrScaleRange or
// ErrNotFinite and name the channel and group, or are ctx's.
func (q RTN) Quantize(ctx context.Context, w *tensor.Matrix, s Scheme, cal *Calibration) (*Weight, error) {
	return fill(ctx, w, s, cal, q.Workers, true)
}

// Grids returns a weight for w [out, in] whose scales and zero-points are
// those of round-to-nearest and whose codes are all 0: where methods start
// that choose the codes themselves. cal may be nil; its H matters to
// Scheme.ClipInput only. Errors are those of RTN.
func Grids(ctx context.Context, w *tensor.Matrix, s Scheme, cal *Calibration, workers int) (*Weight, error) {
	return fill(ctx, w, s, cal, workers, false)
}

func fill(ctx context.Context, w *tensor.Matrix, s Scheme, cal *Calibration, workers int, withCodes bool) (*Weight, error) {
	if err := s.CheckShape(w.Rows, w.Cols); err != nil {
		return nil, err
	}
	out := NewWeight(w.Rows, w.Cols, s)
	m := w
	if s.Axis == IC {
		m = w.T()
	}
	var importance []float32 // of the positions of a line
	if s.ClipInput && s.Axis == OC && cal != nil {
		importance = cal.Diagonal()
	}
	const chunk = 16 // lines a task; large enough to hide the bookkeeping
	tasks := (out.Lines() + chunk - 1) / chunk
	err := parallel.For(ctx, workers, tasks, func(t int) error {
		b := newLineBuffers(out)
		if !withCodes {
			b.codes = nil
		}
		for l := t * chunk; l < min((t+1)*chunk, out.Lines()); l++ {
			if err := out.fillLine(l, m.Row(l), importance, b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// lineBuffers is what filling a line needs beside it.
type lineBuffers struct {
	grid  Grid
	part  []float32 // a line, if groups are strided
	shift []float32 // by group
	codes []uint8   // a line; nil if no codes are wanted
}

func newLineBuffers(w *Weight) *lineBuffers {
	b := &lineBuffers{grid: GridOf(w.Scheme), shift: make([]float32, w.Groups()), codes: make([]uint8, w.LineLen())}
	if w.Scheme.Strided {
		b.part = make([]float32, w.LineLen())
	}
	return b
}

// fillLine sets the parameters of line l, whose weights are x, and its codes
// unless b has no room for them. importance is that of Grid.Fit.
func (w *Weight) fillLine(l int, x, importance []float32, b *lineBuffers) error {
	if b.codes != nil && roundFused(w, l, x, kernel.RTN4F32) {
		return nil
	}
	s, groups := w.Scheme, w.Groups()
	if s.Strided {
		x = gather(b.part, x, groups)
	}
	n := s.GroupLen(len(x))
	scale, shift := w.Scales[l*groups:(l+1)*groups], b.shift
	// Groups are rounded right after they are fitted, while still in the cache.
	const few = 4096 // weights
	span := b.grid.Span()
	step := span * max(1, few/(span*n)) // groups
	for k0 := 0; k0 < groups; k0 += step {
		k1 := min(k0+step, groups)
		i0, i1 := k0*n, min(k1*n, len(x))
		var imp []float32
		if importance != nil {
			imp = importance[i0:i1]
		}
		if k, err := b.grid.Fit(scale[k0:k1], shift[k0:k1], x[i0:i1], imp, n, s.ClipRule()); err != nil {
			return fmt.Errorf("%s %d, group %d: %w", lineName(s.Axis), l, k0+k, err)
		}
		if b.codes != nil {
			b.grid.Round(b.codes[i0:i1], nil, x[i0:i1], scale[k0:k1], shift[k0:k1], n)
		}
	}
	w.SetParams(l*groups, scale, shift)
	if b.codes == nil {
		return nil
	}
	codes := b.codes
	if s.Strided {
		codes = scatter(codes, groups)
	}
	w.SetLine(l, codes)
	return nil
}

// gather brings a line whose groups are strided into an order in which they
// are runs of neighbours.
func gather(dst, x []float32, groups int) []float32 {
	n := len(x) / groups
	for p, v := range x {
		dst[p%groups*n+p/groups] = v
	}
	return dst
}

// scatter undoes gather for codes.
func scatter(codes []uint8, groups int) []uint8 {
	n := len(codes) / groups
	out := make([]uint8, len(codes))
	for p := range out {
		out[p] = codes[p%groups*n+p/groups]
	}
	return out
}

func lineName(a Axis) string {
	if a == IC {
		return "input channel"
	}
	return "output channel"
}
