package program

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/nn"
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
	dst, src     Reg
	at           int // first column of src
	weight, bias int // parameters [channels, 1, K] and [channels], or -1
	act          Activation
}

// Conv adds a convolution of the columns of a register from at on, width
// channels. path is without ".weight".
func (b *Builder) Conv(src Reg, at, width, size int, path string, bias bool, act Activation) Reg {
	o := &convOp{dst: b.like(src, width), src: src, at: at, weight: b.Param(path+".weight", width, 1, size), bias: -1, act: act}
	if bias {
		o.bias = b.Param(path+".bias", width)
	}
	b.do(o)
	return o.dst
}

func (o *convOp) reads() []Reg  { return []Reg{o.src} }
func (o *convOp) writes() []Reg { return []Reg{o.dst} }

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
			in := o.before(x, src, i, size-1-k, size, len(row))
			tap := taps[k*len(row):]
			for c, v := range in {
				row[c] += float32(v * tap[c])
			}
		}
		o.act.Apply(row)
	})
	o.remember(x, src, size, dst.Cols)
}

// before is what entered so many tokens before row i, nothing where that is before the first.
func (o *convOp) before(x *exec, src *tensor.Matrix, i, back, size, width int) []float32 {
	t := i%x.f.seqLen - back
	if t >= 0 {
		return src.Row(i - back)[o.at:][:width]
	}
	if x.f.past == nil {
		return nil
	}
	return x.state(o, i/x.f.seqLen, (size-1)*width, (size-1+t)*width, width)
}

// remember keeps the last inputs of each window.
func (o *convOp) remember(x *exec, src *tensor.Matrix, size, width int) {
	if x.f.past == nil {
		return
	}
	last := make([]float32, (size-1)*width)
	for w := range src.Rows / x.f.seqLen {
		end := (w+1)*x.f.seqLen - 1
		for k := range size - 1 {
			copy(last[k*width:(k+1)*width], o.before(x, src, end, size-2-k, size, width))
		}
		copy(x.state(o, w, len(last), 0, len(last)), last)
	}
}

// SelectiveScan is the state space of Mamba (Gu and Dao, arXiv 2312.00752): for
// each channel, with A = -exp(A_log) [channels, state] and dt its time step,
//
//	h = exp(dt·A)·h + dt·B·u;  y = (C·h + D·u)·silu(z)
type SelectiveScan struct {
	dst              Reg
	U, DT, BC, Gate  Reg
	GateAt, BAt, CAt int // first columns
	ALog, D          int // parameters
}

// SelectiveScan adds a state space of Mamba; the result is as wide as u.
func (b *Builder) SelectiveScan(s SelectiveScan) Reg {
	s.dst = b.like(s.U, b.Width(s.U))
	b.do(&s)
	return s.dst
}

func (o *SelectiveScan) reads() []Reg  { return []Reg{o.U, o.DT, o.BC, o.Gate} }
func (o *SelectiveScan) writes() []Reg { return []Reg{o.dst} }
func (o *SelectiveScan) heavy() bool   { return true }

func (o *SelectiveScan) run(x *exec) {
	const band = 32 // channels at a time
	dst, aLog := x.write(o.dst), x.b.params[o.ALog]
	channels := aLog.Rows
	bands := (channels + band - 1) / band
	windows := dst.Rows / x.f.seqLen
	x.r.each(windows*bands, func(i int) {
		c0 := i % bands * band
		o.scan(x, i/bands*x.f.seqLen, c0, min(c0+band, channels))
	})
}

