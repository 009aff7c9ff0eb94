package blocks

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/golowbit/lowbit/internal/curvature"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/shared"
	"github.com/golowbit/lowbit/internal/walk"
)

// Keeper keeps what a resumed run need not compute again.
type Keeper interface {
	// Keep keeps what write writes, size bytes, in place of what was kept of its kind before.
	Keep(what string, size int64, write func(io.Writer) error) error
	// Kept opens what was kept; nil if there is nothing.
	Kept(what string) (*os.File, error)
	// DropKept removes it; why is not nil if it could not be used.
	DropKept(what string, why error) error
}

// What is kept.
const (
	KeptStreams   = "streams"   // what the text is between two blocks
	KeptCurvature = "curvature" // at the outputs of layers
)

// Keeping is not to take more than a part of the time: what is more than always bytes is
// kept when the work since the last time was this many times what a slow disk takes.
const (
	always   = 128 << 20 // which the system takes without waiting for the disk
	slowDisk = 200 << 20 // bytes a second
	rarely   = 20
)

// worthKeeping says whether so many bytes are kept of what was worked on since.
func worthKeeping(size int64, since time.Time) bool {
	return size <= always || time.Since(since).Seconds() >= rarely*float64(size)/slowDisk
}

// collect finds the curvature at the outputs of layers: the run that is resumed may have
// kept it. A part of a team does so for its own layers, with all of the text.
func (r *run) collect(ctx context.Context, windows [][]int32) error {
	defer r.clock.Whole(phases.Curvature)()
	err := r.restoreCurvature(ctx)
	if err != nil || r.moments != nil {
		return err
	}
	begin := time.Now()
	if r.moments, err = curvature.Collect(ctx, r.walk, windows, r.wants, r.Curving); err != nil || r.Keeper == nil {
		return err
	}
	size := r.moments.Size()
	if r.needed() == 0 || shared.Of(ctx) != nil || !worthKeeping(size, begin) {
		return nil // other runs have it too
	}
	return r.Keeper.Keep(KeptCurvature, size, func(out io.Writer) error { return r.moments.Keep(ctx, out) })
}

func (r *run) restoreCurvature(ctx context.Context) error {
	if r.Keeper == nil || r.needed() == 0 {
		return nil
	}
	file, err := r.Keeper.Kept(KeptCurvature)
	if err != nil || file == nil {
		return err
	}
	defer file.Close()
	r.moments, err = curvature.Restore(ctx, r.walk, r.wants, file)
	if err != nil && ctx.Err() == nil {
		err = r.Keeper.DropKept(KeptCurvature, err)
	}
	return err
}

// streams are those that the blocks take on.
func (r *run) streams() (all []*walk.Residual) {
	for _, x := range []*walk.Residual{r.full, r.quantized} {
		if x != nil {
			all = append(all, x)
		}
	}
	return all
}

// start begins the streams of windows, where the run that is resumed has left them if
// it did; block is the first that they are to go through.
func (r *run) start(ctx context.Context, windows [][]int32) (block int, err error) {
	n := 1
	if r.Paired {
		n = 2
	}
	x, block, err := r.restore(ctx, windows, n)
	if err == nil && x == nil {
		x, err = r.walk.Start(ctx, windows, n)
	}
	if err != nil {
		return 0, err
	}
	if r.Paired || r.Full {
		r.full = x[0]
	}
	if !r.Full {
		r.quantized = x[n-1]
	}
	r.kept = time.Now()
	return block, nil
}

// restore returns what the run that is resumed has kept, nil if there is nothing of use.
func (r *run) restore(ctx context.Context, windows [][]int32, n int) ([]*walk.Residual, int, error) {
	done := r.done()
	if r.Keeper == nil || done == 0 {
		return nil, 0, nil
	}
	file, err := r.Keeper.Kept(KeptStreams)
	if err != nil || file == nil {
		return nil, 0, err
	}
	defer file.Close()
	defer r.clock.Enter(phases.Reading)()
	// Behind done a layer has to be made again.
	x, block, err := r.walk.Restore(ctx, file, n, len(windows)*r.walk.SeqLen, done)
	if err != nil {
		if ctx.Err() != nil {
			return nil, 0, err
		}
		return nil, 0, r.Keeper.DropKept(KeptStreams, err)
	}
	for _, b := range r.walk.Model.Blocks[:block] { // none without x
		if err := r.settle(b); err != nil {
			return nil, 0, err
		}
	}
	return x, block, nil
}

// done is how many blocks from the first on have no layer that is still to be quantized.
func (r *run) done() int {
	for i, b := range r.walk.Model.Blocks {
		for _, l := range b.Linears {
			if r.layers.Pending(l.Name) {
				return i
			}
		}
	}
	return r.walk.Model.Layers
}

// settle ends the layers of a block that the text need not go through.
func (r *run) settle(b *program.Program) error {
	if data, ok := r.layers.Noted(foldNote(b)); ok {
		var choices []fold.Choice
		if err := json.Unmarshal(data, &choices); err != nil {
			return foldError(b, err)
		}
		if err := r.layers.Fold(nil, foldedInputs(b, choices)); err != nil {
			return err
		}
	}
	for _, l := range b.Linears {
		if err := r.layers.Settle(l.Name); err != nil {
			return err
		}
	}
	return nil
}

// keep keeps the streams as they are before a block.
func (r *run) keep(ctx context.Context, block int) error {
	all := r.streams()
	if r.Keeper == nil || len(all) == 0 {
		return nil
	}
	size := walk.Kept(all)
	if !worthKeeping(size, r.kept) {
		return nil
	}
	defer r.clock.Enter(phases.Writing)()
	err := r.Keeper.Keep(KeptStreams, size, func(out io.Writer) error { return r.walk.Keep(ctx, out, block, all) })
	r.kept = time.Now()
	return err
}
