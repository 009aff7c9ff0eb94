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

// WithWorkers implements Parallel.
func (q RTN) WithWorkers(n int) Quantizer { return RTN{Workers: n} }

// Quantize implements Quantizer.
func (q RTN) Quantize(ctx context.Context, w *tensor.Matrix, s Scheme, cal *Calibration) (*Weight, error) {
	return fill(ctx, w, s, cal, q.Workers, true)
}

// Grids returns a weight for w whose scales and zero-points are those of
// round-to-nearest and whose codes are all 0. cal may be nil; its H matters
// to Scheme.ClipInput only.
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
	n := out.LineLen()
	tasks := (out.Lines() + chunk - 1) / chunk
	err := parallel.For(ctx, workers, tasks, func(t int) error {
		var codes []uint8
		if withCodes {
			codes = make([]uint8, n)
		}
		part := make([]float32, n)
		for l := t * chunk; l < min((t+1)*chunk, out.Lines()); l++ {
			if err := out.fillLine(l, m.Row(l), importance, part, codes); err != nil {
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

// fillLine sets the grids of line l, whose weights are x, and its codes
// unless codes is nil. importance is that of Scheme.Grid; part and codes are scratch of a line's length.
func (w *Weight) fillLine(l int, x, importance, part []float32, codes []uint8) error {
	s, groups := w.Scheme, w.Groups()
	if s.Strided {
		x = gather(part, x, groups)
	}
	n := s.groupLen(len(x))
	for k := range groups {
		a, b := k*n, min((k+1)*n, len(x))
		var imp []float32
		if importance != nil {
			imp = importance[a:b]
		}
		g, err := s.Grid(x[a:b], imp)
		if err != nil {
			return fmt.Errorf("%s %d, group %d: %w", lineName(s.Axis), l, k, err)
		}
		w.Scales[l*groups+k], w.Zeros[l*groups+k] = g.Scale, g.Zero
		if codes != nil {
			kernel.QuantRow(codes[a:b], x[a:b], g.Scale, float32(g.Zero), float32(s.MaxCode()))
		}
	}
	if codes == nil {
		return nil
	}
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
