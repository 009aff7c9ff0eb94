package main

import (
	"fmt"
	"math"
)

func rowsAMD64(f *file) {
	polynomials(f)
	float := func(name string, v float32) { f.vector(name, math.Float32bits(v)) }
	float("one", 1)
	float("log2e", math.Log2E)
	float("ln2Hi", 0.693359375)
	float("ln2Lo", -2.12194440e-4)
	float("expMin", -87)
	float("expMax", 88)
	f.vector("sign", 1<<31)
	for _, v := range []vec{avx512, avx2} {
		axpy(f, v)
		dot(f, v)
		scaleBy(f, v)
		expShift(f, v)
		sumExp(f, v)
		siluMul(f, v)
		normScale(f, v)
		rope(f, v)
	}
}

func axpy(f *file, v vec) {
	g := f.loop(v, "axpy", "alpha float32, x *float32, y *float32, n int", "",
		"adds alpha*x to y for any n, every element with one rounding.")
	g.pointers("x", "SI", "y", "DI")
	g.broadcast("alpha", 0)
	step := func(vectors int) {
		for i := range vectors {
			g.op("VMOVUPS %d(DI)(AX*4), %s", i*v.lanes*4, g.r(1+i))
		}
		for i := range vectors {
			g.op("VFMADD231PS %d(SI)(AX*4), %s, %s", i*v.lanes*4, g.r(0), g.r(1+i))
		}
		for i := range vectors {
			g.op("VMOVUPS %s, %d(DI)(AX*4)", g.r(1+i), i*v.lanes*4)
		}
		g.op("ADDQ $%d, AX", vectors*v.lanes)
	}
	for i, vectors := range []int{4, 1} {
		l := []string{"four", "vector"}[i]
		g.op("SUBQ $%d, CX", vectors*v.lanes)
		g.op("JLT %sEnd", l)
		g.loopHead(l)
		step(vectors)
		g.op("SUBQ $%d, CX", vectors*v.lanes)
		g.op("JGE %s", l)
		g.label(l + "End")
		g.op("ADDQ $%d, CX", vectors*v.lanes)
	}
	g.op("JZ done")
	g.label("scalar")
	g.op("VMOVSS (DI)(AX*4), X1")
	g.op("VFMADD231SS (SI)(AX*4), X0, X1")
	g.op("VMOVSS X1, (DI)(AX*4)")
	g.op("INCQ AX")
	g.op("DECQ CX")
	g.op("JNZ scalar")
	g.label("done")
	g.end()
}

func dot(f *file, v vec) {
	g := f.loop(v, "dot", "a *float32, b *float32, n int", "sum float32", "returns Σ a·b.")
	g.pointers("a", "SI", "b", "DI")
	for i := range 4 {
		g.zero(i)
	}
	for i, vectors := range []int{4, 1} {
		l := []string{"four", "vector"}[i]
		g.op("SUBQ $%d, CX", vectors*v.lanes)
		g.op("JLT %sEnd", l)
		g.loopHead(l)
		for i := range vectors {
			g.op("VMOVUPS %d(SI)(AX*4), %s", i*v.lanes*4, g.r(4+i))
			g.op("VFMADD231PS %d(DI)(AX*4), %s, %s", i*v.lanes*4, g.r(4+i), g.r(i))
		}
		g.op("ADDQ $%d, AX", vectors*v.lanes)
		g.op("SUBQ $%d, CX", vectors*v.lanes)
		g.op("JGE %s", l)
		g.label(l + "End")
		g.op("ADDQ $%d, CX", vectors*v.lanes)
	}
	g.o("VADDPS", 1, 0, 0)
	g.o("VADDPS", 3, 2, 2)
	g.o("VADDPS", 2, 0, 0)
	g.reduce("VADDPS", 0, 1)
	g.op("VMOVSS X0, %s", g.arg("sum"))
	g.end()
}

func scaleBy(f *file, v vec) {
	g := f.loop(v, "scaleBy", "x *float32, n int, f float32", "", "is scaleByGo.")
	g.pointers("x", "SI")
	g.broadcast("f", 0)
	g.each(func() {
		g.op("VMULPS (SI)(AX*4), %s, %s", g.r(0), g.r(1))
		g.store(1, "SI")
	})
	g.end()
}

