package quant

import (
	"context"
	"math"
	"sync"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/tensor"
)

// Calibration is what the inputs X [tokens, in] of a linear layer leave
// behind. Layers that share their input share one Calibration.
type Calibration struct {
	// H is XᵀX [in, in], both triangles filled. A constant factor changes no
	// decision. It must not be modified.
	H *tensor.Matrix
	// Tokens is the number of rows of X.
	Tokens int
	// MeanAbs is the mean of |x_j| over the tokens, for input scales
	// (AWQ, arXiv 2306.00978); nil if it was not collected.
	MeanAbs []float32
	// AbsMax is the largest |x_j| over the tokens, [in], by which outlier features are
	// known (LLM.int8(), arXiv 2208.07339); nil if it was not collected.
	AbsMax []float32
	// Cross is (X-X_q)ᵀX_q [in, in], where X is what the layer would see in
	// the unquantized model and X_q what H was taken from; nil if both are
	// the same or it was not collected.
	Cross *tensor.Matrix
	// Residual is RᵀX_q [out, in], where R is what the residual stream that
	// the layer's output is added to lacks of the unquantized model's; nil
	// for layers whose output is not added to it.
	Residual *tensor.Matrix
	// Halves are the same statistics of the first and of the second half of
	// every batch given to AddPair, where Cross was collected: what is fitted
	// on one can be tried on the other. A text longer than half a batch lies
	// in both, so the halves are not independent samples.
	Halves [2]*Calibration
	// Output is the curvature of the model's loss at the outputs of one layer,
	// [out, out], symmetric: the mean of g gᵀ over tokens, g the gradient of the
	// loss there. Together with H it says what an error E of the weight costs,
	// tr(Output E H Eᵀ); nil if it is not known. A constant factor changes nothing.
	Output *tensor.Matrix

	base *Calibration // whose Memo is used, if not nil
	mu   sync.Mutex
	memo map[any]*memoEntry
}

// WithOutput returns the statistics with the curvature at the outputs of one of the
// layers that share them, [out, out] or nil. What Memo holds is shared.
func (c *Calibration) WithOutput(o *tensor.Matrix) *Calibration {
	base := c
	if c.base != nil {
		base = c.base
	}
	return &Calibration{
		H: c.H, Tokens: c.Tokens, MeanAbs: c.MeanAbs, AbsMax: c.AbsMax, Cross: c.Cross, Residual: c.Residual, Halves: c.Halves,
		Output: o, base: base,
	}
}

// Diagonal returns the diagonal of H.
func (c *Calibration) Diagonal() []float32 {
	d := make([]float32, c.H.Rows)
	for j := range d {
		d[j] = c.H.At(j, j)
	}
	return d
}

type memoEntry struct {
	once  sync.Once
	value any
}

// Memo returns make(), computed once per key, so that layers with the same
// input share factorizations of H. make must depend on the key and the
// calibration alone.
func (c *Calibration) Memo(key any, make func() any) any {
	c.mu.Lock()
	if c.memo == nil {
		c.memo = map[any]*memoEntry{}
	}
	e := c.memo[key]
	if e == nil {
		e = &memoEntry{}
		c.memo[key] = e
	}
	c.mu.Unlock()
	e.once.Do(func() { e.value = make() })
	return e.value
}

// NewCalibration returns the statistics of the inputs x [tokens, in].
func NewCalibration(x *tensor.Matrix, workers int) *Calibration {
	c := NewCollector(x.Cols)
	c.Add(x, workers)
	return c.Calibration()
}

// NewDiagonalCalibration returns what is known where it is no more than the means of the
// squares of inputs, [in], over so many tokens: H is 0 beside its diagonal. Their roots
// stand in for MeanAbs.
func NewDiagonalCalibration(squares []float32, tokens int) *Calibration {
	c := &Calibration{H: tensor.New(len(squares), len(squares)), Tokens: tokens, MeanAbs: make([]float32, len(squares))}
	for j, v := range squares {
		c.H.Set(j, j, v*float32(tokens))
		c.MeanAbs[j] = float32(math.Sqrt(float64(v)))
	}
	return c
}

// Collector accumulates a Calibration from batches of inputs.
type Collector struct {
	// BF16 rounds inputs to bfloat16 for H, whose sums stay in float32, where
	// the CPU is faster at that; elsewhere it changes nothing.
	BF16 bool

	sums   []*sums // one, or two for halves of the tokens
	absSum []float64
	absMax []float32
	halves *[2]*Calibration // once they were asked for
}

// sums are the second moments of some tokens.
type sums struct {
	h, cross, residual *tensor.Matrix
	tokens             int
}

// NewCollector returns an empty collector for inputs of width in, which Add
// gives to it.
func NewCollector(in int) *Collector {
	return &Collector{absSum: make([]float64, in), absMax: make([]float32, in), sums: []*sums{{h: tensor.New(in, in)}}}
}

// NewPairCollector returns an empty collector for inputs of width in, which
// AddPair gives to it together with those of the unquantized model. It also
// collects Cross, Residual and Halves.
func NewPairCollector(in int) *Collector {
	c := NewCollector(in)
	c.sums = append(c.sums, &sums{h: tensor.New(in, in)})
	for _, s := range c.sums {
		s.cross = tensor.New(in, in)
	}
	return c
}

