package kernel

// Transpose writes the transpose of the rows x cols matrix src to dst, whose
// rows are ldd apart.
func Transpose(dst []float32, ldd int, src []float32, lds, rows, cols, workers int) {
	if rows <= 0 || cols <= 0 {
		return
	}
	if lds < cols || ldd < rows || len(src) < (rows-1)*lds+cols || len(dst) < (cols-1)*ldd+rows {
		panic("kernel: matrix shorter than its shape")
	}
	workers = workersFor(workers)
	if rows*cols < 1<<16 {
		workers = 1
	}
	// A band of columns is a band of rows of dst: few enough pages at a time.
	const band, strip = 256, 16
	parallel(workers, (cols+band-1)/band, func(t int) {
		j := t * band
		n := min(band, cols-j)
		for i := 0; i < rows; i += strip {
			transposeStrip(dst[j*ldd+i:], ldd, src[i*lds+j:], lds, min(strip, rows-i), n)
		}
	})
}

// transposeStrip transposes up to 16 rows.
func transposeStrip(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	done := transposeBlocks(dst, ldd, src, lds, rows, cols)
	for i := range rows {
		o := done*ldd + i
		for _, v := range src[i*lds+done : i*lds+cols] {
			dst[o] = v
			o += ldd
		}
	}
}
