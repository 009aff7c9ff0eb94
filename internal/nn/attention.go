package nn

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/scratch"
	"github.com/golowbit/lowbit/tensor"
)

// Tiles of attention: keyTile keys against the queries of one tile, which are
// all heads of a group for a few tokens, about queryRows together. A tile of
// scores is then 256 KB.
const (
	queryRows = 256
	keyTile   = 256
)

// Attention is how scores of a query with the keys become weights.
type Attention struct {
	Window   int       // see program.Attention, as of the others
	Scale    float64   // of the scores
	Cap      float64   // scores become cap·tanh(score/cap); 0: they stay
	Slopes   []float64 // ALiBi, by head; nil: nothing
	BiasBF16 bool
	Clip     Clip
}

// Clip stretches weights and cuts them off, so that a head can give a key none at all: they
// become clip((High-Low)·weight + Low, 0, 1) (Bondarenko et al., arXiv 2306.12929, section
// 4.1, equation 4: γ and ζ). The zero value leaves them as they are.
type Clip struct{ Low, High float64 }

// apply does so, in place.
func (c Clip) apply(w []float32) {
	for j, v := range w {
		w[j] = float32(min(1, max(0, (c.High-c.Low)*float64(v)+c.Low)))
	}
}

// back turns the gradient at what becomes of weights w into that at them.
func (c Clip) back(d, w []float32) {
	for j, v := range w {
		if s := (c.High-c.Low)*float64(v) + c.Low; s > 0 && s < 1 {
			d[j] *= float32(c.High - c.Low)
		} else {
			d[j] = 0
		}
	}
}

// Tile is how many tokens of queries go together, of so many heads.
func (o *Attention) Tile(heads, seqLen int) int {
	return min(max(queryRows/heads, 16), 64, seqLen)
}

// Scratch is what one worker needs for one tile of queries.
type Scratch struct {
	q, out, scores tensor.Matrix // [rows, width of a head], [rows, keyTile]
	max            []float32     // largest score so far, by row
	sum            []float32     // sum of exp(score - max) so far, by row
}

// Heads is the attention of the tokens Q0 to Q1 of a window, in all query heads that
// share a key head.
type Heads struct {
	*Attention
	First   int            // query head
	Columns []int          // where each begins in Q
	Dim     int            // width of a query head
	Q, Out  *tensor.Matrix // the window's rows, all heads; those from Before on
	K, V    *tensor.Matrix // the window's rows, the one head
	Before  int            // tokens of the window that have been through before
	Sinks   []float32      // a score for each query head that has no value, or nil
	Q0, Q1  int
}

// first is the first key that any of the queries sees.
func (t *Heads) first() int {
	if t.Window > 0 {
		return max(0, t.Q0-t.Window+1)
	}
	return 0
}

// queries copies them: a row for each head of each token.
func (t *Heads) queries(q *tensor.Matrix) {
	heads := len(t.Columns)
	for i := range q.Rows {
		c := t.Columns[i%heads]
		copy(q.Row(i), t.Q.Row(t.Q0 - t.Before + i/heads)[c:c+t.Dim])
	}
}

// Weights are those that the queries give all keys from first on: a row for each head of
// each token. They are valid as long as nothing else uses s.
func (t *Heads) Weights(s *Scratch) (w *tensor.Matrix, first int) {
	rows, first := (t.Q1-t.Q0)*len(t.Columns), t.first()
	scratch.Matrix(&s.q, rows, t.Dim)
	scratch.Matrix(&s.scores, rows, t.Q1-first)
	t.queries(&s.q)
	tensor.Gemm(false, true, float32(t.Scale), &s.q, t.K.View(first, t.Q1, 0, t.Dim), 0, &s.scores, 1)
	for i := range rows {
		t.weigh(s.scores.Row(i), nil, i, first)
		if t.Clip != (Clip{}) {
			t.Clip.apply(s.scores.Row(i))
		}
	}
	return &s.scores, first
}

