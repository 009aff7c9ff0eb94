package main

import "math"

func trialsAMD64(f *file) {
	f.vector("one", math.Float32bits(1))
	f.vector("intOne", 1)
	for _, v := range []vec{avx512, avx2} {
		trials(f, v, false)
		trials(f, v, true)
	}
}

// trials has a lane for every trial and takes one weight after another.
func trials(f *file, v vec, levels bool) {
	name, last, doc := "trials", ", lo float32, hi float32", "is trialsGo for a vector of trials."
	if levels {
		name, last, doc = "trialsLevels", ", tree *float32", "is trialsLevelsGo for a vector of trials; behind the thresholds of tree are the levels."
	}
	g := f.loop(v, name, "sums *float32, x *float32, w *float32, n int, scale *float32, shift *float32"+last, "", doc)
	g.pointers("sums", "DI", "x", "SI", "w", "R10", "scale", "R8", "shift", "R9")
	for acc := range 5 {
		g.zero(acc)
	}
	const t, u, d, shift, inverse, scale, lo, hi, one, w, tmp = 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	g.op("VMOVUPS (R8), %s", g.r(scale))
	g.op("VMOVUPS (R9), %s", g.r(shift))
	g.constant("one", inverse)
	g.o("VDIVPS", scale, inverse, inverse)
	switch {
	case !levels:
		g.broadcast("lo", lo)
		g.broadcast("hi", hi)
	default:
		g.pointers("tree", "R11")
		g.constant("intOne", one)
		if v.reg == "Z" {
			g.op("VMOVUPS (R11), %s", g.r(lo))
			g.op("VMOVUPS 64(R11), %s", g.r(hi))
		}
	}
	g.op("CMPQ CX, $0")
	g.op("JLE done")
	g.loopHead("loop")
	g.op("VBROADCASTSS (SI)(AX*4), %s", g.r(t))
	g.op("VBROADCASTSS (R10)(AX*4), %s", g.r(w))
	g.o("VADDPS", shift, t, t)
	g.o("VMULPS", inverse, t, u)
	if levels {
		g.nearestLevel(u, d, one, lo, hi, tmp)
	} else {
		g.round(u, u)
		g.o("VMAXPS", lo, u, u)
		g.o("VMINPS", hi, u, u)
	}
	g.o("VMULPS", scale, u, d)
	g.o("VSUBPS", t, d, d)
	g.o("VMULPS", w, d, tmp)
	g.o("VADDPS", tmp, 2, 2)
	g.o("VMULPS", d, tmp, d)
	g.o("VADDPS", d, 0, 0)
	g.o("VMULPS", u, tmp, tmp)
	g.o("VADDPS", tmp, 1, 1)
	g.o("VMULPS", u, w, w)
	g.o("VADDPS", w, 4, 4)
	g.o("VMULPS", u, w, w)
	g.o("VADDPS", w, 3, 3)
	g.op("INCQ AX")
	g.op("CMPQ AX, CX")
	g.op("JLT loop")
	g.label("done")
	for acc := range 5 {
		g.op("VMOVUPS %s, %d(DI)", g.r(acc), acc*64)
	}
	g.end()
}

// nearestLevel replaces u by the level nearest to it: four steps down a tree, whose
// nodes are numbered as in a heap. With AVX2 a table is of 8.
func (g *loop) nearestLevel(u, at, one, tree, levels, tmp int) {
	g.op("VMOVAPS %s, %s", g.r(one), g.r(at))
	for step := range 4 {
		if g.v.reg == "Z" {
			g.o("VPERMPS", tree, at, tmp)
			g.op("VCMPPS $29, %s, %s, K1", g.r(tmp), g.r(u))
			g.o("VPADDD", at, at, at)
			g.op("VPADDD %s, %s, K1, %s", g.r(one), g.r(at), g.r(at))
			continue
		}
		g.op("VPERMPS %d(R11), %s, %s", step/3*32, g.r(at), g.r(tmp))
		g.op("VCMPPS $29, %s, %s, %s", g.r(tmp), g.r(u), g.r(tmp))
		g.o("VPADDD", at, at, at)
		g.o("VPSUBD", tmp, at, at)
	}
	if g.v.reg == "Z" {
		g.o("VPERMPS", levels, at, u)
		return
	}
	g.op("VPERMPS 64(R11), %s, %s", g.r(at), g.r(u))
	g.op("VPERMPS 96(R11), %s, %s", g.r(at), g.r(tmp))
	g.shift("VPSLLD", 28, at, at)
	g.op("VBLENDVPS %s, %s, %s, %s", g.r(at), g.r(tmp), g.r(u), g.r(u))
}
