//go:build (!amd64 && !arm64) || purego

package kernel

func detect() Level { return Generic }

func blockingFor(half bool) blocking { return genericBlocking }

func microkernel(half bool, k int, a []float32, rs, cs int, b []float32, c []float32, ldc int, alpha float32, add bool) {
	microkernelGo(k, a, b, c, ldc, alpha, add)
}

func packWide(dst, src []float32, ld, kb, n, w int) { packWideGo(dst, src, ld, kb, n, w) }

func packTransposed(dst, src []float32, ld, kb, n, w int) {
	packTransposedGo(dst, src, ld, kb, n, w)
}

// pairRows is never reached: without assembly no product takes pairs.
func pairRows(dst, src []float32, ld, pairs, n, w int) {}

func peak(rounds int) (flops float64) { return peakGo(rounds) }
