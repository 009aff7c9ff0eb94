package program

import (
	"math"

	"github.com/golowbit/lowbit/internal/nn"
	"github.com/golowbit/lowbit/tensor"
)

// Attention is causal attention inside each window. It goes over tiles of
// queries and keys with a running maximum and sum (Milakov and Gimelshein, arXiv
// 1805.02867; Dao et al., arXiv 2205.14135), so no more than one tile of scores
// exists for each worker. As many query heads share a key head as there are
// more of them.
type Attention struct {
	dst     Reg
	Q, K, V Heads
	Window  int       // sliding window in tokens, the current one included; 0: all of the past
	Scale   float64   // of the scores; 0 means 1/√(width of a head)
	Cap     float64   // scores become cap·tanh(score/cap); 0: they stay
	Slopes  []float64 // ALiBi (arXiv 2108.12409): slope·(key position) is added, by head; nil: nothing
	// BiasBF16 rounds what ALiBi adds to bfloat16 and multiplies it by the scale.
	// (The eager attention of transformers adds that twice in Falcon; its default
	// and the model's own code do not.)
	BiasBF16 bool
	// SinkPath is a vector of one score for each head that takes part in the
	// softmax without a value, "" for none.
	SinkPath string
	sinks    []int   // its parameter
	Clip     nn.Clip // of weights
}

// HeadScale is 1/√dim, in float32.
func HeadScale(dim int) float64 { return float64(float32(1 / math.Sqrt(float64(dim)))) }

func (o *Attention) reads() []Reg  { return []Reg{o.Q.Reg, o.K.Reg, o.V.Reg} }
func (o *Attention) writes() []Reg { return []Reg{o.dst} }
func (o *Attention) heavy() bool   { return true }

func (o *Attention) fold(p *Program, at int) *Fold {
	if !o.V.contiguous() {
		return nil
	}
	w := o.V.N * o.V.Dim
	l, row, ok := p.computedBy(o.V.Reg, o.V.Base, o.V.Base+w, at)
	if !ok {
		return nil
	}
	f := &Fold{Into: p.Linears[l].Path, Channels: w, Before: l, Row0: row}
	if group := o.Q.N / o.V.N; group > 1 {
		f.Share = make([]int, o.Q.N*o.V.Dim)
		for j := range f.Share {
			f.Share[j] = j/o.V.Dim/group*o.V.Dim + j%o.V.Dim
		}
	}
	return f
}

func (o *Attention) run(x *exec) {
	q, k, v := x.reg(o.Q.Reg), x.reg(o.K.Reg), x.reg(o.V.Reg)
	dst, seqLen := x.write(o.dst), x.f.seqLen
	var sinks []float32
	if len(o.sinks) > 0 {
		sinks = x.vector(o.sinks[0])
	}
	var kept *tensor.Matrix
	if x.f.past != nil {
		kept = o.remember(x, k, v)
	}
	w, group := o.weights(), o.Q.N/o.K.N
	tokens := w.Tile(group, seqLen)
	tiles := (seqLen + tokens - 1) / tokens
	x.r.each(dst.Rows/seqLen*o.K.N*tiles, func(i int) {
		kv, tile := i/tiles%o.K.N, i%tiles
		row := i / tiles / o.K.N * seqLen
		t := o.heads(w, kv, q, k, v, dst, row, seqLen)
		if t.Q0, t.Q1 = tile*tokens, min((tile+1)*tokens, seqLen); sinks != nil {
			t.Sinks = sinks[kv*group:]
		}
		if kept != nil {
			x.f.past.show(t, kept, row/seqLen, kv, o)
		}
		s, _ := x.r.attn.Get().(*nn.Scratch)
		if s == nil {
			s = &nn.Scratch{}
		}
		if x.r.Heads != nil {
			x.r.Heads(t, s, row)
		}
		t.Run(s)
		x.r.attn.Put(s)
	})
}

// weights is how scores become weights.
func (o *Attention) weights() *nn.Attention {
	return &nn.Attention{Window: o.Window, Scale: o.Scale, Cap: o.Cap, Slopes: o.Slopes, BiasBF16: o.BiasBF16, Clip: o.Clip}
}

// heads is the attention of a window, the rows from row on, in the query heads that
// share a key head.
func (o *Attention) heads(w *nn.Attention, kv int, q, k, v, out *tensor.Matrix, row, seqLen int) *nn.Heads {
	part := func(m *tensor.Matrix, c0, width int) *tensor.Matrix { return m.View(row, row+seqLen, c0, c0+width) }
	group := o.Q.N / o.K.N
	t := &nn.Heads{
		Attention: w, First: kv * group, Dim: o.Q.Dim,
		Q: part(q, 0, q.Cols), K: part(k, o.K.at(kv), o.K.Dim), V: part(v, o.V.at(kv), o.V.Dim), Out: part(out, 0, out.Cols),
	}
	for h := t.First; h < t.First+group; h++ {
		t.Columns = append(t.Columns, o.Q.at(h))
	}
	return t
}

func (o *Attention) keeps() []Reg { return []Reg{o.Q.Reg, o.K.Reg, o.V.Reg} }

func (o *Attention) back(x *reverse) {
	d := x.take(o.dst)
	seqLen := x.f.seqLen
	var sinks []float32
	if len(o.sinks) > 0 {
		sinks = x.vector(o.sinks[0])
	}
	w, group := o.weights(), o.Q.N/o.K.N
	q, k, v := x.in(o.Q.Reg), x.in(o.K.Reg), x.in(o.V.Reg)
	dq, dk, dv := x.into(o.Q.Reg), x.into(o.K.Reg), x.into(o.V.Reg)
	x.r.each(d.Rows/seqLen*o.K.N, func(i int) {
		row, kv := i/o.K.N*seqLen, i%o.K.N
		t := o.heads(w, kv, q, k, v, d, row, seqLen)
		if sinks != nil {
			t.Sinks = sinks[kv*group:]
		}
		to := o.heads(w, kv, dq, dk, dv, d, row, seqLen)
		t.Back(to.Q, to.K, to.V)
	})
	x.done(d)
}
