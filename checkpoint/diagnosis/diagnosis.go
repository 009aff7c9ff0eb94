// Package diagnosis looks at what makes a model hard to quantize, on one text or another:
// infinity norms and kurtosis of activations, outlier features, and heads that attend to
// nothing.
//
// Norms and kurtosis are those of Bondarenko et al., arXiv 2306.12929, section 5; outlier
// features those of Dettmers et al., arXiv 2208.07339, section 4; that they are to be compared
// between calibration sets is from Paglieri et al., arXiv 2405.20835.
package diagnosis

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/nn"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/tensor"
)

// Options say what is looked at.
type Options struct {
	// Windows are token ids, all windows of one length of two or more.
	Windows [][]int32
	// Separators says of tokens whether they only separate others, as punctuation, blanks and
	// tokens that stand for no text do; nil if that is not known.
	Separators []bool
	Memory     int64                 // bytes that may be used; 0 means 80 % of what there is
	Step       func(done, total int) // called after every block, if not nil
}

// Seen is what a model computes on a text.
type Seen struct {
	Windows int `json:"windows"`
	Window  int `json:"window"` // tokens
	// Separators is the share of the tokens behind the first of each window that separate.
	Separators float64 `json:"separators"`
	// Inputs are what linear layers read, Outputs what attention and MLP add to the residual
	// stream, Blocks the stream as it leaves each block.
	Inputs  []Activation `json:"inputs"`
	Outputs []Activation `json:"outputs"`
	Blocks  []Activation `json:"blocks"`
	// Features are the outlier features.
	Features Features    `json:"outlier_features"`
	Heads    []Attention `json:"attention"` // of the blocks that have any
}

// Activation is what the elements of a tensor [tokens, width] are like.
type Activation struct {
	Block int    `json:"block"`
	Name  string `json:"name"` // of the linear layer that reads or writes it, the first of several
	// Largest is the largest magnitude of all, InfNorm the mean over windows of each window's.
	Largest float64 `json:"largest"`
	InfNorm float64 `json:"inf_norm"`
	// Kurtosis is m4/m2² over the elements of a window, the mean over windows: 3 if they are
	// normally distributed. What experts see is taken for one window. 0 where all are equal.
	Kurtosis float64 `json:"kurtosis"`
	Width    int     `json:"width"`
	Outliers int     `json:"outlier_channels"` // that are 6 or more in magnitude somewhere
}

// Features are the dimensions of the hidden state that have outliers by the rule of LLM.int8():
// a magnitude of 6 or more in at least 25 % of the blocks, and at 6 % or more of the tokens
// over all hidden states. Hidden states are what the linear layers of attention and of the MLP
// read, but for the last of each.
type Features struct {
	Width int       `json:"width"` // of the hidden state
	List  []Feature `json:"features"`
}

// Feature is one of them.
type Feature struct {
	Channel int     `json:"channel"`
	Largest float64 `json:"largest"`
	Blocks  float64 `json:"blocks"` // the share of blocks
	Tokens  float64 `json:"tokens"` // the share of tokens
}

// Attention is where the heads of a block look, means over the tokens behind the first of each window.
type Attention struct {
	Block      int       `json:"block"`
	First      []float64 `json:"first"`      // by head, the weight of the window's first token
	Separators []float64 `json:"separators"` // of all tokens behind it that separate
	// Nothing is what the weights of all tokens lack of 1, where heads have sinks of their own
	// or weights are clipped.
	Nothing []float64 `json:"nothing"`
}

// Idle is what a head of a block spends on the first token, on nothing, and on separators beyond
// their share of the tokens.
func (s *Seen) Idle(a *Attention, head int) float64 {
	return a.First[head] + a.Nothing[head] + max(0, a.Separators[head]-s.Separators)
}

// shareOf is the share of separators behind the first token.
func shareOf(separators []bool, windows [][]int32) float64 {
	n, all := 0, 0
	for _, ids := range windows {
		for _, id := range ids[1:] {
			if all++; int(id) < len(separators) && separators[id] {
				n++
			}
		}
	}
	return float64(n) / float64(all)
}

