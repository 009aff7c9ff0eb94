package walk

import (
	"context"

	"github.com/golowbit/lowbit/internal/program"
)

// Every shows all stages of all blocks what windows are there in the unquantized model,
// batch by batch, in one pass.
func (w *Walk) Every(ctx context.Context, windows [][]int32, observe func(b *program.Block, stage int, f *program.Frame) error) error {
	all, err := w.Start(ctx, windows, 1)
	if err != nil {
		return err
	}
	defer w.Drop(all[0])
	return w.Blocks(ctx, w.Model.Layers, func(b *program.Block) error {
		return w.Pass(ctx, b, all[0], true, func(stage int, f *program.Frame) error { return observe(b, stage, f) })
	})
}
