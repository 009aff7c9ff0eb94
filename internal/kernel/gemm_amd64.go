//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

func detect() Level {
	x := cpu.X86 // the package asks the operating system as well
	switch {
	case !(x.HasAVX2 && x.HasFMA && x.HasBMI2):
		return Generic
	case !(x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL):
		return AVX2
	case !x.HasAVX512BF16:
		return AVX512
	}
	return AVX512BF16
}

var (
	avx512Blocking = blocking{mr: 12, nr: 32, kc: 512, mc: 96, nc: 2048}
	avx2Blocking   = blocking{mr: 6, nr: 16, kc: 512, mc: 96, nc: 2048}
)

func blockingFor(half bool) blocking {
	switch {
	case level >= AVX512:
		return avx512Blocking
	case level == AVX2:
		return avx2Blocking
	}
	return genericBlocking
}

func microkernel(half bool, k int, a []float32, rs, cs int, b []float32, c []float32, ldc int, alpha float32, add bool) {
	switch {
	case half && HasBF16():
		gemmBF16(k, &a[0], rs, cs, &b[0], &c[0], ldc, alpha, add)
	case level >= AVX512:
		gemmAVX512(k, &a[0], rs, cs, &b[0], &c[0], ldc, alpha, add)
	case level == AVX2:
		gemmAVX2(k, &a[0], rs, cs, &b[0], &c[0], ldc, alpha, add)
	default:
		microkernelGo(k, a, b, c, ldc, alpha, add)
	}
}

func packWide(dst, src []float32, ld, kb, n, w int) {
	if level < AVX512 || n == 0 || kb == 0 {
		packWideGo(dst, src, ld, kb, n, w)
		return
	}
	_, _ = dst[kb*w-1], src[(kb-1)*ld+n-1]
	copyRowsAVX512(&dst[0], w, &src[0], ld, kb, uint32(1<<n-1), uint32(1<<w-1))
}

func packTransposed(dst, src []float32, ld, kb, n, w int) {
	step, side := 16, kb&^15
	switch {
	case level >= AVX512:
	case level == AVX2:
		step, side = 8, kb&^7
	default:
		side = 0
	}
	if side == 0 || n < step {
		packTransposedGo(dst, src, ld, kb, n, w)
		return
	}
	_, _ = dst[kb*w-1], src[(n-1)*ld+kb-1]
	full := n / step * step
	for j := 0; j < full; j += step {
		if step == 16 {
			transpose16AVX512(&dst[j], w, &src[j*ld], ld, side/16)
		} else {
			transpose8AVX2(&dst[j], w, &src[j*ld], ld, side/8)
		}
	}
	for r := side; r < kb; r++ {
		for j := range full {
			dst[r*w+j] = src[j*ld+r]
		}
	}
	for j := full; j < n; j++ {
		o := j
		for _, v := range src[j*ld : j*ld+kb] {
			dst[o] = v
			o += w
		}
	}
	for r := range kb {
		clear(dst[r*w+n : r*w+w])
	}
}

// pairRows is packPairs for an even number of float32 rows.
func pairRows(dst, src []float32, ld, pairs, n, w int) {
	if pairs == 0 || n == 0 {
		return
	}
	_, _ = dst[pairs*w-1], src[(2*pairs-1)*ld+n-1]
	pairRowsAVX512(&dst[0], w, &src[0], ld, pairs, uint32(1<<n-1), uint32(1<<w-1))
}

func peak(rounds int) (flops float64) {
	const sums512, sums256 = 24, 12
	switch {
	case level >= AVX512:
		peakAVX512(rounds)
		return 2 * 16 * sums512 * float64(rounds)
	case level == AVX2:
		peakAVX2(rounds)
		return 2 * 8 * sums256 * float64(rounds)
	}
	return peakGo(rounds)
}
