package quant

import (
	"sync"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/internal/scratch"
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
	case !p.direct():
		p.unpacked()
	case w.Scheme.Axis == IC:
		p.across()
	default:
		p.turn()
		parallel.Each(p.workers, (w.Out+bandOC-1)/bandOC, func(_, i int) { p.lines(i*bandOC, min((i+1)*bandOC, w.Out)) })
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
	turned  [few][]float32 // rows of x in the order that products with codes want them in, if there is one
	workers int
	zero    float32 // of a Linear grid
	levels  [16]float32
	leveled bool // a Leveled grid
}

// direct reports whether codes are multiplied as they lie: of few rows, where groups are neighbours and values
// evenly spaced or 16 levels.
func (p *product) direct() bool {
	w := p.w
	if p.x.Rows > few || w.Summands != nil || !w.Contiguous() {
		return false
	}
	if w.Scheme.Grid == nil {
		return true
	}
	if w.Scheme.Axis != OC {
		return false
	}
	ok := false
	if g, is := w.Scheme.Grid.(Linear); is {
		p.zero, ok = g.Linear()
	}
	if g, is := w.Scheme.Grid.(Leveled); is && !ok && w.Scheme.Bits == 4 {
		p.levels, p.leveled = g.Levels()
	}
	return ok || p.leveled
}

// turn sets turned.
func (p *product) turn() {
	size := p.w.Scheme.GroupLen(p.w.In)
	if p.w.Scheme.Grid != nil || !kernel.Turns(size, p.w.Scheme.Bits) {
		return
	}
	for i := range p.x.Rows {
		p.turned[i] = make([]float32, p.x.Cols)
		kernel.Turn(p.turned[i], p.x.Row(i), size)
	}
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
		codes, scales := w.Codes[r*words:], w.Scales[r*g:(r+1)*g]
		for i := range p.x.Rows {
			x, y := p.x.Row(i), &p.y.Row(i)[r]
			switch {
			case p.leveled:
				*y = kernel.DotLevels(codes, x, scales, &p.levels, size)
			case w.Scheme.Grid != nil:
				*y = kernel.DotShifted(codes, x, scales, w.Shifts[r*g:(r+1)*g], p.zero, size, w.Scheme.Bits)
			default:
				*y = kernel.DotCodes(codes, x, p.turned[i], scales, w.Zeros[r*g:(r+1)*g], size, w.Scheme.Bits)
			}
		}
	}
}

// How products along inputs are cut, by their shape alone: results do not depend on the number of workers.
const (
	// chunksIC is how many parts inputs are cut into at most, each with sums of its own, of minIC inputs at least.
	chunksIC, minIC = 16, 128
	// wideIC is how many outputs are summed up together: their sums stay in the cache. It is a multiple of 32.
	wideIC = 16 << 10
)

// across is the product along inputs, each of which is a line.
func (p *product) across() {
	w := p.w
	each := max((w.In+chunksIC-1)/chunksIC, minIC)
	chunks, wide := (w.In+each-1)/each, min(w.Out, wideIC)
	sums := sumsIC.Get().(*tensor.Matrix)
	defer sumsIC.Put(sums)
	size := w.Scheme.GroupLen(w.Out)
	for r0 := 0; r0 < w.Out; r0 += wide {
		r1 := min(r0+wide, w.Out)
		turned := r0%size == 0 && kernel.Turns(size, w.Scheme.Bits)
		scratch.Matrix(sums, chunks*p.x.Rows, r1-r0)
		parallel.Each(p.workers, chunks, func(_, c int) {
			p.chunk(sums.View(c*p.x.Rows, (c+1)*p.x.Rows, 0, sums.Cols), c*each, min((c+1)*each, w.In), r0, turned)
		})
		for i := range p.x.Rows {
			y := p.y.Row(i)[r0:r1]
			sum := sums.Row(i)
			for c := 1; c < chunks; c++ {
				kernel.Axpy(1, sums.Row(c*p.x.Rows+i), sum)
			}
			if turned {
				kernel.Unturn(y, sum, size)
			} else {
				copy(y, sum)
			}
		}
	}
}

var sumsIC = sync.Pool{New: func() any { return new(tensor.Matrix) }}

// chunk sets y to what inputs j0 to j1 add to outputs from r0 on. Four lines go together, a quarter of the chunk
// apart: each quarter is read from its beginning to its end, which is what caches foresee. With turned
// y is in the order that kernel.Turn says.
func (p *product) chunk(y *tensor.Matrix, j0, j1, r0 int, turned bool) {
	w, bits := p.w, p.w.Scheme.Bits
	g, size, words := w.Groups(), w.Scheme.GroupLen(w.Out), w.WordsPerLine()
	for i := range y.Rows {
		clear(y.Row(i))
	}
	add := func(j, n, apart int) {
		var alpha [4]float32
		first := j*g + r0/size
		for i := range y.Rows {
			for k := range n {
				alpha[k] = p.x.Row(i)[j+k*apart]
			}
			kernel.AddCodes(y.Row(i), turned, w.Codes[j*words+r0*bits/32:], apart*words, w.Scales[first:], w.Zeros[first:], apart*g, alpha[:n], r0%size, size, bits)
		}
	}
	quarter := (j1 - j0) / 4
	for j := j0; j < j0+quarter; j++ {
		add(j, 4, quarter)
	}
	for j := j0 + 4*quarter; j < j1; j++ {
		add(j, 1, 1)
	}
}
