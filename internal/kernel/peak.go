package kernel

// Peak keeps one core busy with independent float32 multiply-adds at the
// active level and returns how many operations that were, two for each: the
// most that products can reach on this machine.
func Peak(rounds int) (flops float64) {
	if rounds <= 0 {
		return 0
	}
	switch {
	case level >= AVX512:
		peakAVX512(rounds)
		return 2 * 16 * 24 * float64(rounds)
	case level == AVX2:
		peakAVX2(rounds)
		return 2 * 8 * 12 * float64(rounds)
	case level == NEON:
		peakNEON(rounds)
		return 2 * 4 * 24 * float64(rounds)
	}
	return peakGo(rounds)
}

// peakGo keeps as many sums as the plain-Go microkernel.
func peakGo(rounds int) float64 {
	const x = float32(0x1p-20)
	var y, s0, s1, s2, s3, s4, s5, s6, s7 float32
	for i := range rounds {
		y = float32(i & 1)
		s0 += float32(x * y)
		s1 += float32(x * s0)
		s2 += float32(x * y)
		s3 += float32(x * s2)
		s4 += float32(x * y)
		s5 += float32(x * s4)
		s6 += float32(x * y)
		s7 += float32(x * s6)
	}
	if s0+s1+s2+s3+s4+s5+s6+s7 < 0 {
		panic("kernel: sums of products of positive numbers are positive")
	}
	return 16 * float64(rounds)
}
