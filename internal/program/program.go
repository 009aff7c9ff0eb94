// Package program describes a block of a decoder-only transformer as data and runs
// it in float32.
//
// A block is a Program: operations on registers, in computing order. Register 0 is
// the residual stream [rows, hidden]; the others hold what is computed from it. Of
// Llama's block:
//
//	h = norm(x)                        stage 0: read by q, k, v
//	q, k, v = linear(h); rotate q, k
//	a = attention(q, k, v)             stage 1: read by o
//	x += linear(a)
//	h = norm(x)                        stage 2: read by gate, up
//	g, u = linear(h)
//	g = silu(g) * u                    stage 3: read by down
//	x += linear(g)
//
// A Stage is a register that linear layers read: it says which, how wide it is,
// which tokens it holds (all, or those routed to an expert), and what a scale of
// its channels folds into. Stages are found in the program, not written down.
// Whoever calibrates, quantizes or measures stops at stages (package walk) and
// may exchange the weights of linears between them.
//
// A Builder puts a program together, Load gives it weights, a Runner runs the Block.
//
// Rows are tokens: a batch is any number of whole windows of seqLen tokens, one
// after the other; each window is a sequence of its own with positions 0 to
// seqLen-1. Nothing computed here depends on the number of workers.
package program

import (
	"fmt"
	"slices"
)

// MaxWidth is a limit of widths far above any model.
const MaxWidth = 1 << 24

// Reg names a register of a program.
type Reg int

// Stream is the residual stream.
const Stream Reg = 0

// register is what is known of a register beforehand.
type register struct {
	width  int
	router int // which router's tokens it holds, or -1 for all tokens
	expert int // of those, the ones that go to this expert
}

// LinearInfo describes a linear layer without its weights.
type LinearInfo struct {
	Name    string // of its tensors, without ".weight": model.layers.0.mlp.up_proj
	Path    string // the same inside the block: mlp.up_proj
	Stage   int    // which stage of the block it reads
	Out, In int    // the weight's shape
	Bias    bool
	Expert  int // which expert it is part of, or -1
	// Slice is where it lies in a checkpoint that does not store it as a tensor
	// of its own, [Out, In]; nil if it does. See Stored.
	Slice *Slice
}

// Stored returns where the layer lies in a checkpoint that is not quantized.
func (l LinearInfo) Stored() Slice {
	if l.Slice != nil {
		return *l.Slice
	}
	s := Slice{Weight: l.WeightName(), Outputs: l.Out, Step: 1}
	if l.Bias {
		s.Bias = l.BiasName()
	}
	return s
}

// WeightName returns the name of the layer's weight tensor.
func (l LinearInfo) WeightName() string { return l.Name + ".weight" }

// BiasName returns the name of the layer's bias tensor.
func (l LinearInfo) BiasName() string { return l.Name + ".bias" }

// param is a dense tensor of a block: a gain, a bias, a router's matrix. In
// memory it has two dimensions: those after the first are one, a vector is a row.
type param struct {
	path  string // inside the block, whole
	shape []int  // one dimension or more
	// optional says that it may be missing; what reads it then gets nil.
	optional bool
}

// Stage is one input of a block: a register that linear layers read.
type Stage struct {
	Width   int
	Linears []int // indices of the linears that read it, in computing order
	Expert  int   // whose tokens it holds, or -1 for all
	// Residual says that what the linears compute is added to the residual
	// stream as it is.
	Residual bool
	// Fold is what a scale of the channels folds into, nil if nothing can take it.
	Fold *Fold
	// Recompute says that the register is computed again when its linears run,
	// rather than kept: it is cheap to compute and wide to keep.
	Recompute bool

	reg   Reg
	from  int // the operation that computing it again begins with
	at    int // the operation before which it is complete
	added int // the operation after which its effect is in the residual stream
}

// Fold says what takes the factors of the channels of a stage, so that the
// function of the block does not change when columns of the linears that read
// it are divided by the same factors: gains (and biases) of a norm, or rows of
// the linear before.
type Fold struct {
	Into     string // its name inside the block, for messages
	Channels int    // how many factors there are
	Share    []int  // the factor that each channel takes; nil: its own
	Before   int    // the linear whose rows take them, or -1
	Row0     int    // its first such row; factor i goes to row Row0+i
	PlusOne  bool   // the gain is one more than what is stored
	vectors  []int  // gain and bias of the norm; indices of Block.vectors
}

// Vectors are the indices of the gain and, if there is one, the bias of the norm
// that takes the factors; nil if a linear does.
func (f *Fold) Vectors() []int { return f.vectors }

// Program is one block of a model without weights.
type Program struct {
	Index   int
	Linears []LinearInfo
	Stages  []Stage

	prefix string // of all names: model.layers.3.
	params []param
	absent []string // tensors that must not be there, or be zero
	regs   []register
	ops    []op
	free   [][]Reg // registers not needed after an operation

	touches [][]touch // operations that touch a register, in order
}

