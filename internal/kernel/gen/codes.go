package main

import "fmt"

func codesAMD64(f *file) {
	for _, v := range []vec{avx512, avx2} {
		for _, c := range []codes{{"Codes", false}, {"Bytes", true}} {
			c.dot(f, v)
			c.dotShifted(f, v)
			c.add(f, v, 1)
			c.add(f, v, 4)
		}
		dotLevels(f, v)
	}
}

// codes are packed codes of any number of bits up to 7, or those of 8, which are bytes.
//
// A code becomes a float by its bits: 0x4b000000 | code is 2^23 + code, and less 2^23 + zero-point it is the exact
// difference. That takes nothing but what every processor does several of in a cycle, and no table for each group.
type codes struct {
	name  string
	bytes bool
}

// Registers that hold a codePattern.
const places, shifts, mask, magic = 15, 14, 13, 12

// pattern loads a codePattern.
func (c codes) pattern(g *loop) {
	g.op("MOVQ %s, AX", g.arg("pattern"))
	g.op("VPBROADCASTD 132(AX), %s", g.r(magic))
	if c.bytes {
		return
	}
	g.op("VMOVUPS (AX), %s", g.r(places))
	g.op("VMOVUPS 64(AX), %s", g.r(shifts))
	g.op("VPBROADCASTD 128(AX), %s", g.r(mask))
}

// look sets dst to 2^23 + the codes of a vector.
func (c codes) look(g *loop, from string, dst int) {
	wide := g.v.reg == "Z"
	or := "VPOR"
	if wide {
		or = "VPORD"
	}
	if c.bytes {
		g.op("VPMOVZXBD (%s), %s", from, g.r(dst))
		g.o(or, magic, dst, dst)
		return
	}
	g.spread(from, dst)
	if wide {
		g.op("VPTERNLOGD $0xea, %s, %s, %s", g.r(magic), g.r(mask), g.r(dst)) // dst & mask | magic
		return
	}
	g.o("VPAND", mask, dst, dst)
	g.o(or, magic, dst, dst)
}

// spread moves the codes of a vector to the lowest bits of its lanes, with others above them.
func (g *loop) spread(from string, dst int) {
	if g.v.reg == "Z" {
		g.op("VBROADCASTI32X4 (%s), %s", from, g.r(dst))
	} else {
		g.op("VPBROADCASTQ (%s), %s", from, g.r(dst))
	}
	g.o("VPSHUFB", places, dst, dst)
	g.o("VPSRLVD", shifts, dst, dst)
}

// zeroPoint sets dst to 2^23 + a zero-point; it spoils CX.
func (g *loop) zeroPoint(from string, dst int) {
	g.op("MOVBLZX %s, CX", from)
	g.op("ORL $0x4b000000, CX")
	if g.v.reg == "Z" {
		g.op("VPBROADCASTD CX, Z%d", dst)
		return
	}
	g.op("VMOVD CX, X%d", dst)
	g.op("VPBROADCASTD X%d, Y%d", dst, dst)
}

// dot is the product of a line of packed codes with a vector.
func (c codes) dot(f *file, v vec) {
	g := &loop{f.fn("dot"+c.name+v.suffix, "codes *uint8, x *float32, scale *float32, zero *uint8, groups int, vectors int, step int, pattern *codePattern", "sum float32",
		fmt.Sprintf("returns Σ scale·(code-zero)·x over groups of %d*vectors codes, of which as many take step bytes; groups and vectors are positive.", v.lanes)), f, v}
	g.pointers("codes", "SI", "x", "DI", "scale", "R8", "zero", "R9", "groups", "R10", "vectors", "R11", "step", "R12")
	c.pattern(g)
	const sum, a, b, zero, one, two = 0, 1, 2, 11, 3, 4
	g.zero(sum)
	g.loopHead("group")
	g.zeroPoint("(R9)", zero)
	g.zero(a)
	g.zero(b)
	g.op("MOVQ R11, CX")
	g.op("SUBQ $2, CX")
	g.op("JLT one")
	g.loopHead("two")
	g.op("LEAQ (SI)(R12*1), DX")
	c.look(g, "SI", one)
	c.look(g, "DX", two)
	g.o("VSUBPS", zero, one, one)
	g.o("VSUBPS", zero, two, two)
	g.op("VFMADD231PS (DI), %s, %s", g.r(one), g.r(a))
	g.op("VFMADD231PS %d(DI), %s, %s", 4*v.lanes, g.r(two), g.r(b))
	g.op("LEAQ (SI)(R12*2), SI")
	g.op("ADDQ $%d, DI", 8*v.lanes)
	g.op("SUBQ $2, CX")
	g.op("JGE two")
	g.label("one")
	g.op("TESTQ $1, CX")
	g.op("JZ next")
	c.look(g, "SI", one)
	g.o("VSUBPS", zero, one, one)
	g.op("VFMADD231PS (DI), %s, %s", g.r(one), g.r(a))
	g.op("ADDQ R12, SI")
	g.op("ADDQ $%d, DI", 4*v.lanes)
	g.label("next")
	g.o("VADDPS", b, a, a)
	g.op("VBROADCASTSS (R8), %s", g.r(b))
	g.op("VFMADD231PS %s, %s, %s", g.r(a), g.r(b), g.r(sum))
	g.op("ADDQ $4, R8")
	g.op("INCQ R9")
	g.op("DECQ R10")
	g.op("JNZ group")
	g.reduce("VADDPS", sum, a)
	g.op("VMOVSS X%d, %s", sum, g.arg("sum"))
	g.end()
}

