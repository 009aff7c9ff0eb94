package main

import "fmt"

func codesAMD64(f *file) {
	for _, v := range []vec{avx512, avx2} {
		dotCodes(f, v)
		addCodes(f, v)
		dotBytes(f, v)
		addBytes(f, v)
	}
	addFour(f)
}

// Registers that the kernels on codes share: the places of bytes, shifts and code values of a
// codePattern, and what a group's parameters are kept in.
const (
	places, shifts, levels, scaleReg, zeroReg = 15, 14, 13, 12, 11
)

// pattern loads a codePattern.
func (g *loop) pattern() {
	g.op("MOVQ %s, AX", g.arg("pattern"))
	for i, r := range []int{places, shifts, levels} {
		g.op("VMOVUPS %d(AX), %s", 64*i, g.r(r))
	}
	if g.v.reg == "Y" {
		g.op("VMOVUPS %d(AX), %s", 64*2+32, g.r(levels-5)) // those from 8 on
	}
}

// parameters loads scale and zero-point of a group from pointers.
func (g *loop) parameters(scale, zero string) {
	g.op("VBROADCASTSS (%s), %s", scale, g.r(scaleReg))
	g.op("MOVBLZX (%s), BX", zero)
	g.op("VCVTSI2SSL BX, X%d, X%d", zeroReg, zeroReg)
	g.op("VBROADCASTSS X%d, %s", zeroReg, g.r(zeroReg))
}

// tables are the registers of a table of 16 values: one, or two of 8.
func (v vec) tables(first int) []int {
	if v.reg == "Z" {
		return []int{first}
	}
	return []int{first, first + 1}
}

// table sets the values that the codes of a group stand for.
func (g *loop) table(first int) {
	for i, t := range g.v.tables(first) {
		from := levels
		if i == 1 {
			from = levels - 5
		}
		g.o("VSUBPS", zeroReg, from, t)
		g.o("VMULPS", t, scaleReg, t)
	}
}

// look sets dst to the values of a vector of codes; it spoils tmp.
func (g *loop) look(codes string, table, dst, tmp int) {
	if g.v.reg == "Z" {
		g.op("VPBROADCASTQ (%s), %s", codes, g.r(dst))
	} else {
		g.op("VPBROADCASTD (%s), %s", codes, g.r(dst))
	}
	g.o("VPSHUFB", places, dst, dst)
	g.o("VPSRLVD", shifts, dst, dst)
	if g.v.reg == "Z" {
		g.op("VPERMPS Z%d, Z%d, Z%d", table, dst, dst)
		return
	}
	g.op("VPERMPS Y%d, Y%d, Y%d", table, dst, tmp)
	g.op("VPSLLD $28, Y%d, Y%d", dst, 7) // the code's bit 3 as a sign
	g.op("VPERMPS Y%d, Y%d, Y%d", table+1, dst, dst)
	g.op("VBLENDVPS Y7, Y%d, Y%d, Y%d", dst, tmp, dst)
}

// dotCodes is the product of packed codes of at most 4 bits with a vector.
func dotCodes(f *file, v vec) {
	g := &loop{f.fn("dotCodes"+v.suffix, "codes *uint8, x *float32, scale *float32, zero *uint8, groups int, vectors int, step int, pattern *codePattern", "sum float32",
		fmt.Sprintf("returns Σ scale·(code-zero)·x over groups of %d*vectors codes, of which as many take step bytes; groups and vectors are positive.", v.lanes)), f, v}
	g.pointers("codes", "SI", "x", "DI", "scale", "R8", "zero", "R9", "groups", "R10", "vectors", "R11", "step", "R12")
	g.pattern()
	g.zero(0)
	g.zero(1)
	g.loopHead("group")
	g.parameters("R8", "R9")
	g.table(5)
	g.op("MOVQ R11, CX")
	g.op("SUBQ $2, CX")
	g.op("JLT one")
	g.loopHead("two")
	g.op("LEAQ (SI)(R12*1), DX")
	g.look("SI", 5, 2, 9)
	g.look("DX", 5, 3, 10)
	g.op("VFMADD231PS (DI), %s, %s", g.r(2), g.r(0))
	g.op("VFMADD231PS %d(DI), %s, %s", 4*v.lanes, g.r(3), g.r(1))
	g.op("LEAQ (SI)(R12*2), SI")
	g.op("ADDQ $%d, DI", 8*v.lanes)
	g.op("SUBQ $2, CX")
	g.op("JGE two")
	g.label("one")
	g.op("TESTQ $1, CX")
	g.op("JZ next")
	g.look("SI", 5, 2, 9)
	g.op("VFMADD231PS (DI), %s, %s", g.r(2), g.r(0))
	g.op("ADDQ R12, SI")
	g.op("ADDQ $%d, DI", 4*v.lanes)
	g.label("next")
	g.op("ADDQ $4, R8")
	g.op("INCQ R9")
	g.op("DECQ R10")
	g.op("JNZ group")
	g.o("VADDPS", 1, 0, 0)
	g.reduce("VADDPS", 0, 1)
	g.op("VMOVSS X0, %s", g.arg("sum"))
	g.end()
}

