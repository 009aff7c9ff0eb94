package main

import "fmt"

func packAMD64(f *file) {
	copyRows(f)
	pairRows(f)
	transpose16(f)
	transpose8(f)
}

// copyRows writes rows of up to 32 floats with AVX-512 masks.
func copyRows(f *file) {
	g := f.fn("copyRowsAVX512", "dst *float32, dstLd int, src *float32, ld int, rows int, load uint32, store uint32", "",
		"copies rows of up to 32 floats. load masks what is read, the rest counts as 0; store masks what is written. rows is positive.")
	g.op("MOVQ %s, DI", g.arg("dst"))
	g.op("MOVQ %s, R8", g.arg("dstLd"))
	g.op("SHLQ $2, R8")
	g.op("MOVQ %s, SI", g.arg("src"))
	g.op("MOVQ %s, R9", g.arg("ld"))
	g.op("SHLQ $2, R9")
	g.op("MOVQ %s, CX", g.arg("rows"))
	for i, m := range []string{"load", "store"} {
		g.op("MOVL %s, AX", g.arg(m))
		g.op("KMOVW AX, K%d", 2*i+1)
		g.op("SHRL $16, AX")
		g.op("KMOVW AX, K%d", 2*i+2)
	}
	g.op("TESTL AX, AX")
	g.op("JZ narrow")
	g.loopHead("wide")
	g.op("VMOVUPS.Z (SI), K1, Z0")
	g.op("VMOVUPS.Z 64(SI), K2, Z1")
	g.op("VMOVUPS Z0, K3, (DI)")
	g.op("VMOVUPS Z1, K4, 64(DI)")
	g.op("ADDQ R9, SI")
	g.op("ADDQ R8, DI")
	g.op("DECQ CX")
	g.op("JNZ wide")
	g.op("VZEROUPPER")
	g.op("RET")
	g.loopHead("narrow")
	g.op("VMOVUPS.Z (SI), K1, Z0")
	g.op("VMOVUPS Z0, K3, (DI)")
	g.op("ADDQ R9, SI")
	g.op("ADDQ R8, DI")
	g.op("DECQ CX")
	g.op("JNZ narrow")
	g.op("VZEROUPPER")
	g.op("RET")
}

// pairRows rounds two rows to bfloat16 and interleaves them.
func pairRows(f *file) {
	f.vector("one", 1)
	f.vector("half", 0x7fff)
	f.vector("quiet", 0x400000)
	g := &loop{f.fn("pairRowsAVX512", "dst *float32, dstLd int, src *float32, ld int, pairs int, load uint32, store uint32", "",
		"rounds pairs of rows of up to 32 floats to bfloat16 and interleaves them. load masks what is read, the rest counts as 0; store masks what is written. pairs is positive."), f, avx512}
	g.op("MOVQ %s, DI", g.arg("dst"))
	g.op("MOVQ %s, R8", g.arg("dstLd"))
	g.op("SHLQ $2, R8")
	g.op("MOVQ %s, SI", g.arg("src"))
	g.op("MOVQ %s, R9", g.arg("ld"))
	g.op("SHLQ $2, R9")
	g.op("MOVQ %s, CX", g.arg("pairs"))
	for i, m := range []string{"load", "store"} {
		g.op("MOVL %s, AX", g.arg(m))
		g.op("KMOVW AX, K%d", 2*i+2)
		g.op("SHRL $16, AX")
		g.op("KMOVW AX, K%d", 2*i+3)
	}
	g.loopHead("pair")
	for half, off := range []int{0, 64} {
		g.op("VMOVUPS.Z %d(SI), K%d, Z0", off, 2+half)
		g.roundBF16()
		g.op("VMOVAPS Z0, Z3")
		g.op("VMOVUPS.Z %d(SI)(R9*1), K%d, Z0", off, 2+half)
		g.roundBF16()
		g.op("VPSLLD $16, Z0, Z0")
		g.op("VPORD Z3, Z0, Z0")
		g.op("VMOVUPS Z0, K%d, %d(DI)", 4+half, off)
	}
	g.op("LEAQ (SI)(R9*2), SI")
	g.op("ADDQ R8, DI")
	g.op("DECQ CX")
	g.op("JNZ pair")
	g.end()
}

// transposeArgs loads the arguments that both transpositions share: DI, R8
// (destination and its row stride in bytes), SI, R9 and CX.
func transposeArgs(g *fn) {
	g.op("MOVQ %s, DI", g.arg("dst"))
	g.op("MOVQ %s, R8", g.arg("dstLd"))
	g.op("SHLQ $2, R8")
	g.op("MOVQ %s, SI", g.arg("src"))
	g.op("MOVQ %s, R9", g.arg("ld"))
	g.op("SHLQ $2, R9")
	g.op("MOVQ %s, CX", g.arg("blocks"))
}

