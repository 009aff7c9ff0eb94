package quant

import (
	"sync"

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
	// Cross is (X-X_q)ᵀX_q [in, in], where X is what the layer would see in
	// the unquantized model and X_q what H was taken from; nil if both are
	// the same or it was not collected.
	Cross *tensor.Matrix
	// Residual is RᵀX_q [out, in], where R is what the residual stream that
	// the layer's output is added to lacks of the unquantized model's; nil
	// for layers whose output is not added to it.
	Residual *tensor.Matrix

	mu   sync.Mutex
	memo map[any]*memoEntry
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
	c := NewCollector(x.Cols, false)
	c.Add(x, workers)
	return c.Calibration()
}

// Collector accumulates a Calibration from batches of inputs.
type Collector struct {
	h, cross *tensor.Matrix
	residual *tensor.Matrix
	absSum   []float64
	tokens   int
}

// NewCollector returns an empty collector for inputs of the given width.
// With paired set it expects AddPair and also collects Cross.
func NewCollector(in int, paired bool) *Collector {
	c := &Collector{h: tensor.New(in, in), absSum: make([]float64, in)}
	if paired {
		c.cross = tensor.New(in, in)
	}
	return c
}

// Add accumulates the inputs x [tokens, in].
func (c *Collector) Add(x *tensor.Matrix, workers int) {
	tensor.SyrkT(x, c.h, workers)
	for i := range x.Rows {
		for j, v := range x.Row(i) {
			if v < 0 {
				v = -v
			}
			c.absSum[j] += float64(v)
		}
	}
	c.tokens += x.Rows
}

// AddPair accumulates the inputs xq [tokens, in] that the layer will see,
// and x, what it would see in the unquantized model. x is overwritten.
func (c *Collector) AddPair(x, xq *tensor.Matrix, workers int) {
	for i := range x.Rows {
		q := xq.Row(i)
		for j, v := range x.Row(i) {
			x.Data[i*x.Stride+j] = v - q[j]
		}
	}
	tensor.Gemm(true, false, 1, x, xq, 1, c.cross, workers)
	c.Add(xq, workers)
}

// AddResidual accumulates Calibration.Residual from what the residual stream
// lacks, r [tokens, out], beside the inputs xq that AddPair is given.
func (c *Collector) AddResidual(r, xq *tensor.Matrix, workers int) {
	if c.residual == nil {
		c.residual = tensor.New(r.Cols, xq.Cols)
	}
	tensor.Gemm(true, false, 1, r, xq, 1, c.residual, workers)
}

// Calibration returns the statistics; the collector must not be used after.
func (c *Collector) Calibration() *Calibration {
	n := c.h.Rows
	for i := range n {
		row := c.h.Row(i)
		for j := range i {
			c.h.Data[j*n+i] = row[j]
		}
	}
	mean := make([]float32, n)
	if c.tokens > 0 {
		for j, s := range c.absSum {
			mean[j] = float32(s / float64(c.tokens))
		}
	}
	return &Calibration{H: c.h, Tokens: c.tokens, MeanAbs: mean, Cross: c.cross, Residual: c.residual}
}
