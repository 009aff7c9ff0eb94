package llama

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

// attnScratch is what one worker needs for one tile of queries.
type attnScratch struct {
	q, out *tensor.Matrix // [rows, HeadDim]
	scores *tensor.Matrix // [rows, keyTile]
	max    []float32      // largest score so far, by row
	sum    []float32      // sum of exp(score - max) so far, by row
}

// Attend writes the input of o to dst: q, k and v of h (with biases, norms
// and rotation as the model has them), then causal attention inside each
// window of seqLen rows. h is [rows, Hidden], dst is [rows, QueryWidth].
//
// Attention goes over tiles of queries and keys with a running maximum and
// sum (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv
// 2205.14135), so no more than one tile of scores exists for each worker.
func (r *Runner) Attend(b *Block, dst, h *tensor.Matrix, seqLen int) {
	checkWindows(h.Rows, seqLen)
	if dst.Rows != h.Rows || dst.Cols != r.cfg.QueryWidth() || h.Cols != r.cfg.Hidden {
		panic("llama: attention of mismatched shapes")
	}
	r.rope.grow(seqLen)
	step := chunkWindows(seqLen) * seqLen
	for i0 := 0; i0 < h.Rows; i0 += step {
		i1 := min(i0+step, h.Rows)
		r.attendChunk(b, dst.View(i0, i1, 0, dst.Cols), h.View(i0, i1, 0, h.Cols), seqLen)
	}
}

func (r *Runner) attendChunk(b *Block, dst, h *tensor.Matrix, seqLen int) {
	c := r.cfg
	q := r.buffer(bufQ, h.Rows, c.QueryWidth())
	k := r.buffer(bufK, h.Rows, c.KVWidth())
	v := r.buffer(bufV, h.Rows, c.KVWidth())
	r.linear(q, h, &b.Q, false)
	r.linear(k, h, &b.K, false)
	r.linear(v, h, &b.V, false)
	r.rows(h.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			r.rotate(q.Row(i), b.QNorm, i%seqLen)
			r.rotate(k.Row(i), b.KNorm, i%seqLen)
		}
	})

	r.attention(dst, q, k, v, seqLen, c.Window(b.Index))
}

// attention computes what the heads give from rotated q and k and from v, in
// a sliding window, or all of the past if that is 0.
func (r *Runner) attention(dst, q, k, v *tensor.Matrix, seqLen, window int) {
	c := r.cfg
	group := c.Heads / c.KVHeads
	tokens := min(max(queryRows/group, 16), 64, seqLen) // of one tile of queries
	tiles := (seqLen + tokens - 1) / tokens
	windows := q.Rows / seqLen
	r.parallel(windows*c.KVHeads*tiles, func(worker, i int) {
		// The last tile of a window sees the most keys: it comes first, so
		// that the workers finish together.
		tile := tiles - 1 - i/(windows*c.KVHeads)
		i %= windows * c.KVHeads
		kv, row := i%c.KVHeads, i/c.KVHeads*seqLen
		t := attnTask{
			head: kv * group, heads: group, dim: c.HeadDim,
			q0: tile * tokens, q1: min((tile+1)*tokens, seqLen), window: window,
			q: q.View(row, row+seqLen, 0, q.Cols),
			k: k.View(row, row+seqLen, kv*c.HeadDim, (kv+1)*c.HeadDim),
			v: v.View(row, row+seqLen, kv*c.HeadDim, (kv+1)*c.HeadDim),
			o: dst.View(row, row+seqLen, 0, dst.Cols),
		}
		t.run(&r.attn[worker])
	})
}

// rotate applies norm, if any, and rotary embedding to the heads in row.
func (r *Runner) rotate(row, gain []float32, pos int) {
	d := r.cfg.HeadDim
	for ; len(row) > 0; row = row[d:] {
		if gain != nil {
			kernel.RMSNorm(row[:d], row[:d], gain, float32(r.cfg.NormEps))
		}
		r.rope.apply(row[:d], pos)
	}
}

// attnTask is the attention of the tokens q0 to q1 of a window, in all query
// heads that share a key head.
type attnTask struct {
	head, heads, dim int // first query head, how many, their width
	q0, q1           int
	window           int            // sliding window in tokens, or 0
	q, o             *tensor.Matrix // the window's rows, all heads
	k, v             *tensor.Matrix // the window's rows, the one head
}

func (t *attnTask) run(s *attnScratch) {
	rows := (t.q1 - t.q0) * t.heads
	s.reset(rows, t.dim)
	for i := range rows {
		copy(s.q.Row(i), t.queryHead(t.q, i))
	}
	first := 0
	if t.window > 0 {
		first = max(0, t.q0-t.window+1)
	}
	scale := float32(1 / math.Sqrt(float64(t.dim)))
	for k0 := first; k0 < t.q1; k0 += keyTile {
		k1 := min(k0+keyTile, t.q1)
		scores := s.scores.View(0, rows, 0, k1-k0)
		tensor.Gemm(false, true, scale, s.q, t.k.View(k0, k1, 0, t.dim), 0, scores, 1)
		for i := range rows {
			t.soften(s, scores.Row(i), i, k0, k1)
		}
		tensor.Gemm(false, false, 1, scores, t.v.View(k0, k1, 0, t.dim), 1, s.out, 1)
	}
	for i := range rows {
		dst := t.queryHead(t.o, i)
		copy(dst, s.out.Row(i))
		kernel.Scale(dst, 1/s.sum[i])
	}
}

// queryHead returns the part of m that belongs to row i of the tile: tokens
// one after the other, for each its heads.
func (t *attnTask) queryHead(m *tensor.Matrix, i int) []float32 {
	c := (t.head + i%t.heads) * t.dim
	return m.Row(t.q0 + i/t.heads)[c : c+t.dim]
}

// soften turns row i of a tile of scores, for the keys k0 to k1, into weights
// relative to the running maximum, and brings what was summed up to that.
func (t *attnTask) soften(s *attnScratch, row []float32, i, k0, k1 int) {
	pos := t.q0 + i/t.heads
	lo, hi := k0, min(k1, pos+1)
	if t.window > 0 {
		lo = max(k0, pos-t.window+1)
	}
	if lo >= hi {
		clear(row)
		return
	}
	clear(row[:lo-k0])
	clear(row[hi-k0:])
	row = row[lo-k0 : hi-k0]
	old := s.max[i]
	if _, top := kernel.MinMax(row); top > old {
		s.max[i] = top
		shrink := float32(math.Exp(float64(old - top))) // 0 the first time
		s.sum[i] *= shrink
		kernel.Scale(s.out.Row(i), shrink)
	}
	s.sum[i] += kernel.ExpShift(row, 1, s.max[i])
}

// reset prepares for a tile of the given number of rows.
func (s *attnScratch) reset(rows, dim int) {
	if s.q == nil || cap(s.q.Data) < rows*dim || len(s.max) < rows {
		s.q, s.out = tensor.New(rows, dim), tensor.New(rows, dim)
		s.scores = tensor.New(rows, keyTile)
		s.max, s.sum = make([]float32, rows), make([]float32, rows)
	}
	for _, m := range []*tensor.Matrix{s.q, s.out} {
		m.Rows, m.Cols, m.Stride, m.Data = rows, dim, dim, m.Data[:rows*dim]
	}
	s.out.Zero()
	for i := range rows {
		s.max[i] = float32(math.Inf(-1))
		s.sum[i] = 0
	}
}