// scan goes through a window, the rows from first on, in channels [c0, c1).
func (o *SelectiveScan) scan(x *exec, first, c0, c1 int) {
	dst, aLog, d := x.reg(o.dst), x.b.params[o.ALog], x.vector(o.D)
	u, dt, bc, gate := x.reg(o.U), x.reg(o.DT), x.reg(o.BC), x.reg(o.Gate)
	n := aLog.Cols
	a := make([]float32, (c1-c0)*n)
	for i := range a {
		a[i] = -float32(math.Exp(float64(aLog.Row(c0 + i/n)[i%n])))
	}
	state, decay := x.state(o, first/x.f.seqLen, aLog.Rows*n, c0*n, len(a)), make([]float32, len(a))
	steps, z := make([]float32, c1-c0), make([]float32, c1-c0)
	for t := first; t < first+x.f.seqLen; t++ {
		for c := range steps {
			steps[c] = float32(nn.Softplus(dt.Row(t)[c0+c]))
			for j := c * n; j < (c+1)*n; j++ {
				decay[j] = steps[c] * a[j]
			}
		}
		kernel.ExpShift(decay, 1, 0)
		copy(z, gate.Row(t)[o.GateAt+c0:])
		SiLU.Apply(z)
		bv, cv := bc.Row(t)[o.BAt:][:n], bc.Row(t)[o.CAt:][:n]
		for c := range steps {
			in := u.Row(t)[c0+c]
			h := state[c*n : (c+1)*n]
			y := nn.Advance(h, decay[c*n:], bv, cv, steps[c]*in)
			dst.Row(t)[c0+c] = (y + float32(d[c0+c]*in)) * z[c]
		}
	}
}

// HeadScan is the state space of Mamba-2 (Dao and Gu, arXiv 2405.21060): the
// channels of a head share one A, one D and one time step, heads of a group B and C.
type HeadScan struct {
	dst              Reg
	X, DT            Reg // x has x, B and C side by side
	DtAt             int
	Heads, Dim       int
	Groups, State    int
	Least, Most      float64 // bounds of the time step
	ALog, D, Stepped int     // parameters [heads]; the last is added to dt
}

// HeadScan adds a state space of Mamba-2; the result has the heads side by side.
func (b *Builder) HeadScan(s HeadScan) Reg {
	s.dst = b.like(s.X, s.Heads*s.Dim)
	b.do(&s)
	return s.dst
}

func (o *HeadScan) reads() []Reg  { return []Reg{o.X, o.DT} }
func (o *HeadScan) writes() []Reg { return []Reg{o.dst} }
func (o *HeadScan) heavy() bool   { return true }

func (o *HeadScan) run(x *exec) {
	dst := x.write(o.dst)
	x.r.each(dst.Rows/x.f.seqLen*o.Heads, func(i int) { o.scan(x, i/o.Heads*x.f.seqLen, i%o.Heads) })
}

func (o *HeadScan) scan(x *exec, first, head int) {
	in, dt, dst := x.reg(o.X), x.reg(o.DT), x.reg(o.dst)
	a := -math.Exp(float64(x.vector(o.ALog)[head]))
	d, shift := x.vector(o.D)[head], x.vector(o.Stepped)[head]
	inner, group := o.Heads*o.Dim, head/(o.Heads/o.Groups)
	size := o.Dim * o.State
	state := x.state(o, first/x.f.seqLen, o.Heads*size, head*size, size)
	for t := first; t < first+x.f.seqLen; t++ {
		row := in.Row(t)
		b, c := row[inner+group*o.State:][:o.State], row[inner+(o.Groups+group)*o.State:][:o.State]
		step := min(max(nn.Softplus(dt.Row(t)[o.DtAt+head]+shift), o.Least), o.Most)
		decay, s := float32(math.Exp(step*a)), float32(step)
		u, y := row[head*o.Dim:][:o.Dim], dst.Row(t)[head*o.Dim:][:o.Dim]
		for p, v := range u {
			y[p] = nn.AdvanceEven(state[p*o.State:][:o.State], b, c, decay, s*v) + float32(d*v)
		}
	}
}

// DeltaScan is the gated delta rule (Yang et al., arXiv 2412.06464): for each value
// head, with keys and queries of unit length, S [key width, value width],
// decay exp(-exp(A_log)·softplus(a+dt_bias)) and β = sigmoid(b),
//
//	S = decay·S;  S += k ⊗ β(v - kᵀS);  y = qᵀS/√(key width)
type DeltaScan struct {
	dst              Reg
	QKV              Reg
	Beta, Step       Heads // of one column: b and a
	Keys, Values     int   // heads
	KeyDim, ValueDim int
	ALog, Shift      int // parameters [value heads]
}

// DeltaRule adds a gated delta rule; the result has the value heads side by side.
func (b *Builder) DeltaRule(s DeltaScan) Reg {
	s.dst = b.like(s.QKV, s.Values*s.ValueDim)
	b.do(&s)
	return s.dst
}

