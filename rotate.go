package lowbit

import (
	"context"
	"errors"

	"github.com/golowbit/lowbit/checkpoint/rotation"
	"github.com/golowbit/lowbit/internal/decoder/arch"
)

// RotateOptions describe a rotation. Model, Output and Kinds must be given.
type RotateOptions struct {
	Model, Base string // as in ConvertOptions
	// Calibration is what rotation.KLT looks at, and what is measured on where there is
	// something to choose.
	Calibration Calibration
	rotation.WriteOptions
}

// Rotate writes a dense model whose residual stream and values of attention are in other
// bases: its function is the same, up to rounding. Errors are those of rotation.Write.
func Rotate(ctx context.Context, o RotateOptions) (kind rotation.Kind, trials []rotation.Trial, err error) {
	if err := o.Calibration.validate(); err != nil {
		return "", nil, err
	}
	src, err := openModel(o.Model, o.Base)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if src, err = src.Plain(); err != nil {
		return "", nil, err
	}
	d, err := arch.Open(src)
	if err != nil {
		return "", nil, err
	}
	if o.Calibration.given() {
		t, err := readCalibration(src, d, o.Calibration, Tuning{}, o.Memory)
		if err != nil {
			return "", nil, err
		}
		o.Windows = t.windows
	}
	return rotation.Write(ctx, src, o.WriteOptions)
}
