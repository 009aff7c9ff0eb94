package llama

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// chunkRows is how many rows go through a block at a time, if whole windows
// allow it: enough that products run at full speed, few enough that what is
// kept between stages stays small.
const chunkRows = 2048

// Runner computes the stages of blocks. It holds the buffers, which are
// reused, and the rotary tables; a Runner is for one goroutine at a time.
// Blocks are not changed by it.
type Runner struct {
	// BF16 rounds the inputs and weights of the linear layers of blocks to
	// bfloat16 for their products, whose sums stay in float32, on CPUs that
	// are faster at those (HasBF16); on others it changes nothing. It is
	// meant for models whose weights are bfloat16: those it leaves as they are.
	BF16 bool

	cfg     *Config
	workers int
	rope    *rope
	attn    []attnScratch // one for each worker
	buf     [numBuffers]tensor.Matrix
}

const (
	bufQ = iota
	bufK
	bufV
	bufUp
	bufNorm // input of q, k, v, then of gate, up
	bufAttn // input of o
	bufAct  // input of down
	numBuffers
)

// NewRunner returns a Runner for models of configuration c. workers is the
// number of goroutines; 0 means GOMAXPROCS. An invalid configuration is an
// error.
func NewRunner(c *Config, workers int) (*Runner, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	return &Runner{cfg: c, workers: workers, rope: newRope(c), attn: make([]attnScratch, workers)}, nil
}

// HasBF16 tells whether Runner.BF16 has an effect on this machine.
func HasBF16() bool { return kernel.HasBF16() }

// Config returns the configuration the Runner was made for.
func (r *Runner) Config() *Config { return r.cfg }

// Workers returns the number of goroutines in use.
func (r *Runner) Workers() int { return r.workers }

// buffer returns the scratch matrix i in the given shape, its content
// undefined.
func (r *Runner) buffer(i, rows, cols int) *tensor.Matrix {
	m := &r.buf[i]
	if n := rows * cols; cap(m.Data) < n {
		m.Data = make([]float32, n)
	}
	m.Rows, m.Cols, m.Stride, m.Data = rows, cols, cols, m.Data[:rows*cols]
	return m
}

// parallel calls f(worker, i) for every i below n, in any order, on all
// workers.
func (r *Runner) parallel(n int, f func(worker, i int)) {
	workers := min(r.workers, n)
	if workers <= 1 {
		for i := range n {
			f(0, i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				f(w, i)
			}
		})
	}
	wg.Wait()
}

// rows calls f for bands of rows that together are 0 to n.
func (r *Runner) rows(n int, f func(i0, i1 int)) {
	const band = 32
	r.parallel((n+band-1)/band, func(_, b int) {
		f(b*band, min((b+1)*band, n))
	})
}

func (r *Runner) norm(dst, x *tensor.Matrix, gain []float32) {
	if dst.Rows != x.Rows || dst.Cols != x.Cols || x.Cols != len(gain) {
		panic("llama: norm of mismatched shapes")
	}
	r.rows(x.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			kernel.RMSNorm(dst.Row(i), x.Row(i), gain, float32(r.cfg.NormEps))
		}
	})
}

// linear computes dst = x Wᵀ + b, or with add dst += x Wᵀ + b.
func (r *Runner) linear(dst, x *tensor.Matrix, l *Linear, add bool) {
	var beta float32
	if add {
		beta = 1
	}
	if w := l.Weight; r.BF16 {
		if x.Cols != w.Cols || dst.Rows != x.Rows || dst.Cols != w.Rows {
			panic("llama: product of mismatched shapes")
		}
		kernel.GemmBF16(false, true, x.Rows, w.Rows, w.Cols, 1, x.Data, x.Stride, w.Data, w.Stride, beta, dst.Data, dst.Stride, r.workers)
	} else {
		tensor.Gemm(false, true, 1, x, w, beta, dst, r.workers)
	}
	if l.Bias == nil {
		return
	}
	r.rows(dst.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			kernel.Axpy(1, l.Bias, dst.Row(i))
		}
	})
}

// AttnInput writes the input of q, k and v to dst; dst and x are
// [rows, Hidden].
func (r *Runner) AttnInput(b *Block, dst, x *tensor.Matrix) { r.norm(dst, x, b.AttnNorm) }

