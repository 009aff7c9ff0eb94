package kernel

// aPad keeps the rows of a packed panel of A from falling into the same
// cache sets.
const aPad = 16

// packA packs rows i0 … i0+mr-1 of op(A), columns pc … pc+kb-1; rows outside
// become 0. A matrix that is stored by rows of op(A) keeps its rows, stride
// apart, unless the microkernel wants columns; a transposed one is packed
// column after column, mr elements each.
func (p *product) packA(bl blocking, dst []float32, i0, pc, kb, stride int) {
	if p.half {
		p.packAHalf(bl, dst, i0, pc, kb, stride)
		return
	}
	rows := min(bl.mr, p.m-i0)
	a := p.a.f32
	switch {
	case p.a.trans:
		packWide(dst, a[pc*p.a.ld+i0:], p.a.ld, kb, rows, bl.mr)
	case bl.columns:
		packTransposed(dst, a[i0*p.a.ld+pc:], p.a.ld, kb, rows, bl.mr)
	default:
		for r := range bl.mr {
			d := dst[r*stride : r*stride+kb]
			if r >= rows {
				clear(d)
				continue
			}
			o := (i0+r)*p.a.ld + pc
			copy(d, a[o:o+kb])
		}
	}
}

// packB packs columns j0 … j0+nr-1 of op(B), rows pc … pc+kb-1, row after
// row; columns outside become 0.
func (p *product) packB(bl blocking, dst []float32, j0, pc, kb int) {
	if p.half {
		p.packBHalf(bl, dst, j0, pc, kb)
		return
	}
	cols := min(bl.nr, p.n-j0)
	if p.b.trans {
		packTransposed(dst, p.b.f32[j0*p.b.ld+pc:], p.b.ld, kb, cols, bl.nr)
		return
	}
	packWide(dst, p.b.f32[pc*p.b.ld+j0:], p.b.ld, kb, cols, bl.nr)
}

// packWide copies kb rows of n ≤ w elements, ld apart, to rows of w; what
// is missing becomes 0.
func packWide(dst, src []float32, ld, kb, n, w int) {
	if level < AVX512 || n == 0 || kb == 0 {
		packWideGo(dst, src, ld, kb, n, w)
		return
	}
	_, _ = dst[kb*w-1], src[(kb-1)*ld+n-1]
	copyRowsAVX512(&dst[0], w, &src[0], ld, kb, uint32(1<<n-1), uint32(1<<w-1))
}

func packWideGo(dst, src []float32, ld, kb, n, w int) {
	for r := range kb {
		d := dst[r*w : r*w+w]
		copy(d, src[r*ld:r*ld+n])
		clear(d[n:])
	}
}

// packTransposed writes the transpose of n ≤ w rows of kb elements, ld
// apart, as kb rows of w; what is missing becomes 0.
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

func packTransposedGo(dst, src []float32, ld, kb, n, w int) {
	for j := range n {
		o := j
		for _, v := range src[j*ld : j*ld+kb] {
			dst[o] = v
			o += w
		}
	}
	for j := n; j < w; j++ {
		for r := range kb {
			dst[r*w+j] = 0
		}
	}
}