// addCodes adds two lines of packed codes of at most 4 bits, each times a number, to a vector.
func addCodes(f *file, v vec) {
	g := &loop{f.fn("addCodes"+v.suffix, "y *float32, a *uint8, b *uint8, scaleA *float32, zeroA *uint8, scaleB *float32, zeroB *uint8, alpha float32, beta float32, groups int, vectors int, step int, pattern *codePattern", "",
		fmt.Sprintf("adds alpha·scale·(code-zero) of line a and beta times that of line b to y, in groups of %d*vectors codes, of which as many take step bytes; groups and vectors are positive.", v.lanes)), f, v}
	g.pointers("y", "DI", "a", "SI", "b", "DX", "scaleA", "R8", "zeroA", "R9", "scaleB", "R13", "zeroB", "R15", "groups", "R10", "vectors", "R11", "step", "R12")
	g.pattern()
	g.loopHead("group")
	for i, p := range [][3]string{{"R8", "R9", "alpha"}, {"R13", "R15", "beta"}} {
		g.parameters(p[0], p[1])
		g.table(3 + 2*i)
		g.op("VBROADCASTSS %s, %s", g.arg(p[2]), g.r(scaleReg))
		for _, t := range v.tables(3 + 2*i) {
			g.o("VMULPS", scaleReg, t, t)
		}
	}
	g.op("MOVQ R11, CX")
	g.loopHead("loop")
	g.look("SI", 3, 0, 9)
	g.look("DX", 5, 1, 10)
	g.op("VADDPS (DI), %s, %s", g.r(0), g.r(0))
	g.o("VADDPS", 1, 0, 0)
	g.op("VMOVUPS %s, (DI)", g.r(0))
	g.op("ADDQ R12, SI")
	g.op("ADDQ R12, DX")
	g.op("ADDQ $%d, DI", 4*v.lanes)
	g.op("DECQ CX")
	g.op("JNZ loop")
	for _, r := range []string{"R8", "R13"} {
		g.op("ADDQ $4, %s", r)
	}
	for _, r := range []string{"R9", "R15"} {
		g.op("INCQ %s", r)
	}
	g.op("DECQ R10")
	g.op("JNZ group")
	g.end()
}

