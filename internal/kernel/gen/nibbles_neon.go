package main

import "fmt"

// nibblesARM64 writes the bodies of nibblesAMD64 for NEON, whose units are 32 codes.
func nibblesARM64(f *file) {
	dotNibblesNEON(f)
	addNibblesNEON(f, 1)
	addNibblesNEON(f, 4)
}

// neonScales are the registers of lines' scales.
var neonScales = [4]int{21, 22, 23, 31}

// Registers that NEON's products with nibbles share; of zeros and masks there are inPlace, of values four.
const (
	neonWord, neonVectors, neonValues, neonZeros, neonMasks, neonMagic, neonOne = 2, 4, 12, 16, 24, 29, 30
)

// nibbleConstants loads what all groups need of the nibbleTable at table; it spoils R14.
func (g *fn) nibbleConstants(table string) {
	g.op("ADD $512, %s, R14", table)
	for k := range inPlace {
		g.op("VLD1 (R14), [V%d.S4]", neonMasks+k)
		g.op("ADD $32, R14, R14")
	}
	g.op("VLD1R (R14), [V%d.S4]", neonMagic)
	g.op("MOVD $0x3f800000, R14")
	g.op("VDUP R14, V%d.S4", neonOne)
}

// nibbleZeros loads what the table has of the zero-point at; it spoils R15.
func (g *fn) nibbleZeros(at, table string) {
	g.op("MOVBU (%s), R15", at)
	g.op("LSL $5, R15, R15")
	g.op("ADD %s, R15, R15", table)
	for k := range inPlace {
		g.op("VLD1R (R15), [V%d.S4]", neonZeros+k)
		g.op("ADD $4, R15, R15")
	}
}

// nibbleNEON gives the register that it sets to 16^k·(code-zero) for a k of the words. There is no subtraction of
// vectors in Go's assembler: what is subtracted goes through a product with 1.
func (g *fn) nibbleNEON(k int) (value int) {
	value = neonValues + k%4
	if k == inPlace {
		g.op("VUSHR $%d, V%d.S4, V%d.S4", down, neonWord, neonWord)
	}
	g.op("VAND V%d.B16, V%d.B16, V%d.B16", neonMasks+k%inPlace, neonWord, value)
	g.op("VORR V%d.B16, V%d.B16, V%d.B16", neonMagic, value, value)
	g.op("VFMLS V%d.S4, V%d.S4, V%d.S4", neonZeros+k%inPlace, neonOne, value)
	return value
}

func neonFour(first int) string {
	return fmt.Sprintf("[V%d.S4, V%d.S4, V%d.S4, V%d.S4]", first, first+1, first+2, first+3)
}

func (g *fn) load(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		g.op("MOVD %s, %s", g.arg(pairs[i]), pairs[i+1])
	}
}

func dotNibblesNEON(f *file) {
	g := f.fn("dotNibblesNEON", "codes *uint8, x *float32, scale *float32, zero *uint8, groups int, units int, table *nibbleTable", "sum float32",
		"returns Σ scale·(code-zero)·x over groups of 32*units codes, x being turned; groups and units are positive.")
	g.load("codes", "R0", "x", "R1", "scale", "R2", "zero", "R3", "groups", "R4", "units", "R5", "table", "R6")
	const a, b, scale, sum = 0, 1, 3, 31
	g.nibbleConstants("R6")
	g.op("VEOR V%[1]d.B16, V%[1]d.B16, V%[1]d.B16", sum)
	g.label("group")
	g.nibbleZeros("R3", "R6")
	g.op("VEOR V0.B16, V0.B16, V0.B16")
	g.op("VEOR V1.B16, V1.B16, V1.B16")
	g.op("MOVD R5, R9")
	g.label("unit")
	g.op("VLD1.P 16(R0), [V%d.S4]", neonWord)
	g.op("VLD1.P 64(R1), %s", neonFour(neonVectors))
	g.op("VLD1.P 64(R1), %s", neonFour(neonVectors+4))
	for k := range 8 {
		g.op("VFMLA V%d.S4, V%d.S4, V%d.S4", g.nibbleNEON(k), neonVectors+k, k%2)
	}
	g.op("SUBS $1, R9, R9")
	g.op("BNE unit")
	g.op("VFMLA V%d.S4, V%d.S4, V%d.S4", b, neonOne, a)
	g.op("VLD1R (R2), [V%d.S4]", scale)
	g.op("VFMLA V%d.S4, V%d.S4, V%d.S4", a, scale, sum)
	g.op("ADD $4, R2, R2")
	g.op("ADD $1, R3, R3")
	g.op("SUBS $1, R4, R4")
	g.op("BNE group")
	for i := range 4 {
		g.op("VMOV V%d.S[%d], R9", sum, i)
		g.op("FMOVS R9, F%d", i)
	}
	g.op("FADDS F2, F0, F0")
	g.op("FADDS F3, F1, F1")
	g.op("FADDS F1, F0, F0")
	g.op("FMOVS F0, %s", g.arg("sum"))
	g.op("RET")
}

// addNibblesNEON is for one line, or for four, which lie stride bytes apart.
func addNibblesNEON(f *file, lines int) {
	name := map[int]string{1: "addNibblesNEON", 4: "addFourNibblesNEON"}[lines]
	g := f.fn(name, "y *float32, codes *uint8, stride int, scale *float32, zero *uint8, perLine int, alpha *float32, groups int, units int, table *nibbleTable", "",
		fmt.Sprintf("adds alpha·scale·(code-zero) of %d lines to y, which is turned, in groups of 32*units codes; a line has perLine groups; groups and units are positive.", lines))
	g.load("y", "R0", "codes", "R10", "stride", "R2", "scale", "R3", "zero", "R4", "perLine", "R5", "alpha", "R6", "groups", "R7", "units", "R8", "table", "R9")
	for i := 1; i < lines; i++ {
		g.op("ADD R2, R%d, R%d", 9+i, 10+i)
	}
	g.nibbleConstants("R9")
	g.label("group")
	g.op("MOVD R3, R14")
	g.op("MOVD R6, R15")
	for i := range lines {
		g.op("VLD1R (R14), [V0.S4]")
		g.op("VLD1R (R15), [V1.S4]")
		g.op("VEOR V%[1]d.B16, V%[1]d.B16, V%[1]d.B16", neonScales[i])
		g.op("VFMLA V0.S4, V1.S4, V%d.S4", neonScales[i])
		g.op("ADD R5<<2, R14, R14")
		g.op("ADD $4, R15, R15")
	}
	g.op("MOVD R8, R19")
	g.label("unit")
	g.op("MOVD R0, R20")
	g.op("VLD1.P 64(R20), %s", neonFour(neonVectors))
	g.op("VLD1 (R20), %s", neonFour(neonVectors+4))
	g.op("MOVD R4, R14")
	for i := range lines {
		g.nibbleZeros("R14", "R9")
		g.op("ADD R5, R14, R14")
		g.op("VLD1.P 16(R%d), [V%d.S4]", 10+i, neonWord)
		for k := range 8 {
			g.op("VFMLA V%d.S4, V%d.S4, V%d.S4", g.nibbleNEON(k), neonScales[i], neonVectors+k)
		}
	}
	g.op("VST1.P %s, 64(R0)", neonFour(neonVectors))
	g.op("VST1.P %s, 64(R0)", neonFour(neonVectors+4))
	g.op("SUBS $1, R19, R19")
	g.op("BNE unit")
	g.op("ADD $4, R3, R3")
	g.op("ADD $1, R4, R4")
	g.op("SUBS $1, R7, R7")
	g.op("BNE group")
	g.op("RET")
}
