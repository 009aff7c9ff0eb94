package kquant

import (
	"fmt"
	"math"
	"sync"

	"github.com/golowbit/lowbit/internal/importance"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/quant"
)

// Fit implements quant.Grid. It minimizes Σ importance·err² whatever the rule:
// these grids are always fitted, and have no range that would cover all weights.
//
// The scale and shift of each group are searched for as real numbers; then the
// factors and integers of the block are fitted together to the codes that follow,
// and the integers of each group moved by one where that lowers the error of the
// codes that would follow; both once more from the codes that are then nearest.
func (g Grid) Fit(scale, shift, x, importance []float32, size int, _ quant.Clip) (int, error) {
	k := g.kind()
	f := fitters.Get().(*fitter)
	defer fitters.Put(f)
	f.k, f.size = k, size
	for s := 0; s < len(scale); s += k.span {
		end := min(s+k.span, len(scale))
		a, b := s*size, min(end*size, len(x))
		f.x = x[a:b]
		var imp []float32
		if importance != nil {
			imp = importance[a:b]
		}
		f.weigh(imp)
		if at, err := f.fit(scale[s:end], shift[s:end]); err != nil {
			return s + at, err
		}
	}
	return 0, nil
}

var fitters = sync.Pool{New: func() any { return new(fitter) }}

// fitter fits one block. Its memory is reused.
type fitter struct {
	k      *kind
	size   int       // of a group
	x, w   []float32 // weights, and how much they matter
	groups [most]group

	// Grids that are tried next, and what came of those before.
	scale, shift [kernel.MaxTrials]float32
	n            int
	sums         kernel.TrialSums
	next         [refined]start
	q            apart
}

// refined is how many of the grids that were tried are tried anew as those that
// fit their codes best.
const refined = 8

// start is a scale and shift, and the error they are expected to have.
type start struct{ err, scale, shift float64 }

// group is what is known of a group: the best parameters so far, and the error as
// a function of them for the codes that are nearest under these.
type group struct {
	scale, shift float32
	err          float64
	quad
}

// quad are weighted sums over a group, v the levels of its codes under scale 1:
// the error is s²·vv - 2sm·v + m²·w - 2s·vx + 2m·x and what does not depend on the
// scale s and shift m.
type quad struct{ vv, v, w, vx, x float64 }

func (f *fitter) weigh(imp []float32) {
	f.w = importance.Floored(f.w, imp, len(f.x))
}

// run is group i.
func (f *fitter) run(i int) (x, w []float32) {
	a, b := i*f.size, min((i+1)*f.size, len(f.x))
	return f.x[a:b], f.w[a:b]
}

// extremes are the least and the largest weight.
func extremes(x []float32) (lo, hi float32, err error) {
	lo, hi = kernel.MinMax(x)
	if lo-lo != 0 || hi-hi != 0 {
		return lo, hi, quant.ErrNotFinite
	}
	return lo, hi, nil
}

// fit finds the parameters of the block.
func (f *fitter) fit(scale, shift []float32) (at int, err error) {
	if f.k.scales != nil {
		return f.listed(scale, shift)
	}
	n := len(scale)
	for i := range n {
		g := &f.groups[i]
		x, w := f.run(i)
		lo, hi, err := extremes(x)
		if err != nil {
			return i, err
		}
		*g = group{err: math.Inf(1)}
		var sum float32
		for _, v := range w {
			sum += v
		}
		g.w = float64(sum)
		if lo == 0 && hi == 0 {
			g.err = 0
			continue
		}
		if f.search(g, x, w, lo, hi); g.scale == 0 {
			return i, f.tooLarge() // the error is no number
		}
	}
	least := math.Inf(1)
	for round := range 2 {
		f.q.start(f.k, n)
		for i := range n {
			f.q.quad[i] = f.groups[i].quad
			f.q.ideal(i, f.groups[i].scale, f.groups[i].shift)
		}
		if round == 0 {
			f.q.search()
		} else {
			f.q.from(f.q.best.d)
		}
		if !f.q.found {
			return 0, f.tooLarge()
		}
		var sum float64
		for i := range n {
			f.around(i)
			sum += f.groups[i].err
		}
		if !(sum < least) {
			break
		}
		least = sum
		for i, g := range f.groups[:n] {
			scale[i], shift[i] = g.scale, g.shift
		}
	}
	return 0, nil
}

func (f *fitter) tooLarge() error {
	return fmt.Errorf("%w: %v holds no weights as large as these", quant.ErrScaleRange, f.k.name)
}

// add has a grid tried, if it is one.
func (f *fitter) add(scale, shift float32) {
	if scale != 0 && scale-scale == 0 && shift-shift == 0 && f.n < len(f.scale) {
		f.scale[f.n], f.shift[f.n] = scale, shift
		f.n++
	}
}

