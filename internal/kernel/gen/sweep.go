package main

func sweepAMD64(f *file) {
	for _, v := range []vec{avx512, avx2} {
		errorCols(f, v)
		mulAdd(f, v)
	}
}

func errorCols(f *file, v vec) {
	g := f.loop(v, "errorCols", "e *float32, loss *float64, t *float32, deq *float32, n int, d float64, lambda float64", "", "is errorColsGo.")
	g.pointers("e", "DI", "loss", "R8", "t", "SI", "deq", "R9")
	g.op("VBROADCASTSD %s, %s", g.arg("d"), g.r(8))
	g.op("VBROADCASTSD %s, %s", g.arg("lambda"), g.r(9))
	half, extract := v.half()
	g.each(func() {
		g.load("SI", 0)
		g.load("R9", 1)
		g.load("DI", 2)
		g.o("VSUBPS", 1, 0, 0)
		g.o("VSUBPS", 1, 2, 2)
		g.store(2, "DI")
		for i := range 2 {
			if i == 1 {
				g.op("%s $1, %s, %s0", extract, g.r(0), half)
				g.op("%s $1, %s, %s2", extract, g.r(2), half)
			}
			g.op("VCVTPS2PD %s0, %s", half, g.r(3))
			g.op("VCVTPS2PD %s2, %s", half, g.r(4))
			g.o("VMULPD", 3, 8, 5)
			g.o("VMULPD", 3, 5, 5)
			g.o("VMULPD", 4, 9, 6)
			g.o("VMULPD", 4, 6, 6)
			g.o("VSUBPD", 6, 5, 5)
			at := i * v.lanes / 2 * 8
			g.op("VADDPD %d(R8)(AX*8), %s, %s", at, g.r(5), g.r(5))
			g.op("VMOVUPD %s, %d(R8)(AX*8)", g.r(5), at)
		}
	})
	g.end()
}

func mulAdd(f *file, v vec) {
	g := f.loop(v, "mulAdd", "acc *float64, x *float32, y *float32, n int", "", "is mulAddGo.")
	g.pointers("acc", "DI", "x", "SI", "y", "R8")
	half, extract := v.half()
	g.each(func() {
		g.load("SI", 0)
		g.op("VMULPS (R8)(AX*4), %s, %s", g.r(0), g.r(0))
		for i := range 2 {
			if i == 1 {
				g.op("%s $1, %s, %s0", extract, g.r(0), half)
			}
			g.op("VCVTPS2PD %s0, %s", half, g.r(1))
			at := i * v.lanes / 2 * 8
			g.op("VADDPD %d(DI)(AX*8), %s, %s", at, g.r(1), g.r(1))
			g.op("VMOVUPD %s, %d(DI)(AX*8)", g.r(1), at)
		}
	})
	g.end()
}
