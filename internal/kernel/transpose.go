package kernel

import "github.com/golowbit/lowbit/internal/parallel"

// Transpose writes the transpose of the rows x cols matrix src to dst, whose
// rows are ldd apart.
func Transpose(dst []float32, ldd int, src []float32, lds, rows, cols, workers int) {
	if rows <= 0 || cols <= 0 {
		return
	}
	if lds < cols || ldd < rows || len(src) < (rows-1)*lds+cols || len(dst) < (cols-1)*ldd+rows {
		panic("kernel: matrix shorter than its shape")
	}
	workers = parallel.Workers(workers)
	if rows*cols < 1<<16 {
		workers = 1
	}
	// A band of columns is a band of rows of dst: few enough pages at a time.
	const band, strip = 256, 16
	parallel.Each(workers, (cols+band-1)/band, func(_, t int) {
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

// transposeBlocks transposes the leading columns of 16 rows that make whole
// blocks and returns their number.
func transposeBlocks(dst []float32, ldd int, src []float32, lds, rows, cols int) (done int) {
	switch {
	case rows != 16 || level < AVX2:
	case level >= AVX512:
		if done = cols &^ 15; done > 0 {
			transpose16AVX512(&dst[0], ldd, &src[0], lds, done/16)
		}
	default:
		if done = cols &^ 7; done > 0 {
			transpose8AVX2(&dst[0], ldd, &src[0], lds, done/8)
			transpose8AVX2(&dst[8], ldd, &src[8*lds], lds, done/8)
		}
	}
	return done
}
