package main

import "fmt"

// nibblesAMD64 writes products with codes of 4 bits that take a unit of 8 vectors from one load: lane i of a vector of
// 32-bit words has the 8 neighbours from 8i on. The k-th of them are left where they lie: 0x4b000000 with a code in its
// bits from 4k on is 2^23 + 16^k·code, up to k = 4; what is above comes down once. So vectors go in another order than
// codes, and the factor 16^k is taken from what they are multiplied by, or added to: see Turn.
func nibblesAMD64(f *file) {
	for _, v := range []vec{avx512, avx2} {
		dotNibbles(f, v)
		addNibbles(f, v, 1)
		addNibbles(f, v, 4)
	}
}

// inPlace is how many codes of a word are taken before it is shifted, and by how much.
const inPlace, down = 5, 20

// nibble sets t to 16^k·(code-zero) for one k of the words in w; AX points to a nibbleTable, at to what it has of the zero-point.
func (g *loop) nibble(k, w, t, tmp, masks, magic int, at string) {
	k %= inPlace
	if g.v.reg == "Z" {
		g.op("VMOVDQA64 Z%d, Z%d", w, t)
		g.op("VPTERNLOGD $0xea, Z%d, Z%d, Z%d", magic, masks+k, t) // t & mask | magic
		g.op("VSUBPS.BCST %d(%s), Z%d, Z%d", 4*k, at, t, t)
		return
	}
	g.op("VPAND %d(AX), Y%d, Y%d", 512+32*k, w, t)
	g.o("VPOR", magic, t, t)
	g.op("VBROADCASTSS %d(%s), Y%d", 4*k, at, tmp)
	g.o("VSUBPS", tmp, t, t)
}

// nibbleTable loads the address of a nibbleTable and, for AVX-512, its masks.
func (g *loop) nibbleTable(masks, magic int) {
	g.op("MOVQ %s, AX", g.arg("table"))
	g.op("VPBROADCASTD %d(AX), %s", 512+32*inPlace, g.r(magic))
	for k := range inPlace {
		if g.v.reg == "Z" {
			g.op("VPBROADCASTD %d(AX), Z%d", 512+32*k, masks+k)
		}
	}
}

// words loads a unit.
func (g *loop) words(from string, dst int) {
	load := "VMOVDQU"
	if g.v.reg == "Z" {
		load = "VMOVDQU64"
	}
	g.op("%s (%s), %s", load, from, g.r(dst))
}

func dotNibbles(f *file, v vec) {
	g := &loop{f.fn("dotNibbles"+v.suffix, "codes *uint8, x *float32, scale *float32, zero *uint8, groups int, units int, table *nibbleTable", "sum float32",
		fmt.Sprintf("returns Σ scale·(code-zero)·x over groups of %d*units codes, x being turned; groups and units are positive.", 8*v.lanes)), f, v}
	g.pointers("codes", "SI", "x", "DI", "scale", "R8", "zero", "R9", "groups", "R10", "units", "R11")
	const sum, a, b, word, t, tmp, magic, masks = 0, 1, 2, 3, 4, 8, 9, 10
	g.nibbleTable(masks, magic)
	g.zero(sum)
	g.loopHead("group")
	g.op("MOVBLZX (R9), BX")
	g.op("SHLQ $5, BX")
	g.op("ADDQ AX, BX")
	g.zero(a)
	g.zero(b)
	g.op("MOVQ R11, CX")
	g.loopHead("unit")
	g.words("SI", word)
	for k := range 8 {
		if k == inPlace {
			g.shift("VPSRLD", down, word, word)
		}
		g.nibble(k, word, t+k%4, tmp, masks, magic, "BX")
		g.op("VFMADD231PS %d(DI), %s, %s", 4*v.lanes*k, g.r(t+k%4), g.r(a+k%2))
	}
	g.op("ADDQ $%d, SI", 4*v.lanes)
	g.op("ADDQ $%d, DI", 32*v.lanes)
	g.op("DECQ CX")
	g.op("JNZ unit")
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

// addNibbles is for one line, or for four, which lie stride bytes apart.
func addNibbles(f *file, v vec, lines int) {
	name := map[int]string{1: "addNibbles", 4: "addFourNibbles"}[lines]
	g := &loop{f.fn(name+v.suffix, "y *float32, codes *uint8, stride int, scale *float32, zero *uint8, perLine int, alpha *float32, groups int, units int, table *nibbleTable", "",
		fmt.Sprintf("adds alpha·scale·(code-zero) of %d lines to y, which is turned, in groups of %d*units codes; a line has perLine groups; groups and units are positive.", lines, 8*v.lanes)), f, v}
	g.pointers("y", "DI", "codes", "SI", "scale", "R8", "zero", "R9", "groups", "R10", "units", "R11", "alpha", "BX")
	if lines > 1 {
		g.pointers("stride", "R13", "perLine", "R15")
		g.op("LEAQ (SI)(R13*2), DX")
	}
	const y, scales, magic, word, t = 0, 8, 12, 13, 14
	tmp, masks := 15, 18 // AVX-512 alone has more than 16 registers, and no use for the first
	g.nibbleTable(masks, magic)
	g.loopHead("group")
	for i, p := range []string{"(R8)", "(R8)(R15*4)", "(R8)(R15*8)", "(CX)(R15*8)"}[:lines] {
		if i == 3 {
			g.op("LEAQ (R8)(R15*4), CX")
		}
		g.op("VBROADCASTSS %s, %s", p, g.r(scales+i))
		g.op("VBROADCASTSS %d(BX), %s", 4*i, g.r(t))
		g.o("VMULPS", t, scales+i, scales+i)
	}
	g.op("MOVQ R11, R12")
	g.loopHead("unit")
	for k := range 8 {
		g.op("VMOVUPS %d(DI), %s", 4*v.lanes*k, g.r(y+k))
	}
	for i, at := range []string{"SI", "SI)(R13*1", "DX", "DX)(R13*1"}[:lines] {
		zero := []string{"(R9)", "(R9)(R15*1)", "(R9)(R15*2)", "(CX)(R15*2)"}[i]
		if i == 3 {
			g.op("LEAQ (R9)(R15*1), CX")
		}
		g.op("MOVBLZX %s, CX", zero)
		g.op("SHLQ $5, CX")
		g.op("ADDQ AX, CX")
		g.words(at, word)
		for k := range 8 {
			if k == inPlace {
				g.shift("VPSRLD", down, word, word)
			}
			to := t
			if v.reg == "Z" {
				to += k % 4
			}
			g.nibble(k, word, to, tmp, masks, magic, "CX")
			g.op("VFMADD231PS %s, %s, %s", g.r(to), g.r(scales+i), g.r(y+k))
		}
	}
	for k := range 8 {
		g.op("VMOVUPS %s, %d(DI)", g.r(y+k), 4*v.lanes*k)
	}
	g.op("ADDQ $%d, SI", 4*v.lanes)
	if lines > 1 {
		g.op("ADDQ $%d, DX", 4*v.lanes)
	}
	g.op("ADDQ $%d, DI", 32*v.lanes)
	g.op("DECQ R12")
	g.op("JNZ unit")
	g.op("ADDQ $4, R8")
	g.op("INCQ R9")
	g.op("DECQ R10")
	g.op("JNZ group")
	g.end()
}
