// Package importance has how much errors of single weights matter where parameters of
// groups are fitted.
package importance

import "github.com/golowbit/lowbit/internal/scratch"

// floor is the least importance, as a fraction of the mean: weights of inputs
// that a text never had still want to be near.
const floor = 1e-3

// Floored returns n importances, none of them 0, in the memory of dst if that is large
// enough; all the same where none are given, or all are 0.
func Floored(dst, importance []float32, n int) []float32 {
	dst = scratch.Slice(dst, n)
	var sum float64
	for _, v := range importance {
		sum += float64(v)
	}
	least := float32(floor * sum / float64(n))
	if !(least > 0) {
		for i := range dst {
			dst[i] = 1
		}
		return dst
	}
	for i, v := range importance {
		dst[i] = v + least
	}
	return dst
}
