// Package dense writes dequantized weights.
package dense

import (
	"github.com/golowbit/lowbit/checkpoint/internal/engines"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Format stores dequantized weights in the type of the weights they came
// from. Every engine loads it, at full size; the rounding to F16 or BF16 is
// the only difference from the quantized weight.
type Format struct{}

// Name returns "dense".
func (Format) Name() string { return "dense" }

// Check accepts every layer whose type is F32, F16 or BF16.
func (Format) Check(l layout.Layer) error {
	switch l.DType {
	case safetensors.F32, safetensors.F16, safetensors.BF16:
		l.Columns = 0 // are among the weights
		return layout.CheckShape(l)
	}
	return layout.Unsupported("dense weights of type %v, want F32, F16 or BF16", l.DType)
}

// Plan returns the one tensor "<name>.weight".
func (f Format) Plan(l layout.Layer) ([]layout.Spec, error) {
	if err := f.Check(l); err != nil {
		return nil, err
	}
	return []layout.Spec{{Name: l.Name + ".weight", DType: l.DType, Shape: []int{l.Out, l.In}}}, nil
}

// Encode dequantizes. Where a weight is too large for the type the error wraps
// safetensors.ErrRange.
func (f Format) Encode(l layout.Layer, w *quant.Weight) ([]layout.Tensor, error) {
	specs, err := f.Plan(l)
	if err != nil {
		return nil, err
	}
	if err := w.Validate(); err != nil {
		return nil, err
	}
	t := layout.Tensor{Spec: specs[0]}
	t.Data = make([]byte, t.Bytes())
	if err := safetensors.EncodeFloat32(t.Data, l.DType, w.Dequantize().Data); err != nil {
		return nil, err
	}
	return []layout.Tensor{t}, nil
}

// Engines says that every engine but those of GGUF files loads it.
func (f Format) Engines(layers []layout.Layer) []layout.Note { return engines.Notes(f.Name(), layers) }

// Config removes the quantization_config.
func (Format) Config(layout.Contents) (layout.Config, error) { return layout.Config{}, nil }
