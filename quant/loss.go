package quant

import "github.com/golowbit/lowbit/tensor"

// RowLosses returns e_r H e_rᵀ for every row of E = approx - w, that is
// ‖X e_rᵀ‖², for matrices [out, in] and H [in, in]. With approx nil, E is w
// itself: the size of the layer's output.
func RowLosses(w, approx, h *tensor.Matrix, workers int) []float64 {
	e := w
	if approx != nil {
		e = tensor.New(w.Rows, w.Cols)
		for r := range w.Rows {
			dst, a := e.Row(r), approx.Row(r)
			for j, v := range w.Row(r) {
				dst[j] = a[j] - v
			}
		}
	}
	eh := tensor.New(w.Rows, w.Cols)
	tensor.Gemm(false, false, 1, e, h, 0, eh, workers)
	out := make([]float64, w.Rows)
	for r := range out {
		var s float64
		b := eh.Row(r)
		for j, v := range e.Row(r) {
			s += float64(v) * float64(b[j])
		}
		out[r] = max(s, 0)
	}
	return out
}

// RowLossesOf is RowLosses of q as an approximation of w: what its method has found, if it
// has found it.
func RowLossesOf(q *Weight, w, h *tensor.Matrix, workers int) []float64 {
	if q.RowLoss != nil {
		return q.RowLoss
	}
	return RowLosses(w, q.Dequantize(), h, workers)
}

// Loss is the reconstruction loss tr(E H Eᵀ) = ‖X Eᵀ‖² of approx against w.
func Loss(w, approx, h *tensor.Matrix, workers int) float64 {
	return Sum(RowLosses(w, approx, h, workers))
}

// CurvedLoss is tr(O E H Eᵀ), E = approx - w, for matrices [out, in], H [in, in] and O
// [out, out]: to second order, what the error costs in the loss whose curvature at the
// outputs is O (Tseng et al., YAQA, arXiv 2505.22988; O and H independent).
func CurvedLoss(w, approx, h, o *tensor.Matrix, workers int) float64 {
	e := approx.Clone()
	for r := range w.Rows {
		dst := e.Row(r)
		for j, v := range w.Row(r) {
			dst[j] -= v
		}
	}
	eh, oe := tensor.New(w.Rows, w.Cols), tensor.New(w.Rows, w.Cols)
	tensor.Gemm(false, false, 1, e, h, 0, eh, workers)
	tensor.Gemm(false, false, 1, o, e, 0, oe, workers)
	var s float64
	for r := range w.Rows {
		b := eh.Row(r)
		for j, v := range oe.Row(r) {
			s += float64(v) * float64(b[j])
		}
	}
	return max(s, 0)
}

// Sum adds xs in order.
func Sum(xs []float64) float64 {
	var s float64
	for _, x := range xs {
		s += x
	}
	return s
}

// RelativeLoss is the mean over rows of loss[r] / (size[r] + ε), ε = 1e-9 of
// the mean size, where size is what RowLosses gives for w itself. It does
// not change when an output row is scaled.
func RelativeLoss(loss, size []float64) float64 {
	if len(loss) == 0 {
		return 0
	}
	eps := 1e-9 * Sum(size) / float64(len(size))
	if eps == 0 {
		eps = 1 // the layer's output is 0 and so is every loss
	}
	var s float64
	for r, l := range loss {
		s += l / (size[r] + eps)
	}
	return s / float64(len(loss))
}
