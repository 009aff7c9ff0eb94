package main

import (
	"fmt"
	"math"
)

// floatKind is a type of weights as the fused quantizer sees it.
type floatKind struct {
	name, word string
	size       int // bytes
	inf        int // bits of +Inf
}

var (
	kindBF16 = floatKind{"BF16", "uint16", 2, 0x7f80}
	kindF16  = floatKind{"F16", "uint16", 2, 0x7c00}
	kindF32  = floatKind{"F32", "float32", 4, 0x7f800000}
)

func rtnAMD64(f *file) {
	packBits(f)
	float := func(name string, v float32) { f.vector(name, math.Float32bits(v)) }
	f.vector("wordAbs", 0x7fff7fff)
	f.vector("wordSign", 0x80008000)
	f.vector("pairs", 0x10011001)
	f.vector("sign", 1<<31)
	f.vector("fifteen", 15)
	f.table("twos", 0x09080100, 0x0b0a0302, 0x0d0c0504, 0x0f0e0706)
	float("one", 1)
	float("minusOne", -1)
	float("two", 2)
	float("fifteenFloat", 15)
	float("maxF16", 65504)
	float("minF16", 0x1p-24)
	for _, v := range []vec{avx512, avx2} {
		for _, k := range []floatKind{kindBF16, kindF16, kindF32} {
			rtn4(f, v, k)
		}
	}
}

// widen loads weights as floats.
func (g *loop) widen(k floatKind, from string, dst int) {
	switch k {
	case kindF32:
		g.op("VMOVUPS %s, %s", from, g.r(dst))
	case kindF16:
		g.op("VCVTPH2PS %s, %s", from, g.r(dst))
	default:
		g.op("VPMOVZXWD %s, %s", from, g.r(dst))
		g.shift("VPSLLD", 16, dst, dst)
	}
}

// Registers of rtn4. The upper ones of AVX-512 are not needed.
const (
	rtnOnes  = 15 // constants
	rtnMax   = 14
	rtnNone  = 13
	rtnZero  = 12 // of the group
	rtnInv   = 11
	rtnScale = 10

	rtnAhead = 3 // below these are those of the next group
)

// rtn4 quantizes and packs groups of weights at 4 bits. The grid of a group, a long chain of
// operations, is found before the codes of the group before it are, which need none of it.
func rtn4(f *file, v vec, k floatKind) {
	g := &loop{f.fn("rtn4"+k.name+v.suffix, "codes *uint32, scales *float32, zeros *uint8, src *"+k.word+", groups int, chunks int", "ok bool",
		"is the fused part of RTN4"+k.name+" for groups of 32*chunks weights; groups and chunks are positive."), f, v}
	g.pointers("codes", "DI", "scales", "R8", "zeros", "R9", "src", "SI", "groups", "R10", "chunks", "R11")
	g.constant("pairs", rtnOnes)
	g.constant("fifteen", rtnMax)
	g.zero(rtnNone)
	g.op("MOVQ SI, R13") // where the group ahead begins
	g.op("XORL R12, R12")
	g.op("JMP ahead")

	g.label("group")
	for _, r := range []int{rtnZero, rtnInv, rtnScale} {
		g.op("VMOVAPS %s, %s", g.r(r-rtnAhead), g.r(r))
	}
	g.op("DECQ R10")
	g.op("JZ last")
	g.label("ahead")
	if k == kindF32 {
		g.rtn4RangeF32()
	} else {
		g.rtn4Range(k)
	}
	g.rtn4Grid()
	g.op("TESTQ R12, R12")
	g.op("JNZ last")
	g.op("INCQ R12") // that was the first
	g.op("JMP group")
	g.label("last")
	g.rtn4Codes(k)
	g.op("TESTQ R10, R10")
	g.op("JNZ group")
	g.op("MOVB $1, %s", g.arg("ok"))
	g.end()
	g.label("bad")
	g.op("MOVB $0, %s", g.arg("ok"))
	g.end()
}