func transpose16(f *file) {
	g := f.fn("transpose16AVX512", "dst *float32, dstLd int, src *float32, ld int, blocks int", "",
		"writes the transpose of 16 rows of 16*blocks floats; blocks is positive.")
	transposeArgs(g)
	z := func(i int) string { return fmt.Sprintf("Z%d", i) }
	g.loopHead("block")
	g.op("MOVQ SI, AX")
	for i := range 16 {
		g.op("VMOVUPS (AX), %s", z(i))
		if i < 15 {
			g.op("ADDQ R9, AX")
		}
	}
	// Pairs of rows, then fours, within lanes of four columns.
	for i := 0; i < 16; i += 2 {
		g.op("VUNPCKLPS %s, %s, %s", z(i+1), z(i), z(16+i))
		g.op("VUNPCKHPS %s, %s, %s", z(i+1), z(i), z(17+i))
	}
	for i := 0; i < 16; i += 4 {
		g.op("VUNPCKLPD %s, %s, %s", z(16+i+2), z(16+i), z(i))
		g.op("VUNPCKHPD %s, %s, %s", z(16+i+2), z(16+i), z(i+1))
		g.op("VUNPCKLPD %s, %s, %s", z(16+i+3), z(16+i+1), z(i+2))
		g.op("VUNPCKHPD %s, %s, %s", z(16+i+3), z(16+i+1), z(i+3))
	}
	// Register 4r+c has column 4l+c of rows 4r … 4r+3 in lane l: a
	// transposition of 4 x 4 lanes for every c.
	for c := range 4 {
		g.op("VSHUFF32X4 $0x88, %s, %s, Z16", z(4+c), z(c))
		g.op("VSHUFF32X4 $0xdd, %s, %s, Z17", z(4+c), z(c))
		g.op("VSHUFF32X4 $0x88, %s, %s, Z18", z(12+c), z(8+c))
		g.op("VSHUFF32X4 $0xdd, %s, %s, Z19", z(12+c), z(8+c))
		g.op("VSHUFF32X4 $0x88, Z18, Z16, %s", z(c))
		g.op("VSHUFF32X4 $0xdd, Z18, Z16, %s", z(8+c))
		g.op("VSHUFF32X4 $0x88, Z19, Z17, %s", z(4+c))
		g.op("VSHUFF32X4 $0xdd, Z19, Z17, %s", z(12+c))
	}
	for i := range 16 {
		g.op("VMOVUPS %s, (DI)", z(i))
		g.op("ADDQ R8, DI")
	}
	g.op("ADDQ $64, SI")
	g.op("DECQ CX")
	g.op("JNZ block")
	g.op("VZEROUPPER")
	g.op("RET")
}

func transpose8(f *file) {
	g := f.fn("transpose8AVX2", "dst *float32, dstLd int, src *float32, ld int, blocks int", "",
		"writes the transpose of 8 rows of 8*blocks floats; blocks is positive.")
	transposeArgs(g)
	y := func(i int) string { return fmt.Sprintf("Y%d", i) }
	g.loopHead("block")
	g.op("MOVQ SI, AX")
	for i := range 8 {
		g.op("VMOVUPS (AX), %s", y(i))
		if i < 7 {
			g.op("ADDQ R9, AX")
		}
	}
	for i := 0; i < 8; i += 2 {
		g.op("VUNPCKLPS %s, %s, %s", y(i+1), y(i), y(8+i))
		g.op("VUNPCKHPS %s, %s, %s", y(i+1), y(i), y(9+i))
	}
	for i := 0; i < 8; i += 4 {
		g.op("VUNPCKLPD %s, %s, %s", y(8+i+2), y(8+i), y(i))
		g.op("VUNPCKHPD %s, %s, %s", y(8+i+2), y(8+i), y(i+1))
		g.op("VUNPCKLPD %s, %s, %s", y(8+i+3), y(8+i+1), y(i+2))
		g.op("VUNPCKHPD %s, %s, %s", y(8+i+3), y(8+i+1), y(i+3))
	}
	for c := range 4 {
		g.op("VPERM2F128 $0x20, %s, %s, %s", y(4+c), y(c), y(8+c))
		g.op("VPERM2F128 $0x31, %s, %s, %s", y(4+c), y(c), y(12+c))
	}
	for i := range 8 {
		g.op("VMOVUPS %s, (DI)", y(8+i))
		g.op("ADDQ R8, DI")
	}
	g.op("ADDQ $32, SI")
	g.op("DECQ CX")
	g.op("JNZ block")
	g.op("VZEROUPPER")
	g.op("RET")
}