// AttnOutput adds o(a) to x: a is [rows, QueryWidth], x is [rows, Hidden].
func (r *Runner) AttnOutput(b *Block, x, a *tensor.Matrix) { r.linear(x, a, &b.O, true) }

// MLPInput writes the input of gate and up to dst; dst and x are
// [rows, Hidden].
func (r *Runner) MLPInput(b *Block, dst, x *tensor.Matrix) { r.norm(dst, x, b.MLPNorm) }

// MLPAct writes silu(gate(h))*up(h), the input of down, to dst: h is
// [rows, Hidden], dst is [rows, Intermediate].
func (r *Runner) MLPAct(b *Block, dst, h *tensor.Matrix) {
	for i0 := 0; i0 < h.Rows; i0 += chunkRows {
		i1 := min(i0+chunkRows, h.Rows)
		in, out := h.View(i0, i1, 0, h.Cols), dst.View(i0, i1, 0, dst.Cols)
		up := r.buffer(bufUp, i1-i0, dst.Cols)
		r.linear(out, in, &b.Gate, false)
		r.linear(up, in, &b.Up, false)
		r.rows(out.Rows, func(j0, j1 int) {
			for j := j0; j < j1; j++ {
				kernel.SiLUMul(out.Row(j), out.Row(j), up.Row(j))
			}
		})
	}
}

// MLPOutput adds down(act) to x: act is [rows, Intermediate], x is
// [rows, Hidden].
func (r *Runner) MLPOutput(b *Block, x, act *tensor.Matrix) { r.linear(x, act, &b.Down, true) }

// Observer is shown the input of linear layers: x is [rows, width of in],
// valid only during the call and not to be changed. An error ends the run.
type Observer func(in Input, x *tensor.Matrix) error

// Forward runs the block on x, [rows, Hidden], whole windows of seqLen rows,
// in place. observe, if not nil, is called for each of the four inputs; with
// many rows it is called repeatedly, each time with the next whole windows.
// After an error x is part done.
func (r *Runner) Forward(b *Block, x *tensor.Matrix, seqLen int, observe Observer) error {
	checkWindows(x.Rows, seqLen)
	if observe == nil {
		observe = func(Input, *tensor.Matrix) error { return nil }
	}
	step := chunkWindows(seqLen) * seqLen
	for i0 := 0; i0 < x.Rows; i0 += step {
		i1 := min(i0+step, x.Rows)
		if err := r.forwardChunk(b, x.View(i0, i1, 0, x.Cols), seqLen, observe); err != nil {
			return err
		}
	}
	return nil
}

func (r *Runner) forwardChunk(b *Block, x *tensor.Matrix, seqLen int, observe Observer) error {
	c := r.cfg
	h := r.buffer(bufNorm, x.Rows, c.Hidden)
	r.AttnInput(b, h, x)
	if err := observe(AttnInput, h); err != nil {
		return err
	}
	a := r.buffer(bufAttn, x.Rows, c.QueryWidth())
	r.Attend(b, a, h, seqLen)
	if err := observe(AttnOutput, a); err != nil {
		return err
	}
	r.AttnOutput(b, x, a)

	r.MLPInput(b, h, x)
	if err := observe(MLPInput, h); err != nil {
		return err
	}
	act := r.buffer(bufAct, x.Rows, c.Intermediate)
	r.MLPAct(b, act, h)
	if err := observe(MLPAct, act); err != nil {
		return err
	}
	r.MLPOutput(b, x, act)
	return nil
}

// chunkWindows returns how many windows are run at a time.
func chunkWindows(seqLen int) int { return max(1, chunkRows/seqLen) }

func checkWindows(rows, seqLen int) {
	if seqLen < 1 || rows%seqLen != 0 {
		panic("llama: rows are not whole windows")
	}
}

// Embed writes the embedding rows of ids to dst, [len(ids), Hidden]. An id
// outside the vocabulary is an error.
func Embed(dst, embedding *tensor.Matrix, ids []int32) error {
	if dst.Rows != len(ids) || dst.Cols != embedding.Cols {
		panic("llama: embedding of mismatched shapes")
	}
	for i, id := range ids {
		if id < 0 || int(id) >= embedding.Rows {
			return fmt.Errorf("token id %d at %d: the model's vocabulary has %d", id, i, embedding.Rows)
		}
		copy(dst.Row(i), embedding.Row(int(id)))
	}
	return nil
}
