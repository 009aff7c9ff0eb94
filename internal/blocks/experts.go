package blocks

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// experts is what experts see beside the tokens that are routed to them. What few tokens
// say of an expert's inputs is mostly chance. So with Options.Pool other tokens of the
// text, the same for all experts of a block, count among them as if they were prior times
// the inputs' number:
//
//	H = Σ x xᵀ over its own tokens + prior·inputs · mean of x xᵀ over the others,
//
// which is H shrunk towards that of all tokens by prior·inputs/(prior·inputs + tokens).
// Inside an expert, whose channels are not those of another, the others are what this
// expert makes of those tokens.
type experts struct {
	total   int         // tokens of the text
	part    float64     // of them go through every expert
	routed  []int       // by stage: tokens that were routed to its expert
	filled  []int       // by stage: others that it has seen
	squares [][]float32 // by stage: sums of squares of the former, with Options.Squares
}

// prior is how many tokens for each input the pooled ones count for (docs/accuracy.md).
const prior = 0.1

// sample is how many of the other tokens are enough, for each input.
const sample = 4

// begin decides how many tokens go through every expert.
func (e *experts) begin(r *run, windows [][]int32) {
	widest := 0
	for _, b := range r.walk.Model.Blocks {
		for _, s := range b.Stages {
			if s.Expert >= 0 {
				widest = max(widest, s.Width)
			}
		}
	}
	if !r.Pool && !r.RouteAll || widest == 0 {
		return
	}
	for _, w := range windows {
		e.total += len(w)
	}
	e.part = 1
	if !r.RouteAll {
		e.part = min(1, sample*float64(widest)/float64(max(1, e.total)))
	}
	r.walk.Runner.Fill = e.part
}

// block forgets the block before.
func (e *experts) block(stages int) {
	e.routed, e.filled, e.squares = make([]int, stages), make([]int, stages), make([][]float32, stages)
}

// add counts a batch, and has the filled rows seen.
func (e *experts) add(r *run, c *quant.Collector, stage int, own, filled *tensor.Matrix) {
	s := &r.block.Stages[stage]
	if s.Expert < 0 {
		return
	}
	e.routed[stage] += own.Rows
	e.filled[stage] += filled.Rows
	if filled.Rows == 0 {
		return
	}
	if r.RouteAll {
		c.Add(filled, r.Workers)
		return
	}
	if r.Squares {
		if e.squares[stage] == nil {
			e.squares[stage] = make([]float32, own.Cols)
		}
		for i := range own.Rows {
			for j, v := range own.Row(i) {
				e.squares[stage][j] += v * v
			}
		}
	}
	x := filled.Clone()
	f := float32(math.Sqrt(e.weight(s)))
	for i := range x.Rows {
		kernel.Scale(x.Row(i), f)
	}
	c.Add(x, r.Workers)
}

// weight is what one of the other tokens counts.
func (e *experts) weight(s *program.Stage) float64 {
	return prior * float64(s.Width) / (e.part * float64(e.total))
}

// count says how many tokens statistics are made of.
func (e *experts) count(r *run, stage int, cal *quant.Calibration) {
	if r.block.Stages[stage].Expert >= 0 && e.part > 0 && !r.RouteAll {
		cal.Tokens = e.routed[stage] + e.filled[stage]
	}
}