// dotShifted is dot for codes that stand for scale·(code-zero)-shift, with a zero-point for all groups.
func (c codes) dotShifted(f *file, v vec) {
	g := &loop{f.fn("dotShifted"+c.name+v.suffix, "codes *uint8, x *float32, scale *float32, shift *float32, zero float32, groups int, vectors int, step int, pattern *codePattern", "sum float32",
		fmt.Sprintf("returns Σ (scale·(code-zero)-shift)·x over groups of %d*vectors codes, of which as many take step bytes; zero is more by 2^23; groups and vectors are positive.", v.lanes)), f, v}
	g.pointers("codes", "SI", "x", "DI", "scale", "R8", "shift", "R9", "groups", "R10", "vectors", "R11", "step", "R12")
	c.pattern(g)
	const a, b, one, two, scale, shift, zero = 0, 1, 2, 3, 4, 5, 6
	g.broadcast("zero", zero)
	g.zero(a)
	g.zero(b)
	value := func(from string, dst int) {
		c.look(g, from, dst)
		g.o("VSUBPS", zero, dst, dst)
		g.op("VFMSUB213PS %s, %s, %s", g.r(shift), g.r(scale), g.r(dst))
	}
	g.loopHead("group")
	g.op("VBROADCASTSS (R8), %s", g.r(scale))
	g.op("VBROADCASTSS (R9), %s", g.r(shift))
	g.op("MOVQ R11, CX")
	g.op("SUBQ $2, CX")
	g.op("JLT one")
	g.loopHead("two")
	g.op("LEAQ (SI)(R12*1), DX")
	value("SI", one)
	value("DX", two)
	g.op("VFMADD231PS (DI), %s, %s", g.r(one), g.r(a))
	g.op("VFMADD231PS %d(DI), %s, %s", 4*v.lanes, g.r(two), g.r(b))
	g.op("LEAQ (SI)(R12*2), SI")
	g.op("ADDQ $%d, DI", 8*v.lanes)
	g.op("SUBQ $2, CX")
	g.op("JGE two")
	g.label("one")
	g.op("TESTQ $1, CX")
	g.op("JZ next")
	value("SI", one)
	g.op("VFMADD231PS (DI), %s, %s", g.r(one), g.r(b))
	g.op("ADDQ R12, SI")
	g.op("ADDQ $%d, DI", 4*v.lanes)
	g.label("next")
	g.op("ADDQ $4, R8")
	g.op("ADDQ $4, R9")
	g.op("DECQ R10")
	g.op("JNZ group")
	g.o("VADDPS", b, a, a)
	g.reduce("VADDPS", a, b)
	g.op("VMOVSS X%d, %s", a, g.arg("sum"))
	g.end()
}

