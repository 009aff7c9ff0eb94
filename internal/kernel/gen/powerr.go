package main

import (
	"fmt"
	"math"
)

// Coefficients as in kernel/powerr.go.
var (
	log2Poly = [9]float32{
		1.4426950216293335, -0.7213473320007324, 0.48091062903404236,
		-0.3607036769390106, 0.28791624307632446, -0.2389448583126068,
		0.2157156616449356, -0.207269549369812, 0.12583662569522858,
	}
	exp2Poly = [7]float32{
		1, 0.6931471824645996, 0.24022646248340607, 0.05550328642129898,
		0.009618489071726799, 0.0013399930903688073, 0.00015345810970757157,
	}
)

func polynomials(f *file) {
	for i, c := range log2Poly {
		f.vector(fmt.Sprintf("log2_%d", i), math.Float32bits(c))
	}
	for i, c := range exp2Poly {
		f.vector(fmt.Sprintf("exp2_%d", i), math.Float32bits(c))
	}
	f.vector("abs", 0x7fffffff)
	f.vector("bias", 127)
}

func powErrAMD64(f *file) {
	polynomials(f)
	f.vector("sqrtHalf", 0x3f3504f3)
	float := func(name string, v float32) { f.vector(name, math.Float32bits(v)) }
	float("one", 1)
	float("fifth", 0.2)
	float("five", 5)
	float("twelve", 12)
	float("power", 2.4)
	float("powMin", 0x1p-50)
	float("powMax", 0x1p50)
	for _, v := range []vec{avx512, avx2} {
		powErr(f, v)
	}
}

// polynomial sets p to a polynomial of even degree in x, as evenOdd does.
func (g *loop) polynomial(name string, degree, x, p, sq, odd int) {
	g.o("VMULPS", x, x, sq)
	g.constant(fmt.Sprintf("%s%d", name, degree), p)
	g.constant(fmt.Sprintf("%s%d", name, degree-1), odd)
	for i := degree - 2; i >= 0; i-- {
		to := p
		if i%2 == 1 {
			to = odd
		}
		g.o("VMULPS", sq, to, to)
		g.c("VADDPS", fmt.Sprintf("%s%d", name, i), to, to)
	}
	g.o("VMULPS", x, odd, odd)
	g.o("VADDPS", odd, p, p)
}

// pow24 sets register 0 to |register 0|^2.4; it spoils 1 to 6 and 14.
func (g *loop) pow24() {
	const e, k, m, p, n, sq, odd = 1, 2, 3, 4, 5, 6, 14
	g.c("VANDPS", "abs", 0, 0)
	g.c("VMINPS", "powMax", 0, e)
	g.c("VPSUBD", "sqrtHalf", e, k)
	g.shift("VPSRAD", 23, k, k)
	g.shift("VPSLLD", 23, k, m)
	g.o("VPSUBD", m, e, m)
	g.c("VSUBPS", "one", m, m)
	g.polynomial("log2_", 8, m, p, sq, odd)
	g.o("VMULPS", m, p, p)
	g.c("VMULPS", "power", p, p)
	g.op("VCVTDQ2PS %s, %s", g.r(k), g.r(k))
	g.c("VMULPS", "twelve", k, k)
	g.c("VMULPS", "fifth", k, n)
	g.round(n, n)
	g.c("VMULPS", "five", n, m)
	g.o("VSUBPS", m, k, k)
	g.c("VMULPS", "fifth", k, k)
	g.o("VADDPS", p, k, k)
	g.round(k, m)
	g.o("VSUBPS", m, k, k)
	g.o("VADDPS", m, n, n)
	g.polynomial("exp2_", 6, k, p, sq, odd)
	g.op("VCVTTPS2DQ %s, %s", g.r(n), g.r(n))
	g.c("VPADDD", "bias", n, n)
	g.shift("VPSLLD", 23, n, n)
	g.o("VMULPS", n, p, p)
	// Greater than powMin, ordered.
	g.keepIf(0x1e, "powMin", 0, p, e)
	g.op("VMOVAPS %s, %s", g.r(p), g.r(0))
}

func powErr(f *file, v vec) {
	g := f.loop(v, "powErr", "s *float32, w *float32, n int, scale float32, zero float32, maxq float32", "",
		"adds the terms of powErrTerms to its 16 sums s; n is a multiple of 16.")
	g.pointers("s", "DI", "w", "SI")
	g.broadcast("scale", 8)
	g.broadcast("zero", 9)
	g.broadcast("maxq", 10)
	g.zero(11)
	sums := []int{12, 13}[:16/v.lanes]
	for i, s := range sums {
		g.op("VMOVUPS %d(DI), %s", i*v.lanes*4, g.r(s))
	}
	term := func(off, sum int) {
		g.op("VMOVUPS %d(SI)(AX*4), %s", off, g.r(7))
		g.op("VMOVAPS %s, %s", g.r(7), g.r(0))
		g.level(0, 8, 9, 10, 11)
		g.o("VSUBPS", 9, 0, 0)
		g.o("VMULPS", 8, 0, 0)
		g.o("VSUBPS", 7, 0, 0)
		g.pow24()
		g.o("VADDPS", 0, sum, sum)
	}
	g.op("CMPQ CX, $0")
	g.op("JLE done")
	g.loopHead("loop")
	for i, s := range sums {
		term(i*v.lanes*4, s)
	}
	g.op("ADDQ $16, AX")
	g.op("CMPQ AX, CX")
	g.op("JLT loop")
	g.label("done")
	for i, s := range sums {
		g.op("VMOVUPS %s, %d(DI)", g.r(s), i*v.lanes*4)
	}
	g.end()
}
