package decoder

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// Mixers with a state: what a token gets depends on those before it in its
// window through a state of fixed size, which is zero before the first token and
// kept in float32. Tokens of a window are gone through one after the other,
// windows and heads (or channels) side by side.

// convOp is a causal convolution over the tokens of a window, each channel by
// itself: dst[t] = act(bias + Σ weight[k]·src[t-K+1+k]), with zeros before the
// first token.
type convOp struct {
	dst, src     reg
	at           int // first column of src
	weight, bias int // parameters [channels, 1, K] and [channels], or -1
	act          activation
}

// conv adds a convolution of the columns of a register from at on, width
// channels. path is without ".weight".
func (b *builder) conv(src reg, at, width, size int, path string, bias bool, act activation) reg {
	o := &convOp{dst: b.like(src, width), src: src, at: at, weight: b.param(path+".weight", width, 1, size), bias: -1, act: act}
	if bias {
		o.bias = b.param(path+".bias", width)
	}
	b.do(o)
	return o.dst
}

func (o *convOp) reads() []reg  { return []reg{o.src} }
func (o *convOp) writes() []reg { return []reg{o.dst} }

func (o *convOp) run(x *exec) {
	src, dst := x.reg(o.src), x.write(o.dst)
	weight, bias := x.b.params[o.weight], x.vector(o.bias)
	size := weight.Cols
	taps := make([]float32, len(weight.Data)) // [K, channels]
	for c := range weight.Rows {
		for k, v := range weight.Row(c) {
			taps[k*weight.Rows+c] = v
		}
	}
	x.rows(dst.Rows, func(i int) {
		row := dst.Row(i)
		clear(row)
		if bias != nil {
			copy(row, bias)
		}
		for k := range size {
			if back := size - 1 - k; back <= i%x.f.seqLen {
				in, tap := src.Row(i - back)[o.at:][:len(row)], taps[k*len(row):]
				for c, v := range in {
					row[c] += float32(v * tap[c])
				}
			}
		}
		o.act.apply(row)
	})
}

// gateOp multiplies heads by act of other heads, and with norm normalizes them:
// before that, or with last after it.
type gateOp struct {
	y, z    heads
	act     activation
	norm    *normSpec
	last    bool
	gain    int  // parameter, or -1
	perHead bool // each head has its own part of the gain
}

func (o *gateOp) reads() []reg  { return []reg{o.y.reg, o.z.reg} }
func (o *gateOp) writes() []reg { return []reg{o.y.reg} }

// gateNorm adds a gate with a norm whose gain is a vector for all heads together
// (perHead) or for each alike.
func (b *builder) gateNorm(y, z heads, path string, last, perHead bool) {
	width := y.dim
	if perHead {
		width *= y.n
	}
	b.do(&gateOp{
		y: y, z: z, act: silu, norm: &normSpec{eps: b.c.NormEps}, last: last, perHead: perHead, gain: b.param(path+".weight", width),
	})
}

func (o *gateOp) run(x *exec) {
	y, z := x.reg(o.y.reg), x.reg(o.z.reg)
	gain := x.vector(max(o.gain, -1))
	x.rows(y.Rows, func(i int) {
		gate := make([]float32, o.y.dim)
		for h := range o.y.n {
			row := y.Row(i)[o.y.at(h):][:o.y.dim]
			copy(gate, z.Row(i)[o.z.at(h):])
			o.act.apply(gate)
			if o.norm != nil && !o.last {
				o.norm.apply(row, row, headPart(gain, h, o.y.dim, o.perHead), nil)
			}
			for j, v := range gate {
				row[j] *= v
			}
			if o.norm != nil && o.last {
				o.norm.apply(row, row, headPart(gain, h, o.y.dim, o.perHead), nil)
			}
		}
	})
}

// multiplyOp is dst = a*b, columns of registers from an offset on, as wide as dst.
type multiplyOp struct {
	dst, a, b reg
	aAt, bAt  int
}

func (o *multiplyOp) reads() []reg  { return []reg{o.a, o.b} }
func (o *multiplyOp) writes() []reg { return []reg{o.dst} }

func (o *multiplyOp) run(x *exec) {
	dst, a, b := x.write(o.dst), x.reg(o.a), x.reg(o.b)
	x.rows(dst.Rows, func(i int) {
		d := dst.Row(i)
		u, v := a.Row(i)[o.aAt:], b.Row(i)[o.bAt:]
		for j := range d {
			d[j] = u[j] * v[j]
		}
	})
}