// rtn4Range finds the least and the greatest half float of a group, 0 among them, in X3
// and X4 as floats. Half floats are compared as integers: with the other bits of negative
// ones inverted their order is that of the numbers.
func (g *loop) rtn4Range(k floatKind) {
	g.zero(0)
	g.zero(1)
	g.constant("wordAbs", 5)
	g.op("MOVQ R11, CX")
	g.loopHead("range")
	and, xor := g.and(), "VPXORD"
	if g.v.reg == "Y" {
		xor = "VPXOR"
	}
	for at := 0; at < 64; at += 4 * g.v.lanes {
		g.op("VMOVDQU%s %d(R13), %s", map[string]string{"Z": "64"}[g.v.reg], at, g.r(2))
		g.shift("VPSRAW", 15, 2, 3)
		g.o(and, 5, 3, 3)
		g.o(xor, 3, 2, 2)
		g.o("VPMINSW", 2, 0, 0)
		g.o("VPMAXSW", 2, 1, 1)
	}
	g.op("ADDQ $64, R13")
	g.op("DECQ CX")
	g.op("JNZ range")
	for i, op := range []string{"VPMINSW", "VPMAXSW"} {
		if g.v.reg == "Z" {
			g.op("VEXTRACTI64X4 $1, Z%d, Y2", i)
			g.op("%s Y2, Y%d, Y%d", op, i, i)
		}
		g.op("VEXTRACTI128 $1, Y%d, X2", i)
		g.op("%s X2, X%d, X%d", op, i, i)
	}
	g.op("VPXOR wordSign<>(SB), X0, X0")
	g.op("VPHMINPOSUW X0, X0")
	g.op("VMOVD X0, BX")
	g.op("XORL $0x8000, BX")
	g.op("MOVWLSX BX, BX")
	g.op("VPXOR X5, X1, X1")
	g.op("VPHMINPOSUW X1, X1")
	g.op("VMOVD X1, DX")
	g.op("XORL $0x7fff, DX")
	g.op("MOVWLSX DX, DX")
	g.op("CMPL DX, $%d", k.inf)
	g.op("JGE bad")
	g.op("CMPL BX, $%d", -k.inf-1)
	g.op("JLE bad")
	g.op("MOVL BX, AX") // back to their bits; -0 was -1
	g.op("SARL $15, AX")
	g.op("ANDL $0x7fff, AX")
	g.op("XORL AX, BX")
	if k == kindBF16 {
		g.op("SHLL $16, BX")
		g.op("SHLL $16, DX")
	}
	g.op("VMOVD BX, X3")
	g.op("VMOVD DX, X4")
	if k == kindF16 {
		g.op("VCVTPH2PS X3, X3")
		g.op("VCVTPH2PS X4, X4")
	}
}

// rtn4RangeF32 is rtn4Range for floats. Their products with 0 are no numbers where they
// are not finite.
func (g *loop) rtn4RangeF32() {
	for i := range 7 {
		g.zero(i)
	}
	g.op("MOVQ R11, CX")
	g.loopHead("range")
	for i := range 128 / (4 * g.v.lanes) {
		lo, hi := 3+3*(i%2), 4-3*(i%2) // two chains: 3, 4 and 6, 1
		g.op("VMOVUPS %d(R13), %s", 4*g.v.lanes*i, g.r(2))
		g.o("VMINPS", 2, lo, lo)
		g.o("VMAXPS", 2, hi, hi)
		g.o("VFMADD231PS", rtnNone, 2, []int{0, 5}[i%2])
	}
	g.op("ADDQ $128, R13")
	g.op("DECQ CX")
	g.op("JNZ range")
	g.o("VMINPS", 6, 3, 3)
	g.o("VMAXPS", 1, 4, 4)
	g.o("VADDPS", 5, 0, 0)
	g.reduce("VADDPS", 0, 2)
	g.op("VUCOMISS X0, X0")
	g.op("JPS bad")
	g.reduce("VMINPS", 3, 2)
	g.reduce("VMAXPS", 4, 2)
}

// rtn4Grid makes a grid of the range in X3 and X4: scale, inverse and zero-point of the
// group ahead, in all lanes.
func (g *loop) rtn4Grid() {
	g.op("VSUBSS X3, X4, X5")
	g.op("VXORPS X2, X2, X2")
	g.op("VUCOMISS X2, X5")
	g.op("JNE some")
	g.op("VMOVSS minusOne<>(SB), X3") // a group of zeros gets the range [-1, 1]
	g.op("VMOVSS two<>(SB), X5")
	g.label("some")
	g.op("VDIVSS fifteenFloat<>(SB), X5, X5")
	g.op("VUCOMISS maxF16<>(SB), X5")
	g.op("JHI bad")
	g.op("VMAXSS minF16<>(SB), X5, X5")
	g.op("VCVTPS2PH $0, X5, X5")
	g.op("VCVTPH2PS X5, X5")
	g.op("VMOVSS X5, (R8)")
	g.op("VXORPS sign<>(SB), X3, X3")
	g.op("VDIVSS X5, X3, X3")
	g.op("VCVTSS2SI X3, AX")
	g.op("MOVL $15, CX")
	g.op("CMPL AX, CX")
	g.op("CMOVLGT CX, AX")
	g.op("MOVB AX, (R9)")
	g.op("VMOVSS one<>(SB), X4")
	g.op("VDIVSS X5, X4, X4")
	g.op("VMOVD AX, X3")
	g.op("VPBROADCASTD X3, %s", g.r(rtnZero-rtnAhead))
	g.op("VBROADCASTSS X5, %s", g.r(rtnScale-rtnAhead))
	g.op("VBROADCASTSS X4, %s", g.r(rtnInv-rtnAhead))
	g.op("ADDQ $4, R8")
	g.op("INCQ R9")
}

