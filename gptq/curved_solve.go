package gptq

import (
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/quant"
)

// outputDamping is the fraction of the mean diagonal of the curvature O at the outputs
// that is added to its diagonal.
const outputDamping = 0.1

// rowFeedback lets the rows of a column take up each other's errors: with
// O = (I+N) D (I+N)ᵀ beside H = (I+F) D' (I+F)ᵀ, both damped, row i of column j is
// rounded from
//
//	t_ij = w_ij + Σ (I+N)_ki e_kl (I+F)_lj   over k ≤ i, l ≤ j but (i, j) itself,
//
// and tr(O E H Eᵀ) = Σ D_i D'_j (t_ij - q_ij)² (after YAQA, arXiv 2505.22988). Rows
// go by descending diagonal of O.
//
// What columns after this one need of it is (I+N)ᵀe, so the sweep over columns is that
// without O, on other errors.
type rowFeedback struct {
	f    *factor   // of O by place
	back []float32 // by position, what the rows before have added
}

// feedback returns the feedback between the outputs by place, nil if there is no
// curvature. The error is ErrNotFinite.
func (q Quantizer) feedback(cal *quant.Calibration, order []int) (*rowFeedback, error) {
	if cal.Output == nil {
		return nil, nil
	}
	o := cal.Output
	if order != nil {
		o = reordered(o, order, q.Workers)
	}
	f, err := newFactor(o, factorKey{damping: outputDamping}, q.Workers)
	if err != nil {
		return nil, err
	}
	return &rowFeedback{f: f, back: make([]float32, o.Rows)}, nil
}

// round rounds the column t, which becomes what each row was rounded from; w are the
// weights.
func (b *rowFeedback) round(grid quant.Grid, codes []uint8, values, t, w, scale, shift []float32, size int) {
	clear(b.back)
	for pos := len(t) - 1; pos >= 0; pos-- {
		i := b.f.perm[pos]
		k := i / size
		t[i] += b.back[pos]
		grid.Round(codes[i:i+1], values[i:i+1], t[i:i+1], scale[k:k+1], shift[k:k+1], 1)
		kernel.Axpy(w[i]-values[i], b.f.l.Row(pos)[:pos], b.back[:pos])
	}
}

// pass turns the errors of the column just rounded into what other columns take up.
func (b *rowFeedback) pass(e []float32) {
	for pos, v := range b.back {
		e[b.f.perm[pos]] += v
	}
}
