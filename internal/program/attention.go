package program

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// Tiles of attention: keyTile keys against the queries of one tile, which are
// all heads of a group for a few tokens, about queryRows together. A tile of
// scores is then 256 KB.
const (
	queryRows = 256
	keyTile   = 256
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
	sinks    []int // its parameter
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
	group := o.Q.N / o.K.N
	tokens := min(max(queryRows/group, 16), 64, seqLen) // of one tile of queries
	tiles := (seqLen + tokens - 1) / tokens
	windows := q.Rows / seqLen
	x.r.each(windows*o.K.N*tiles, func(i int) {
		// The last tile of a window sees the most keys: it comes first, so
		// that the workers finish together.
		tile := tiles - 1 - i/(windows*o.K.N)
		i %= windows * o.K.N
		kv, row := i%o.K.N, i/o.K.N*seqLen
		part := func(m *tensor.Matrix, c0, width int) *tensor.Matrix {
			return m.View(row, row+seqLen, c0, c0+width)
		}
		t := attnTask{
			o: o, head: kv * group, heads: group, sinks: sinks,
			q0: tile * tokens, q1: min((tile+1)*tokens, seqLen),
			q: part(q, 0, q.Cols), k: part(k, o.K.at(kv), o.K.Dim), v: part(v, o.V.at(kv), o.V.Dim),
			out: part(dst, 0, dst.Cols),
		}
		s, _ := x.r.attn.Get().(*attnScratch)
		if s == nil {
			s = &attnScratch{}
		}
		t.run(s)
		x.r.attn.Put(s)
	})
}

// attnScratch is what one worker needs for one tile of queries.
type attnScratch struct {
	q, out, scores tensor.Matrix // [rows, width of a head], [rows, keyTile]
	max            []float32     // largest score so far, by row
	sum            []float32     // sum of exp(score - max) so far, by row
}

// attnTask is the attention of the tokens q0 to q1 of a window, in all query
// heads that share a key head.
type attnTask struct {
	o           *Attention
	head, heads int // first query head, how many
	q0, q1      int
	q, out      *tensor.Matrix // the window's rows, all heads
	k, v        *tensor.Matrix // the window's rows, the one head
	sinks       []float32
}

func (t *attnTask) run(s *attnScratch) {
	dim, rows := t.o.Q.Dim, (t.q1-t.q0)*t.heads
	s.reset(rows, dim, t.o.V.Dim)
	for i := range rows {
		c := t.o.Q.at(t.head + i%t.heads)
		copy(s.q.Row(i), t.q.Row(t.q0 + i/t.heads)[c:c+dim])
	}
	first := 0
	if t.o.Window > 0 {
		first = max(0, t.q0-t.o.Window+1)
	}
	for k0 := first; k0 < t.q1; k0 += keyTile {
		k1 := min(k0+keyTile, t.q1)
		scores := s.scores.View(0, rows, 0, k1-k0)
		tensor.Gemm(false, true, float32(t.o.Scale), &s.q, t.k.View(k0, k1, 0, dim), 0, scores, 1)
		for i := range rows {
			t.soften(s, scores.Row(i), i, k0, k1)
		}
		tensor.Gemm(false, false, 1, scores, t.v.View(k0, k1, 0, t.v.Cols), 1, &s.out, 1)
	}
	for i := range rows {
		h := t.head + i%t.heads
		if t.sinks != nil {
			t.sink(s, i, t.sinks[h])
		}
		dst := t.out.Row(t.q0 + i/t.heads)[h*t.o.V.Dim : (h+1)*t.o.V.Dim]
		copy(dst, s.out.Row(i))
		kernel.Scale(dst, 1/s.sum[i])
	}
}

// soften turns row i of a tile of scores, for the keys k0 to k1, into weights
// relative to the running maximum, and brings what was summed up to that.
func (t *attnTask) soften(s *attnScratch, row []float32, i, k0, k1 int) {
	pos := t.q0 + i/t.heads
	lo, hi := k0, min(k1, pos+1)
	if t.o.Window > 0 {
		lo = max(k0, pos-t.o.Window+1)
	}
	if lo >= hi {
		clear(row)
		return
	}
	clear(row[:lo-k0])
	clear(row[hi-k0:])
	row = row[lo-k0 : hi-k0]
	if c := t.o.Cap; c > 0 {
		for j, v := range row {
			row[j] = float32(c * math.Tanh(float64(v)/c))
		}
	}
	if t.o.Slopes != nil {
		slope := t.o.Slopes[t.head+i%t.heads]
		for j := range row {
			row[j] += t.o.bias(slope, lo+j)
		}
	}
	if _, top := kernel.MinMax(row); top > s.max[i] {
		s.raise(i, top)
	}
	s.sum[i] += kernel.ExpShift(row, 1, s.max[i])
}

// bias is what ALiBi adds to the score of a key.
func (o *Attention) bias(slope float64, pos int) float32 {
	if !o.BiasBF16 {
		return float32(slope * float64(pos))
	}
	round := func(v float32) float32 { // to nearest even; finite
		b := math.Float32bits(v)
		return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
	}
	return round(round(float32(slope))*round(float32(pos))) * float32(o.Scale)
}

// ALiBiSlopes are the slopes of ALiBi: for a power of two of heads a geometric
// series down to 2^-8; for other numbers that of the next smaller power, and then
// every other one of that of the next larger.
func ALiBiSlopes(n int) []float64 {
	small := 1
	for 2*small <= n {
		small *= 2
	}
	var s []float64
	for i := 1; i <= small; i++ {
		s = append(s, math.Exp2(-8*float64(i)/float64(small)))
	}
	for i := 1; len(s) < n; i += 2 {
		s = append(s, math.Exp2(-4*float64(i)/float64(small)))
	}
	return s
}

// raise makes top the maximum of a row.
func (s *attnScratch) raise(i int, top float32) {
	shrink := float32(math.Exp(float64(s.max[i] - top))) // 0 the first time
	s.max[i] = top
	s.sum[i] *= shrink
	kernel.Scale(s.out.Row(i), shrink)
}

// sink adds a score without a value to the softmax of a row.
func (t *attnTask) sink(s *attnScratch, i int, score float32) {
	if score > s.max[i] {
		s.raise(i, score)
	}
	s.sum[i] += float32(math.Exp(float64(score - s.max[i])))
}

// reset prepares for a tile of the given number of rows.
func (s *attnScratch) reset(rows, dim, vdim int) {
	for m, cols := range map[*tensor.Matrix]int{&s.q: dim, &s.out: vdim, &s.scores: keyTile} {
		if cap(m.Data) < rows*cols {
			m.Data = make([]float32, rows*cols)
		}
		m.Rows, m.Cols, m.Stride, m.Data = rows, cols, cols, m.Data[:rows*cols]
	}
	if len(s.max) < rows {
		s.max, s.sum = make([]float32, rows), make([]float32, rows)
	}
	s.out.Zero()
	for i := range rows {
		s.max[i] = float32(math.Inf(-1))
		s.sum[i] = 0
	}
}
