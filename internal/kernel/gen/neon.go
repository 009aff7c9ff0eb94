package main

import (
	"fmt"
	"strings"
)

// gemmARM64 writes the NEON microkernel: 6 rows of 4 vectors.
func gemmARM64(f *file) {
	const rows, vecs = 6, 4
	g := f.fn("gemmNEON", "k int, a *float32, rs int, cs int, b *float32, c *float32, ldc int, alpha float32, add bool", "",
		fmt.Sprintf("computes a tile of %d x %d of a product of float32.", rows, 4*vecs))
	acc := func(i, j int) string { return fmt.Sprintf("V%d.S4", i*vecs+j) }
	list := func(first int) string {
		var s []string
		for j := range vecs {
			s = append(s, fmt.Sprintf("V%d.S4", first+j))
		}
		return "[" + strings.Join(s, ", ") + "]"
	}
	const bReg, aReg = rows * vecs, rows*vecs + vecs // V24-V27, V28-V31
	g.op("MOVD %s, R10", g.arg("k"))
	g.op("MOVD %s, R0", g.arg("a"))
	g.op("MOVD %s, R8", g.arg("rs"))
	for i := 1; i < rows; i++ {
		g.op("ADD R8<<2, R%d, R%d", i-1, i)
	}
	g.op("MOVD %s, R8", g.arg("cs"))
	g.op("LSL $2, R8, R8")
	g.op("MOVD %s, R9", g.arg("b"))
	for i := range rows * vecs {
		g.op("VEOR V%[1]d.B16, V%[1]d.B16, V%[1]d.B16", i)
	}
	g.label("loop")
	g.op("VLD1.P 64(R9), %s", list(bReg))
	for i := range rows {
		x := aReg + i%4
		g.op("VLD1R (R%d), [V%d.S4]", i, x)
		g.op("ADD R8, R%[1]d, R%[1]d", i)
		for j := range vecs {
			g.op("VFMLA V%d.S4, V%d.S4, %s", bReg+j, x, acc(i, j))
		}
	}
	g.op("SUBS $1, R10, R10")
	g.op("BNE loop")

	g.op("MOVD %s, R0", g.arg("c"))
	g.op("MOVD %s, R1", g.arg("ldc"))
	g.op("LSL $2, R1, R1")
	g.op("MOVWU %s, R2", g.arg("alpha"))
	g.op("VDUP R2, V%d.S4", aReg)
	g.op("MOVBU %s, R3", g.arg("add"))
	for i := range rows {
		g.op("CBNZ R3, add%d", i)
		for j := range vecs {
			g.op("VEOR V%[1]d.B16, V%[1]d.B16, V%[1]d.B16", bReg+j)
		}
		g.op("B row%d", i)
		g.label(fmt.Sprintf("add%d", i))
		g.op("VLD1 (R0), %s", list(bReg))
		g.label(fmt.Sprintf("row%d", i))
		for j := range vecs {
			g.op("VFMLA %s, V%d.S4, V%d.S4", acc(i, j), aReg, bReg+j)
		}
		g.op("VST1 %s, (R0)", list(bReg))
		g.op("ADD R1, R0, R0")
	}
	g.op("RET")
}
