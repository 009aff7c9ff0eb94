package kquant

import (
	"fmt"
	"math"
	"sync"

	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/importance"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/scratch"
	"github.com/golowbit/lowbit/quant"
)

// Fit implements quant.Grid. It minimizes Σ importance·err² whatever the rule:
// these grids are always fitted, and have no range that would cover all weights.
//
// The scale and shift of each group are searched for as real numbers; then the
// factors and integers of the block are fitted together to the codes that follow,
// the codes chosen anew, and at last single integers are moved where that lowers
// the error of the codes that would follow.
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
	k     *kind
	size  int       // of a group
	x, w  []float32 // weights, and how much they matter
	codes []uint8
	moved []float32 // of a group: weights plus shift
	want  [most]float64
	first [4]start
	a     [most * most]float64
	b     [most]float64
	q     joint
}

func (f *fitter) weigh(imp []float32) {
	n := len(f.x)
	f.w, f.codes, f.moved = importance.Floored(f.w, imp, n), scratch.Slice(f.codes, n), scratch.Slice(f.moved, f.size)
}

// run is group i.
func (f *fitter) run(i int) (a, b int) { return i * f.size, min((i+1)*f.size, len(f.x)) }

// fit finds the parameters of the block.
func (f *fitter) fit(scale, shift []float32) (group int, err error) {
	k, n := f.k, len(scale)
	p := n
	if k.min {
		p = 2 * n
	}
	for i := range n {
		a, b := f.run(i)
		lo, hi := kernel.MinMax(f.x[a:b])
		if lo-lo != 0 || hi-hi != 0 {
			return i, quant.ErrNotFinite
		}
		if scale[i], shift[i] = f.search(a, b, lo, hi); scale[i] == 0 && (lo != 0 || hi != 0) {
			return i, f.tooLarge() // the error is no number
		}
	}
	const rounds = 3
	least := math.Inf(1)
	var best [most]float32
	for round := range rounds {
		f.quadratic(scale, shift, p)
		was := f.q.best
		f.q.start(k, n, f.a[:p*p], f.b[:p], true)
		if f.ideal(scale, shift, p); round == 0 {
			f.q.search(f.want[:p], most)
		} else {
			f.q.from(f.want[:p], was.d[0], was.d[1])
		}
		if !f.q.found {
			return 0, f.tooLarge()
		}
		f.q.write(scale, shift)
		e := f.errors(scale, shift)
		if !(e < least) {
			break
		}
		least = e
		copy(best[:n], scale)
		copy(best[n:], shift)
	}
	copy(scale, best[:n])
	copy(shift, best[n:2*n])
	f.polish(scale, shift)
	return 0, nil
}

// ideal sets want to the real parameters that fit the codes best.
func (f *fitter) ideal(scale, shift []float32, p int) {
	n := len(scale)
	for i, s := range scale {
		f.want[i] = float64(s)
		a := f.a[i*p+i]
		if p == n {
			if a > 0 {
				f.want[i] = f.b[i] / a
			}
			continue
		}
		f.want[n+i] = float64(shift[i])
		c, d := f.a[i*p+n+i], f.a[(n+i)*p+n+i]
		if det := a*d - c*c; det > 1e-6*a*d {
			if m := (a*f.b[n+i] - c*f.b[i]) / det; m >= 0 || f.k.span == 1 {
				f.want[i], f.want[n+i] = (d*f.b[i]-c*f.b[n+i])/det, m
			}
		}
	}
}

func (f *fitter) tooLarge() error {
	return fmt.Errorf("%w: %v holds no weights as large as these", quant.ErrScaleRange, f.k.name)
}

// quadratic is the error of the block as one of its parameters, for the codes
// nearest to the weights.
func (f *fitter) quadratic(scale, shift []float32, p int) {
	k, n := f.k, len(scale)
	clear(f.a[:p*p])
	for i := range n {
		a, b := f.run(i)
		s := f.sums(a, b, scale[i], shift[i])
		f.a[i*p+i], f.b[i] = s.vv, s.vx
		if k.min {
			f.a[(n+i)*p+n+i], f.b[n+i] = s.w, -s.x
			f.a[i*p+n+i], f.a[(n+i)*p+i] = -s.v, -s.v
		}
	}
}

// sums are weighted sums over a group, v the slopes of its codes.
type sums struct{ w, x, v, vv, vx float64 }

// sums chooses codes for a group and sums over them.
func (f *fitter) sums(a, b int, scale, shift float32) (s sums) {
	k := f.k
	codes, x, w := f.codes[a:b], f.x[a:b], f.w[a:b]
	k.roundRun(codes, x, scale, shift)
	if k.min {
		var sw, sx, sv, svv, svx float32
		for i, u := range codes {
			v, wx := float32(u), w[i]*x[i]
			wv := w[i] * v
			sw += w[i]
			sx += wx
			sv += wv
			svv += wv * v
			svx += wx * v
		}
		return sums{float64(sw), float64(sx), float64(sv), float64(svv), float64(svx)}
	}
	var svv, svx float32
	for i, u := range codes {
		v := float32(u) - k.zero
		if k.levels {
			v = gguf.Levels[u&15]
		}
		wv := w[i] * v
		svv += wv * v
		svx += wv * x[i]
	}
	s.vv, s.vx = float64(svv), float64(svx)
	return s
}

