package affine

import (
	"fmt"
	"math"
	"sync"

	"github.com/golowbit/lowbit/internal/importance"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/scratch"
	"github.com/golowbit/lowbit/quant"
)

// Fit implements quant.Grid. Without a clip the grid reaches from the least weight
// to the greatest. With one the range is shrunk at either end, and then scale and
// bias are those that fit the codes best, in turns; every pair is judged as it is
// stored.
func (g Grid) Fit(scale, shift, x, importance []float32, size int, clip quant.Clip) (int, error) {
	f := fitters.Get().(*fitter)
	defer fitters.Put(f)
	f.grid, f.clip = g, clip
	for k := range scale {
		a, b := k*size, min((k+1)*size, len(x))
		var imp []float32
		if importance != nil && clip == quant.ClipInputs {
			imp = importance[a:b]
		}
		if err := f.fit(x[a:b], imp); err != nil {
			return k, err
		}
		scale[k], shift[k] = f.scale, f.shift
	}
	return 0, nil
}

var fitters = sync.Pool{New: func() any { return new(fitter) }}

// fitter fits one group. Its memory is reused.
type fitter struct {
	grid  Grid
	clip  quant.Clip
	x, w  []float32 // weights, and how much they matter
	moved []float32 // weights plus shift
	codes []uint8

	scale, shift float32 // the best so far,
	least        float64 // and their error
	found        bool
}

// searches are what shrinking tries, by bits: the range times 1+stretch, less step
// each. A grid of few codes gains by reaching further than the weights, too.
var searches = [9]struct {
	stretch, step float32
	steps         int
}{
	2: {0.1, 0.05, 16}, 3: {0.06, 0.02, 28}, 4: {0.03, 0.0225, 16}, 5: {0.02, 0.0125, 12},
	6: {0.01, 0.005, 12}, 7: {0, 0.004, 8}, 8: {0, 0.002, 6},
}

// solves is how often scale and bias are fitted to the codes that follow from them.
const solves = 4

// fit finds the parameters of the weights x.
func (f *fitter) fit(x, imp []float32) error {
	lo, hi := kernel.MinMax(x)
	if lo-lo != 0 || hi-hi != 0 {
		return quant.ErrNotFinite
	}
	f.x, f.least, f.found = x, math.Inf(1), false
	f.moved, f.codes = scratch.Slice(f.moved, len(x)), scratch.Slice(f.codes, len(x))
	f.w = importance.Floored(f.w, imp, len(x))
	if lo == 0 && hi == 0 {
		f.scale, f.shift = 1, 0 // harmless
		return nil
	}
	top := f.grid.top()
	width := max(hi-lo, 0x1p-10*max(hi, -lo)) // what the bias of equal weights leaves
	f.try(float64(width/top), float64(-lo))
	if f.clip != quant.ClipNone {
		f.shrink(lo, width)
		for range solves {
			if !f.solve() {
				break
			}
		}
	}
	if !f.found {
		return fmt.Errorf("%w: %v holds no weights of %g to %g", quant.ErrScaleRange, f.grid, lo, hi)
	}
	return nil
}

// shrink tries smaller and larger ranges. Of what is cut off a half is above, or
// all or none.
func (f *fitter) shrink(lo, width float32) {
	s, top := searches[f.grid.bits], f.grid.top()
	for i := range s.steps {
		p := 1 + s.stretch - float32(i)*s.step
		step, cut := float64(p*width/top), (1-p)*width
		f.try(step, float64(-lo-cut/2))
		if i%2 == 1 {
			f.try(step, float64(-lo))
			f.try(step, float64(-lo-cut))
		}
	}
}

// try keeps a scale and a shift, as they are stored, if they are better than all
// before.
func (f *fitter) try(scale, shift float64) bool {
	s, ok := f.grid.scale(scale)
	m, fits := f.grid.shift(shift)
	if !ok || !fits {
		return false
	}
	if e := f.err(s, m); e < f.least {
		f.scale, f.shift, f.least, f.found = s, m, e, true
		return true
	}
	return false
}

// err is what the clip rule minimizes, of the codes nearest to the weights.
func (f *fitter) err(scale, shift float32) float64 {
	for i, v := range f.x {
		f.moved[i] = v + shift
	}
	if f.clip == quant.ClipPower {
		return kernel.PowErr(f.moved, scale, 0, f.grid.top())
	}
	return kernel.SquareErr(f.moved, f.w, scale, 0, f.grid.top())
}

// solve tries the scale and shift that fit the codes of the best best, and with the
// scale as it is stored the shift that goes with it. It reports whether they are
// better.
func (f *fitter) solve() bool {
	if !f.found {
		return false
	}
	for i, v := range f.x {
		f.moved[i] = v + f.shift
	}
	kernel.QuantRow(f.codes, f.moved, f.scale, 0, f.grid.top())
	var sw, sx, sv, svv, svx float64
	for i, u := range f.codes {
		w, x, v := float64(f.w[i]), float64(f.x[i]), float64(u)
		sw, sx, sv, svv, svx = sw+w, sx+w*x, sv+w*v, svv+w*v*v, svx+w*v*x
	}
	scale := float64(f.scale)
	if det := sw*svv - sv*sv; det > 1e-6*sw*svv {
		scale = (sw*svx - sv*sx) / det
	}
	if scale == 0 {
		return false
	}
	better := f.try(scale, (scale*sv-sx)/sw)
	if s, ok := f.grid.scale(scale); ok {
		better = f.try(float64(s), (float64(s)*sv-sx)/sw) || better
	}
	return better
}

// ulps are by how much neighbours of a type differ at most.
var ulps = map[quant.ScaleType]float64{quant.F16: 0x1p-10, quant.BF16: 0x1p-7}

// FitSpan implements quant.SpanFitter: of the stored scales next to the best real
// one, and the old one, it takes that which does best with a shift of its own.
func (g Grid) FitSpan(scale, shift []float32, a, grad []float64) bool {
	s, m := float64(scale[0]), float64(shift[0])
	if !(a[3] > 0) || a[3]-a[3] != 0 || a[0]-a[0] != 0 {
		return false
	}
	want := s
	if det := a[0]*a[3] - a[1]*a[2]; det > 1e-9*a[0]*a[3] {
		want -= (a[3]*grad[0] - a[1]*grad[1]) / det
	}
	least, found := 0.0, false
	for _, v := range [...]float64{want, want * (1 + ulps[g.t]), want * (1 - ulps[g.t]), s} {
		r, ok := g.scale(v)
		if !ok || v == 0 {
			continue
		}
		ds := float64(r) - s
		n, ok := g.shift(m - (grad[1]+a[2]*ds)/a[3])
		if !ok {
			continue
		}
		dm := float64(n) - m
		if l := 2*(grad[0]*ds+grad[1]*dm) + a[0]*ds*ds + (a[1]+a[2])*ds*dm + a[3]*dm*dm; l < least {
			least, scale[0], shift[0], found = l, r, n, true
		}
	}
	return found
}
