package main

func squareErrAMD64(f *file) {
	for _, v := range []vec{avx512, avx2} {
		squareErr(f, v)
	}
}

func squareErr(f *file, v vec) {
	g := f.loop(v, "squareErr", "s *float32, w *float32, weight *float32, n int, inverse float32, scale float32, zero float32, maxq float32", "",
		"adds the terms of squareErrTerms to its 16 sums s; n is a multiple of 16.")
	g.pointers("s", "DI", "w", "SI", "weight", "R10")
	g.broadcast("inverse", 7)
	g.broadcast("scale", 8)
	g.broadcast("zero", 9)
	g.broadcast("maxq", 10)
	g.zero(11)
	sums := []int{12, 13}[:16/v.lanes]
	for i, s := range sums {
		g.op("VMOVUPS %d(DI), %s", i*v.lanes*4, g.r(s))
	}
	g.op("CMPQ CX, $0")
	g.op("JLE done")
	g.loopHead("loop")
	for i, s := range sums {
		off := i * v.lanes * 4
		g.op("VMOVUPS %d(SI)(AX*4), %s", off, g.r(6))
		g.o("VMULPS", 7, 6, 0)
		g.round(0, 0)
		g.o("VADDPS", 9, 0, 0)
		g.o("VMAXPS", 11, 0, 0)
		g.o("VMINPS", 10, 0, 0)
		g.o("VSUBPS", 9, 0, 0)
		g.o("VMULPS", 8, 0, 0)
		g.o("VSUBPS", 6, 0, 0)
		g.o("VMULPS", 0, 0, 0)
		g.op("VMULPS %d(R10)(AX*4), %s, %s", off, g.r(0), g.r(0))
		g.o("VADDPS", 0, s, s)
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
