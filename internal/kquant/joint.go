package kquant

import (
	"math"

	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/tensor"
)

// most is the largest number of parameters of a block.
const most = 32

// joint minimizes pᵀAp - 2bᵀp over what can be stored as the parameters p of a
// block: the scales of its n groups, then their shifts. It goes from several
// factors d, and alternates between the integers (by coordinate descent) and the
// factors (by least squares).
type joint struct {
	k *kind
	n int // groups
	p int // parameters
	a []float64
	b []float64

	at, best point
	r        [most]float64 // b - A p at the point
	least    float64
	found    bool
}

// point is what is stored of a block.
type point struct {
	d    [2]float64 // half floats
	code [most]int
}

// start begins a search; a and b may be changed until the next.
func (q *joint) start(k *kind, n int, a, b []float64) {
	q.k, q.n, q.p, q.a, q.b = k, n, len(b), a, b
	q.least, q.found = math.Inf(1), false
}

func (q *joint) integers(j int) *integers {
	if j < q.n {
		return &q.k.c
	}
	return &q.k.e
}

func (p *point) value(j, n int) float64 { return p.d[j/n] * float64(p.code[j]) }

// clamp gives the integer of parameter j nearest to v.
func (q *joint) clamp(j int, v float64) int { return q.integers(j).nearest(v, j < q.n) }

// nearest gives the integer nearest to v; that of a scale is never 0.
func (in *integers) nearest(v float64, scale bool) int {
	low, high := float64(in.low), float64(in.high)
	if !(v > low) {
		v = low
	}
	if v > high {
		v = high
	}
	c := int(math.RoundToEven(v))
	if c == 0 && scale {
		c = 1
		if v < 0 && in.low < 0 {
			c = -1
		}
	}
	return c
}

// half rounds a factor to a half float, which is never 0; ok is false beyond
// their range and where minima or their scales would be negative.
func (k *kind) half(f float64, i int) (float64, bool) {
	const least = 0x1p-24
	if (i == 0 && k.c.low > 0 || i == 1) && k.span > 1 && f < 0 || f == 0 {
		f = least
	}
	if math.Abs(f) < least {
		f = math.Copysign(least, f)
	}
	v := tensor.RoundF16(float32(f))
	return float64(v), v <= wire.MaxHalf && v >= -wire.MaxHalf
}

// from searches near the wanted parameters with given factors.
func (q *joint) from(want []float64, d0, d1 float64) {
	var ok bool
	if q.at.d[0], ok = q.k.half(d0, 0); !ok {
		return
	}
	if q.at.d[1], ok = q.k.half(d1, 1); !ok {
		return
	}
	for j, v := range want {
		q.at.code[j] = q.clamp(j, v/q.at.d[j/q.n])
	}
	q.improve()
}

// improve descends from the point and keeps the best.
func (q *joint) improve() {
	for range 3 {
		q.residual()
		for range 3 {
			if !q.sweep() {
				break
			}
		}
		q.keep()
		if !q.factors() {
			return
		}
	}
	q.residual()
	q.sweep()
	q.keep()
}

func (q *joint) keep() {
	if l := q.loss(); l < q.least {
		q.least, q.best, q.found = l, q.at, true
	}
}

// loss at the point, whose residual is known.
func (q *joint) loss() float64 {
	var sum float64
	for j := range q.p {
		sum -= q.at.value(j, q.n) * (q.b[j] + q.r[j])
	}
	return sum
}

// residual computes r.
func (q *joint) residual() {
	copy(q.r[:q.p], q.b)
	for j := range q.p {
		q.move(j, q.at.value(j, q.n))
	}
}

// move takes a change of parameter j off the residual.
func (q *joint) move(j int, by float64) {
	row := q.a[j*q.p : (j+1)*q.p]
	r := q.r[:len(row)]
	for i, v := range row {
		r[i] -= v * by
	}
}

// sweep moves every integer to the best given all others.
func (q *joint) sweep() (changed bool) {
	for j := range q.p {
		a := q.a[j*q.p+j]
		if !(a > 0) {
			continue
		}
		d, old := q.at.d[j/q.n], q.at.code[j]
		c := q.clamp(j, float64(old)+q.r[j]/(a*d))
		if c != old {
			q.move(j, d*float64(c-old))
			q.at.code[j], changed = c, true
		}
	}
	return changed
}

