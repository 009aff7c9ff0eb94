package decoder

import (
	"math"
	"math/rand/v2"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

// Back writes to dx [rows, Hidden] the gradient at x, [rows, Hidden], of a loss whose
// gradient at logits, the [rows, Vocab] of x, is g. g is overwritten.
func (h *Head) Back(r *program.Runner, dx, x, logits, g *tensor.Matrix) {
	if s := &h.spec; s.Cap != 0 || s.Scale != 0 {
		r.Bands(g.Rows, func(i0, i1 int) {
			for i := i0; i < i1; i++ {
				s.adjustBack(g.Row(i), logits.Row(i))
			}
		})
	}
	n := r.Matrix(x.Rows, h.Weight.Cols)
	tensor.Gemm(false, false, 1, g, h.Weight, 0, n, r.Workers())
	if h.project != nil {
		p := r.Matrix(x.Rows, h.project.Cols)
		tensor.Gemm(false, false, 1, n, h.project, 0, p, r.Workers())
		r.Release(n)
		n = p
	}
	r.Bands(x.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			if h.spec.None {
				copy(dx.Row(i), n.Row(i))
				continue
			}
			clear(dx.Row(i))
			h.spec.Norm.Back(dx.Row(i), x.Row(i), n.Row(i), h.gain)
		}
	})
	r.Release(n)
}

// adjustBack is the way back through adjust.
func (s *HeadSpec) adjustBack(g, logits []float32) {
	if s.Cap != 0 {
		for j, v := range logits {
			t := float64(v) / s.Cap
			g[j] = float32(float64(g[j]) * (1 - t*t))
		}
	}
	if s.Scale != 0 {
		kernel.Scale(g, float32(s.Scale))
	}
}

// NLLBack writes to g the gradient of NLL(logits, target) at the logits: what the
// model gives each id, less 1 for the target.
func NLLBack(g, logits []float32, target int32) {
	probabilities(g, logits)
	g[target]--
}

// KLBack writes to g the gradient of KL(p, q) at q.
func KLBack(g, p, q []float32) {
	want := make([]float32, len(p))
	probabilities(want, p)
	probabilities(g, q)
	for j, v := range want {
		g[j] -= v
	}
}

// probabilities writes the softmax of logits to p.
func probabilities(p, logits []float32) {
	shift := kernel.LogSumExp(logits)
	for j, v := range logits {
		p[j] = float32(math.Exp(float64(v) - shift))
	}
}

// Sample draws an id from the softmax of logits.
func Sample(logits []float32, rng *rand.Rand) int32 {
	shift := kernel.LogSumExp(logits)
	u, last := rng.Float64(), 0
	for j, v := range logits {
		p := math.Exp(float64(v) - shift)
		if p == 0 {
			continue
		}
		if last = j; u < p {
			break
		}
		u -= p
	}
	return int32(last)
}
