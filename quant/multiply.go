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
	p := &product{w: w, y: y, x: x, direct: x.Rows <= few && w.Scheme.Grid == nil && w.Summands == nil && w.Contiguous()}
	each, band := p.lines, bandOC
	if w.Scheme.Axis == IC {
		// Parts of lines that begin with a word of codes, long but not all of a line for one goroutine.
		each, band = p.across, min(max((w.Out+255)/256*32, 256), 1024)
	}
	parallel.Each(parallel.Workers(workers), (w.Out+band-1)/band, func(_, i int) {
		r0, r1 := i*band, min((i+1)*band, w.Out)
		each(r0, r1)
		if w.RowScale == nil {
			return
		}
		for k := range y.Rows {
			row := y.Row(k)
			for r := r0; r < r1; r++ {
				row[r] *= w.RowScale[r]
			}
		}
	})
	for i, c := range w.Columns {
		for k := range y.Rows {
			kernel.Axpy(all.Row(k)[c], w.ColumnValues[i*w.Out:(i+1)*w.Out], y.Row(k))
		}
	}
}

// product is the work of Mul.
type product struct {
	w      *Weight
	y, x   *tensor.Matrix
	direct bool // codes are multiplied as they lie
}

// lines computes outputs r0 to r1, each of which is a line.
func (p *product) lines(r0, r1 int) {
	w := p.w
	if !p.direct {
		codes, part := make([]uint8, w.In), tensor.New(r1-r0, w.In)
		for r := range part.Rows {
			w.DequantizeLine(part.Row(r), codes, r0+r)
		}
		tensor.Gemm(false, true, 1, p.x, part, 0, p.y.View(0, p.y.Rows, r0, r1), 1)
		return
	}
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
		if !p.direct {
			p.unpacked(j, n, r0, r1)
			continue
		}
		first := j*g + r0/size
		for i := range p.x.Rows {
			kernel.AddCodes(p.y.Row(i)[r0:r1], w.Codes[j*words+r0*bits/32:], words, w.Scales[first:], w.Zeros[first:], g, p.x.Row(i)[j:j+n], r0%size, size, bits)
		}
	}
}

// unpacked adds what lines j to j+n, unpacked, give outputs r0 to r1.
func (p *product) unpacked(j, n, r0, r1 int) {
	codes, line, part := make([]uint8, p.w.Out), make([]float32, p.w.Out), tensor.New(n, r1-r0)
	for k := range n {
		p.w.DequantizeLine(line, codes, j+k)
		copy(part.Row(k), line[r0:r1])
	}
	tensor.Gemm(false, false, 1, p.x.View(0, p.x.Rows, j, j+n), part, 1, p.y.View(0, p.y.Rows, r0, r1), 1)
}