// try tries the grids that were added on a group.
func (f *fitter) try(g *group, x, w []float32) {
	k := f.k
	if k.levels {
		kernel.TrialsLevels(&f.sums, x, w, &f.scale, &f.shift, f.n, k.table)
	} else {
		kernel.Trials(&f.sums, x, w, &f.scale, &f.shift, f.n, k.bottom, k.ceiling)
	}
	best := -1
	for i, e := range f.sums.Err[:f.n] {
		if float64(e) < g.err {
			g.err, best = float64(e), i
		}
	}
	if best < 0 {
		return
	}
	g.scale, g.shift = f.scale[best], f.shift[best]
	s, m := float64(g.scale), float64(g.shift)
	g.vv, g.v = float64(f.sums.VV[best]), float64(f.sums.V[best])
	g.vx = s*g.vv - m*g.v - float64(f.sums.DV[best])
	g.x = s*g.v - m*g.w - float64(f.sums.D[best])
}

// search finds the real scale and shift of a group whose weights reach from lo
// to hi: from grids that cover it more or less, and those that fit their codes
// best, and again those.
func (f *fitter) search(g *group, x, w []float32, lo, hi float32) {
	f.first(lo, hi)
	for left := refined; ; left /= 3 {
		f.try(g, x, w)
		if left == 0 {
			return
		}
		f.refine(g, left)
	}
}

// first adds the grids that a search begins with.
func (f *fitter) first(lo, hi float32) {
	k := f.k
	f.n = 0
	for i := range k.steps {
		p := 1 + k.stretch - float32(i)*k.step
		if !k.min {
			// Of either sign: the levels reach further on one side.
			f.add(p*max(lo/k.bottom, hi/k.ceiling), 0)
			f.add(p*min(lo/k.ceiling, hi/k.bottom), 0)
			continue
		}
		l, h := min(lo, 0), hi
		if k.span == 1 {
			l = lo
		}
		if h = max(h, l); h == l {
			h = l + max(-l, 1e-6)
		}
		// Of what is cut off a half is above, or all or none.
		width := h - l
		f.add(p*width/k.top(), -l-(1-p)/2*width)
		if i%2 == 1 {
			f.add(p*width/k.top(), -l)
			f.add(p*width/k.top(), -l-(1-p)*width)
		}
	}
}

// refine adds the scales and shifts that fit the codes of the grids just tried
// best, of those with the least error to expect.
func (f *fitter) refine(g *group, left int) {
	n := 0
	for i, e := range f.sums.Err[:f.n] {
		s, ok := f.solve(i, g.w)
		if !ok {
			continue
		}
		s.err += float64(e)
		if n == left && !(s.err < f.next[n-1].err) {
			continue
		}
		at := n
		for at > 0 && s.err < f.next[at-1].err {
			at--
		}
		if at > 0 && s == f.next[at-1] {
			continue // the same codes
		}
		n = min(n+1, left)
		copy(f.next[at+1:n], f.next[at:])
		f.next[at] = s
	}
	f.n = 0
	for _, s := range f.next[:n] {
		f.add(float32(s.scale), float32(s.shift))
	}
}

// solve is the scale and shift that fit the codes of trial i best, and what they
// change of its error.
func (f *fitter) solve(i int, w float64) (s start, ok bool) {
	t := &f.sums
	scale, shift := float64(f.scale[i]), float64(f.shift[i])
	dv, d, vv, v := float64(t.DV[i]), float64(t.D[i]), float64(t.VV[i]), float64(t.V[i])
	if !f.k.min {
		by := dv / vv
		return start{-by * dv, scale - by, 0}, vv > 0
	}
	det := vv*w - v*v
	if !(det > 1e-6*vv*w) {
		return s, false
	}
	det = 1 / det
	s.scale, s.shift = (d*v-dv*w)*det, (d*vv-dv*v)*det
	s.err = s.scale*dv - s.shift*d
	s.scale, s.shift = s.scale+scale, s.shift+shift
	if f.k.span > 1 && s.shift < 0 { // minima are at most 0
		s.scale, s.shift = (scale*vv-shift*v-dv)/vv, 0
	}
	return s, true
}

// around tries the integers around those of the best point of the block for group
// i, and takes the best.
func (f *fitter) around(i int) {
	k, p, n := f.k, &f.q.best, f.q.n
	x, w := f.run(i)
	g := &f.groups[i]
	g.err = math.Inf(1)
	f.n = 0
	for _, by := range k.moves {
		c, e := p.code[i]+by.c, p.code[n+i]+by.e
		if c == 0 || c < k.c.low || c > k.c.high || k.min && (e < k.e.low || e > k.e.high) {
			continue
		}
		s, m := float32(p.d[0]*float64(c)), float32(0)
		if k.min {
			m = float32(p.d[1] * float64(e))
		}
		f.add(s, m)
	}
	f.try(g, x, w)
}

// move is a change of the integers of a group.
type move struct{ c, e int }

// movesOf are those that are tried: a scale that grows wants its minimum to grow.
func (k *kind) movesOf() []move {
	switch {
	case k.span == 1:
		return []move{{}}
	case k.min:
		return []move{{}, {1, 0}, {-1, 0}, {0, 1}, {0, -1}, {1, 1}, {-1, -1}}
	}
	return []move{{}, {1, 0}, {-1, 0}, {2, 0}, {-2, 0}}
}
