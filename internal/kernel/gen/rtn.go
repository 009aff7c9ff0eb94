package main

import "math"

// halfKind is a 16-bit float format as the fused quantizer sees it.
type halfKind struct {
	name string
	inf  int // bits of +Inf
}

func rtnAMD64(f *file) {
	packBits(f)
	float := func(name string, v float32) { f.vector(name, math.Float32bits(v)) }
	f.vector("wordAbs", 0x7fff7fff)
	f.vector("wordSign", 0x80008000)
	f.vector("pairs", 0x10011001)
	f.vector("sign", 1<<31)
	float("one", 1)
	float("minusOne", -1)
	float("maxF16", 65504)
	float("minF16", 0x1p-24)
	rtn4(f, halfKind{"BF16", 0x7f80})
	rtn4(f, halfKind{"F16", 0x7c00})
}

// widen loads half floats as floats.
func (g *loop) widen(h halfKind, from string, dst int) {
	if h.name == "F16" {
		g.op("VCVTPH2PS %s, %s", from, g.r(dst))
		return
	}
	g.op("VPMOVZXWD %s, %s", from, g.r(dst))
	g.shift("VPSLLD", 16, dst, dst)
}

// rtn4 quantizes and packs groups of half floats at 4 bits. Half floats are
// compared as integers: with the other bits of negative ones inverted their
// order is that of the numbers.
func rtn4(f *file, h halfKind) {
	g := &loop{f.fn("rtn4"+h.name+"AVX512", "codes *uint32, scales *float32, zeros *uint8, src *uint16, groups int, chunks int", "ok bool",
		"is the fused part of RTN4"+h.name+" for groups of 32*chunks weights; groups and chunks are positive."), f, avx512}
	g.op("MOVQ %s, DI", g.arg("codes"))
	g.op("MOVQ %s, R8", g.arg("scales"))
	g.op("MOVQ %s, R9", g.arg("zeros"))
	g.op("MOVQ %s, SI", g.arg("src"))
	g.op("MOVQ %s, R10", g.arg("groups"))
	g.op("MOVQ %s, R11", g.arg("chunks"))
	g.constant("wordAbs", 31)
	g.constant("pairs", 30)
	g.op("MOVL $15, AX")
	g.op("VPBROADCASTD AX, Z29")
	g.zero(28)
	g.op("VCVTSI2SSL AX, X27, X27")
	g.op("VMOVDQU wordSign<>(SB), X14")
	g.op("VMOVDQU wordAbs<>(SB), X15")

	g.label("group")
	g.rtn4Range(h)
	g.rtn4Grid(h)
	g.rtn4Codes(h)
	g.op("ADDQ $4, R8")
	g.op("INCQ R9")
	g.op("DECQ R10")
	g.op("JNZ group")
	g.op("MOVB $1, %s", g.arg("ok"))
	g.end()
	g.label("bad")
	g.op("MOVB $0, %s", g.arg("ok"))
	g.end()
}

// rtn4Range finds the bits of the least and the greatest weight of a group,
// 0 among them, in BX and DX.
func (g *loop) rtn4Range(h halfKind) {
	g.zero(0)
	g.zero(1)
	g.op("MOVQ SI, AX")
	g.op("MOVQ R11, CX")
	g.loopHead("range")
	g.op("VMOVDQU64 (AX), Z2")
	g.shift("VPSRAW", 15, 2, 3)
	g.o("VPANDD", 31, 3, 3)
	g.o("VPXORD", 3, 2, 2)
	g.o("VPMINSW", 2, 0, 0)
	g.o("VPMAXSW", 2, 1, 1)
	g.op("ADDQ $64, AX")
	g.op("DECQ CX")
	g.op("JNZ range")
	for i, op := range []string{"VPMINSW", "VPMAXSW"} {
		g.op("VEXTRACTI64X4 $1, Z%d, Y2", i)
		g.op("%s Y2, Y%d, Y%d", op, i, i)
		g.op("VEXTRACTI128 $1, Y%d, X2", i)
		g.op("%s X2, X%d, X%d", op, i, i)
	}
	g.op("VPXOR X14, X0, X0")
	g.op("VPHMINPOSUW X0, X0")
	g.op("VMOVD X0, BX")
	g.op("XORL $0x8000, BX")
	g.op("MOVWLSX BX, BX")
	g.op("VPXOR X15, X1, X1")
	g.op("VPHMINPOSUW X1, X1")
	g.op("VMOVD X1, DX")
	g.op("XORL $0x7fff, DX")
	g.op("MOVWLSX DX, DX")
	g.op("CMPL DX, $%d", h.inf)
	g.op("JGE bad")
	g.op("CMPL BX, $%d", -h.inf-1)
	g.op("JLE bad")
}

// rtn4Grid makes a grid of them: the scale in all lanes of Z10, its inverse in
// Z11, the zero-point in Z12.
func (g *loop) rtn4Grid(h halfKind) {
	// A group of zeros (-0 is -1 here) gets the range [-1, 1].
	g.op("TESTL DX, DX")
	g.op("JNZ some")
	g.op("CMPL BX, $-1")
	g.op("JLT some")
	g.op("VMOVSS minusOne<>(SB), X3")
	g.op("VMOVSS one<>(SB), X4")
	g.op("JMP scale")
	g.label("some")
	g.op("MOVL BX, AX")
	g.op("SARL $15, AX")
	g.op("ANDL $0x7fff, AX")
	g.op("XORL AX, BX")
	if h.name == "F16" {
		g.op("VMOVD BX, X3")
		g.op("VCVTPH2PS X3, X3")
		g.op("VMOVD DX, X4")
		g.op("VCVTPH2PS X4, X4")
	} else {
		g.op("SHLL $16, BX")
		g.op("VMOVD BX, X3")
		g.op("SHLL $16, DX")
		g.op("VMOVD DX, X4")
	}
	g.label("scale")
	g.op("VSUBSS X3, X4, X5")
	g.op("VDIVSS X27, X5, X5")
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
	g.op("VPBROADCASTD AX, Z12")
	g.op("VBROADCASTSS X5, Z10")
	g.op("VBROADCASTSS X4, Z11")
}

// rtn4Codes writes the codes of a group.
func (g *loop) rtn4Codes(h halfKind) {
	g.op("MOVQ R11, CX")
	g.loopHead("codes")
	for i := range 2 {
		w, q := 2+i, 4+i
		g.widen(h, []string{"(SI)", "32(SI)"}[i], w)
		// q = w/s: the product with 1/s, corrected once by its remainder,
		// is exact where it matters, at ties: see RTN4BF16.
		g.o("VMULPS", 11, w, q)
		g.o("VFNMADD231PS", 10, q, w)
		g.o("VFMADD231PS", 11, w, q)
		g.op("VCVTPS2DQ %s, %s", g.r(q), g.r(q))
		g.o("VPADDD", 12, q, q)
		g.o("VPMAXSD", 28, q, q)
		g.o("VPMINSD", 29, q, q)
		g.op("VPMOVDB %s, %s", g.r(q), x(q))
	}
	g.op("VINSERTI128 $1, X5, Y4, Y4")
	g.op("VPMADDUBSW Y30, Y4, Y4")
	g.op("VPMOVWB Y4, (DI)")
	g.op("ADDQ $64, SI")
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
