package main

import "fmt"

func peakAMD64(f *file) {
	peak(f, "peakAVX512", "Z", 24)
	peak(f, "peakAVX2", "Y", 12)
}

// peak writes a loop of independent fused multiply-adds.
func peak(f *file, name, reg string, sums int) {
	g := f.fn(name, "rounds int", "", fmt.Sprintf("does %d independent vector multiply-adds a round; rounds is positive.", sums))
	clear := "VXORPS"
	if reg == "Z" {
		clear = "VPXORD"
	}
	for i := range sums + 2 {
		g.op("%[1]s %[2]s%[3]d, %[2]s%[3]d, %[2]s%[3]d", clear, reg, i)
	}
	g.op("MOVQ %s, CX", g.arg("rounds"))
	g.loopHead("loop")
	for i := range sums {
		g.op("VFMADD231PS %[1]s%[2]d, %[1]s%[3]d, %[1]s%[4]d", reg, sums, sums+1, i)
	}
	g.op("DECQ CX")
	g.op("JNZ loop")
	g.op("VZEROUPPER")
	g.op("RET")
}

func peakARM64(f *file) {
	g := f.fn("peakNEON", "rounds int", "", "does 24 independent vector multiply-adds a round; rounds is positive.")
	for i := range 26 {
		g.op("VEOR V%[1]d.B16, V%[1]d.B16, V%[1]d.B16", i)
	}
	g.op("MOVD %s, R0", g.arg("rounds"))
	g.label("loop")
	for i := range 24 {
		g.op("VFMLA V24.S4, V25.S4, V%d.S4", i)
	}
	g.op("SUBS $1, R0, R0")
	g.op("BNE loop")
	g.op("RET")
}