// arrangeOp copies heads side by side.
type arrangeOp struct {
	dst   reg
	parts []heads
}

// arrange makes a register of heads that lie elsewhere.
func (b *builder) arrange(parts ...heads) reg {
	width := 0
	for _, h := range parts {
		width += h.n * h.dim
	}
	dst := b.like(parts[0].reg, width)
	b.do(&arrangeOp{dst, parts})
	return dst
}

func (o *arrangeOp) reads() []reg {
	var all []reg
	for _, h := range o.parts {
		all = append(all, h.reg)
	}
	return all
}
func (o *arrangeOp) writes() []reg { return []reg{o.dst} }

func (o *arrangeOp) run(x *exec) {
	dst := x.write(o.dst)
	x.rows(dst.Rows, func(i int) {
		d := dst.Row(i)
		for _, h := range o.parts {
			src := x.reg(h.reg).Row(i)
			for j := range h.n {
				d = d[copy(d[:h.dim], src[h.at(j):]):]
			}
		}
	})
}

func softplus(v float32) float64 {
	if v > 20 {
		return float64(v)
	}
	return math.Log1p(math.Exp(float64(v)))
}

// selectiveScan is the state space of Mamba (Gu and Dao, arXiv 2312.00752): for
// each channel, with A = -exp(A_log) [channels, state] and dt its time step,
//
//	h = exp(dt·A)·h + dt·B·u;  y = (C·h + D·u)·silu(z)
type selectiveScan struct {
	dst, u, dt, bc, gate reg
	gateAt, bAt, cAt     int // first columns
	aLog, d              int // parameters
}

func (o *selectiveScan) reads() []reg  { return []reg{o.u, o.dt, o.bc, o.gate} }
func (o *selectiveScan) writes() []reg { return []reg{o.dst} }
func (o *selectiveScan) heavy() bool   { return true }

func (o *selectiveScan) run(x *exec) {
	const band = 32 // channels at a time
	dst, aLog := x.write(o.dst), x.b.params[o.aLog]
	channels := aLog.Rows
	bands := (channels + band - 1) / band
	windows := dst.Rows / x.f.seqLen
	x.r.each(windows*bands, func(i int) {
		c0 := i % bands * band
		o.scan(x, i/bands*x.f.seqLen, c0, min(c0+band, channels))
	})
}

// scan goes through a window, the rows from first on, in channels [c0, c1).
func (o *selectiveScan) scan(x *exec, first, c0, c1 int) {
	dst, aLog, d := x.reg(o.dst), x.b.params[o.aLog], x.vector(o.d)
	u, dt, bc, gate := x.reg(o.u), x.reg(o.dt), x.reg(o.bc), x.reg(o.gate)
	n := aLog.Cols
	a := make([]float32, (c1-c0)*n)
	for i := range a {
		a[i] = -float32(math.Exp(float64(aLog.Row(c0 + i/n)[i%n])))
	}
	state, decay := make([]float32, len(a)), make([]float32, len(a))
	steps, z := make([]float32, c1-c0), make([]float32, c1-c0)
	for t := first; t < first+x.f.seqLen; t++ {
		for c := range steps {
			steps[c] = float32(softplus(dt.Row(t)[c0+c]))
			for j := c * n; j < (c+1)*n; j++ {
				decay[j] = steps[c] * a[j]
			}
		}
		kernel.ExpShift(decay, 1, 0)
		copy(z, gate.Row(t)[o.gateAt+c0:])
		silu.apply(z)
		bv, cv := bc.Row(t)[o.bAt:][:n], bc.Row(t)[o.cAt:][:n]
		for c := range steps {
			in := u.Row(t)[c0+c]
			h := state[c*n : (c+1)*n]
			y := advance(h, decay[c*n:], bv, cv, steps[c]*in)
			dst.Row(t)[c0+c] = (y + float32(d[c0+c]*in)) * z[c]
		}
	}
}

// advance sets h to decay*h + in*b and returns the product of c with it.
func advance(h, decay, b, c []float32, in float32) float32 {
	var y float32
	decay, b, c = decay[:len(h)], b[:len(h)], c[:len(h)]
	for j, v := range h {
		v = float32(decay[j]*v) + float32(in*b[j])
		h[j] = v
		y += float32(v * c[j])
	}
	return y
}