// Add accumulates the inputs x [tokens, in].
func (c *Collector) Add(x *tensor.Matrix, workers int) {
	c.add(c.sums[0], x, workers)
}

func (c *Collector) add(s *sums, x *tensor.Matrix, workers int) {
	if c.BF16 {
		tensor.SyrkTBF16(x, s.h, workers)
	} else {
		tensor.SyrkT(x, s.h, workers)
	}
	const strip = 128 // columns
	_ = parallel.For(context.Background(), workers, (x.Cols+strip-1)/strip, func(t int) error {
		j0, j1 := t*strip, min((t+1)*strip, x.Cols)
		sum, most := c.absSum[j0:j1], c.absMax[j0:j1]
		for i := range x.Rows {
			for j, v := range x.Row(i)[j0:j1] {
				// A branch on the sign would be mispredicted every other time.
				a := math.Float32frombits(math.Float32bits(v) &^ (1 << 31))
				sum[j] += float64(a)
				most[j] = max(most[j], a)
			}
		}
		return nil
	})
	s.tokens += x.Rows
}

// AddPair accumulates the inputs xq [tokens, in] that the layer will see,
// and x, what it would see in the unquantized model. r [tokens, out] is what
// the residual stream lacks, for Calibration.Residual; nil for layers whose
// output is not added to it. x is overwritten.
func (c *Collector) AddPair(x, xq, r *tensor.Matrix, workers int) {
	for i := range x.Rows {
		q := xq.Row(i)
		for j, v := range x.Row(i) {
			x.Data[i*x.Stride+j] = v - q[j]
		}
	}
	half := (x.Rows + 1) / 2
	for k, s := range c.sums {
		part := func(m *tensor.Matrix) *tensor.Matrix {
			return m.View(k*half, min((k+1)*half, m.Rows), 0, m.Cols)
		}
		q := part(xq)
		tensor.Gemm(true, false, 1, part(x), q, 1, s.cross, workers)
		if r != nil {
			if s.residual == nil {
				s.residual = tensor.New(r.Cols, q.Cols)
			}
			tensor.Gemm(true, false, 1, part(r), q, 1, s.residual, workers)
		}
		c.add(s, q, workers)
	}
}

// Squares returns the sums of the squares of all inputs so far, [in], and how many inputs
// they are over.
func (c *Collector) Squares() (sums []float32, tokens int) {
	sums = make([]float32, len(c.absSum))
	for _, s := range c.sums {
		for j := range sums {
			sums[j] += s.h.At(j, j)
		}
		tokens += s.tokens
	}
	return sums, tokens
}

// Halves returns what Calibration.Halves would be, of a collector for pairs. It
// is for those who are done with the halves before they ask for the whole:
// Calibration then makes it in the memory of the first half, and has no Halves.
func (c *Collector) Halves() [2]*Calibration {
	if c.halves == nil {
		c.halves = &[2]*Calibration{}
		for i, s := range c.sums {
			if len(c.sums) == 2 {
				c.halves[i] = s.calibration()
			}
		}
	}
	return *c.halves
}

func (s *sums) calibration() *Calibration {
	tensor.Mirror(s.h)
	return &Calibration{H: s.h, Tokens: s.tokens, Cross: s.cross, Residual: s.residual}
}

// Shrink takes out of H what few tokens say by chance, in place: what is beside the diagonal
// is multiplied by 1 - s, where s = n/(n + Tokens/2) - 0.2 for n inputs, and at least 0 (none
// from 8 tokens an input on). Means of products of few tokens scatter about those of the
// text, on the diagonal much less than beside it (after Ledoit and Wolf, J. Multivariate
// Analysis 88, 2004; the strength was found by trying: docs/loss.md). It must be called
// before anything is derived from H.
func (c *Calibration) Shrink() {
	n := float64(c.H.Rows)
	s := n/(n+float64(c.Tokens)/2) - 0.2
	if s <= 0 {
		return
	}
	for i := range c.H.Rows {
		row := c.H.Row(i)
		d := row[i]
		kernel.Scale(row, float32(1-s))
		row[i] = d
	}
}

// Calibration returns the statistics; the collector must not be used after.
func (c *Collector) Calibration() *Calibration {
	all := &Calibration{MeanAbs: make([]float32, len(c.absSum)), AbsMax: c.absMax}
	if len(c.sums) == 1 {
		p := c.sums[0].calibration()
		all.H, all.Tokens = p.H, p.Tokens
	} else {
		used := c.halves != nil
		halves := c.Halves()
		p, q := halves[0], halves[1]
		if !used {
			all.Halves = halves
		}
		all.H, all.Cross, all.Residual = sum(p.H, q.H, used), sum(p.Cross, q.Cross, used), sum(p.Residual, q.Residual, used)
		all.Tokens = p.Tokens + q.Tokens
		c.halves, c.sums = nil, nil
	}
	if all.Tokens > 0 {
		for j, s := range c.absSum {
			all.MeanAbs[j] = float32(s / float64(all.Tokens))
		}
	}
	return all
}

// sum is a+b, with inPlace in the memory of a.
func sum(a, b *tensor.Matrix, inPlace bool) *tensor.Matrix {
	if a == nil {
		return nil
	}
	c := a
	if !inPlace {
		c = a.Clone()
	}
	for i, v := range b.Data {
		c.Data[i] += v
	}
	return c
}