// Look runs the model on the windows.
func Look(ctx context.Context, m *measure.Model, o Options) (*Seen, error) {
	if len(o.Windows) == 0 || len(o.Windows[0]) < 2 {
		return nil, fmt.Errorf("%s: want windows of at least two tokens to look at", m.Name)
	}
	s := &walk.Scoring{Models: []*walk.Scored{&m.Scored}}
	plan, err := s.Within(cmp.Or(o.Memory, memory.Default()), o.Windows)
	if err != nil {
		return nil, err
	}
	defer plan.Hold()()
	l := newLooker(m, &o)
	l.walk.Alone = s.Alone
	parts := slices.Collect(slices.Chunk(o.Windows, s.Together(len(o.Windows[0]), len(o.Windows))))
	done, total := 0, len(parts)*m.Model.Layers
	for _, part := range parts {
		if err := l.part(ctx, part, func() {
			if done++; o.Step != nil {
				o.Step(done, total)
			}
		}); err != nil {
			return nil, err
		}
	}
	return l.seen(), nil
}

// looker is a look in the making.
type looker struct {
	o       *Options
	walk    *walk.Walk
	inputs  [][]*sums // by block and stage
	outputs [][]*sums // nil where a stage adds nothing to the stream
	blocks  []*sums
	hidden  []*feature
	states  int // hidden states of a token
	heads   []*headSums

	under  [][]int32 // the windows that are under way
	base   int       // the first of them in the batch
	batch  *headBatch
	number int // of the block
}

// feature is a channel of the hidden state.
type feature struct {
	largest float64
	blocks  []bool
	times   int
}

func newLooker(m *measure.Model, o *Options) *looker {
	d := m.Model
	l := &looker{o: o, walk: &walk.Walk{
		Model: d, Weights: m.Source(), Runner: m.Runner, SeqLen: len(o.Windows[0]), Store: streams.New(m.Runner, streams.Unlimited, nil),
	}}
	l.hidden = make([]*feature, d.Hidden)
	for j := range l.hidden {
		l.hidden[j] = &feature{blocks: make([]bool, d.Layers)}
	}
	l.heads = make([]*headSums, d.Layers)
	for _, p := range d.Blocks {
		in, out := make([]*sums, len(p.Stages)), make([]*sums, len(p.Stages))
		for i, s := range p.Stages {
			in[i] = newSums(s.Width, s.Expert >= 0)
			if s.Residual && s.Expert < 0 {
				out[i] = newSums(d.Hidden, false)
			}
			if l.isHidden(p, &s) {
				l.states++
			}
		}
		l.inputs, l.outputs, l.blocks = append(l.inputs, in), append(l.outputs, out), append(l.blocks, newSums(d.Hidden, false))
	}
	return l
}

// isHidden tells whether a stage is a hidden state in the sense of Features: the last linear of
// attention or MLP, which goes back to the width of the stream by itself, reads none.
func (l *looker) isHidden(p *program.Program, s *program.Stage) bool {
	hidden := l.walk.Model.Hidden
	back := len(s.Linears) == 1 && p.Linears[s.Linears[0]].Out == hidden
	return s.Expert < 0 && s.Width == hidden && !back
}

// part takes some of the windows through the model.
func (l *looker) part(ctx context.Context, windows [][]int32, step func()) error {
	l.under = windows
	all, err := l.walk.Start(ctx, windows, 1)
	if err != nil {
		return err
	}
	defer l.walk.Drop(all[0])
	l.walk.Runner.Heads = l.tile
	defer func() { l.walk.Runner.Heads = nil }()
	return l.walk.Blocks(ctx, l.walk.Model.Layers, func(b *program.Block) error {
		l.number, l.base, l.batch = b.Index, 0, nil
		if err := l.walk.Pass(ctx, b, all[0], true, func(stage int, f *program.Frame) error { return l.stage(b, stage, f) }); err != nil {
			return err
		}
		l.flush()
		err := l.walk.Show(all[0], func(_ int, x *tensor.Matrix) error {
			l.blocks[b.Index].add(x)
			return nil
		})
		step()
		return err
	})
}