func (o *DeltaScan) reads() []Reg  { return []Reg{o.QKV, o.Beta.Reg, o.Step.Reg} }
func (o *DeltaScan) writes() []Reg { return []Reg{o.dst} }
func (o *DeltaScan) heavy() bool   { return true }

func (o *DeltaScan) run(x *exec) {
	dst := x.write(o.dst)
	x.r.each(dst.Rows/x.f.seqLen*o.Values, func(i int) { o.scan(x, i/o.Values*x.f.seqLen, i%o.Values) })
}

func (o *DeltaScan) scan(x *exec, first, head int) {
	qkv, betas, steps, dst := x.reg(o.QKV), x.reg(o.Beta.Reg), x.reg(o.Step.Reg), x.reg(o.dst)
	betaAt, stepAt := o.Beta.at(head), o.Step.at(head)
	rate, shift := math.Exp(float64(x.vector(o.ALog)[head])), x.vector(o.Shift)[head]
	key, n, m := head/(o.Values/o.Keys), o.KeyDim, o.ValueDim
	state := x.state(o, first/x.f.seqLen, o.Values*n*m, head*n*m, n*m)
	q, k, delta := make([]float32, n), make([]float32, n), make([]float32, m)
	for t := first; t < first+x.f.seqLen; t++ {
		row := qkv.Row(t)
		nn.Unit(q, row[key*n:][:n], 1/math.Sqrt(float64(n)))
		nn.Unit(k, row[(o.Keys+key)*n:][:n], 1)
		v := row[2*o.Keys*n+head*m:][:m]
		beta := float32(1 / (1 + math.Exp(-float64(betas.Row(t)[betaAt]))))
		decay := float32(math.Exp(-rate * nn.Softplus(steps.Row(t)[stepAt]+shift)))
		kernel.Scale(state, decay)
		copy(delta, v)
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

// DecayScan is linear attention with a decay for each head (Qin et al., Lightning
// Attention-2, arXiv 2401.04658): S = exp(-slope)·S + k ⊗ v, y = qᵀS. It is computed
// in blocks of tokens, as in the paper: what comes from earlier blocks through S,
// and the block's own pairs. Files of transformers have the decays of a block as
// tensors, rounded to their type, and those count where they are there.
type DecayScan struct {
	dst     Reg
	Q, K, V Heads
	Block   int
	Slopes  []float64 // by head

	// Optional parameters: slopes [heads, 1, 1], decays of S to a query and of a key
	// to the end of the block [heads, block, 1], and of a key to a query
	// [1, heads, block, block].
	Stored, ToQuery, ToEnd, Pairs int
}

// DecayScan adds linear attention with decay; the result has the heads side by
// side.
func (b *Builder) DecayScan(s DecayScan) Reg {
	s.dst = b.like(s.Q.Reg, s.Q.N*s.V.Dim)
	b.do(&s)
	return s.dst
}

func (o *DecayScan) reads() []Reg  { return []Reg{o.Q.Reg, o.K.Reg, o.V.Reg} }
func (o *DecayScan) writes() []Reg { return []Reg{o.dst} }
func (o *DecayScan) heavy() bool   { return true }

func (o *DecayScan) run(x *exec) {
	dst := x.write(o.dst)
	x.r.each(dst.Rows/x.f.seqLen*o.Q.N, func(i int) {
		d := nn.NewDecays(o.Block, i%o.Q.N, o.Slopes[i%o.Q.N], x.vector(o.Stored), x.vector(o.ToQuery), x.vector(o.ToEnd), x.vector(o.Pairs))
		size := o.Q.Dim * o.V.Dim
		state := tensor.FromSlice(o.Q.Dim, o.V.Dim, x.state(o, i/o.Q.N, o.Q.N*size, i%o.Q.N*size, size))
		for t, first := 0, i/o.Q.N*x.f.seqLen; t < x.f.seqLen; t += o.Block {
			part := func(g Reg, c, width int) *tensor.Matrix {
				return x.reg(g).View(first+t, first+min(t+o.Block, x.f.seqLen), c, c+width)
			}
			h := i % o.Q.N
			d.Block(part(o.dst, h*o.V.Dim, o.V.Dim), part(o.Q.Reg, o.Q.at(h), o.Q.Dim), part(o.K.Reg, o.K.at(h), o.K.Dim), part(o.V.Reg, o.V.at(h), o.V.Dim), state)
		}
	})
}
