package kernel

import "math"

// Cholesky factors the lower triangle of A in place, A = L Lᵀ, and returns
// -1 or the index of the first pivot that is not positive and finite.
func Cholesky(n int, a []float32, lda int, workers int) int {
	for j := range n {
		rj := a[j*lda : j*lda+j+1]
		s := float64(rj[j])
		for _, v := range rj[:j] {
			s -= float64(v) * float64(v)
		}
		if !(s > 0) || math.IsInf(s, 0) {
			return j
		}
		d := math.Sqrt(s)
		rj[j] = float32(d)
		for i := j + 1; i < n; i++ {
			ri := a[i*lda : i*lda+j+1]
			s := float64(ri[j])
			for p, v := range rj[:j] {
				s -= float64(v) * float64(ri[p])
			}
			ri[j] = float32(s / d)
		}
	}
	return -1
}