// exp sets register 0 to its exponential, 0 below -87; it spoils 1 to 3.
// The operands' order lets NaN through.
func (g *loop) exp() {
	const n, f, p = 1, 2, 3
	g.constant("expMin", n)
	g.o("VMAXPS", 0, n, f)
	g.constant("expMax", n)
	g.o("VMINPS", f, n, f)
	g.c("VMULPS", "log2e", f, n)
	g.round(n, n)
	g.c("VFNMADD231PS", "ln2Hi", n, f)
	g.c("VFNMADD231PS", "ln2Lo", n, f)
	g.c("VMULPS", "log2e", f, f)
	g.constant("exp2_6", p)
	for i := 5; i >= 0; i-- {
		g.c("VFMADD213PS", fmt.Sprintf("exp2_%d", i), f, p)
	}
	g.op("VCVTTPS2DQ %s, %s", g.r(n), g.r(n))
	g.c("VPADDD", "bias", n, n)
	g.shift("VPSLLD", 23, n, n)
	g.o("VMULPS", n, p, p)
	// Not less or equal, or unordered.
	g.keepIf(0x16, "expMin", 0, p, n)
	g.op("VMOVAPS %s, %s", g.r(p), g.r(0))
}

func expShift(f *file, v vec) {
	g := f.loop(v, "expShift", "x *float32, n int, scale float32, hi float32", "sum float32", "is expShiftGo.")
	g.pointers("x", "SI")
	g.broadcast("scale", 4)
	g.broadcast("hi", 5)
	g.zero(6)
	g.each(func() {
		g.load("SI", 0)
		g.o("VSUBPS", 5, 0, 0)
		g.o("VMULPS", 4, 0, 0)
		g.exp()
		g.store(0, "SI")
		g.o("VADDPS", 0, 6, 6)
	})
	g.reduce("VADDPS", 6, 0)
	g.op("VMOVSS X6, %s", g.arg("sum"))
	g.end()
}

func sumExp(f *file, v vec) {
	g := f.loop(v, "sumExp", "x *float32, n int, hi float32", "sum float32", "returns Σ exp(x-hi).")
	g.pointers("x", "SI")
	g.broadcast("hi", 5)
	g.zero(6)
	g.each(func() {
		g.load("SI", 0)
		g.o("VSUBPS", 5, 0, 0)
		g.exp()
		g.o("VADDPS", 0, 6, 6)
	})
	g.reduce("VADDPS", 6, 0)
	g.op("VMOVSS X6, %s", g.arg("sum"))
	g.end()
}

func siluMul(f *file, v vec) {
	g := f.loop(v, "siluMul", "dst *float32, gate *float32, up *float32, n int", "", "is siluMulGo.")
	g.pointers("dst", "DI", "gate", "SI", "up", "DX")
	g.each(func() {
		g.load("SI", 4)
		g.c("VXORPS", "sign", 4, 0)
		g.exp()
		g.c("VADDPS", "one", 0, 0)
		g.o("VDIVPS", 0, 4, 0)
		g.op("VMULPS (DX)(AX*4), %s, %s", g.r(0), g.r(0))
		g.store(0, "DI")
	})
	g.end()
}

func normScale(f *file, v vec) {
	g := f.loop(v, "normScale", "dst *float32, x *float32, gain *float32, n int, f float32", "", "is normScaleGo.")
	g.pointers("dst", "DI", "x", "SI", "gain", "DX")
	g.broadcast("f", 0)
	g.each(func() {
		g.op("VMULPS (SI)(AX*4), %s, %s", g.r(0), g.r(1))
		g.op("VMULPS (DX)(AX*4), %s, %s", g.r(1), g.r(1))
		g.store(1, "DI")
	})
	g.end()
}

func rope(f *file, v vec) {
	g := f.loop(v, "rope", "a *float32, b *float32, cos *float32, sin *float32, n int", "", "is ropeGo.")
	g.pointers("a", "SI", "b", "DI", "cos", "R8", "sin", "R9")
	g.each(func() {
		g.load("SI", 0)
		g.load("DI", 1)
		g.load("R8", 2)
		g.load("R9", 3)
		g.o("VMULPS", 2, 0, 4)
		g.o("VFNMADD231PS", 3, 1, 4)
		g.o("VMULPS", 2, 1, 5)
		g.o("VFMADD231PS", 3, 0, 5)
		g.store(4, "SI")
		g.store(5, "DI")
	})
	g.end()
}