// dotLevels is dot for codes of 4 bits that stand for scale times one of 16 levels.
func dotLevels(f *file, v vec) {
	g := &loop{f.fn("dotLevels"+v.suffix, "codes *uint8, x *float32, scale *float32, levels *float32, groups int, vectors int, pattern *codePattern", "sum float32",
		fmt.Sprintf("returns Σ scale·levels[code]·x over groups of %d*vectors codes of 4 bits; groups and vectors are positive.", v.lanes)), f, v}
	g.pointers("codes", "SI", "x", "DI", "scale", "R8", "levels", "R9", "groups", "R10", "vectors", "R11", "pattern", "AX")
	const sum, a, code, low, high, tmp, sign = 0, 1, 2, 3, 4, 5, 6
	g.op("VMOVUPS (AX), %s", g.r(places))
	g.op("VMOVUPS 64(AX), %s", g.r(shifts))
	g.op("VMOVUPS (R9), %s", g.r(low))
	if v.reg == "Y" {
		g.op("VMOVUPS 32(R9), Y%d", high)
	}
	g.zero(sum)
	g.loopHead("group")
	g.zero(a)
	g.op("MOVQ R11, CX")
	g.loopHead("loop")
	g.spread("SI", code)
	if v.reg == "Z" {
		g.op("VPERMPS Z%d, Z%d, Z%d", low, code, code)
	} else {
		g.op("VPERMPS Y%d, Y%d, Y%d", low, code, tmp)
		g.shift("VPSLLD", 28, code, sign) // the code's bit 3
		g.op("VPERMPS Y%d, Y%d, Y%d", high, code, code)
		g.op("VBLENDVPS Y%d, Y%d, Y%d, Y%d", sign, code, tmp, code)
	}
	g.op("VFMADD231PS (DI), %s, %s", g.r(code), g.r(a))
	g.op("ADDQ $%d, SI", v.lanes/2)
	g.op("ADDQ $%d, DI", 4*v.lanes)
	g.op("DECQ CX")
	g.op("JNZ loop")
	g.op("VBROADCASTSS (R8), %s", g.r(tmp))
	g.op("VFMADD231PS %s, %s, %s", g.r(a), g.r(tmp), g.r(sum))
	g.op("ADDQ $4, R8")
	g.op("DECQ R10")
	g.op("JNZ group")
	g.reduce("VADDPS", sum, a)
	g.op("VMOVSS X%d, %s", sum, g.arg("sum"))
	g.end()
}

// add adds lines of packed codes, each times a number, to a vector: one, or four, which lie stride bytes apart.
func (c codes) add(f *file, v vec, lines int) {
	name := map[int]string{1: "add", 4: "addFour"}[lines]
	g := &loop{f.fn(name+c.name+v.suffix, "y *float32, codes *uint8, stride int, scale *float32, zero *uint8, perLine int, alpha *float32, groups int, vectors int, step int, pattern *codePattern", "",
		fmt.Sprintf("adds alpha·scale·(code-zero) of %d lines to y, in groups of %d*vectors codes, of which as many take step bytes; a line has perLine groups; groups and vectors are positive.", lines, v.lanes)), f, v}
	g.pointers("y", "DI", "codes", "SI", "scale", "R8", "zero", "R9", "groups", "R10", "vectors", "R11", "step", "R12", "alpha", "BX")
	if lines > 1 {
		g.pointers("stride", "R13", "perLine", "R15")
		g.op("LEAQ (SI)(R13*2), DX")
	}
	c.pattern(g)
	const sum, scales, zeros = 0, 4, 8
	at := []string{"SI", "SI)(R13*1", "DX", "DX)(R13*1"}
	g.loopHead("group")
	for i, p := range [][2]string{{"(R8)", "(R9)"}, {"(R8)(R15*4)", "(R9)(R15*1)"}, {"(R8)(R15*8)", "(R9)(R15*2)"}, {"(AX)(R15*8)", "(CX)(R15*2)"}}[:lines] {
		if i == 3 {
			g.op("LEAQ (R8)(R15*4), AX")
			g.op("LEAQ (R9)(R15*1), CX")
		}
		g.op("VBROADCASTSS %s, %s", p[0], g.r(scales+i))
		g.op("VBROADCASTSS %d(BX), %s", 4*i, g.r(1))
		g.o("VMULPS", 1, scales+i, scales+i)
		g.zeroPoint(p[1], zeros+i)
	}
	g.op("MOVQ R11, CX")
	g.loopHead("loop")
	g.op("VMOVUPS (DI), %s", g.r(sum))
	for i := range lines {
		code := 1 + i%3
		c.look(g, at[i], code)
		g.o("VSUBPS", zeros+i, code, code)
		g.op("VFMADD231PS %s, %s, %s", g.r(code), g.r(scales+i), g.r(sum))
	}
	g.op("VMOVUPS %s, (DI)", g.r(sum))
	g.op("ADDQ R12, SI")
	if lines > 1 {
		g.op("ADDQ R12, DX")
	}
	g.op("ADDQ $%d, DI", 4*v.lanes)
	g.op("DECQ CX")
	g.op("JNZ loop")
	g.op("ADDQ $4, R8")
	g.op("INCQ R9")
	g.op("DECQ R10")
	g.op("JNZ group")
	g.end()
}
