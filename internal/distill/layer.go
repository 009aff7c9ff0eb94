package distill

import (
	"math"
	"slices"

	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// border is how near to the edge of its code a latent may begin: nearer, and codes
// would change back and forth from the first step on.
const border = 0.45

// layer is a weight that is being tuned.
type layer struct {
	name string
	grid quant.Grid
	base []float32     // scales at the start
	now  *quant.Weight // with scales that are not rounded to what is stored
	size []float32     // by group: scale = base*(1+size)
	sums moments
	// latents are what codes are rounded from, by line; nil if codes stay. From one code
	// to the next a value changes by unit times its scale.
	latents []float32
	unit    float32
	drift   moments
	dense   *tensor.Matrix // what the model computes with
	grad    *tensor.Matrix // of the step, [out, in]
}

func newLayer(name string, w *quant.Weight, original *tensor.Matrix, workers int) *layer {
	l := &layer{name: name, grid: quant.GridOf(w.Scheme), base: w.Scales, now: copied(w), size: make([]float32, len(w.Scales))}
	l.sums = newMoments(len(l.size))
	if l.unit = unit(l.grid); original != nil && l.unit != 0 {
		l.latents = make([]float32, w.Out*w.In)
		l.drift = newMoments(len(l.latents))
		l.begin(original, workers)
	}
	l.dense = w.Dequantize()
	return l
}

// unit is by how much values of a scale of 1 change from each code to the next; 0 if that
// is not the same everywhere.
func unit(g quant.Grid) float32 {
	codes := make([]uint8, 1<<g.Bits())
	for i := range codes {
		codes[i] = uint8(i)
	}
	slopes := make([]float32, len(codes))
	g.Slopes(slopes, codes, []float32{0}, len(codes))
	d := slopes[1] - slopes[0]
	for i := range slopes[1:] {
		if slopes[i+1]-slopes[i] != d {
			return 0
		}
	}
	return d
}

// copied is a weight with codes and scales of its own.
func copied(w *quant.Weight) *quant.Weight {
	c := *w
	c.Codes, c.Scales = slices.Clone(w.Codes), slices.Clone(w.Scales)
	c.RowLoss = nil
	return &c
}

// begin puts the latents to where the original weight lies on the grid, but not beyond
// the codes that were chosen.
func (l *layer) begin(original *tensor.Matrix, workers int) {
	w := l.now
	t := byLine(w, original, func(row, input float32) float32 { return 1 / (row * input) })
	n, g := w.LineLen(), w.Groups()
	codes, values := perWorker[uint8](workers, n), perWorker[float32](workers, n)
	parallel.Each(workers, w.Lines(), func(worker, i int) {
		code, line, value := codes[worker], l.latents[i*n:(i+1)*n], values[worker]
		w.DequantizeLine(value, code, i)
		for p, v := range t.Row(i) {
			line[p] = float32(code[p])
			if step := w.Scales[i*g+w.Group(p)] * l.unit; step != 0 {
				line[p] += min(max((v-value[p])/step, -border), border)
			}
		}
	})
}

// byLine is a matrix [out, in] line by line, each element times a factor of its row's
// and input's scales.
func byLine(w *quant.Weight, m *tensor.Matrix, factor func(row, input float32) float32) *tensor.Matrix {
	m = m.Clone()
	for r := range m.Rows {
		row, rs := m.Row(r), float32(1)
		if w.RowScale != nil {
			rs = w.RowScale[r]
		}
		if w.RowScale == nil && w.InputScale == nil {
			break
		}
		for j := range row {
			is := float32(1)
			if w.InputScale != nil {
				is = w.InputScale[j]
			}
			row[j] *= factor(rs, is)
		}
	}
	if w.Scheme.Axis == quant.IC {
		return m.T()
	}
	return m
}

func perWorker[T any](workers, n int) [][]T {
	all := make([][]T, parallel.Workers(workers))
	for i := range all {
		all[i] = make([]T, n)
	}
	return all
}

// rates are those of a step.
type rates struct{ scales, codes pace }

// update takes a step down the gradient, and lets go of it. The derivative of rounding
// counts as 1 (the straight-through estimator: Bengio et al., arXiv 1308.3432).
func (l *layer) update(r rates, workers int) {
	if l.grad == nil {
		return
	}
	w := l.now
	for r := range l.grad.Rows {
		for _, c := range w.Columns { // have weights of their own
			l.grad.Row(r)[c] = 0
		}
	}
	g := byLine(w, l.grad, func(row, input float32) float32 { return row * input })
	l.grad = nil
	n, groups := w.LineLen(), w.Groups()
	codes, slopes, shifts := perWorker[uint8](workers, n), perWorker[float32](workers, n), perWorker[float32](workers, n)
	sums := perWorker[float64](workers, groups)
	parallel.Each(workers, w.Lines(), func(worker, i int) {
		code, slope, shift, sum := codes[worker], slopes[worker], shifts[worker], sums[worker]
		w.Line(code, i)
		for p := range shift {
			shift[p] = w.Shift(i*groups + w.Group(p))
		}
		l.grid.Slopes(slope, code, shift, 1)
		clear(sum)
		for p, v := range g.Row(i) {
			sum[w.Group(p)] += float64(v) * float64(slope[p])
		}
		if l.latents != nil {
			l.round(code, i, g.Row(i), r)
			w.SetLine(i, code)
		}
		for k, s := range sum {
			at := i*groups + k
			l.size[at] -= l.sums.step(at, float32(s)*l.base[at], r.scales)
			w.Scales[at] = l.base[at] * (1 + l.size[at])
		}
	})
	l.dense = w.Dequantize()
}

// round moves the latents of line i, whose gradient as values is g, and rounds them to
// codes.
func (l *layer) round(code []uint8, i int, g []float32, r rates) {
	w, n := l.now, len(code)
	most := float32(int(1)<<w.Scheme.Bits) - 0.51
	line, groups := l.latents[i*n:(i+1)*n], w.Groups()
	for p, v := range g {
		u := line[p] - l.drift.step(i*n+p, v*w.Scales[i*groups+w.Group(p)]*l.unit, r.codes)
		line[p] = min(max(u, -0.49), most)
		code[p] = uint8(math.RoundToEven(float64(line[p])))
	}
}

// stored is the weight as a file holds it.
func (l *layer) stored() *quant.Weight {
	w := copied(l.now)
	copy(w.Scales, l.base)
	groups := w.Groups()
	want := make([]float64, groups)
	for i := range w.Lines() {
		for k := range want {
			want[k] = float64(l.now.Scales[i*groups+k])
		}
		l.grid.Store(w.Scales[i*groups:(i+1)*groups], want)
	}
	return w
}

// moments are those of Adam (Kingma and Ba, arXiv 1412.6980), by parameter.
type moments struct{ first, second []float32 }

func newMoments(n int) moments { return moments{make([]float32, n), make([]float32, n)} }

const (
	beta1 = 0.9
	beta2 = 0.95
)

// pace is a rate in one step, with what makes up for moments that began at 0.
type pace struct{ rate, second float32 }

func newPace(rate float64, step int) pace {
	n := float64(step)
	return pace{float32(rate / (1 - math.Pow(beta1, n))), float32(1 / (1 - math.Pow(beta2, n)))}
}

// step is how far parameter i goes down a gradient.
func (m moments) step(i int, g float32, p pace) float32 {
	const eps = 1e-8
	m.first[i] = float32(beta1*m.first[i]) + float32((1-beta1)*g)
	m.second[i] = float32(beta2*m.second[i]) + float32(float32((1-beta2)*g)*g)
	return p.rate * m.first[i] / (float32(math.Sqrt(float64(m.second[i]*p.second))) + eps)
}
