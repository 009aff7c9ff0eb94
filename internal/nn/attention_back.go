package nn

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/scratch"
	"github.com/golowbit/lowbit/tensor"
)

// Back goes back through the attention of the whole window, whose Out is the gradient
// of what it computes. It adds to the gradients of Q, K and V. Weights of a few tokens'
// queries are computed again, for all keys at once: with P the weights, A the output,
//
//	dV = PᵀdA;  dP = dA Vᵀ;  dS = P ∘ (dP - rowsum(P ∘ dP));  dQ = dS K;  dK = dSᵀQ
//
// Where weights are clipped, dV takes those, and dP goes back through the clipping.
func (t *Heads) Back(dq, dk, dv *tensor.Matrix) {
	b := &attnBack{Heads: t, dq: dq, dk: dk, dv: dv}
	seqLen := t.Q.Rows
	tokens := t.Tile(len(t.Columns), seqLen)
	for t.Q0 = 0; t.Q0 < seqLen; t.Q0 += tokens {
		t.Q1 = min(t.Q0+tokens, seqLen)
		b.tile()
	}
}

// attnBack is the work of Back.
type attnBack struct {
	*Heads
	dq, dk, dv *tensor.Matrix

	buffers [6]tensor.Matrix
}

// matrix is memory for a tile.
func (t *attnBack) matrix(i, rows, cols int) *tensor.Matrix {
	scratch.Matrix(&t.buffers[i], rows, cols)
	return &t.buffers[i]
}

// tile goes back from the queries of the tokens q0 to q1.
func (t *attnBack) tile() {
	heads := len(t.Columns)
	rows, vdim := (t.Q1-t.Q0)*heads, t.V.Cols
	first := t.first()
	n := t.Q1 - first
	q, dOut := t.matrix(0, rows, t.Dim), t.matrix(1, rows, vdim)
	t.queries(q)
	for i := range rows {
		copy(dOut.Row(i), t.output(i))
	}
	view := func(m *tensor.Matrix) *tensor.Matrix { return m.View(first, t.Q1, 0, m.Cols) }
	p, dp, slopes := t.matrix(2, rows, n), t.matrix(3, rows, n), t.matrix(4, rows, n)
	tensor.Gemm(false, true, float32(t.Scale), q, view(t.K), 0, p, 1)
	for i := range rows {
		t.weigh(p.Row(i), slopes.Row(i), i, first)
	}
	used := p
	clipped := t.Clip != (Clip{})
	if clipped {
		used = t.matrix(5, rows, n)
		used.CopyFrom(p)
		for i := range rows {
			t.Clip.apply(used.Row(i))
		}
	}
	tensor.Gemm(true, false, 1, used, dOut, 1, view(t.dv), 1)
	tensor.Gemm(false, true, 1, dOut, view(t.V), 0, dp, 1)
	for i := range rows {
		w, d, s := p.Row(i), dp.Row(i), slopes.Row(i)
		if clipped {
			t.Clip.back(d, w)
		}
		var sum float64
		for j, v := range w {
			sum += float64(v) * float64(d[j])
		}
		for j, v := range w {
			d[j] = float32(float64(v)*(float64(d[j])-sum)) * s[j]
		}
	}
	tensor.Gemm(true, false, float32(t.Scale), dp, q, 1, view(t.dk), 1)
	tensor.Gemm(false, false, float32(t.Scale), dp, view(t.K), 0, q, 1) // q is needed no more
	for i := range rows {
		c := t.Columns[i%heads]
		kernel.Axpy(1, q.Row(i), t.dq.Row(t.Q0 + i/heads)[c:c+t.Dim])
	}
}

// weigh turns row i of scores, for the keys from first on, into weights, and tells
// how each score grows with the product of query and key, if that is wanted: slopes is not nil.
func (t *Heads) weigh(row, slopes []float32, i, first int) {
	head, pos := i%len(t.Columns), t.Q0+i/len(t.Columns)
	lo := first
	if t.Window > 0 {
		lo = max(first, pos-t.Window+1)
	}
	clear(row[:lo-first])
	clear(row[pos+1-first:])
	for j := range slopes {
		slopes[j] = 1
	}
	row = row[lo-first : pos+1-first]
	if c := t.Cap; c > 0 {
		for j, v := range row {
			th := math.Tanh(float64(v) / c)
			row[j] = float32(c * th)
			if slopes != nil {
				slopes[lo-first+j] = float32(1 - th*th)
			}
		}
	}
	if t.Slopes != nil {
		for j := range row {
			row[j] += t.bias(t.Slopes[t.First+head], lo+j)
		}
	}
	_, top := kernel.MinMax(row)
	if t.Sinks != nil {
		top = max(top, t.Sinks[head])
	}
	sum := kernel.ExpShift(row, 1, top)
	if t.Sinks != nil {
		sum += float32(math.Exp(float64(t.Sinks[head] - top)))
	}
	kernel.Scale(row, 1/sum)
}
