package quant

import (
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/tensor"
)

const (
	// few is up to how many rows are multiplied with codes as they lie; for more each part of the weight is
	// unpacked once.
	few = 3
	// bandOC is how many lines a goroutine takes at a time.
	bandOC = 32
	// unpackedLines is how many lines are unpacked together for many rows: few megabytes, and enough that
	// packing x for each of them does not matter.
	unpackedLines = 256
)

// MulVec computes y = Ŵ x for x [In] and y [Out], Ŵ being the weight that w stands for, from the packed codes.
// workers is the number of goroutines; 0 means GOMAXPROCS. The result does not depend on it.
func (w *Weight) MulVec(y, x []float32, workers int) {
	w.Mul(tensor.FromSlice(1, len(y), y), tensor.FromSlice(1, len(x), x), workers)
}

// Mul computes y = x Ŵᵀ for x [rows, In] and y [rows, Out] from the packed codes: of few rows without unpacking them
// to memory, of more part by part. workers is the number of goroutines; 0 means GOMAXPROCS. The result does
// not depend on it; from that with the dequantized weight it differs by rounding.
func (w *Weight) Mul(y, x *tensor.Matrix, workers int) {
	if x.Cols != w.In || y.Cols != w.Out || x.Rows != y.Rows {
		panic("quant: product of mismatched shapes")
	}
	all := x
	if w.InputScale != nil || w.Columns != nil {
		x = x.Clone()
	}
	for i := range x.Rows {
		for j, s := range w.InputScale {
			x.Row(i)[j] *= s
		}
		for _, c := range w.Columns {
			x.Row(i)[c] = 0
		}
	}
	p := &product{w: w, y: y, x: x, workers: parallel.Workers(workers)}
	switch {
	case x.Rows > few || w.Scheme.Grid != nil || w.Summands != nil || !w.Contiguous():
		p.unpacked()
	case w.Scheme.Axis == IC:
		// Parts of lines that begin with a word of codes, long but not all of a line for one goroutine.
		p.bands(min(max((w.Out+255)/256*32, 256), 1024), p.across)
	default:
		p.bands(bandOC, p.lines)
	}
	for k := range y.Rows {
		for r, s := range w.RowScale {
			y.Row(k)[r] *= s
		}
	}
	for i, c := range w.Columns {
		for k := range y.Rows {
			kernel.Axpy(all.Row(k)[c], w.ColumnValues[i*w.Out:(i+1)*w.Out], y.Row(k))
		}
	}
}

// product is the work of Mul.
type product struct {
	w       *Weight
	y, x    *tensor.Matrix
	workers int
}

// bands has outputs computed by f, so many at a time.
func (p *product) bands(size int, f func(r0, r1 int)) {
	parallel.Each(p.workers, (p.w.Out+size-1)/size, func(_, i int) { f(i*size, min((i+1)*size, p.w.Out)) })
}

// unpacked is the product with lines that are unpacked, some at a time.
func (p *product) unpacked() {
	w := p.w
	part, codes := tensor.New(min(unpackedLines, w.Lines()), w.LineLen()), make([][]uint8, p.workers)
	for l := 0; l < w.Lines(); l += unpackedLines {
		n := min(unpackedLines, w.Lines()-l)
		parallel.Each(p.workers, n, func(worker, i int) {
			if codes[worker] == nil {
				codes[worker] = make([]uint8, w.LineLen())
			}
			w.DequantizeLine(part.Row(i), codes[worker], l+i)
		})
		lines := part.View(0, n, 0, part.Cols)
		if w.Scheme.Axis == IC {
			tensor.Gemm(false, false, 1, p.x.View(0, p.x.Rows, l, l+n), lines, min(float32(l), 1), p.y, p.workers)
		} else {
			tensor.Gemm(false, true, 1, p.x, lines, 0, p.y.View(0, p.y.Rows, l, l+n), p.workers)
		}
	}
}

// lines computes outputs r0 to r1, each of which is a line.
func (p *product) lines(r0, r1 int) {
	w := p.w
	g, size, words := w.Groups(), w.Scheme.GroupLen(w.In), w.WordsPerLine()
	for r := r0; r < r1; r++ {
		for i := range p.x.Rows {
			p.y.Row(i)[r] = kernel.DotCodes(w.Codes[r*words:], p.x.Row(i), w.Scales[r*g:(r+1)*g], w.Zeros[r*g:(r+1)*g], size, w.Scheme.Bits)
		}
	}
}

// across computes outputs r0 to r1, a part of every line. r0 is a multiple of 32.
func (p *product) across(r0, r1 int) {
	const together = 64 // lines
	w, bits := p.w, p.w.Scheme.Bits
	g, size, words := w.Groups(), w.Scheme.GroupLen(w.Out), w.WordsPerLine()
	for i := range p.y.Rows {
		clear(p.y.Row(i)[r0:r1])
	}
	for j := 0; j < w.In; j += together {
		n := min(together, w.In-j)
		first := j*g + r0/size
		for i := range p.x.Rows {
			kernel.AddCodes(p.y.Row(i)[r0:r1], w.Codes[j*words+r0*bits/32:], words, w.Scales[first:], w.Zeros[first:], g, p.x.Row(i)[j:j+n], r0%size, size, bits)
		}
	}
}