// runWhole is Run with the weights of all keys at once: how they are clipped depends on
// their sum.
func (t *Heads) runWhole(s *Scratch) {
	w, first := t.Weights(s)
	scratch.Matrix(&s.out, w.Rows, t.V.Cols)
	tensor.Gemm(false, false, 1, w, t.V.View(first, t.Q1, 0, t.V.Cols), 0, &s.out, 1)
	for i := range w.Rows {
		copy(t.output(i), s.out.Row(i))
	}
}

// output is where the result of a query goes.
func (t *Heads) output(i int) []float32 {
	heads := len(t.Columns)
	h := t.First + i%heads
	return t.Out.Row(t.Q0 - t.Before + i/heads)[h*t.V.Cols : (h+1)*t.V.Cols]
}

// Run computes it.
func (t *Heads) Run(s *Scratch) {
	if t.Clip != (Clip{}) {
		t.runWhole(s)
		return
	}
	heads := len(t.Columns)
	dim, rows := t.Dim, (t.Q1-t.Q0)*heads
	s.reset(rows, dim, t.V.Cols)
	t.queries(&s.q)
	for k0 := t.first(); k0 < t.Q1; k0 += keyTile {
		k1 := min(k0+keyTile, t.Q1)
		scores := s.scores.View(0, rows, 0, k1-k0)
		tensor.Gemm(false, true, float32(t.Scale), &s.q, t.K.View(k0, k1, 0, dim), 0, scores, 1)
		for i := range rows {
			t.soften(s, scores.Row(i), i, k0, k1)
		}
		tensor.Gemm(false, false, 1, scores, t.V.View(k0, k1, 0, t.V.Cols), 1, &s.out, 1)
	}
	for i := range rows {
		if t.Sinks != nil {
			t.sink(s, i, t.Sinks[i%heads])
		}
		dst := t.output(i)
		copy(dst, s.out.Row(i))
		kernel.Scale(dst, 1/s.sum[i])
	}
}

// soften turns row i of a tile of scores, for the keys k0 to k1, into weights
// relative to the running maximum, and brings what was summed up to that.
func (t *Heads) soften(s *Scratch, row []float32, i, k0, k1 int) {
	pos := t.Q0 + i/len(t.Columns)
	lo, hi := k0, min(k1, pos+1)
	if t.Window > 0 {
		lo = max(k0, pos-t.Window+1)
	}
	if lo >= hi {
		clear(row)
		return
	}
	clear(row[:lo-k0])
	clear(row[hi-k0:])
	row = row[lo-k0 : hi-k0]
	if c := t.Cap; c > 0 {
		for j, v := range row {
			row[j] = float32(c * math.Tanh(float64(v)/c))
		}
	}
	if t.Slopes != nil {
		slope := t.Slopes[t.First+i%len(t.Columns)]
		for j := range row {
			row[j] += t.bias(slope, lo+j)
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
func (s *Scratch) raise(i int, top float32) {
	shrink := float32(math.Exp(float64(s.max[i] - top))) // 0 the first time
	s.max[i] = top
	s.sum[i] *= shrink
	kernel.Scale(s.out.Row(i), shrink)
}

// sink adds a score without a value to the softmax of a row.
func (t *Heads) sink(s *Scratch, i int, score float32) {
	if score > s.max[i] {
		s.raise(i, score)
	}
	s.sum[i] += float32(math.Exp(float64(score - s.max[i])))
}

// reset prepares for a tile of the given number of rows.
func (s *Scratch) reset(rows, dim, vdim int) {
	scratch.Matrix(&s.q, rows, dim)
	scratch.Matrix(&s.out, rows, vdim)
	scratch.Matrix(&s.scores, rows, keyTile)
	s.max, s.sum = scratch.Slice(s.max, rows), scratch.Slice(s.sum, rows)
	s.out.Zero()
	for i := range rows {
		s.max[i] = float32(math.Inf(-1))
		s.sum[i] = 0
	}
}
