package blocks

import (
	"context"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/shared"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// alike is what a run on the unquantized stream has in common with others on the same text:
// the statistics of every stage, before anything is folded or shrunk.
type alike struct {
	runs   *shared.Runs // nil if nothing is shared
	text   string
	tokens int
	all    bool // all that the run needs is there: the text is not run
}

// look finds out what is there. Nothing is shared where a pass is for more than statistics, nor
// in mixtures, whose experts' tokens are counted beside.
func (a *alike) look(ctx context.Context, r *run, windows [][]int32) {
	runs := shared.Of(ctx)
	if runs == nil || !r.Full || r.BlockLoss || r.Squares || r.Overflow != nil {
		return
	}
	for _, b := range r.walk.Model.Blocks {
		if slices.ContainsFunc(b.Stages, func(s program.Stage) bool { return s.Expert >= 0 }) {
			return
		}
	}
	a.runs, a.text, a.tokens, a.all = runs, shared.Text(r.walk, windows), len(windows)*r.walk.SeqLen, true
	for _, b := range r.walk.Model.Blocks {
		pending := func(linear int) bool { return r.layers.Pending(b.Linears[linear].Name) }
		folds := slices.Contains(r.Folds[b.Index], true) && slices.ContainsFunc(b.Linears, func(l program.LinearInfo) bool { return r.layers.Pending(l.Name) })
		for i, s := range b.Stages {
			if folds || slices.ContainsFunc(s.Linears, pending) {
				a.all = a.all && runs.Has(a.key(b.Index, i))
			}
		}
	}
}

func (a *alike) key(block, stage int) string {
	return fmt.Sprint(a.text, "statistics ", block, " ", stage)
}

// keep keeps the statistics of a stage for other runs.
func (a *alike) keep(block, stage int, cal *quant.Calibration) {
	if a.runs != nil && cal != nil {
		a.runs.Put(a.key(block, stage), cal.H, tensor.FromSlice(1, len(cal.MeanAbs), cal.MeanAbs), tensor.FromSlice(1, len(cal.AbsMax), cal.AbsMax))
	}
}

// of is the statistics of a stage.
func (a *alike) of(block, stage int) (*quant.Calibration, error) {
	m, err := a.runs.Get(a.key(block, stage))
	if err != nil {
		return nil, err
	}
	return &quant.Calibration{H: m[0], MeanAbs: m[1].Data, AbsMax: m[2].Data, Tokens: a.tokens}, nil
}
