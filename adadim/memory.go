package adadim

import "github.com/golowbit/lowbit/quant"

// Memory implements quant.Sized. Input scales need scaled copies of H, and where
// every arm is tried with the method its factors of them beside those of H.
func (q Quantizer) Memory(out, in int) int64 {
	q = q.withDefaults()
	h, w := 4*int64(in)*int64(in), 4*int64(out)*int64(in)
	n := quant.Memory(q.Method, out, in) + w
	for _, a := range q.Arms {
		if !a.InputScale {
			continue
		}
		n += 2*h + 2*w
		if q.Search == SearchMethod && len(q.Arms) > 1 {
			n += quant.Memory(q.Method, 0, in)
		}
		break
	}
	return n
}
