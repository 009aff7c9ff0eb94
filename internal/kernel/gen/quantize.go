package main

import "math"

func quantizeAMD64(f *file) {
	for _, v := range []vec{avx512, avx2} {
		minMax(f, v)
		allFinite(f, v)
		quantRow(f, v)
		quantCols(f, v)
		dequant(f, v)
	}
}

func minMax(f *file, v vec) {
	g := f.loop(v, "minMax", "x *float32, n int", "lo float32, hi float32, nan bool",
		"returns the extremes of the elements that are not NaN and whether any is.")
	g.pointers("x", "SI")
	f.vector("inf", math.Float32bits(float32(math.Inf(1))))
	f.vector("minusInf", math.Float32bits(float32(math.Inf(-1))))
	g.constant("inf", 0)
	g.constant("minusInf", 1)
	g.zero(2)
	if v.reg == "Z" {
		g.op("KXORW K1, K1, K1")
	}
	g.each(func() {
		g.load("SI", 3)
		g.o("VMINPS", 0, 3, 0)
		g.o("VMAXPS", 1, 3, 1)
		if v.reg == "Z" {
			g.op("VCMPPS $3, Z3, Z3, K2")
			g.op("KORW K1, K2, K1")
		} else {
			g.op("VCMPPS $3, Y3, Y3, Y4")
			g.op("VORPS Y4, Y2, Y2")
		}
	})
	g.reduce("VMINPS", 0, 3)
	g.reduce("VMAXPS", 1, 3)
	if v.reg == "Z" {
		g.op("KMOVW K1, AX")
	} else {
		g.op("VMOVMSKPS Y2, AX")
	}
	g.op("TESTL AX, AX")
	g.op("SETNE %s", g.arg("nan"))
	g.op("VMOVSS X0, %s", g.arg("lo"))
	g.op("VMOVSS X1, %s", g.arg("hi"))
	g.end()
}

func allFinite(f *file, v vec) {
	g := f.loop(v, "allFinite", "x *float32, n int", "ok bool", "is allFiniteGo.")
	g.pointers("x", "SI")
	f.vector("abs", 0x7fffffff)
	f.vector("maxFloat", math.Float32bits(math.MaxFloat32))
	g.constant("abs", 2)
	g.constant("maxFloat", 3)
	g.zero(1)
	if v.reg == "Z" {
		g.op("KXORW K1, K1, K1")
	}
	g.each(func() {
		g.op("VANDPS (SI)(AX*4), %s, %s", g.r(2), g.r(0))
		if v.reg == "Z" { // not less or equal: above, or NaN
			g.op("VCMPPS $6, Z3, Z0, K2")
			g.op("KORW K1, K2, K1")
		} else {
			g.op("VCMPPS $6, Y3, Y0, Y0")
			g.op("VORPS Y0, Y1, Y1")
		}
	})
	if v.reg == "Z" {
		g.op("KMOVW K1, AX")
	} else {
		g.op("VMOVMSKPS Y1, AX")
	}
	g.op("TESTL AX, AX")
	g.op("SETEQ %s", g.arg("ok"))
	g.end()
}

// level turns the weights in w into codes: clamp(round(w/scale)+zero). The
// order of the operands sends NaN to 0.
func (g *loop) level(w, scale, zero, maxq, none int) {
	g.o("VDIVPS", scale, w, w)
	g.round(w, w)
	g.o("VADDPS", zero, w, w)
	g.o("VMAXPS", none, w, w)
	g.o("VMINPS", maxq, w, w)
}

func quantRow(f *file, v vec) {
	g := f.loop(v, "quantRow", "q *uint8, w *float32, n int, scale float32, zero float32, maxq float32", "", "is quantRowGo.")
	g.pointers("q", "DI", "w", "SI")
	g.broadcast("scale", 4)
	g.broadcast("zero", 5)
	g.broadcast("maxq", 6)
	g.zero(7)
	g.each(func() {
		g.load("SI", 0)
		g.level(0, 4, 5, 6, 7)
		g.storeBytes(0, 1, "DI")
	})
	g.end()
}

func quantCols(f *file, v vec) {
	g := f.loop(v, "quantCols", "q *uint8, deq *float32, t *float32, scale *float32, zero *float32, n int, maxq float32", "",
		"is quantColsGo.")
	g.pointers("q", "DI", "deq", "R8", "t", "SI", "scale", "R10", "zero", "R11")
	g.broadcast("maxq", 6)
	g.zero(7)
	g.each(func() {
		g.load("SI", 0)
		g.load("R10", 4)
		g.load("R11", 5)
		g.level(0, 4, 5, 6, 7)
		g.o("VSUBPS", 5, 0, 2)
		g.o("VMULPS", 4, 2, 2) // what the code stands for
		g.storeBytes(0, 3, "DI")
		g.store(2, "R8")
	})
	g.end()
}

func dequant(f *file, v vec) {
	g := f.loop(v, "dequant", "dst *float32, q *uint8, n int, scale float32, zero float32", "", "is dequantGo.")
	g.pointers("dst", "DI", "q", "SI")
	g.broadcast("scale", 4)
	g.broadcast("zero", 5)
	g.each(func() {
		g.loadBytes("SI", 0)
		g.o("VSUBPS", 5, 0, 0)
		g.o("VMULPS", 0, 4, 0)
		g.store(0, "DI")
	})
	g.end()
}
