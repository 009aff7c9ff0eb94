package gptq

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Correction says how far Correct goes.
type Correction struct {
	// Strength in [0, 1] multiplies the correction: 1 goes as far as the
	// calibration text bears out, 0 does nothing.
	Strength float64
	// Damping is the fraction of the mean diagonal of X_qᵀX_q that is added to
	// its diagonal; 0 means DefaultDamping.
	Damping float64
}

// Validate reports what is out of range. Errors wrap ErrOptions.
func (c Correction) Validate() error {
	switch {
	case !(c.Strength >= 0 && c.Strength <= 1):
		return fmt.Errorf("%w: correction %g, want 0 to 1", ErrOptions, c.Strength)
	case !(c.Damping >= 0 && c.Damping < 1):
		return fmt.Errorf("%w: damping %g of the correction, want at least 0 and below 1", ErrOptions, c.Damping)
	}
	return nil
}

// Correct returns the target that makes up for what the layers before this
// one have lost: with X what the layer would see in the unquantized model,
// X_q what it will see, and R what the residual stream that its output is
// added to lacks of the unquantized model's (0 if it is not added to one),
//
//	w + Strength * a * (w (X-X_q)ᵀ + Rᵀ) X_q (X_qᵀX_q + Damping * mean diagonal)⁻¹
//
// (after GPTAQ, arXiv 2504.02692, which has neither R nor a). The fit follows
// the calibration text more closely than other text, the fewer its tokens
// the more; a in [0, 1] makes up for that. It is found by fitting on each
// half of the tokens and asking the other half how far to go. w is [out, in]
// and is not modified; it is returned as it is where cal has no Cross.
// Errors wrap ErrOptions or ErrNotFinite.
func Correct(w *tensor.Matrix, cal *quant.Calibration, c Correction, workers int) (*tensor.Matrix, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if cal.Cross == nil || c.Strength == 0 {
		return w, nil
	}
	f := newFitter([]*tensor.Matrix{w}, c, workers)
	// Layers with the same input share the factors.
	f.factor = func(cal *quant.Calibration) *tensor.Matrix {
		type key struct{ damping float64 }
		l, _ := cal.Memo(key{f.Damping}, func() any { return dampedFactor(cal.H, f.Damping, workers) }).(*tensor.Matrix)
		return l
	}
	trust, err := f.trust(cal.Halves)
	if err != nil {
		return nil, err
	}
	all, err := f.correct(cal, trust)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// CorrectAll is Correct for weights [out, in] that share their input, whose
// statistics are still in a collector for pairs: it needs the memory of the
// halves, a few matrices as large as the weights and one factor. It uses the
// collector up and returns its Calibration without Cross, Residual and Halves.
// scale, if not nil, is what is done to statistics before they are used, such as
// adadim.ScaleCalibration.
func CorrectAll(weights []*tensor.Matrix, s *quant.Collector, scale func(*quant.Calibration) *quant.Calibration, c Correction, workers int) ([]*tensor.Matrix, *quant.Calibration, error) {
	if err := c.Validate(); err != nil {
		return nil, nil, err
	}
	f := newFitter(weights, c, workers)
	if scale != nil {
		f.scale = scale
	}
	trust, err := f.trust(s.Halves())
	if err != nil {
		return nil, nil, err
	}
	cal := f.scale(s.Calibration())
	all, err := f.correct(cal, trust)
	if err != nil {
		return nil, nil, err
	}
	cal.Cross, cal.Residual = nil, nil
	return all, cal, nil
}

// fitter corrects weights that share their input.
type fitter struct {
	Correction // with its default spelled out
	weights    []*tensor.Matrix
	workers    int
	scale      func(*quant.Calibration) *quant.Calibration // what is done to statistics first
	factor     func(*quant.Calibration) *tensor.Matrix     // of damped statistics, or nil
}

func newFitter(weights []*tensor.Matrix, c Correction, workers int) *fitter {
	if c.Damping == 0 {
		c.Damping = DefaultDamping
	}
	return &fitter{
		Correction: c, weights: weights, workers: workers,
		scale:  func(cal *quant.Calibration) *quant.Calibration { return cal },
		factor: func(cal *quant.Calibration) *tensor.Matrix { return dampedFactor(cal.H, c.Damping, workers) },
	}
}

// correct returns the weights with as much of their shifts as is trusted.
func (f *fitter) correct(cal *quant.Calibration, trust []float64) ([]*tensor.Matrix, error) {
	out := slices.Clone(f.weights)
	var l *tensor.Matrix
	for k, w := range f.weights {
		if trust[k] == 0 || f.Strength == 0 {
			continue
		}
		if l == nil {
			if l = f.factor(cal); l == nil {
				return nil, fmt.Errorf("correction: %w", ErrNotFinite)
			}
		}
		shift, _ := solveShift(w, cal, l, f.workers)
		out[k] = shifted(w, shift, float32(f.Strength*trust[k]))
	}
	return out, nil
}

// trust is how much of the fitted shift of each weight is worth keeping on other
// text. With s the shift fitted on one half, H' and b' the other half's moments
// and right-hand side, the best multiple for the other half is sᵀb'/sᵀH's; twice
// the tokens halve the variance that keeps it from 1. One half is scaled and
// factored after the other.
func (f *fitter) trust(halves [2]*quant.Calibration) ([]float64, error) {
	trust := make([]float64, len(f.weights))
	if halves[0] == nil {
		for k := range trust {
			trust[k] = 1
		}
		return trust, nil
	}
	shifts, rhs := make([][2]*tensor.Matrix, len(f.weights)), make([][2]*tensor.Matrix, len(f.weights))
	for i := range halves {
		half := f.scale(halves[i])
		l := f.factor(half)
		if l == nil {
			return nil, fmt.Errorf("correction: %w", ErrNotFinite)
		}
		for k, w := range f.weights {
			shifts[k][i], rhs[k][i] = solveShift(w, half, l, f.workers)
		}
	}
	gain, cost := make([]float64, len(f.weights)), make([]float64, len(f.weights))
	for i := range halves {
		half := f.scale(&quant.Calibration{H: halves[i].H})
		for k := range f.weights {
			g, c := agreement(shifts[k][1-i], rhs[k][i], half.H, f.workers)
			gain[k] += g
			cost[k] += c
		}
	}
	for k := range trust {
		trust[k] = share(gain[k], cost[k])
	}
	return trust, nil
}

// shifted is w plus f times a shift, which is transposed.
func shifted(w, shift *tensor.Matrix, f float32) *tensor.Matrix {
	out := w.Clone()
	for r := range out.Rows {
		row := out.Row(r)
		for j := range row {
			row[j] += f * shift.Data[j*shift.Stride+r]
		}
	}
	return out
}

// solveShift returns the least-squares shift of w, transposed [in, out], and the
// right-hand side of its normal equations. l is the factor of the damped H.
func solveShift(w *tensor.Matrix, cal *quant.Calibration, l *tensor.Matrix, workers int) (shift, rhs *tensor.Matrix) {
	// X_qᵀ (X-X_q) wᵀ + X_qᵀ R
	rhs = tensor.New(w.Cols, w.Rows)
	tensor.Gemm(true, true, 1, cal.Cross, w, 0, rhs, workers)
	if cal.Residual != nil {
		for r := range w.Rows {
			for j, v := range cal.Residual.Row(r) {
				rhs.Data[j*rhs.Stride+r] += v
			}
		}
	}
	shift = rhs.Clone()
	tensor.CholeskySolve(l, shift, workers)
	return shift, rhs
}

// agreement is sᵀb and sᵀHs.
func agreement(s, b, h *tensor.Matrix, workers int) (gain, cost float64) {
	hs := tensor.New(s.Rows, s.Cols)
	tensor.Gemm(false, false, 1, h, s, 0, hs, workers)
	return dot(s, b), dot(s, hs)
}

// share is what trust makes of the sums over both halves.
func share(gain, cost float64) float64 {
	if !(gain > 0) || !(cost > 0) {
		return 0
	}
	a := min(gain/cost, 1)
	return 1 / (1 + (1/a-1)/2)
}

// dot is the sum of products of the elements.
func dot(a, b *tensor.Matrix) float64 {
	var sum float64
	for i := range a.Rows {
		y := b.Row(i)
		for j, v := range a.Row(i) {
			sum += float64(v) * float64(y[j])
		}
	}
	return sum
}

// dampedFactor returns the Cholesky factor of h with damping on its
// diagonal, raised as far as it takes, or nil.
func dampedFactor(h *tensor.Matrix, damping float64, workers int) *tensor.Matrix {
	n := h.Rows
	var mean float64
	for j := range n {
		mean += float64(h.At(j, j)) / float64(n)
	}
	if mean == 0 {
		mean = 1 // no input ever: nothing to correct
	}
	l := tensor.New(n, n)
	if _, ok := tensor.CholeskyDamped(l, damping, func(damping float64) {
		l.CopyFrom(h)
		for j := range n {
			l.Data[j*n+j] += float32(damping * mean)
		}
	}, workers); !ok {
		return nil
	}
	return l
}