// factors moves the factors to the best given the integers, and reports whether
// that changed them.
func (q *joint) factors() bool {
	var g, b [2][2]float64 // of the integers: A and b
	for j := range q.p {
		x := float64(q.at.code[j])
		if x == 0 {
			continue
		}
		b[0][j/q.n] += x * q.b[j]
		row := q.a[j*q.p : (j+1)*q.p]
		for i, v := range row {
			g[j/q.n][i/q.n] += x * v * float64(q.at.code[i])
		}
	}
	d := q.at.d
	if det := g[0][0]*g[1][1] - g[0][1]*g[1][0]; q.p > q.n && det > 1e-9*g[0][0]*g[1][1] {
		d[0] = (b[0][0]*g[1][1] - b[0][1]*g[0][1]) / det
	} else if g[0][0] > 0 {
		d[0] = (b[0][0] - g[0][1]*d[1]) / g[0][0]
	}
	var ok bool
	if d[0], ok = q.k.half(d[0], 0); !ok {
		return false
	}
	if g[1][1] > 0 {
		if d[1], ok = q.k.half((b[0][1]-g[0][1]*d[0])/g[1][1], 1); !ok {
			return false
		}
	}
	changed := d != q.at.d
	q.at.d = d
	return changed
}

// search goes from the wanted parameters with several factors.
func (q *joint) search(want []float64, tries int) {
	extreme := func(v []float64) (x float64) {
		for _, w := range v {
			if math.Abs(w) > math.Abs(x) {
				x = w
			}
		}
		return x
	}
	s, m := extreme(want[:q.n]), extreme(want[q.n:])
	c, e := q.k.c.tries, q.k.e.tries
	for i := range min(tries, len(c)) {
		d1 := 1.0
		if len(e) > 0 {
			d1 = m / float64(e[i])
		}
		q.from(want, s/float64(c[i]), d1)
	}
}

// write gives the parameters of the best point.
func (q *joint) write(scale, shift []float32) {
	for j := range q.p {
		v := float32(q.best.value(j, q.n))
		if j < q.n {
			scale[j] = v
		} else {
			shift[j-q.n] = v
		}
	}
}

// FitSpan implements quant.SpanFitter.
func (g Grid) FitSpan(scale, shift []float32, a, grad []float64) bool {
	k, n, p := g.kind(), len(scale), len(grad)
	if k.scales != nil {
		return k.refit(&scale[0], a[0], grad[0])
	}
	var was, b, want [most]float64
	for j := range p {
		if j < n {
			was[j] = float64(scale[j])
		} else {
			was[j] = float64(shift[j-n])
		}
	}
	var trace, now float64
	for j := range p {
		b[j] = -grad[j]
		for i, v := range was[:p] {
			b[j] += a[j*p+i] * v
		}
		trace += a[j*p+j]
	}
	if !(trace > 0) || math.IsInf(trace, 0) {
		return false
	}
	for j, v := range was[:p] { // pᵀAp - 2bᵀp, with Ap = b + grad
		now += v * (grad[j] - b[j])
	}
	factor := append([]float64(nil), a...)
	for j := range p {
		factor[j*p+j] += 1e-6 * trace / float64(p)
	}
	step := append([]float64(nil), grad...)
	copy(want[:], was[:p])
	if tensor.SolveSPD(factor, step) {
		for j, v := range step {
			want[j] -= v
		}
	}
	var q joint
	q.start(k, n, a, b[:p])
	if at, ok := k.factor(scale, shift); ok {
		q.from(was[:p], at.d[0], at.d[1])
		q.from(want[:p], at.d[0], at.d[1])
	}
	q.search(want[:p], 4)
	if !q.found || !(q.least < now-1e-9*math.Abs(now)) {
		return false
	}
	q.write(scale, shift)
	return true
}

// Store implements quant.Grid.
func (g Grid) Store(scale []float32, want []float64) {
	k := g.kind()
	var q apart
	for s := 0; s < len(scale); s += k.span {
		part := scale[s:min(s+k.span, len(scale))]
		if k.scales != nil {
			if v := want[s]; v > 0 && v < math.MaxFloat32 {
				part[0] = float32(v)
			}
			part[0] = float32(k.scales[k.index(float64(part[0]))])
			continue
		}
		q.start(k, len(part))
		q.min = false
		for j := range part {
			w := want[s+j]
			v := w
			if k.c.low < 0 || k.span == 1 { // of either sign
				v = math.Abs(v)
			}
			if !(v > 0 && v < math.MaxFloat32) {
				w = float64(part[j])
			}
			q.quad[j] = quad{vv: 1, vx: w}
			q.scale[j] = w
		}
		if q.search(); q.found {
			for j := range part {
				part[j] = float32(q.best.value(j, q.n))
			}
		}
	}
}
