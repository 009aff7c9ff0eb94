package quant

import "github.com/golowbit/lowbit/tensor"

// Sums are what a Collector holds: of all inputs, or, of a collector for pairs, of those in
// the first and in the second half of every batch.
type Sums struct {
	Tokens []int
	// H is XᵀX [in, in], its lower triangle.
	H []*tensor.Matrix
	// Cross and Residual are those of Calibration; nil if they were not collected.
	Cross, Residual []*tensor.Matrix
	AbsSum          []float64 // [in], of |x|
	AbsMax          []float32 // [in], the largest |x|
}

// Sums returns what the collector holds, which is not copied.
func (c *Collector) Sums() Sums {
	all := Sums{AbsSum: c.absSum, AbsMax: c.absMax}
	for _, s := range c.sums {
		all.Tokens, all.H = append(all.Tokens, s.tokens), append(all.H, s.h)
		all.Cross, all.Residual = append(all.Cross, s.cross), append(all.Residual, s.residual)
	}
	return all
}

// Collector returns one that holds the sums, which are not copied.
func (s Sums) Collector() *Collector {
	c := &Collector{absSum: s.AbsSum, absMax: s.AbsMax}
	for i, h := range s.H {
		c.sums = append(c.sums, &sums{h: h, cross: s.Cross[i], residual: s.Residual[i], tokens: s.Tokens[i]})
	}
	return c
}

// Join adds what another collector of the same kind and width has collected of later
// inputs, and uses it up.
func (c *Collector) Join(later *Collector) {
	for i, s := range c.sums {
		l := later.sums[i]
		s.tokens += l.tokens
		addTo(&s.h, l.h)
		addTo(&s.cross, l.cross)
		addTo(&s.residual, l.residual)
	}
	for j, v := range later.absSum {
		c.absSum[j] += v
		c.absMax[j] = max(c.absMax[j], later.absMax[j])
	}
	later.sums = nil
}

// addTo adds b, which is as large or nil, to what a points to, and takes it over there
// where there is nothing.
func addTo(a **tensor.Matrix, b *tensor.Matrix) {
	switch {
	case b == nil:
	case *a == nil:
		*a = b
	default:
		sum(*a, b, true)
	}
}
