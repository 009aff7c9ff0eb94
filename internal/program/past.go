package program

import (
	"sync"

	"github.com/golowbit/lowbit/internal/nn"
	"github.com/golowbit/lowbit/tensor"
)

// Past is what a block keeps of tokens that have gone through it, so that those after them
// go through by themselves (see Runner.Step): keys and values of attention, states of mixers
// that have one, the last inputs of convolutions.
type Past struct {
	// Tokens is how many have gone through, of each window.
	Tokens int

	windows, most int
	mu            sync.Mutex
	kept          map[op]*tensor.Matrix // [windows, of a window]
}

// NewPast is that of a block before the first token, of so many windows with at most so
// many tokens each.
func NewPast(windows, most int) *Past {
	return &Past{windows: windows, most: most, kept: map[op]*tensor.Matrix{}}
}

// PastBytes is how much Past takes of a window of so many tokens.
func (p *Program) PastBytes(tokens int) int64 {
	var n int64
	for _, o := range p.ops {
		if a, ok := o.(*Attention); ok {
			n += 4 * int64(tokens) * int64(a.K.N*(a.K.Dim+a.V.Dim))
		}
	}
	return n
}

// of is the memory of an operation, size elements of each window, zero at first.
func (p *Past) of(o op, size int) *tensor.Matrix {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.kept[o]
	if m == nil {
		m = tensor.New(p.windows, size)
		p.kept[o] = m
	}
	return m
}

// Step runs the block on the next n tokens of each window, x [windows*n, hidden], in place, and
// adds them to its past, which belongs to this block alone. What comes out is what
// Forward gives for these tokens among as many as there is room for, up to rounding.
func (r *Runner) Step(b *Block, x *tensor.Matrix, past *Past) {
	n := x.Rows / past.windows
	if past.Tokens+n > past.most {
		panic("program: more tokens than there is room for")
	}
	f := b.Program.NewFrame(x, n)
	f.past = past
	r.run(b, f, len(b.Program.ops))
	past.Tokens += n
	r.Done(f)
}

// before is how many tokens of each window came before those of the frame.
func (f *Frame) before() int {
	if f.past == nil {
		return 0
	}
	return f.past.Tokens
}

// length is how many tokens the windows may come to have: where frequencies of rotary positions depend
// on it, all tokens have those of this one length.
func (f *Frame) length() int {
	if f.past == nil {
		return f.seqLen
	}
	return f.past.most
}

// state is what an operation keeps of a window from token to token, elements from to from+n of size;
// zero before the first.
func (x *exec) state(o op, window, size, from, n int) []float32 {
	if x.f.past == nil {
		return make([]float32, n)
	}
	return x.f.past.of(o, size).Row(window)[from : from+n]
}

// remember adds the keys and values of the frame's tokens to those of the past and returns all: a
// window has as many rows as it may have tokens, a head its keys and values side by side.
func (o *Attention) remember(x *exec, k, v *tensor.Matrix) *tensor.Matrix {
	p, n, width := x.f.past, x.f.seqLen, o.K.Dim+o.V.Dim
	m := p.of(o, p.most*o.K.N*width)
	all := tensor.FromSlice(p.windows*p.most, o.K.N*width, m.Data)
	x.rows(k.Rows, func(i int) {
		row := all.Row(i/n*p.most + p.Tokens + i%n)
		for h := range o.K.N {
			part := row[h*width : (h+1)*width]
			copy(part[:o.K.Dim], k.Row(i)[o.K.at(h):])
			copy(part[o.K.Dim:], v.Row(i)[o.V.at(h):])
		}
	})
	return all
}

// show has a head's queries of a window see what attention remembers.
func (p *Past) show(t *nn.Heads, all *tensor.Matrix, window, head int, o *Attention) {
	c, width := head*(o.K.Dim+o.V.Dim), o.K.Dim+o.V.Dim
	t.Before, t.Q0, t.Q1 = p.Tokens, t.Q0+p.Tokens, t.Q1+p.Tokens
	first := window * p.most
	t.K = all.View(first, first+t.Q1, c, c+o.K.Dim)
	t.V = all.View(first, first+t.Q1, c+o.K.Dim, c+width)
}
