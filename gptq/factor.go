package gptq

import (
	"context"
	"errors"
	"math"
	"slices"

	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// ErrNotFinite is returned when the calibration statistics hold NaN or Inf.
var ErrNotFinite = errors.New("calibration statistics are not finite")

// factor is H = (I+F) D (I+F)ᵀ in the order of quantization.
type factor struct {
	perm    []int          // position -> column
	ft      *tensor.Matrix // Fᵀ: row j, columns i < j, hold F_ij
	d       []float64      // D_jj by position
	lambda  float64        // what damping added to the diagonal
	dead    []bool         // by column: no input ever
	damping float64        // fraction reached
	raised  bool           // it had to be raised
}

type factorKey struct {
	damping float64
	order   Order
}

// factor returns the factorization of cal.H, shared by all who ask for the
// same order and damping.
func (q Quantizer) factor(cal *quant.Calibration) (*factor, error) {
	key := factorKey{q.damping(), q.Order}
	type result struct {
		f   *factor
		err error
	}
	r := cal.Memo(key, func() any {
		f, err := newFactor(cal.H, key.damping, key.order, q.Workers)
		return result{f, err}
	}).(result)
	return r.f, r.err
}

func newFactor(h *tensor.Matrix, damping float64, order Order, workers int) (*factor, error) {
	n := h.Rows
	f := &factor{dead: make([]bool, n), d: make([]float64, n), damping: damping}
	diag := make([]float32, n)
	var mean float64
	for j := range n {
		diag[j] = h.At(j, j)
		if diag[j] <= 0 {
			f.dead[j] = true
			diag[j] = 1
		}
		mean += float64(diag[j]) / float64(n)
	}
	if math.IsNaN(mean) || math.IsInf(mean, 0) {
		return nil, ErrNotFinite
	}
	f.perm = columnOrder(diag, order)
	l := tensor.New(n, n)
	for {
		f.lambda = mean * f.damping
		// Rows and columns reversed, a Cholesky factor of H becomes the
		// upper triangular M with H = M Mᵀ; M = (I+F) D^½.
		reversed(l, h, f, diag, workers)
		if tensor.Cholesky(l, workers) < 0 {
			break
		}
		if f.damping *= 10; f.damping > 1e3 {
			return nil, ErrNotFinite
		}
		f.raised = true
	}
	f.ft = tensor.New(n, n)
	inv := make([]float32, n)
	for j := range n {
		p := float64(l.At(n-1-j, n-1-j))
		f.d[j] = p * p
		inv[j] = float32(1 / p)
	}
	const tile = 64
	tiles := (n + tile - 1) / tile
	// For(…) cannot fail: nothing in it returns an error.
	_ = parallel.For(context.Background(), workers, tiles, func(t int) error {
		for i0 := 0; i0 < n; i0 += tile {
			for j := t * tile; j < min((t+1)*tile, n); j++ {
				row := f.ft.Row(j)
				for i := i0; i < min(i0+tile, j); i++ {
					row[i] = l.Data[(n-1-i)*n+n-1-j] * inv[j]
				}
			}
		}
		return nil
	})
	return f, nil
}

// reversed writes the lower triangle of the damped H, in the order of f and
// then reversed, to l.
func reversed(l, h *tensor.Matrix, f *factor, diag []float32, workers int) {
	n := h.Rows
	_ = parallel.For(context.Background(), workers, n, func(i int) error {
		src, dst := h.Row(f.perm[n-1-i]), l.Row(i)
		for j := range i {
			dst[j] = src[f.perm[n-1-j]]
		}
		dst[i] = float32(float64(diag[f.perm[n-1-i]]) + f.lambda)
		return nil
	})
}

// columnOrder returns the columns in the order in which they are quantized.
func columnOrder(diag []float32, order Order) []int {
	perm := make([]int, len(diag))
	for i := range perm {
		perm[i] = i
	}
	if order == OrderActivation {
		slices.SortStableFunc(perm, func(a, b int) int {
			switch {
			case diag[a] > diag[b]:
				return -1
			case diag[a] < diag[b]:
				return 1
			}
			return 0
		})
	}
	return perm
}
