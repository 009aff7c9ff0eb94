package main

import "math"

func halfAMD64(f *file) {
	f.vector("one", 1)
	f.vector("half", 0x7fff)
	f.vector("quiet", 0x400000)
	for _, v := range []vec{avx512, avx2} {
		g := f.loop(v, "f16ToF32", "dst *float32, src *uint16, n int", "", "widens half floats.")
		g.pointers("dst", "DI", "src", "SI")
		g.each(func() {
			g.op("VCVTPH2PS (SI)(AX*2), %s", g.r(0))
			g.store(0, "DI")
		})
		g.end()

		g = f.loop(v, "f32ToF16", "dst *uint16, src *float32, n int", "", "rounds to half floats.")
		g.pointers("dst", "DI", "src", "SI")
		g.each(func() {
			g.load("SI", 0)
			g.op("VCVTPS2PH $0, %s, (DI)(AX*2)", g.r(0))
		})
		g.end()

		g = f.loop(v, "bf16ToF32", "dst *float32, src *uint16, n int", "", "widens bfloat16.")
		g.pointers("dst", "DI", "src", "SI")
		g.each(func() {
			g.op("VPMOVZXWD (SI)(AX*2), %s", g.r(0))
			g.shift("VPSLLD", 16, 0, 0)
			g.store(0, "DI")
		})
		g.end()

		g = f.loop(v, "e4m3ToF32", "dst *float32, src *uint8, n int", "", "is e4m3ToF32Go.")
		g.pointers("dst", "DI", "src", "SI")
		f.vector("e4m3Sign", 0x40004000)
		f.vector("e4m3NaN", 0x3f803f80)
		f.vector("f16NaN", 0x7e007e00)
		f.vector("two8", math.Float32bits(256))
		g.each(func() {
			words := g.widenBytes()
			op := func(name, operand string, dst int) { g.op("%s %s, %s0, %s%d", name, operand, words, words, dst) }
			op("VPSLLW", "$7", 0)
			op("VPAND", "e4m3Sign<>(SB)", 1) // added, it moves to where the sign belongs
			op("VPAND", "e4m3NaN<>(SB)", 2)
			g.op("VPCMPEQW e4m3NaN<>(SB), %[1]s2, %[1]s2", words)
			g.op("VPAND f16NaN<>(SB), %[1]s2, %[1]s2", words)
			op("VPADDW", words+"1", 0)
			op("VPOR", words+"2", 0)
			g.op("VCVTPH2PS %s0, %s", words, g.r(0))
			g.c("VMULPS", "two8", 0, 0)
			g.store(0, "DI")
		})
		g.end()

		g = f.loop(v, "e5m2ToF32", "dst *float32, src *uint8, n int", "", "is e5m2ToF32Go.")
		g.pointers("dst", "DI", "src", "SI")
		g.each(func() {
			words := g.widenBytes()
			g.op("VPSLLW $8, %[1]s0, %[1]s0", words)
			g.op("VCVTPH2PS %s0, %s", words, g.r(0))
			g.store(0, "DI")
		})
		g.end()

		g = f.loop(v, "f32ToBF16", "dst *uint16, src *float32, n int", "", "rounds to bfloat16.")
		g.pointers("dst", "DI", "src", "SI")
		g.each(func() {
			g.load("SI", 0)
			g.roundBF16()
			g.storeWords(0, 1, "DI")
		})
		g.end()
	}
}

// widenBytes loads bytes as words into register 0 of half the width, whose letter it
// returns.
func (g *loop) widenBytes() string {
	words, _ := g.v.half()
	g.op("VPMOVZXBW (SI)(AX*1), %s0", words)
	return words
}

// roundBF16 rounds register 0 to bfloat16 in the low half of each lane, as
// f32ToBF16Go does; it spoils 1 and 2.
func (g *loop) roundBF16() {
	g.shift("VPSRLD", 16, 0, 1)
	g.c(g.and(), "one", 1, 1)
	g.c("VPADDD", "half", 1, 1)
	g.o("VPADDD", 1, 0, 1)
	// NaN keeps its head and becomes quiet.
	if g.v.reg == "Z" {
		g.op("VCMPPS $3, Z0, Z0, K1")
		g.op("VPORD.BCST quiet<>(SB), Z0, K1, Z1")
	} else {
		g.op("VCMPPS $3, Y0, Y0, Y2")
		g.op("VPOR quiet<>(SB), Y0, Y0")
		g.op("VBLENDVPS Y2, Y0, Y1, Y1")
	}
	g.shift("VPSRLD", 16, 1, 0)
}

// and is the name of the bitwise conjunction.
func (g *loop) and() string {
	if g.v.reg == "Z" {
		return "VPANDD"
	}
	return "VPAND"
}

// storeWords writes lanes below 1<<16 as 16-bit words; it spoils tmp.
func (g *loop) storeWords(src, tmp int, ptr string) {
	if g.v.reg == "Z" {
		g.op("VPMOVDW %s, (%s)(AX*2)", g.r(src), ptr)
		return
	}
	g.op("VEXTRACTI128 $1, Y%d, X%d", src, tmp)
	g.op("VPACKUSDW X%d, X%d, X%d", tmp, src, src)
	g.op("VMOVDQU X%d, (%s)(AX*2)", src, ptr)
}