// rtn4Codes writes the codes of a group.
func (g *loop) rtn4Codes(k floatKind) {
	vectors := 32 / g.v.lanes
	g.op("MOVQ R11, CX")
	g.loopHead("codes")
	for i := range vectors {
		w, q := 0, 1+i
		g.widen(k, fmt.Sprintf("%d(SI)", k.size*g.v.lanes*i), w)
		// q = w/s: the product with 1/s, corrected once by its remainder,
		// is exact where it matters, at ties: see RTN4BF16.
		g.o("VMULPS", rtnInv, w, q)
		g.o("VFNMADD231PS", rtnScale, q, w)
		g.o("VFMADD231PS", rtnInv, w, q)
		g.op("VCVTPS2DQ %s, %s", g.r(q), g.r(q))
		g.o("VPADDD", rtnZero, q, q)
		g.o("VPMAXSD", rtnNone, q, q)
		g.o("VPMINSD", rtnMax, q, q)
	}
	if g.v.reg == "Z" {
		g.op("VPMOVDB Z1, X1")
		g.op("VPMOVDB Z2, X2")
		g.op("VINSERTI128 $1, X2, Y1, Y1")
		g.op("VPMADDUBSW Y%d, Y1, Y1", rtnOnes)
		g.op("VPMOVWB Y1, (DI)")
	} else {
		// Lanes of 128 bits are packed by themselves: words 0 to 3 of each
		// vector, then 4 to 7.
		g.o("VPACKSSDW", 2, 1, 1)
		g.o("VPACKSSDW", 4, 3, 3)
		g.o("VPACKUSWB", 3, 1, 1)
		g.o("VPMADDUBSW", rtnOnes, 1, 1)
		g.op("VEXTRACTI128 $1, Y1, X2")
		g.op("VPACKUSWB X2, X1, X1") // pairs of bytes: 0 of each vector, then 1
		g.op("VPSHUFB twos<>(SB), X1, X1")
		g.op("VMOVDQU X1, (DI)")
	}
	g.op("ADDQ $%d, SI", 32*k.size)
	g.op("ADDQ $16, DI")
	g.op("DECQ CX")
	g.op("JNZ codes")
}

// packBits gathers and scatters the bits of eight codes at a time. Every
// step moves 8 bytes and advances by what it means.
func packBits(f *file) {
	g := f.fn("packBitsBMI2", "dst *uint32, codes *uint8, eights int, bits int, mask uint64", "",
		"packs codes, eight at a time; it writes 8 bytes from the start of each eight. eights is positive.")
	g.op("MOVQ %s, DI", g.arg("dst"))
	g.op("MOVQ %s, SI", g.arg("codes"))
	g.op("MOVQ %s, CX", g.arg("eights"))
	g.op("MOVQ %s, R8", g.arg("bits"))
	g.op("MOVQ %s, R9", g.arg("mask"))
	g.loopHead("loop")
	g.op("MOVQ (SI), AX")
	g.op("PEXTQ R9, AX, AX")
	g.op("MOVQ AX, (DI)")
	g.op("ADDQ $8, SI")
	g.op("ADDQ R8, DI")
	g.op("DECQ CX")
	g.op("JNZ loop")
	g.op("RET")

	g = f.fn("unpackBitsBMI2", "dst *uint8, words *uint32, eights int, bits int, mask uint64", "",
		"unpacks codes, eight at a time; it reads 8 bytes from the start of each eight. eights is positive.")
	g.op("MOVQ %s, DI", g.arg("dst"))
	g.op("MOVQ %s, SI", g.arg("words"))
	g.op("MOVQ %s, CX", g.arg("eights"))
	g.op("MOVQ %s, R8", g.arg("bits"))
	g.op("MOVQ %s, R9", g.arg("mask"))
	g.loopHead("loop")
	g.op("MOVQ (SI), AX")
	g.op("PDEPQ R9, AX, AX")
	g.op("MOVQ AX, (DI)")
	g.op("ADDQ R8, SI")
	g.op("ADDQ $8, DI")
	g.op("DECQ CX")
	g.op("JNZ loop")
	g.op("RET")
}
