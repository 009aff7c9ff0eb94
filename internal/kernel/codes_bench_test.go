package kernel

import (
	"fmt"
	"testing"
)

// BenchmarkCodes is products of codes in the cache, on one core: 4096 of them against a vector, and four lines
// of 4096 added to one. The metric is codes a nanosecond.
func BenchmarkCodes(b *testing.B) {
	const n, size = 4096, 128
	x, y := make([]float32, n), make([]float32, n)
	for i := range x {
		x[i] = float32(i%7) / 8
	}
	scale, zero := make([]float32, 4*n/size), make([]uint8, 4*n/size)
	alpha := []float32{1, 2, 3, 4}
	for _, bits := range []int{2, 3, 4, 5, 6, 8} {
		var turned []float32
		if Turns(size, bits) {
			turned = make([]float32, n)
			Turn(turned, x, size)
		}
		words := make([]uint32, 4*n*bits/32+16)
		b.Run(fmt.Sprintf("dot/%d bits", bits), func(b *testing.B) {
			for b.Loop() {
				DotCodes(words, x, turned, scale, zero, size, bits)
			}
			b.ReportMetric(float64(b.N)*n/float64(b.Elapsed().Nanoseconds()), "codes/ns")
		})
		b.Run(fmt.Sprintf("add/%d bits", bits), func(b *testing.B) {
			for b.Loop() {
				AddCodes(y, turned != nil, words, n*bits/32, scale, zero, n/size, alpha, 0, size, bits)
			}
			b.ReportMetric(float64(b.N)*4*n/float64(b.Elapsed().Nanoseconds()), "codes/ns")
		})
	}
}
