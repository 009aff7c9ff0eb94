package rotation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/modelcard"
	"github.com/golowbit/lowbit/internal/text"
	"github.com/golowbit/lowbit/quant"
)

// ErrText is wrapped where there is less text than a rotation needs.
var ErrText = errors.New("more text is needed")

// WriteOptions say how a rotated model is written. Output and Kinds must be given.
type WriteOptions struct {
	Output string // folder to make; must not exist
	// Kinds is the rotation. Of several the one is taken with which the model loses least
	// when it is rounded by Scheme: the second half of the windows measures that.
	Kinds  []Kind
	Scheme quant.Scheme
	Options
	MaxShardBytes int64                   // of a file; 0 is no limit
	Resume        bool                    // take over what an interrupted run has left behind
	Progress      func(done, total int64) // bytes written, if not nil
}

// Write writes a dense model rotated, and says how, with the trials if there was something
// to choose. Errors wrap ErrUnsupported if rotations do not fold into the model, ErrText, and
// those of checkpoint.Convert.
func Write(ctx context.Context, m *checkpoint.Model, o WriteOptions) (kind Kind, trials []Trial, err error) {
	if kind = o.Kinds[0]; len(o.Kinds) > 1 {
		half := len(o.Windows) / 2
		if half == 0 {
			return "", nil, fmt.Errorf("%w: to choose a rotation takes two windows, one to rotate by and one to measure on, and there are %d", ErrText, len(o.Windows))
		}
		held := o.Windows[half:]
		o.Windows = o.Windows[:half]
		if kind, trials, err = choose(ctx, m, o.Kinds, o.Scheme, held, &o.Options); err != nil {
			return "", nil, err
		}
	}
	rotated, err := of(ctx, m, kind, &o.Options)
	if err != nil {
		return "", nil, err
	}
	parameters := map[string]any{"rotation": kind, "seed": o.Seed, "dtype": o.DType, "max_shard_bytes": o.MaxShardBytes}
	if kind == KLT {
		parameters["text"] = text.Digest(o.Windows)
	}
	fingerprint, err := json.Marshal(parameters)
	if err != nil {
		return "", nil, err
	}
	err = checkpoint.Convert(ctx, checkpoint.WriterOptions{
		Out: o.Output, Source: rotated, Format: dense.Format{}, Fingerprint: fingerprint, MaxShardBytes: o.MaxShardBytes, Workers: o.Workers,
		Resume: o.Resume, Progress: o.Progress, Ready: modelcard.Made{Format: dense.Format{}}.Ready(m),
	})
	if errors.Is(err, checkpoint.ErrComplete) {
		err = nil // by the run that was interrupted
	}
	return kind, trials, err
}
