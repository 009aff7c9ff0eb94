package main

import "fmt"

// tile describes a product microkernel: rows x vecs vectors of C stay in
// registers while it walks down the depth.
type tile struct {
	class      string // of registers
	size       int    // bytes in a register
	rows, vecs int
	half       bool // pairs of bfloat16
}

func gemmAMD64(f *file) {
	gemm(f, "gemmAVX512", tile{class: "Z", size: 64, rows: 12, vecs: 2})
	gemm(f, "gemmBF16", tile{class: "Z", size: 64, rows: 12, vecs: 2, half: true})
	gemm(f, "gemmAVX2", tile{class: "Y", size: 32, rows: 6, vecs: 2})
}

// gemm writes c = alpha*Σ_p a_ip·b_pj (+ c). Element (i, p) of a is at
// a + 4(i·rs + p·cs); b holds rows of the tile's width.
func gemm(f *file, name string, t tile) {
	what := "float32"
	if t.half {
		what = "pairs of bfloat16"
	}
	g := f.fn(name, "k int, a *float32, rs int, cs int, b *float32, c *float32, ldc int, alpha float32, add bool", "",
		fmt.Sprintf("computes a tile of %d x %d of a product of %s.", t.rows, t.vecs*t.size/4, what))
	bases := t.bases()
	g.op("MOVQ %s, CX", g.arg("k"))
	g.op("MOVQ %s, SI", g.arg("a"))
	g.op("MOVQ %s, R8", g.arg("rs"))
	g.op("SHLQ $2, R8")
	g.op("LEAQ (R8)(R8*2), R9")
	for i := 1; i < len(bases); i++ {
		g.op("LEAQ (%s)(R8*4), %s", bases[i-1], bases[i])
	}
	g.op("MOVQ %s, R12", g.arg("cs"))
	g.op("SHLQ $2, R12")
	g.op("MOVQ %s, BX", g.arg("b"))
	g.op("MOVQ %s, DI", g.arg("c"))
	g.op("MOVQ %s, DX", g.arg("ldc"))
	g.op("SHLQ $2, DX")
	g.op("MOVQ DI, AX")
	for i := range t.rows {
		for j := 0; j < t.vecs*t.size; j += 64 {
			g.op("PREFETCHT0 %d(AX)", j)
		}
		if i < t.rows-1 {
			g.op("ADDQ DX, AX")
		}
	}
	for i := range t.rows {
		for j := range t.vecs {
			if t.class == "Z" {
				g.op("VPXORD %[1]s, %[1]s, %[1]s", t.acc(i, j))
			} else {
				g.op("VXORPS %[1]s, %[1]s, %[1]s", t.acc(i, j))
			}
		}
	}
	const unroll = 4
	g.op("SUBQ $%d, CX", unroll)
	g.op("JLT rest")
	g.loopHead("loop")
	for u := range unroll {
		g.step(t, u)
	}
	g.op("ADDQ $%d, BX", unroll*t.vecs*t.size)
	g.op("SUBQ $%d, CX", unroll)
	g.op("JGE loop")
	g.label("rest")
	g.op("ADDQ $%d, CX", unroll)
	g.op("JLE done")
	g.loopHead("one")
	g.step(t, 0)
	g.op("ADDQ $%d, BX", t.vecs*t.size)
	g.op("DECQ CX")
	g.op("JNZ one")

	g.label("done")
	g.storeTile(t)
}

// reg is register i; acc is the one that holds vector j of row i of C. Those
// take the last registers of the class.
func (t tile) reg(i int) string { return fmt.Sprintf("%s%d", t.class, i) }

func (t tile) accIndex(i, j int) int {
	total := 32
	if t.class == "Y" {
		total = 16
	}
	return total - t.rows*t.vecs + i*t.vecs + j
}

func (t tile) acc(i, j int) string { return t.reg(t.accIndex(i, j)) }

// bases are the base registers of A; four rows share one.
func (t tile) bases() []string { return []string{"SI", "R10", "R11", "R13"}[:(t.rows+3)/4] }

// step adds the products of one p, the u-th of the panels at hand.
func (g *fn) step(t tile, u int) {
	bases := t.bases()
	for j := range t.vecs {
		g.op("VMOVUPS %d(BX), %s", (u*t.vecs+j)*t.size, t.reg(j))
	}
	for i := range t.rows {
		x := t.reg(t.vecs + i%2)
		g.op("VBROADCASTSS (%s)%s, %s", bases[i/4], []string{"", "(R8*1)", "(R8*2)", "(R9*1)"}[i%4], x)
		for j := range t.vecs {
			if t.half {
				g.vdpbf16ps(j, t.vecs+i%2, t.accIndex(i, j))
			} else {
				g.op("VFMADD231PS %s, %s, %s", t.reg(j), x, t.acc(i, j))
			}
		}
	}
	for _, b := range bases {
		g.op("ADDQ R12, %s", b)
	}
}

// storeTile ends a microkernel: alpha times the sums, added to C or not.
func (g *fn) storeTile(t tile) {
	g.op("VBROADCASTSS %s, %s", g.arg("alpha"), t.reg(0))
	g.op("CMPB %s, $0", g.arg("add"))
	g.op("JEQ store")
	for i := range t.rows {
		for j := range t.vecs {
			g.op("VMOVUPS %d(DI), %s", j*t.size, t.reg(1))
			g.op("VFMADD231PS %s, %s, %s", t.acc(i, j), t.reg(0), t.reg(1))
			g.op("VMOVUPS %s, %d(DI)", t.reg(1), j*t.size)
		}
		g.op("ADDQ DX, DI")
	}
	g.op("VZEROUPPER")
	g.op("RET")
	g.label("store")
	for i := range t.rows {
		for j := range t.vecs {
			g.op("VMULPS %s, %s, %s", t.acc(i, j), t.reg(0), t.reg(1))
			g.op("VMOVUPS %s, %d(DI)", t.reg(1), j*t.size)
		}
		g.op("ADDQ DX, DI")
	}
	g.op("VZEROUPPER")
	g.op("RET")
}

// vdpbf16ps writes VDPBF16PS Zdst, Za, Zb (dst += pairs of a times pairs of
// b), which the assembler does not know: EVEX.512.F3.0F38.W0 52 /r.
func (g *fn) vdpbf16ps(b, a, dst int) {
	bit := func(x, n int) int { return 1 - x>>n&1 } // EVEX stores inverted bits
	p0 := bit(dst, 3)<<7 | bit(b, 4)<<6 | bit(b, 3)<<5 | bit(dst, 4)<<4 | 2
	p1 := (^a&15)<<3 | 1<<2 | 2
	p2 := 2<<5 | bit(a, 4)<<3
	modrm := 3<<6 | dst&7<<3 | b&7
	g.op("LONG $0x%08x; WORD $0x%04x // VDPBF16PS Z%d, Z%d, Z%d", 0x62|p0<<8|p1<<16|p2<<24, 0x52|modrm<<8, b, a, dst)
}
