//go:build !purego

package kernel

// detect needs no detection: NEON is part of arm64.
func detect() Level { return NEON }

var neonBlocking = blocking{mr: 6, nr: 16, kc: 512, mc: 96, nc: 2048}

func blockingFor(half bool) blocking {
	if level == NEON {
		return neonBlocking
	}
	return genericBlocking
}

func microkernel(half bool, k int, a []float32, rs, cs int, b []float32, c []float32, ldc int, alpha float32, add bool) {
	if level == NEON {
		gemmNEON(k, &a[0], rs, cs, &b[0], &c[0], ldc, alpha, add)
		return
	}
	microkernelGo(k, a, b, c, ldc, alpha, add)
}

func packWide(dst, src []float32, ld, kb, n, w int) { packWideGo(dst, src, ld, kb, n, w) }

func packTransposed(dst, src []float32, ld, kb, n, w int) {
	packTransposedGo(dst, src, ld, kb, n, w)
}

// pairRows is never reached: HasBF16 is false here.
func pairRows(dst, src []float32, ld, pairs, n, w int) {}

func peak(rounds int) (flops float64) {
	if level == NEON {
		peakNEON(rounds)
		return 2 * 4 * 24 * float64(rounds)
	}
	return peakGo(rounds)
}
