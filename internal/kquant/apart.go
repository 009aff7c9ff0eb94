package kquant

import "math"

// apart is joint for groups that do not touch each other, where the error is the
// sum of what each group's own scale and shift make of it.
type apart struct {
	k            *kind
	n            int // groups
	min          bool
	quad         [most]quad
	scale, shift [most]float64 // wanted
	at, best     point
	least        float64
	found        bool
}

// start begins a search; the quads and what is wanted are set after it.
func (q *apart) start(k *kind, n int) {
	q.k, q.n, q.min = k, n, k.min
	q.least, q.found = math.Inf(1), false
}

// ideal wants the real parameters of group i that fit its codes best, or those that
// it has where the codes do not tell.
func (q *apart) ideal(i int, scale, shift float32) {
	g := &q.quad[i]
	q.scale[i], q.shift[i] = float64(scale), float64(shift)
	if !q.min {
		if g.vv > 0 {
			q.scale[i] = g.vx / g.vv
		}
		return
	}
	if det := g.vv*g.w - g.v*g.v; det > 1e-6*g.vv*g.w {
		if m := (g.v*g.vx - g.vv*g.x) / det; m >= 0 || q.k.span == 1 {
			q.scale[i], q.shift[i] = (g.w*g.vx-g.v*g.x)/det, m
		}
	}
}

// search goes from the wanted parameters with several factors.
func (q *apart) search() {
	extreme := func(v []float64) (x float64) {
		for _, w := range v {
			if math.Abs(w) > math.Abs(x) {
				x = w
			}
		}
		return x
	}
	s, m := extreme(q.scale[:q.n]), extreme(q.shift[:q.n])
	for i, c := range q.k.c.tries {
		d := [2]float64{s / float64(c), 1}
		if q.min {
			d[1] = m / float64(q.k.e.tries[i])
		}
		q.from(d)
	}
}

// from alternates between the integers and the factors, and keeps the best.
func (q *apart) from(d [2]float64) {
	var ok bool
	for i := range 2 {
		if q.at.d[i], ok = q.k.half(d[i], i); !ok {
			return
		}
	}
	for range 3 {
		q.integers()
		changed, ok := q.factors()
		if !ok {
			return
		}
		if !changed {
			break
		}
	}
}

// integers gives every group the integers that fit it best under the factors.
func (q *apart) integers() {
	k, d := q.k, q.at.d
	i0, i1 := 1/d[0], 1/d[1]
	for i := range q.n {
		g := &q.quad[i]
		c := k.c.nearest(q.scale[i]*i0, true)
		if !q.min {
			q.at.code[i] = c
			continue
		}
		e := k.e.nearest((g.v*d[0]*float64(c)-g.x)/g.w*i1, false)
		if g.vv > 0 {
			if again := k.c.nearest((g.vx+g.v*d[1]*float64(e))/g.vv*i0, true); again != c {
				c = again
				e = k.e.nearest((g.v*d[0]*float64(c)-g.x)/g.w*i1, false)
			}
		}
		q.at.code[i], q.at.code[q.n+i] = c, e
	}
}

// factors moves the factors to the best given the integers, and keeps the point if
// it is the best. It reports whether they changed, and whether they can be stored.
func (q *apart) factors() (changed, ok bool) {
	var ss, sm, mm, sx, mx float64
	for i := range q.n {
		g, c := &q.quad[i], float64(q.at.code[i])
		ss += c * c * g.vv
		sx += c * g.vx
		if q.min {
			e := float64(q.at.code[q.n+i])
			sm -= c * e * g.v
			mm += e * e * g.w
			mx -= e * g.x
		}
	}
	d := q.at.d
	if det := ss*mm - sm*sm; q.min && det > 1e-9*ss*mm {
		d[0] = (sx*mm - sm*mx) / det
	} else if ss > 0 {
		d[0] = (sx - sm*d[1]) / ss
	}
	if d[0], ok = q.k.half(d[0], 0); !ok {
		return false, false
	}
	if mm > 0 {
		if d[1], ok = q.k.half((mx-sm*d[0])/mm, 1); !ok {
			return false, false
		}
	}
	changed = d != q.at.d
	q.at.d = d
	if l := d[0]*d[0]*ss + 2*d[0]*d[1]*sm + d[1]*d[1]*mm - 2*d[0]*sx - 2*d[1]*mx; l < q.least {
		q.least, q.best, q.found = l, q.at, true
	}
	return changed, true
}