// stage looks at what the linears of a stage read, and at what they add to the stream.
func (l *looker) stage(b *program.Block, stage int, f *program.Frame) error {
	s := &b.Stages[stage]
	x := f.Input(s)
	if stage == 0 {
		l.flush()
		l.batch = newHeadBatch(f.X.Rows)
	}
	if s.Expert >= 0 {
		l.inputs[b.Index][stage].add(x)
		return nil
	}
	l.windows(l.inputs[b.Index][stage], x)
	if l.isHidden(b.Program, s) {
		l.features(b.Index, x)
	}
	if s.Residual {
		l.windows(l.outputs[b.Index][stage], l.walk.Runner.EffectAlone(b, f, stage))
	}
	return nil
}

// windows adds windows one by one, all at once: each has sums of its own, put together in order.
func (l *looker) windows(s *sums, x *tensor.Matrix) {
	n := l.walk.SeqLen
	each := make([]*sums, x.Rows/n)
	parallel.Each(l.walk.Runner.Workers(), len(each), func(_, i int) {
		each[i] = newSums(x.Cols, false)
		each[i].add(walk.Rows(x, i*n, (i+1)*n))
	})
	for _, e := range each {
		s.merge(e)
	}
}

// features counts the outliers of a hidden state.
func (l *looker) features(block int, x *tensor.Matrix) {
	for i := range x.Rows {
		for j, v := range x.Row(i) {
			if a := max(v, -v); a >= llmint8.DefaultThreshold {
				f := l.hidden[j]
				f.blocks[block] = true
				f.times++
				f.largest = max(f.largest, float64(a))
			}
		}
	}
}

// tile is shown a tile of attention, by any worker.
func (l *looker) tile(t *nn.Heads, s *nn.Scratch, row int) {
	ids := l.under[l.base+row/l.walk.SeqLen]
	l.batch.add(t, s, row, ids, l.o.Separators)
}

// flush ends a batch.
func (l *looker) flush() {
	if l.batch == nil {
		return
	}
	if l.batch.heads() > 0 {
		if l.heads[l.number] == nil {
			l.heads[l.number] = &headSums{}
		}
		l.heads[l.number].add(l.batch, l.walk.SeqLen)
	}
	l.base += l.batch.rows / l.walk.SeqLen
	l.batch = nil
}

// seen is what the sums come to.
func (l *looker) seen() *Seen {
	d := l.walk.Model
	r := &Seen{Windows: len(l.o.Windows), Window: l.walk.SeqLen, Separators: shareOf(l.o.Separators, l.o.Windows), Outputs: []Activation{}, Features: Features{d.Hidden, []Feature{}}, Heads: []Attention{}}
	for i, p := range d.Blocks {
		for k, s := range p.Stages {
			r.Inputs = append(r.Inputs, l.inputs[i][k].activation(i, p.Linears[s.Linears[0]].Name))
			if l.outputs[i][k] != nil {
				r.Outputs = append(r.Outputs, l.outputs[i][k].activation(i, p.Linears[s.Linears[0]].Name))
			}
		}
		r.Blocks = append(r.Blocks, l.blocks[i].activation(i, strings.TrimSuffix(p.Prefix(), ".")))
		if h := l.heads[i]; h != nil {
			r.Heads = append(r.Heads, h.attention(i))
		}
	}
	r.Features.List = append(r.Features.List, l.found()...)
	return r
}

// found are the outlier features.
func (l *looker) found() (all []Feature) {
	tokens := len(l.o.Windows) * l.walk.SeqLen * max(1, l.states)
	for j, f := range l.hidden {
		blocks := 0
		for _, has := range f.blocks {
			if has {
				blocks++
			}
		}
		found := Feature{j, f.largest, float64(blocks) / float64(len(f.blocks)), float64(f.times) / float64(tokens)}
		if found.Blocks >= llmint8.ShareOfLayers && found.Tokens >= llmint8.ShareOfTokens {
			all = append(all, found)
		}
	}
	return all
}
