package fitting

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Pace is about how many seconds it takes on this machine to choose for and quantize a layer of
// memory.SolveSize inputs and outputs, by doing it with one made up: on statistics of inputs
// where there is text, and of gradients at the outputs where errors are curved.
func Pace(ctx context.Context, q adadim.Quantizer, scheme quant.Scheme, text, curved bool, workers int) (float64, error) {
	const n, tokens = memory.SolveSize, 64
	rng := rand.New(rand.NewPCG(1, 1))
	w, x := tensor.New(n, n), tensor.New(tokens, n)
	for _, m := range []*tensor.Matrix{w, x} {
		for i := range m.Data {
			m.Data[i] = float32(rng.NormFloat64())
		}
	}
	scheme.GroupSize = min(scheme.GroupSize, n)
	l := adadim.Layer{Weight: w}
	if text {
		l.Calibration = quant.NewCalibration(x, workers)
		if q.Objective == adadim.ObjectiveBlock {
			q.Objective = adadim.ObjectiveLinear
		}
	}
	if curved {
		l.Calibration = l.Calibration.WithOutput(l.Calibration.H)
	}
	start := time.Now()
	_, _, err := q.Choose(ctx, l, scheme)
	return time.Since(start).Seconds(), err
}
