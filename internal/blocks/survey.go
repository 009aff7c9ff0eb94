package blocks

import (
	"context"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant"
)

// Survey counts for every input of linears, in windows of text through the unquantized
// model, the tokens in which its features have at least a magnitude.
func Survey(ctx context.Context, w *walk.Walk, windows [][]int32, above float32) ([]quant.InputSurvey, error) {
	var all []quant.InputSurvey
	first := 0 // of the block
	err := w.Every(ctx, windows, func(b *program.Block, stage int, f *program.Frame) error {
		if n := len(all); n == 0 || all[n-1].Block != b.Index {
			first = n
			for _, s := range b.Stages {
				all = append(all, quant.InputSurvey{Block: b.Index, Above: make([]int, s.Width)})
			}
		}
		x, _ := f.Routed(&b.Stages[stage])
		s := &all[first+stage]
		s.Tokens += x.Rows
		for i := range x.Rows {
			for j, v := range x.Row(i) {
				if v >= above || v <= -above {
					s.Above[j]++
				}
			}
		}
		return nil
	})
	return all, err
}
