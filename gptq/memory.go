package gptq

import "github.com/golowbit/lowbit/internal/parallel"

// Memory implements quant.Sized: a factor of H, and with refinement H in another
// order and products of slopes as large as it, and some matrices as large as the
// weight, more the more strips of the weight are refined at once; as measured.
func (q Quantizer) Memory(out, in int) int64 {
	h, w := 4*int64(in)*int64(in), 4*int64(out)*int64(in)
	if q.Refine.Rounds > 0 {
		strips := int64(min(parallel.Workers(q.Workers), 8)) // panelWidth makes about 8
		return h*12/5 + w*(12+3*strips)/4
	}
	return h*13/10 + w*7/2
}

// CurvatureMemory is how many bytes more a weight [out, in] needs where the curvature
// at its outputs is known: that, in another order and as a factor, and matrices as large
// as the weight and as H.
func CurvatureMemory(out, in int) int64 {
	o, h, w := 4*int64(out)*int64(out), 4*int64(in)*int64(in), 4*int64(out)*int64(in)
	return 4*o + 5*w + 2*h
}
