package nn

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// Decays are those of one head of linear attention with decay, in blocks of size tokens.
type Decays struct {
	size                  int
	slope                 float64
	toQuery, toEnd, pairs []float32
}

// NewDecays finds those of a head with this slope. What a file has, by head, counts: slopes, decays of the state to a
// query and of a key to the end of a block, size each, and of a key to a query, size squared; nil where it has none.
func NewDecays(size, head int, slope float64, slopes, toQuery, toEnd, pairs []float32) *Decays {
	d := &Decays{size: size, slope: slope}
	if slopes != nil {
		d.slope = float64(slopes[head])
	}
	part := func(v []float32, n int, missing func(j int) float64) []float32 {
		if v != nil {
			return v[head*n : (head+1)*n]
		}
		v = make([]float32, n)
		for j := range v {
			v[j] = float32(math.Exp(-d.slope * missing(j)))
		}
		return v
	}
	d.toQuery = part(toQuery, size, func(j int) float64 { return float64(j + 1) })
	d.toEnd = part(toEnd, size, func(j int) float64 { return float64(size - 1 - j) })
	d.pairs = part(pairs, size*size, func(j int) float64 {
		if j%size > j/size {
			return math.Inf(1)
		}
		return float64(j/size - j%size)
	})
	return d
}

// Block computes y of a block's tokens, or of fewer at the end, and brings the state behind them.
func (d *Decays) Block(y, q, k, v, state *tensor.Matrix) {
	n := q.Rows
	scores, q2, k2 := tensor.New(n, n), q.Clone(), k.Clone()
	tensor.Gemm(false, true, 1, q, k, 0, scores, 1)
	for i := range n {
		for j := range n {
			scores.Data[i*n+j] *= d.pairs[i*d.size+j]
		}
		kernel.Scale(q2.Row(i), d.toQuery[i])
		kernel.Scale(k2.Row(i), d.toEnd[d.size-n+i])
	}
	tensor.Gemm(false, false, 1, scores, v, 0, y, 1)
	tensor.Gemm(false, false, 1, q2, state, 1, y, 1)
	tensor.Gemm(true, false, 1, k2, v, float32(math.Exp(-d.slope*float64(n))), state, 1)
}
