package kernel

import "unsafe"

// Products of bfloat16 run on instructions that add two products at once to
// a float32 sum (AVX512_BF16). Panels then hold pairs of neighbours in k, a
// pair in the place of a float32; the last pair of an odd k has a 0.

// GemmBF16 is Gemm with the elements of A and B rounded to bfloat16 and sums
// in float32, at about twice the speed. Where HasBF16 is false it is Gemm:
// nothing is rounded.
func GemmBF16(transA, transB bool, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int, workers int) {
	p := product{
		m: m, n: n, k: k, alpha: alpha,
		a: operand{f32: a, ld: lda, trans: transA},
		b: operand{f32: b, ld: ldb, trans: transB},
		c: c, ldc: ldc, half: HasBF16(),
	}
	p.run(beta, workers)
}

// SyrkTBF16 is SyrkT with A rounded to bfloat16, where HasBF16 is true.
func SyrkTBF16(n, k int, alpha float32, a []float32, lda int, beta float32, c []float32, ldc int, workers int) {
	p := product{
		m: n, n: n, k: k, alpha: alpha,
		a: operand{f32: a, ld: lda, trans: true},
		b: operand{f32: a, ld: lda},
		c: c, ldc: ldc, lower: true, half: HasBF16(),
	}
	p.run(beta, workers)
}

// words views floats as 16-bit words.
func words(x []float32) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(x))), 2*len(x))
}

// bytesOf views floats as their bytes.
func bytesOf(x []float32) []uint8 {
	return unsafe.Slice((*uint8)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

// packAHalf is packA for pairs; pc and kb count pairs.
func (p *product) packAHalf(bl blocking, dst []float32, i0, pc, kb, stride int) {
	rows := min(bl.mr, p.m-i0)
	if p.a.trans {
		packPairs(dst, p.a, i0, 2*pc, min(2*kb, p.k-2*pc), rows, bl.mr)
		return
	}
	for r := range bl.mr {
		d := words(dst[r*stride : r*stride+kb])
		n := 0
		if r < rows {
			n = min(2*kb, p.k-2*pc)
			o := (i0+r)*p.a.ld + 2*pc
			F32ToBF16(d[:n], p.a.f32[o:o+n])
		}
		clear(d[n:])
	}
}

// packBHalf is packB for pairs.
func (p *product) packBHalf(bl blocking, dst []float32, j0, pc, kb int) {
	cols := min(bl.nr, p.n-j0)
	n := min(2*kb, p.k-2*pc)
	if !p.b.trans {
		packPairs(dst, p.b, j0, 2*pc, n, cols, bl.nr)
		return
	}
	// Rows of B are columns of op(B): round them, then transpose pairs.
	rows := getScratch(cols * kb)
	defer putScratch(rows)
	for j := range cols {
		d := words(rows.buf[j*kb : (j+1)*kb])
		o := (j0+j)*p.b.ld + 2*pc
		F32ToBF16(d[:n], p.b.f32[o:o+n])
		clear(d[n:])
	}
	packTransposed(dst, rows.buf, kb, kb, cols, bl.nr)
}

// packPairs packs rows p0 … p0+kb-1, columns j0 … j0+n-1 of an operand that
// is stored by k, two rows at a time, to rows of w pairs.
func packPairs(dst []float32, o operand, j0, p0, kb, n, w int) {
	pairs := kb / 2
	pairRows(dst, o.f32[p0*o.ld+j0:], o.ld, pairs, n, w)
	if kb%2 == 0 {
		return
	}
	last := getScratch((w + 1) / 2)
	defer putScratch(last)
	row := words(last.buf)[:n]
	at := (p0+kb-1)*o.ld + j0
	F32ToBF16(row, o.f32[at:at+n])
	d := words(dst[pairs*w : (pairs+1)*w])
	clear(d)
	for j, v := range row {
		d[2*j] = v
	}
}

// pairRows is packPairs for an even number of rows.
func pairRows(dst, src []float32, ld, pairs, n, w int) {
	if pairs == 0 || n == 0 {
		return
	}
	_, _ = dst[pairs*w-1], src[(2*pairs-1)*ld+n-1]
	pairRowsAVX512(&dst[0], w, &src[0], ld, pairs, uint32(1<<n-1), uint32(1<<w-1))
}
