package kernel

import (
	"sync"
	"unsafe"

	"github.com/golowbit/lowbit/internal/parallel"
)

// The engine is the one of Goto and van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication" (ACM TOMS 34, 2008), as structured
// by BLIS: B is packed in blocks of kc x nc, shared by the workers, A in
// blocks of mc x kc, one for each task, and a microkernel computes tiles of
// mr x nr of C that stay in registers for the whole depth kc.
//
// Every element of C is acc = Σ a·b over kc terms in ascending order, then
// c += alpha·acc, block after block. Tiles at the edge go through the same
// microkernel in a scratch tile.

// blocking is the shape a microkernel wants.
type blocking struct {
	mr, nr     int  // tile of C
	kc, mc, nc int  // blocks that fit the caches
	columns    bool // wants panels of A by columns in every case
}

// operand is one side of a product: element (i, p) of op(A), or (p, j) of
// op(B), in a row-major matrix.
type operand struct {
	f32   []float32
	ld    int
	trans bool
}

// product is C = alpha*op(A)*op(B), added to C if add is set. With lower only
// elements on and below the diagonal are touched.
type product struct {
	m, n, k int
	alpha   float32
	a, b    operand
	c       []float32
	ldc     int
	add     bool
	lower   bool
	half    bool // operands rounded to bfloat16, dot products of pairs
}

// Gemm computes C = alpha*op(A)*op(B) + beta*C for row-major matrices;
// op(A) is m x k, op(B) is k x n. With beta 0 the old C is not read.
// workers ≤ 0 means GOMAXPROCS.
func Gemm(transA, transB bool, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int, workers int) {
	p := product{
		m: m, n: n, k: k, alpha: alpha,
		a: operand{f32: a, ld: lda, trans: transA},
		b: operand{f32: b, ld: ldb, trans: transB},
		c: c, ldc: ldc,
	}
	p.run(beta, workers)
}

// SyrkT computes the lower triangle of C = alpha*AᵀA + beta*C; A is k x n,
// row-major. The rest of C is neither read nor written.
func SyrkT(n, k int, alpha float32, a []float32, lda int, beta float32, c []float32, ldc int, workers int) {
	p := product{
		m: n, n: n, k: k, alpha: alpha,
		a: operand{f32: a, ld: lda, trans: true},
		b: operand{f32: a, ld: lda},
		c: c, ldc: ldc, lower: true,
	}
	p.run(beta, workers)
}

// syrk computes the lower triangle of C = alpha*A*Aᵀ + beta*C; A is n x k.
func syrk(n, k int, alpha float32, a []float32, lda int, beta float32, c []float32, ldc int, workers int) {
	p := product{
		m: n, n: n, k: k, alpha: alpha,
		a: operand{f32: a, ld: lda},
		b: operand{f32: a, ld: lda, trans: true},
		c: c, ldc: ldc, lower: true,
	}
	p.run(beta, workers)
}

func (p *product) run(beta float32, workers int) {
	if p.m <= 0 || p.n <= 0 {
		return
	}
	p.check()
	p.add = p.scale(beta)
	if p.k <= 0 || p.alpha == 0 {
		if !p.add {
			p.scaleRows(0)
		}
		return
	}
	bl := blockingFor()
	const small = 1 << 21 // multiply-adds that are not worth a second goroutine
	workers = parallel.Workers(workers)
	if p.m*p.n < small/p.k {
		workers = 1
	}
	depth := p.k
	if p.half {
		depth = (depth + 1) / 2 // in pairs
	}
	kcMax := min(bl.kc, depth)
	ncMax := min(bl.nc, roundUp(p.n, bl.nr))
	ws := getScratch(kcMax * ncMax)
	defer putScratch(ws)
	for jc := 0; jc < p.n; jc += bl.nc {
		nb := min(bl.nc, p.n-jc)
		for pc := 0; pc < depth; pc += bl.kc {
			kb := min(bl.kc, depth-pc)
			p.packedB(bl, ws.buf, jc, nb, pc, kb, workers)
			p.blocks(bl, ws.buf, jc, nb, pc, kb, p.add || pc > 0, workers)
		}
	}
}

// check panics where the slices do not hold the matrices.
func (p *product) check() {
	short := func(o operand, rows, cols int) bool {
		if o.trans {
			rows, cols = cols, rows
		}
		return rows > 0 && cols > 0 && (o.ld < cols || len(o.f32) < (rows-1)*o.ld+cols)
	}
	if short(p.a, p.m, p.k) || short(p.b, p.k, p.n) || short(operand{f32: p.c, ld: p.ldc}, p.m, p.n) {
		panic("kernel: matrix shorter than its shape")
	}
}

// scale multiplies C by beta and tells whether there is anything to add to.
func (p *product) scale(beta float32) bool {
	if beta != 0 && beta != 1 {
		p.scaleRows(beta)
	}
	return beta != 0
}

func (p *product) scaleRows(beta float32) {
	for i := range p.m {
		n := p.n
		if p.lower {
			n = min(i+1, n)
		}
		row := p.c[i*p.ldc : i*p.ldc+n]
		if beta == 0 {
			clear(row)
			continue
		}
		for j := range row {
			row[j] *= beta
		}
	}
}

