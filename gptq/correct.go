package gptq

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Correct returns the target that makes up for what the layers before this
// one have lost: with X what the layer would see in the unquantized model
// and X_q what it will see,
//
//	w + strength * w (X-X_q)ᵀX_q (X_qᵀX_q + damping)⁻¹
//
// (after GPTAQ, arXiv 2504.02692). Strength 1 would reproduce the
// unquantized output as well as X_q can; half of it does better on text not
// seen. w is [out, in] and is not modified; cal must hold Cross.
func Correct(w *tensor.Matrix, cal *quant.Calibration, strength, damping float64, workers int) (*tensor.Matrix, error) {
	if cal.Cross == nil || strength == 0 {
		return w, nil
	}
	if damping == 0 {
		damping = DefaultDamping
	}
	type key struct{ damping float64 }
	pt, _ := cal.Memo(key{damping}, func() any { return correction(cal, damping, workers) }).(*tensor.Matrix)
	if pt == nil {
		return nil, fmt.Errorf("correction: %w", ErrNotFinite)
	}
	out := w.Clone()
	tensor.Gemm(false, true, float32(strength), w, pt, 1, out, workers)
	return out, nil
}

// correction solves (H + damping) Pᵀ = Crossᵀ.
func correction(cal *quant.Calibration, damping float64, workers int) *tensor.Matrix {
	n := cal.H.Rows
	var mean float64
	for j := range n {
		mean += float64(cal.H.At(j, j)) / float64(n)
	}
	if mean <= 0 {
		return tensor.New(n, n) // no input ever: nothing to correct
	}
	l := tensor.New(n, n)
	for ; damping <= 1e3; damping *= 10 {
		l.CopyFrom(cal.H)
		for j := range n {
			l.Data[j*n+j] += float32(damping * mean)
		}
		if tensor.Cholesky(l, workers) < 0 {
			p := cal.Cross.T()
			solveTriangular(l, p, workers)
			return p
		}
	}
	return nil
}

// solveTriangular overwrites b [n, m] with (L Lᵀ)⁻¹ b, by blocks of rows:
// the products carry the work.
func solveTriangular(l, b *tensor.Matrix, workers int) {
	const nb = 64
	n, m := b.Rows, b.Cols
	for i0 := 0; i0 < n; i0 += nb {
		i1 := min(i0+nb, n)
		if i0 > 0 {
			tensor.Gemm(false, false, -1, l.View(i0, i1, 0, i0), b.View(0, i0, 0, m), 1, b.View(i0, i1, 0, m), workers)
		}
		for i := i0; i < i1; i++ {
			row := b.Row(i)
			for j := i0; j < i; j++ {
				kernel.Axpy(-l.At(i, j), b.Row(j), row)
			}
			scale(row, 1/l.At(i, i))
		}
	}
	lt := l.T()
	for i1 := n; i1 > 0; i1 -= min(nb, i1) {
		i0 := max(i1-nb, 0)
		if i1 < n {
			tensor.Gemm(false, false, -1, lt.View(i0, i1, i1, n), b.View(i1, n, 0, m), 1, b.View(i0, i1, 0, m), workers)
		}
		for i := i1 - 1; i >= i0; i-- {
			row := b.Row(i)
			for j := i + 1; j < i1; j++ {
				kernel.Axpy(-lt.At(i, j), b.Row(j), row)
			}
			scale(row, 1/lt.At(i, i))
		}
	}
}

func scale(x []float32, f float32) {
	for i := range x {
		x[i] *= f
	}
}
