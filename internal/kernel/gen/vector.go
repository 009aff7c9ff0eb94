package main

import "fmt"

// vec is a vector instruction set: registers of lanes floats.
type vec struct {
	suffix string // of function names
	reg    string
	lanes  int
}

var (
	avx512 = vec{"AVX512", "Z", 16}
	avx2   = vec{"AVX2", "Y", 8}
)

// half is the name of the registers of half the width, and what extracts the
// upper half into one.
func (v vec) half() (reg, extract string) {
	if v.reg == "Z" {
		return "Y", "VEXTRACTF64X4"
	}
	return "X", "VEXTRACTF128"
}

// loop is a function over n elements, n a multiple of the lanes, with AX the
// element at hand.
type loop struct {
	*fn
	f *file
	v vec
}

func (f *file) loop(v vec, name, params, results, doc string) *loop {
	g := &loop{f.fn(name+v.suffix, params, results, doc), f, v}
	g.op("MOVQ %s, CX", g.arg("n"))
	g.op("XORQ AX, AX")
	return g
}

// each writes the loop's body. before runs first if there is any element.
func (g *loop) each(body func()) {
	g.op("CMPQ CX, $0")
	g.op("JLE done")
	g.loopHead("loop")
	body()
	g.op("ADDQ $%d, AX", g.v.lanes)
	g.op("CMPQ AX, CX")
	g.op("JLT loop")
	g.label("done")
}

func (g *loop) end() {
	g.op("VZEROUPPER")
	g.op("RET")
}

// r is a vector register, x its lowest 128 bits.
func (g *loop) r(i int) string { return fmt.Sprintf("%s%d", g.v.reg, i) }
func x(i int) string           { return fmt.Sprintf("X%d", i) }

// pointers loads pointer arguments into registers.
func (g *loop) pointers(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		g.op("MOVQ %s, %s", g.arg(pairs[i]), pairs[i+1])
	}
}

// broadcast loads a float argument into all lanes.
func (g *loop) broadcast(arg string, dst int) {
	g.op("VBROADCASTSS %s, %s", g.arg(arg), g.r(dst))
}

// constant loads a constant into all lanes.
func (g *loop) constant(name string, dst int) {
	g.op("VBROADCASTSS %s<>(SB), %s", name, g.r(dst))
}

// c is dst = src op constant.
func (g *loop) c(op, name string, src, dst int) {
	if g.v.reg == "Z" {
		g.op("%s.BCST %s<>(SB), %s, %s", op, name, g.r(src), g.r(dst))
	} else {
		g.op("%s %s<>(SB), %s, %s", op, name, g.r(src), g.r(dst))
	}
}

// o is dst = a op b, for the assembler's order: op b, a, dst.
func (g *loop) o(op string, b, a, dst int) {
	g.op("%s %s, %s, %s", op, g.r(b), g.r(a), g.r(dst))
}

// shift is dst = src op n.
func (g *loop) shift(op string, n, src, dst int) {
	g.op("%s $%d, %s, %s", op, n, g.r(src), g.r(dst))
}

// load and store move a vector of floats at element AX.
func (g *loop) load(ptr string, dst int)  { g.op("VMOVUPS (%s)(AX*4), %s", ptr, g.r(dst)) }
func (g *loop) store(src int, ptr string) { g.op("VMOVUPS %s, (%s)(AX*4)", g.r(src), ptr) }

func (g *loop) zero(dst int) {
	if g.v.reg == "Z" {
		g.op("VPXORD %[1]s, %[1]s, %[1]s", g.r(dst))
	} else {
		g.op("VXORPS %[1]s, %[1]s, %[1]s", g.r(dst))
	}
}

// round rounds to nearest, ties to even.
func (g *loop) round(src, dst int) {
	op := "VROUNDPS"
	if g.v.reg == "Z" {
		op = "VRNDSCALEPS"
	}
	g.shift(op, 8, src, dst)
}

// storeBytes writes floats from 0 to 255 as bytes; it spoils src and tmp.
func (g *loop) storeBytes(src, tmp int, ptr string) {
	g.op("VCVTTPS2DQ %s, %s", g.r(src), g.r(src))
	if g.v.reg == "Z" {
		g.op("VPMOVDB %s, (%s)(AX*1)", g.r(src), ptr)
		return
	}
	g.op("VEXTRACTI128 $1, %s, %s", g.r(src), x(tmp))
	g.op("VPACKUSDW %s, %s, %s", x(tmp), x(src), x(src))
	g.op("VPACKUSWB %s, %s, %s", x(src), x(src), x(src))
	g.op("VMOVQ %s, (%s)(AX*1)", x(src), ptr)
}

// loadBytes reads bytes as floats.
func (g *loop) loadBytes(ptr string, dst int) {
	g.op("VPMOVZXBD (%s)(AX*1), %s", ptr, g.r(dst))
	g.op("VCVTDQ2PS %s, %s", g.r(dst), g.r(dst))
}

// reduce folds the lanes of a into its lowest with op; it spoils tmp.
func (g *loop) reduce(op string, a, tmp int) {
	if g.v.reg == "Z" {
		g.op("VEXTRACTF64X4 $1, Z%d, Y%d", a, tmp)
		g.op("%s Y%d, Y%d, Y%d", op, tmp, a, a)
	}
	g.op("VEXTRACTF128 $1, Y%d, X%d", a, tmp)
	g.op("%s X%d, X%d, X%d", op, tmp, a, a)
	g.op("VPERMILPS $0x4e, X%d, X%d", a, tmp)
	g.op("%s X%d, X%d, X%d", op, tmp, a, a)
	g.op("VPERMILPS $0xb1, X%d, X%d", a, tmp)
	g.op("%s X%d, X%d, X%d", op, tmp, a, a)
}

// keepIf zeroes the lanes of a where "test x, c" does not hold: the
// predicate is VCMPPS's. It spoils tmp and K1.
func (g *loop) keepIf(predicate int, name string, x, a, tmp int) {
	if g.v.reg == "Z" {
		g.op("VCMPPS.BCST $%d, %s<>(SB), %s, K1", predicate, name, g.r(x))
		g.op("VMOVAPS.Z %s, K1, %s", g.r(a), g.r(a))
		return
	}
	g.op("VCMPPS $%d, %s<>(SB), %s, %s", predicate, name, g.r(x), g.r(tmp))
	g.o("VANDPS", tmp, a, a)
}