// packedB packs op(B)[pc:pc+kb, jc:jc+nb] into panels of nr columns.
func (p *product) packedB(bl blocking, dst []float32, jc, nb, pc, kb, workers int) {
	const group = 8 // panels in a task
	panels := (nb + bl.nr - 1) / bl.nr
	parallel.Each(workers, (panels+group-1)/group, func(_, g int) {
		for t := g * group; t < min((g+1)*group, panels); t++ {
			p.packB(bl, dst[t*bl.nr*kb:(t+1)*bl.nr*kb], jc+t*bl.nr, pc, kb)
		}
	})
}

// blocks multiplies the packed block of B with all of A.
func (p *product) blocks(bl blocking, bp []float32, jc, nb, pc, kb int, add bool, workers int) {
	mc, nt := bl.mc, nb
	if workers > 1 {
		// Some tasks for each worker, so that nobody waits long at the end.
		mc = min(mc, max(bl.mr, roundUp(p.m/(4*workers), bl.mr)))
		if rows := (p.m + mc - 1) / mc; rows < 16*workers {
			cuts := (16*workers + rows - 1) / rows
			nt = max(4*bl.nr, roundUp(nb/cuts, bl.nr))
		}
	}
	cols := (nb + nt - 1) / nt
	rows := (p.m + mc - 1) / mc
	parallel.Each(workers, rows*cols, func(_, t int) {
		// The last rows first: of a triangle they are the longest.
		i0, j0 := (rows-1-t/cols)*mc, t%cols*nt
		mb, jn := min(mc, p.m-i0), min(nt, nb-j0)
		if p.lower && jc+j0 > i0+mb-1 {
			return
		}
		p.block(bl, bp[j0*kb:], i0, mb, jc+j0, jn, pc, kb, add)
	})
}

// block packs op(A)[i0:i0+mb, pc:pc+kb] and multiplies it with the panels of
// bp, which hold op(B)[pc:pc+kb, j0:j0+nb].
func (p *product) block(bl blocking, bp []float32, i0, mb, j0, nb, pc, kb int, add bool) {
	stride := kb + aPad
	panel := bl.mr * stride
	ws := getScratch((mb+bl.mr-1)/bl.mr*panel + bl.mr*bl.nr + aPad)
	defer putScratch(ws)
	tile := ws.buf[:bl.mr*bl.nr]
	ap := ws.buf[bl.mr*bl.nr:]
	rs, cs := stride, 1
	if p.a.trans || bl.columns {
		rs, cs = 1, bl.mr
	}
	for i := 0; i < mb; i += bl.mr {
		p.packA(bl, ap[i/bl.mr*panel:(i/bl.mr+1)*panel], i0+i, pc, kb, stride)
	}
	for j := 0; j < nb; j += bl.nr {
		b := bp[j*kb : (j+bl.nr)*kb]
		jj := j0 + j
		for i := 0; i < mb; i += bl.mr {
			ii := i0 + i
			if p.lower && jj > ii+bl.mr-1 {
				continue
			}
			a := ap[i/bl.mr*panel : (i/bl.mr+1)*panel]
			if ii+bl.mr <= p.m && jj+bl.nr <= p.n && !(p.lower && jj+bl.nr-1 > ii) {
				microkernel(p.half, kb, a, rs, cs, b, p.c[ii*p.ldc+jj:], p.ldc, p.alpha, add)
				continue
			}
			p.edge(bl, tile, kb, a, rs, cs, b, ii, jj, add)
		}
	}
}

// edge computes a tile that only partly belongs to C.
func (p *product) edge(bl blocking, tile []float32, kb int, a []float32, rs, cs int, b []float32, ii, jj int, add bool) {
	mb := min(bl.mr, p.m-ii)
	width := func(r int) int {
		w := min(bl.nr, p.n-jj)
		if p.lower {
			w = min(w, ii+r+1-jj)
		}
		return max(w, 0)
	}
	if add {
		for r := range mb {
			o := (ii+r)*p.ldc + jj
			copy(tile[r*bl.nr:], p.c[o:o+width(r)])
		}
	}
	microkernel(p.half, kb, a, rs, cs, b, tile, bl.nr, p.alpha, add)
	for r := range mb {
		o := (ii+r)*p.ldc + jj
		w := width(r)
		copy(p.c[o:o+w], tile[r*bl.nr:r*bl.nr+w])
	}
}

// scratch is packed operands. Fresh memory is dear to touch, so it is reused.
type scratch struct{ buf []float32 }

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// getScratch returns n floats that start on a cache line.
func getScratch(n int) *scratch {
	const line = 16 // floats
	s := scratchPool.Get().(*scratch)
	if cap(s.buf) < n {
		buf := make([]float32, n+line)
		skip := -int(uintptr(unsafe.Pointer(&buf[0]))/4) & (line - 1)
		s.buf = buf[skip:]
	}
	s.buf = s.buf[:n]
	return s
}

func putScratch(s *scratch) { scratchPool.Put(s) }

func roundUp(n, to int) int { return (n + to - 1) / to * to }