// addFour is addCodes for four lines, which lie stride bytes apart.
func addFour(f *file) {
	v := avx512
	g := &loop{f.fn("addFour"+v.suffix, "y *float32, codes *uint8, stride int, scale *float32, zero *uint8, perLine int, alpha *float32, groups int, vectors int, step int, pattern *codePattern", "",
		"adds alpha·scale·(code-zero) of four lines to y, in groups of 16*vectors codes, of which 16 take step bytes; a line has perLine groups; groups and vectors are positive."), f, v}
	g.pointers("y", "DI", "codes", "SI", "stride", "R13")
	g.op("LEAQ (SI)(R13*2), DX")
	g.pointers("scale", "R8", "zero", "R9", "perLine", "R15", "groups", "R10", "vectors", "R11", "step", "R12")
	const tables, alphas = 4, 16
	g.op("MOVQ %s, AX", g.arg("alpha"))
	for i := range 4 {
		g.op("VBROADCASTSS %d(AX), %s", 4*i, g.r(alphas+i))
	}
	g.pattern()
	g.loopHead("group")
	for i, p := range [][2]string{{"(R8)", "(R9)"}, {"(R8)(R15*4)", "(R9)(R15*1)"}, {"(R8)(R15*8)", "(R9)(R15*2)"}, {"(AX)(R15*8)", "(BX)(R15*2)"}} {
		if i == 3 {
			g.op("LEAQ (R8)(R15*4), AX")
			g.op("LEAQ (R9)(R15*1), BX")
		}
		g.op("VBROADCASTSS %s, %s", p[0], g.r(scaleReg))
		g.op("MOVBLZX %s, CX", p[1])
		g.op("VCVTSI2SSL CX, X%d, X%d", zeroReg, zeroReg)
		g.op("VBROADCASTSS X%d, %s", zeroReg, g.r(zeroReg))
		g.table(tables + i)
		g.o("VMULPS", alphas+i, tables+i, tables+i)
	}
	g.op("MOVQ R11, CX")
	g.loopHead("loop")
	for i, p := range []string{"SI", "SI)(R13*1", "DX", "DX)(R13*1"} {
		g.look(p, tables+i, i, 0)
	}
	g.op("VADDPS (DI), Z0, Z0")
	for i := 1; i < 4; i++ {
		g.o("VADDPS", i, 0, 0)
	}
	g.op("VMOVUPS Z0, (DI)")
	g.op("ADDQ R12, SI")
	g.op("ADDQ R12, DX")
	g.op("ADDQ $64, DI")
	g.op("DECQ CX")
	g.op("JNZ loop")
	g.op("ADDQ $4, R8")
	g.op("INCQ R9")
	g.op("DECQ R10")
	g.op("JNZ group")
	g.end()
}

// dotBytes is dotCodes for codes of 8 bits.
func dotBytes(f *file, v vec) {
	g := &loop{f.fn("dotBytes"+v.suffix, "codes *uint8, x *float32, scale *float32, zero *uint8, groups int, vectors int", "sum float32",
		fmt.Sprintf("returns Σ scale·(code-zero)·x over groups of %d*vectors codes; groups and vectors are positive.", v.lanes)), f, v}
	g.pointers("codes", "SI", "x", "DI", "scale", "R8", "zero", "R9", "groups", "R10")
	g.zero(0)
	g.op("XORQ AX, AX")
	g.loopHead("group")
	g.parameters("R8", "R9")
	g.zero(1)
	g.op("MOVQ %s, CX", g.arg("vectors"))
	g.loopHead("loop")
	g.loadBytes("SI", 2)
	g.o("VSUBPS", zeroReg, 2, 2)
	g.op("VFMADD231PS (DI)(AX*4), %s, %s", g.r(2), g.r(1))
	g.op("ADDQ $%d, AX", v.lanes)
	g.op("DECQ CX")
	g.op("JNZ loop")
	g.op("VFMADD231PS %s, %s, %s", g.r(1), g.r(scaleReg), g.r(0))
	g.op("ADDQ $4, R8")
	g.op("INCQ R9")
	g.op("DECQ R10")
	g.op("JNZ group")
	g.reduce("VADDPS", 0, 1)
	g.op("VMOVSS X0, %s", g.arg("sum"))
	g.end()
}

// addBytes is addCodes for one line of 8 bits.
func addBytes(f *file, v vec) {
	g := &loop{f.fn("addBytes"+v.suffix, "y *float32, codes *uint8, scale *float32, zero *uint8, alpha float32, groups int, vectors int", "",
		fmt.Sprintf("adds alpha·scale·(code-zero) to y, in groups of %d*vectors codes; groups and vectors are positive.", v.lanes)), f, v}
	g.pointers("y", "DI", "codes", "SI", "scale", "R8", "zero", "R9", "groups", "R10")
	g.broadcast("alpha", 3)
	g.op("XORQ AX, AX")
	g.loopHead("group")
	g.parameters("R8", "R9")
	g.o("VMULPS", 3, scaleReg, scaleReg)
	g.op("MOVQ %s, CX", g.arg("vectors"))
	g.loopHead("loop")
	g.loadBytes("SI", 2)
	g.load("DI", 1)
	g.o("VSUBPS", zeroReg, 2, 2)
	g.op("VFMADD231PS %s, %s, %s", g.r(2), g.r(scaleReg), g.r(1))
	g.store(1, "DI")
	g.op("ADDQ $%d, AX", v.lanes)
	g.op("DECQ CX")
	g.op("JNZ loop")
	g.op("ADDQ $4, R8")
	g.op("INCQ R9")
	g.op("DECQ R10")
	g.op("JNZ group")
	g.end()
}
