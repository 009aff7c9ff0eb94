package blocks

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
)

// foldScales chooses the scales of the block that are folded, from what its
// linears see in full precision, and gives the writer the gains and biases
// that they change. Afterwards r.scales says what becomes of each linear.
//
// The scale of an input is chosen by the least relative error (as of
// adadim.ObjectiveRelative) among each layer's arms, in the geometric mean
// over the layers that it changes: q, k and v lose by different orders of
// magnitude, and none should be given up for another.
//
// What was chosen is kept for a resume, which has no use for cals then: see
// refoldScales.
func (r *run) foldScales(ctx context.Context, cals []*quant.Calibration) error {
	defer r.clock.Enter(phases.Folding)()
	r.scales = fold.New(r.block)
	search := r.layers.Folding(r.block)
	search.Scales = r.scales
	var choices []fold.Choice
	for stage, folds := range r.Folds[r.block.Index] {
		if !folds || cals[stage].Tokens == 0 {
			continue
		}
		chosen, err := search.Stage(ctx, stage, cals)
		if err != nil {
			return err
		}
		if chosen.Factors != nil {
			choices = append(choices, fold.Choice{Stage: stage, Candidate: chosen})
		}
	}
	data, err := json.Marshal(choices)
	if err != nil {
		return err
	}
	if err := r.layers.Note(foldNote(r.block.Program), data); err != nil {
		return err
	}
	return r.putScales(choices)
}

func foldNote(b *program.Program) string { return fmt.Sprintf("fold-%d", b.Index) }

// refoldScales takes the scales that the run that is resumed has chosen; done is
// false if it had not got that far.
func (r *run) refoldScales() (done bool, err error) {
	scales, choices, err := folded(r.block, r.layers)
	if err != nil || scales == nil {
		return false, err
	}
	r.scales = scales
	return true, r.putScales(choices)
}

// Folded is what was folded in a block, unquantized, that Run has been through; nil if
// nothing was to be.
func Folded(b *program.Block, layers Layers) (*fold.Scales, error) {
	scales, _, err := folded(b, layers)
	return scales, err
}

func folded(b *program.Block, layers Layers) (*fold.Scales, []fold.Choice, error) {
	data, ok := layers.Noted(foldNote(b.Program))
	if !ok {
		return nil, nil, nil
	}
	var choices []fold.Choice
	scales := fold.New(b)
	err := json.Unmarshal(data, &choices)
	if err == nil {
		err = scales.Apply(choices, layers.Folding(b).Round)
	}
	if err != nil {
		return nil, nil, foldError(b.Program, err)
	}
	return scales, choices, nil
}

func foldError(b *program.Program, err error) error {
	return fmt.Errorf("block %d: scales kept by the interrupted run: %w", b.Index, err)
}

// putScales gives the keeper of layers what the scales change.
func (r *run) putScales(choices []fold.Choice) error {
	return r.layers.Fold(r.scales.Stored(), foldedInputs(r.block.Program, choices))
}

// foldedInputs says of every layer which scale of its input is folded.
func foldedInputs(b *program.Program, choices []fold.Choice) map[string]string {
	notes := map[string]string{}
	for _, c := range choices {
		for _, i := range b.Stages[c.Stage].Linears {
			notes[b.Linears[i].Name] = c.Note
		}
	}
	return notes
}

// observeForFolding returns what the unquantized linears of the block see
// behind the quantized blocks, for those stages that folding needs. It takes a
// part of the text: what is chosen is one exponent for a stage, by errors that
// differ by a quarter or more.
func (r *run) observeForFolding(ctx context.Context) ([]*quant.Calibration, error) {
	const least = 4096 // tokens, and twice the width of the inputs
	stages := r.block.Stages
	collectors := make([]*quant.Collector, len(stages))
	tokens := least
	want := func(stage int) {
		tokens = max(tokens, 2*stages[stage].Width)
		if collectors[stage] == nil {
			collectors[stage] = quant.NewCollector(stages[stage].Width)
		}
	}
	for stage, folds := range r.Folds[r.block.Index] {
		if !folds {
			continue
		}
		want(stage)
		if l := stages[stage].Fold.Before; l >= 0 {
			want(r.block.Linears[l].Stage)
		}
	}
	sample, drop, err := r.sample(ctx, tokens)
	if err != nil {
		return nil, err
	}
	defer drop()
	err = r.walk.Pass(ctx, r.block, sample, false, func(stage int, f *program.Frame) error {
		if c := collectors[stage]; c != nil {
			defer r.clock.Enter(phases.Statistics)()
			if own, _ := f.Routed(&stages[stage]); own.Rows > 0 {
				c.Add(own, r.Workers)
			}
		}
		return nil
	})
	return calibrations(collectors), err
}