// op is one operation.
type op interface {
	run(*exec)
	reads() []Reg
	writes() []Reg // of these the ones also read are changed in place
}

// paramName returns the full name of the i-th dense tensor.
// Prefix is what the names of all tensors of the block begin with.
func (p *Program) Prefix() string { return p.prefix }

func (p *Program) paramName(i int) string { return p.prefix + p.params[i].path }

// Rotates tells whether the block rotates queries or keys.
func (p *Program) Rotates() bool {
	for _, o := range p.ops {
		if _, ok := o.(*rotateOp); ok {
			return true
		}
	}
	return false
}

// After returns the stage whose factors the rows of a linear take, or -1.
func (p *Program) After(linear int) int {
	return slices.IndexFunc(p.Stages, func(s Stage) bool { return s.Fold != nil && s.Fold.Before == linear })
}

// finish finds the stages and the life of registers.
func (p *Program) finish() error {
	p.findTouches()
	p.findStages()
	p.findLives()
	p.findRecomputed()
	ops := make([]int, len(p.Linears))
	for i, o := range p.ops {
		if l, ok := o.(*linearOp); ok {
			ops[l.linear] = i
		}
	}
	for i := range p.Stages {
		s := &p.Stages[i]
		s.Fold = p.findFold(s)
		s.Residual = p.isResidual(s, ops)
		s.added = p.findAdded(s, ops)
		for _, l := range s.Linears {
			if p.Linears[l].In != s.Width {
				return fmt.Errorf("%s: reads %d inputs, want %d", p.Linears[l].Name, s.Width, p.Linears[l].In)
			}
		}
	}
	return nil
}

// findStages lists what linears read: a register as one operation left it.
func (p *Program) findStages() {
	type content struct {
		reg    Reg
		writer int
	}
	known := map[content]int{}
	for i, o := range p.ops {
		l, ok := o.(*linearOp)
		if !ok {
			continue
		}
		c := content{l.src, p.lastWriter(l.src, i)}
		s, ok := known[c]
		if !ok {
			s = len(p.Stages)
			known[c] = s
			r := p.regs[l.src]
			p.Stages = append(p.Stages, Stage{Width: r.width, Expert: r.expert, reg: l.src, at: i})
		}
		p.Stages[s].Linears = append(p.Stages[s].Linears, l.linear)
		p.Linears[l.linear].Stage = s
		p.Linears[l.linear].Expert = p.Stages[s].Expert
	}
}

// isResidual reports whether all linears of a stage add to the stream; ops are
// the operations of linears.
func (p *Program) isResidual(s *Stage, ops []int) bool {
	for _, i := range s.Linears {
		if l := p.ops[ops[i]].(*linearOp); l.dst != Stream || !l.add {
			return false
		}
	}
	return true
}

// findAdded is the first operation after the last of the stage's linears that
// writes the stream, and the end of the block if there is none.
func (p *Program) findAdded(s *Stage, ops []int) int {
	last := ops[s.Linears[len(s.Linears)-1]]
	for _, t := range p.touches[Stream][p.next(Stream, last):] {
		if t.writes {
			return int(t.at) + 1
		}
	}
	return len(p.ops)
}

// findFold looks at the operation that completes a stage. A scale moves into it
// only if nothing else reads the register.
func (p *Program) findFold(s *Stage) *Fold {
	writer := p.lastWriter(s.reg, s.at)
	if writer < 0 || s.reg == Stream {
		return nil
	}
	for _, t := range p.touches[s.reg][p.next(s.reg, writer+1):] {
		if t.reads {
			if l, ok := p.ops[t.at].(*linearOp); !ok || l.src != s.reg || l.dst == s.reg {
				return nil
			}
		}
		if t.writes {
			break
		}
	}
	if f, ok := p.ops[writer].(folder); ok {
		return f.fold(p, writer)
	}
	return nil
}

// folder is an operation into which scales of its outputs move.
type folder interface {
	fold(p *Program, at int) *Fold
}

// computedBy returns the linear that alone computes columns [c0, c1) of a
// register as it is before operation at, with the row it begins at: nothing
// but operations on other columns comes between. ok is false if there is none.
func (p *Program) computedBy(r Reg, c0, c1, at int) (linear, row int, ok bool) {
	for k := p.next(r, at) - 1; k >= 0; k-- {
		o := p.ops[p.touches[r][k].at]
		if l, isLinear := o.(*linearOp); isLinear && l.dst == r {
			return l.linear, c0, !l.add
		}
		if c, isColumns := o.(columns); !isColumns || !c.leaves(r, c0, c1) {
			return 0, 0, false
		}
	}
	return 0, 0, false
}

// columns is an operation that changes some columns of a register.
type columns interface {
	leaves(r Reg, c0, c1 int) bool // those as they are
}
