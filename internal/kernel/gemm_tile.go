package kernel

var (
	avx512Blocking = blocking{mr: 12, nr: 32, kc: 512, mc: 96, nc: 2048}
	avx2Blocking   = blocking{mr: 6, nr: 16, kc: 512, mc: 96, nc: 2048}
	neonBlocking   = blocking{mr: 6, nr: 16, kc: 512, mc: 96, nc: 2048}
)

func blockingFor() blocking {
	switch {
	case level >= AVX512:
		return avx512Blocking
	case level == AVX2:
		return avx2Blocking
	case level == NEON:
		return neonBlocking
	}
	return genericBlocking
}

// microkernel computes a tile of mr x nr: c = alpha*Σ_p a_ip·b_pj over k
// terms, added to c if add is set. Element (i, p) of a is a[i*rs+p*cs], and b
// holds rows of nr; with half both hold pairs of bfloat16.
func microkernel(half bool, k int, a []float32, rs, cs int, b []float32, c []float32, ldc int, alpha float32, add bool) {
	switch {
	case half:
		gemmBF16(k, &a[0], rs, cs, &b[0], &c[0], ldc, alpha, add)
	case level >= AVX512:
		gemmAVX512(k, &a[0], rs, cs, &b[0], &c[0], ldc, alpha, add)
	case level == AVX2:
		gemmAVX2(k, &a[0], rs, cs, &b[0], &c[0], ldc, alpha, add)
	case level == NEON:
		gemmNEON(k, &a[0], rs, cs, &b[0], &c[0], ldc, alpha, add)
	default:
		microkernelGo(k, a, b, c, ldc, alpha, add)
	}
}

// genericBlocking is for microkernelGo: eight sums are as many as stay in
// registers beside their operands.
var genericBlocking = blocking{mr: 4, nr: 2, kc: 256, mc: 64, nc: 1024, columns: true}

// microkernelGo computes c = alpha*Σ_p a_pi·b_pj, added to c if add is set,
// for a tile of 4 x 2. Every element is one sum in ascending order.
func microkernelGo(k int, a, b, c []float32, ldc int, alpha float32, add bool) {
	var c00, c01, c10, c11, c20, c21, c30, c31 float32
	a, b = a[:4*k], b[:2*k]
	for len(a) >= 16 && len(b) >= 8 {
		x, y := (*[16]float32)(a), (*[8]float32)(b)
		c00 += float32(x[0] * y[0])
		c01 += float32(x[0] * y[1])
		c10 += float32(x[1] * y[0])
		c11 += float32(x[1] * y[1])
		c20 += float32(x[2] * y[0])
		c21 += float32(x[2] * y[1])
		c30 += float32(x[3] * y[0])
		c31 += float32(x[3] * y[1])

		c00 += float32(x[4] * y[2])
		c01 += float32(x[4] * y[3])
		c10 += float32(x[5] * y[2])
		c11 += float32(x[5] * y[3])
		c20 += float32(x[6] * y[2])
		c21 += float32(x[6] * y[3])
		c30 += float32(x[7] * y[2])
		c31 += float32(x[7] * y[3])

		c00 += float32(x[8] * y[4])
		c01 += float32(x[8] * y[5])
		c10 += float32(x[9] * y[4])
		c11 += float32(x[9] * y[5])
		c20 += float32(x[10] * y[4])
		c21 += float32(x[10] * y[5])
		c30 += float32(x[11] * y[4])
		c31 += float32(x[11] * y[5])

		c00 += float32(x[12] * y[6])
		c01 += float32(x[12] * y[7])
		c10 += float32(x[13] * y[6])
		c11 += float32(x[13] * y[7])
		c20 += float32(x[14] * y[6])
		c21 += float32(x[14] * y[7])
		c30 += float32(x[15] * y[6])
		c31 += float32(x[15] * y[7])
		a, b = a[16:], b[8:]
	}
	for len(a) >= 4 && len(b) >= 2 {
		x, y := (*[4]float32)(a), (*[2]float32)(b)
		c00 += float32(x[0] * y[0])
		c01 += float32(x[0] * y[1])
		c10 += float32(x[1] * y[0])
		c11 += float32(x[1] * y[1])
		c20 += float32(x[2] * y[0])
		c21 += float32(x[2] * y[1])
		c30 += float32(x[3] * y[0])
		c31 += float32(x[3] * y[1])
		a, b = a[4:], b[2:]
	}
	r0, r1, r2, r3 := c[:2], c[ldc:ldc+2], c[2*ldc:2*ldc+2], c[3*ldc:3*ldc+2]
	if !add {
		r0[0], r0[1] = alpha*c00, alpha*c01
		r1[0], r1[1] = alpha*c10, alpha*c11
		r2[0], r2[1] = alpha*c20, alpha*c21
		r3[0], r3[1] = alpha*c30, alpha*c31
		return
	}
	r0[0], r0[1] = r0[0]+float32(alpha*c00), r0[1]+float32(alpha*c01)
	r1[0], r1[1] = r1[0]+float32(alpha*c10), r1[1]+float32(alpha*c11)
	r2[0], r2[1] = r2[0]+float32(alpha*c20), r2[1]+float32(alpha*c21)
	r3[0], r3[1] = r3[0]+float32(alpha*c30), r3[1]+float32(alpha*c31)
}