// headScan is the state space of Mamba-2 (Dao and Gu, arXiv 2405.21060): the
// channels of a head share one A, one D and one time step, heads of a group B and C.
type headScan struct {
	dst, x, dt       reg // x has x, B and C side by side
	dtAt             int
	heads, dim       int
	groups, state    int
	least, most      float64 // bounds of the time step
	aLog, d, stepped int     // parameters [heads]; the last is added to dt
}

func (o *headScan) reads() []reg  { return []reg{o.x, o.dt} }
func (o *headScan) writes() []reg { return []reg{o.dst} }
func (o *headScan) heavy() bool   { return true }

func (o *headScan) run(x *exec) {
	dst := x.write(o.dst)
	x.r.each(dst.Rows/x.f.seqLen*o.heads, func(i int) { o.scan(x, i/o.heads*x.f.seqLen, i%o.heads) })
}

func (o *headScan) scan(x *exec, first, head int) {
	in, dt, dst := x.reg(o.x), x.reg(o.dt), x.reg(o.dst)
	a := -math.Exp(float64(x.vector(o.aLog)[head]))
	d, shift := x.vector(o.d)[head], x.vector(o.stepped)[head]
	inner, group := o.heads*o.dim, head/(o.heads/o.groups)
	state := make([]float32, o.dim*o.state)
	for t := first; t < first+x.f.seqLen; t++ {
		row := in.Row(t)
		b, c := row[inner+group*o.state:][:o.state], row[inner+(o.groups+group)*o.state:][:o.state]
		step := min(max(softplus(dt.Row(t)[o.dtAt+head]+shift), o.least), o.most)
		decay, s := float32(math.Exp(step*a)), float32(step)
		u, y := row[head*o.dim:][:o.dim], dst.Row(t)[head*o.dim:][:o.dim]
		for p, v := range u {
			y[p] = advanceEven(state[p*o.state:][:o.state], b, c, decay, s*v) + float32(d*v)
		}
	}
}

// advanceEven is advance with the same decay everywhere.
func advanceEven(h, b, c []float32, decay, in float32) float32 {
	b, c = b[:len(h)], c[:len(h)]
	var y float32
	for j, v := range h {
		v = float32(decay*v) + float32(in*b[j])
		h[j] = v
		y += float32(v * c[j])
	}
	return y
}

// deltaScan is the gated delta rule (Yang et al., arXiv 2412.06464): for each value
// head, with keys and queries of unit length, S [key width, value width],
// decay exp(-exp(A_log)·softplus(a+dt_bias)) and β = sigmoid(b),
//
//	S = decay·S;  S += k ⊗ β(v - kᵀS);  y = qᵀS/√(key width)
type deltaScan struct {
	dst, qkv         reg
	beta, step       heads // of one column: b and a
	keys, values     int   // heads
	keyDim, valueDim int
	aLog, shift      int // parameters [value heads]
}

func (o *deltaScan) reads() []reg  { return []reg{o.qkv, o.beta.reg, o.step.reg} }
func (o *deltaScan) writes() []reg { return []reg{o.dst} }
func (o *deltaScan) heavy() bool   { return true }

func (o *deltaScan) run(x *exec) {
	dst := x.write(o.dst)
	x.r.each(dst.Rows/x.f.seqLen*o.values, func(i int) { o.scan(x, i/o.values*x.f.seqLen, i%o.values) })
}

func (o *deltaScan) scan(x *exec, first, head int) {
	qkv, betas, steps, dst := x.reg(o.qkv), x.reg(o.beta.reg), x.reg(o.step.reg), x.reg(o.dst)
	betaAt, stepAt := o.beta.at(head), o.step.at(head)
	rate, shift := math.Exp(float64(x.vector(o.aLog)[head])), x.vector(o.shift)[head]
	key, n, m := head/(o.values/o.keys), o.keyDim, o.valueDim
	state := make([]float32, n*m)
	q, k, delta := make([]float32, n), make([]float32, n), make([]float32, m)
	for t := first; t < first+x.f.seqLen; t++ {
		row := qkv.Row(t)
		unit(q, row[key*n:][:n], 1/math.Sqrt(float64(n)))
		unit(k, row[(o.keys+key)*n:][:n], 1)
		v := row[2*o.keys*n+head*m:][:m]
		beta := float32(1 / (1 + math.Exp(-float64(betas.Row(t)[betaAt]))))
		decay := float32(math.Exp(-rate * softplus(steps.Row(t)[stepAt]+shift)))
		kernel.Scale(state, decay)
		for j, s := range v {
			delta[j] = s
		}
		for i, s := range k {
			kernel.Axpy(-s, state[i*m:(i+1)*m], delta)
		}
		kernel.Scale(delta, beta)
		y := dst.Row(t)[head*m:][:m]
		clear(y)
		for i := range k {
			kernel.Axpy(k[i], delta, state[i*m:(i+1)*m])
			kernel.Axpy(q[i], state[i*m:(i+1)*m], y)
		}
	}
}

