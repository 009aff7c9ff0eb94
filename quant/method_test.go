package quant_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// plain implements Quantizer and nothing else.
type plain struct{ Step float64 }

// opaque has a parameter that JSON cannot hold.
type opaque struct {
	plain
	Round func(float64) float64
}

func (plain) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	return quant.RTN{}.Quantize(ctx, w, s, cal)
}

// full implements all there is.
type full struct {
	plain
	secret, workers int
}

var errFull = errors.New("full")

func (full) NeedsCalibration() bool              { return false }
func (full) NeedsPairs() bool                    { return false }
func (full) Validate() error                     { return errFull }
func (f full) Parameters() any                   { return map[string]int{"secret": f.secret} }
func (full) Draft() quant.Quantizer              { return quant.RTN{} }
func (f full) WithWorkers(n int) quant.Quantizer { f.workers = n; return f }

func TestAbilities(t *testing.T) {
	p := plain{Step: 0.5}
	require.True(t, quant.NeedsCalibration(p), "what is not said is assumed")
	require.True(t, quant.NeedsPairs(p), "what is not said is assumed")
	require.NoError(t, quant.Validate(p))
	require.Equal(t, p, quant.WithWorkers(p, 3))
	require.Equal(t, p, quant.Draft(p))
	m, err := quant.Parameters(p)
	require.NoError(t, err)
	require.Equal(t, quant.Method{Type: "quant_test.plain", Parameters: json.RawMessage(`{"Step":0.5}`)}, m)
	other, err := quant.Parameters(plain{Step: 0.25})
	require.NoError(t, err)
	require.NotEqual(t, m, other)
	_, err = quant.Parameters(opaque{})
	require.ErrorContains(t, err, "parameters of method quant_test.opaque (it can implement quant.Parametric): ")

	f := full{secret: 7, workers: 2}
	require.False(t, quant.NeedsCalibration(f))
	require.False(t, quant.NeedsPairs(f))
	require.ErrorIs(t, quant.Validate(f), errFull)
	require.Equal(t, full{secret: 7, workers: 5}, quant.WithWorkers(f, 5))
	require.Equal(t, quant.RTN{}, quant.Draft(f))
	m, err = quant.Parameters(f)
	require.NoError(t, err)
	require.Equal(t, quant.Method{Type: "quant_test.full", Parameters: json.RawMessage(`{"secret":7}`)}, m)
}

func TestRTNAbilities(t *testing.T) {
	require.False(t, quant.NeedsCalibration(quant.RTN{}))
	require.False(t, quant.NeedsPairs(quant.RTN{}))
	require.Equal(t, quant.RTN{Workers: 3}, quant.WithWorkers(quant.RTN{}, 3))
	m, err := quant.Parameters(quant.RTN{Workers: 3})
	require.NoError(t, err)
	require.Equal(t, quant.Method{Type: "quant.RTN", Parameters: json.RawMessage(`{}`)}, m)
}