// err is the error of a group whose codes are those nearest to its weights.
func (f *fitter) err(a, b int, scale, shift float32) float64 {
	k := f.k
	x, w := f.x[a:b], f.w[a:b]
	switch {
	case k.levels:
		var sum float32
		inverse := 1 / scale
		for i, v := range x {
			d := scale*gguf.Levels[nearestLevel(v*inverse)] - v
			sum += w[i] * float32(d*d)
		}
		return float64(sum)
	case k.min:
		m := f.moved[:b-a]
		for i, v := range x {
			m[i] = v + shift
		}
		return kernel.SquareErr(m, w, scale, 0, k.top())
	}
	return kernel.SquareErr(x, w, scale, k.zero, k.top())
}

func (f *fitter) errors(scale, shift []float32) (sum float64) {
	for i := range scale {
		a, b := f.run(i)
		sum += f.err(a, b, scale[i], shift[i])
	}
	return sum
}

// search finds the real scale and shift of a group whose weights reach from lo
// to hi.
func (f *fitter) search(a, b int, lo, hi float32) (scale, shift float32) {
	if lo == 0 && hi == 0 {
		return 0, 0
	}
	least := math.Inf(1)
	for i := range f.first {
		f.first[i] = start{err: least}
	}
	try := func(s, m float32) bool {
		if s == 0 || s-s != 0 {
			return false
		}
		e := f.err(a, b, s, m)
		if f.k.min {
			f.rank(start{e, s, m})
		}
		if !(e < least) {
			return false
		}
		least, scale, shift = e, s, m
		return true
	}
	k := f.k
	for i := range k.steps {
		p := 1 + k.stretch - float32(i)*k.step
		if k.min {
			l, h := min(lo, 0), hi
			if k.span == 1 {
				l = lo
			}
			if h = max(h, l); h == l {
				h = l + max(-l, 1e-6)
			}
			// Of what is cut off a half is above, or all or none.
			width := h - l
			try(p*width/k.top(), -l-(1-p)/2*width)
			if i%2 == 1 {
				try(p*width/k.top(), -l)
				try(p*width/k.top(), -l-(1-p)*width)
			}
			continue
		}
		// Of either sign: the levels reach further on one side.
		for _, s := range [2]float32{p * max(lo/k.bottom, hi/k.ceiling), p * min(lo/k.ceiling, hi/k.bottom)} {
			try(s, 0)
		}
	}
	starts := f.first
	for _, s := range starts {
		f.solve(a, b, s.scale, s.shift, try)
	}
	for range 3 {
		if !f.solve(a, b, scale, shift, try) {
			break
		}
	}
	return scale, shift
}

// start is a scale and shift from which solving is worth while.
type start struct {
	err          float64
	scale, shift float32
}

// rank keeps a start if it is among the best.
func (f *fitter) rank(s start) {
	for i, o := range f.first {
		if s.err < o.err {
			copy(f.first[i+1:], f.first[i:])
			f.first[i] = s
			return
		}
	}
}

// solve tries the scale and shift that fit the codes under a scale and a shift
// best, and reports whether they are better than all before.
func (f *fitter) solve(a, b int, scale, shift float32, try func(s, m float32) bool) bool {
	if scale == 0 || scale-scale != 0 {
		return false
	}
	k, s := f.k, f.sums(a, b, scale, shift)
	if !k.min {
		return s.vv > 0 && try(float32(s.vx/s.vv), 0)
	}
	det := s.w*s.vv - s.v*s.v
	if !(det > 1e-6*s.w*s.vv) {
		return try(scale, shift)
	}
	slope, base := (s.w*s.vx-s.v*s.x)/det, (s.vv*s.x-s.v*s.vx)/det
	if k.span > 1 && base > 0 { // minima are at most 0
		slope, base = s.vx/s.vv, 0
	}
	return try(float32(slope), float32(-base))
}

// polish moves single integers by one as long as that lowers the error.
func (f *fitter) polish(scale, shift []float32) {
	k := f.k
	if k.span == 1 {
		return
	}
	at, ok := k.factor(scale, shift)
	if !ok {
		return
	}
	n := len(scale)
	for i := range n {
		a, b := f.run(i)
		least := f.err(a, b, scale[i], shift[i])
		try := func(j, by int, in *integers) bool {
			c := at.code[j] + by
			if c == 0 && j < n {
				c += by
			}
			if c < in.low || c > in.high {
				return false
			}
			s, m := scale[i], shift[i]
			if v := float32(at.d[j/n] * float64(c)); j < n {
				s = v
			} else {
				m = v
			}
			e := f.err(a, b, s, m)
			if !(e < least) {
				return false
			}
			least, scale[i], shift[i], at.code[j] = e, s, m, c
			return true
		}
		moved := try(i, 1, &k.c) || try(i, -1, &k.c)
		if k.min && (try(n+i, 1, &k.e) || try(n+i, -1, &k.e)) && !moved {
			_ = try(i, 1, &k.c) || try(i, -1, &k.c)
		}
	}
}