// unit sets dst to src divided by its length, times a factor.
func unit(dst, src []float32, factor float64) {
	var sum float64
	for _, v := range src {
		sum += float64(v) * float64(v)
	}
	f := float32(factor / math.Sqrt(sum+1e-6))
	for i, v := range src {
		dst[i] = v * f
	}
}

// decayScan is linear attention with a decay for each head (Qin et al., Lightning
// Attention-2, arXiv 2401.04658): S = exp(-slope)·S + k ⊗ v, y = qᵀS. It is computed
// in blocks of tokens, as in the paper: what comes from earlier blocks through S,
// and the block's own pairs. Files of transformers have the decays of a block as
// tensors, rounded to their type, and those count where they are there.
type decayScan struct {
	dst     reg
	q, k, v heads
	block   int
	slopes  []float64 // by head

	// Optional parameters: slopes [heads, 1, 1], decays of S to a query and of a key
	// to the end of the block [heads, block, 1], and of a key to a query
	// [1, heads, block, block].
	stored, toQuery, toEnd, pairs int
}

func (o *decayScan) reads() []reg  { return []reg{o.q.reg, o.k.reg, o.v.reg} }
func (o *decayScan) writes() []reg { return []reg{o.dst} }
func (o *decayScan) heavy() bool   { return true }

func (o *decayScan) run(x *exec) {
	dst := x.write(o.dst)
	x.r.each(dst.Rows/x.f.seqLen*o.q.n, func(i int) {
		d := o.decays(x, i%o.q.n)
		state := tensor.New(o.q.dim, o.v.dim)
		for t, first := 0, i/o.q.n*x.f.seqLen; t < x.f.seqLen; t += o.block {
			o.blockOf(x, i%o.q.n, first+t, min(o.block, x.f.seqLen-t), d, state)
		}
	})
}

// blockDecays are the decays of one head.
type blockDecays struct {
	slope                 float64
	toQuery, toEnd, pairs []float32
}

func (o *decayScan) decays(x *exec, head int) blockDecays {
	n := o.block
	d := blockDecays{slope: o.slopes[head]}
	if v := x.vector(o.stored); v != nil {
		d.slope = float64(v[head])
	}
	part := func(i, size int, missing func(j int) float64) []float32 {
		if v := x.vector(i); v != nil {
			return v[head*size : (head+1)*size]
		}
		v := make([]float32, size)
		for j := range v {
			v[j] = float32(math.Exp(-d.slope * missing(j)))
		}
		return v
	}
	d.toQuery = part(o.toQuery, n, func(j int) float64 { return float64(j + 1) })
	d.toEnd = part(o.toEnd, n, func(j int) float64 { return float64(n - 1 - j) })
	d.pairs = part(o.pairs, n*n, func(j int) float64 {
		if j%n > j/n {
			return math.Inf(1)
		}
		return float64(j/n - j%n)
	})
	return d
}

// blockOf computes n tokens from row t on and brings the state behind them.
func (o *decayScan) blockOf(x *exec, head, t, n int, d blockDecays, state *tensor.Matrix) {
	part := func(h heads) *tensor.Matrix {
		c := h.at(head)
		return x.reg(h.reg).View(t, t+n, c, c+h.dim)
	}
	q, k, v := part(o.q), part(o.k), part(o.v)
	y := x.reg(o.dst).View(t, t+n, head*o.v.dim, (head+1)*o.v.dim)
	scores, q2, k2 := tensor.New(n, n), q.Clone(), k.Clone()
	tensor.Gemm(false, true, 1, q, k, 0, scores, 1)
	for i := range n {
		for j := range n {
			scores.Data[i*n+j] *= d.pairs[i*o.block+j]
		}
		kernel.Scale(q2.Row(i), d.toQuery[i])
		kernel.Scale(k2.Row(i), d.toEnd[o.block-n+i])
	}
	tensor.Gemm(false, false, 1, scores, v, 0, y, 1)
	tensor.Gemm(false, false, 1, q2, state, 1, y, 1)
	tensor.Gemm(true, false, 1, k2, v, float32(math.Exp(-d.slope*float64(n))), state, 1)
}
