package mlx

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/internal/engines"
	"github.com/golowbit/lowbit/checkpoint/internal/fp4"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/affine"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Format is mlx-lm's folder, in mode affine: 2, 3, 4, 5, 6 or 8 bits in groups of
// 32, 64 or 128 inputs that divide them evenly; or with FP4 in mode mxfp4 or nvfp4.
//
// What is asked for with zero-points is quantized with free biases, in the type of
// the scales (see Own). A weight that has zero-points all the same, as one of
// another format, is stored exactly: its biases are -scale·zero-point, which takes
// F32 for both where the type of the scales does not hold them.
//
// Linears that are not quantized keep their weights, as the embedding and the head
// do: mlx-lm takes for quantized what has scales.
type Format struct {
	// FP4 is mxfp4 or nvfp4: linears are put on that grid of floats of 4 bits. It
	// matters to quantization only.
	FP4 string
}

// grids are those of floats of 4 bits. mlx has no scale for whole tensors.
var grids = fp4.Grids{}

var (
	_ layout.Folder  = Format{}
	_ layout.Reader  = Format{}
	_ layout.Gridder = Format{}
	_ layout.Mixer   = Format{}
	_ layout.Typer   = Format{}
	_ layout.Advisor = Format{}
)

// Name returns "mlx".
func (Format) Name() string { return "mlx" }

// What mlx has kernels for.
var (
	widths = []int{2, 3, 4, 5, 6, 8}
	groups = []int{32, 64, 128}
)

// Check accepts the bits and groups that mlx has kernels for, along the inputs.
func (f Format) Check(l layout.Layer) error {
	s := l.Scheme
	own := s.Grid != nil
	if own {
		if _, ok := s.Grid.(affine.Grid); !ok {
			return grids.Check(f.Name(), l)
		}
		l.Scheme.Grid = nil // the rest is as for the uniform grid
	}
	if err := layout.CheckInputGroups(f.Name(), l); err != nil {
		return err
	}
	switch g := s.GroupLen(l.In); {
	case !slices.Contains(widths, s.Bits):
		return layout.Unsupported("mlx has 2, 3, 4, 5, 6 and 8 bits, not %d; use 6 or 8, or format compressed-tensors", s.Bits)
	case l.GroupIndex:
		return layout.Unsupported("mlx has no group index; quantize with static groups")
	case !slices.Contains(groups, g):
		return layout.Unsupported("mlx has groups of 32, 64 and 128, not %d", g)
	case l.In%g != 0:
		return layout.CheckWholeGroups(f.Name(), l)
	case !own && !s.Symmetric && s.ScaleType == quant.F32:
		return layout.Unsupported("mlx stores scale·zero-point, which f32 does not hold for scales of f32; use scale type f16, or format lowbit or dense")
	}
	return nil
}

// Main is the grid of FP4.
func (f Format) Main() (s quant.Scheme, ok bool) { return grids.Main(f.FP4) }

// Mix gives linears the grid of FP4.
func (f Format) Mix(layout.Origin, bool) (func(l layout.Layer) (quant.Scheme, string, error), error) {
	return grids.Mix(f.FP4), nil
}

// Typed implements layout.Typer: name is mxfp4 or nvfp4.
func (Format) Typed(name string, in int) (quant.Scheme, string, error) { return grids.Typed(name, in) }

// Own puts what is asked for with zero-points on the grid of free biases. The other
// rules for zero-points (range paper, a least one) keep theirs, and so do scales
// whose products with zero-points are half floats (quant.F16Short).
func (Format) Own(s quant.Scheme) quant.Scheme {
	grid, ok := affine.Of(s.Bits, s.ScaleType)
	if !ok || s.Grid != nil || s.Symmetric || s.Axis != quant.OC || s.Range != quant.RangeZero || s.MinZero != 0 {
		return s
	}
	s.Grid, s.ScaleType = grid, 0
	return s
}

// stored is the type of a layer's scales and biases.
func stored(s quant.Scheme) safetensors.DType {
	t := s.ScaleType
	if g, ok := s.Grid.(affine.Grid); ok {
		t = g.Type()
	} else if product := s.Symmetric || t == quant.F16Short && s.Bits <= 4; !product {
		return safetensors.F32
	}
	switch t {
	case quant.F32:
		return safetensors.F32
	case quant.BF16:
		return safetensors.BF16
	}
	return safetensors.F16
}

// Engines says which engines load the layers.
func (f Format) Engines(layers []layout.Layer) []layout.Note { return engines.Notes(f.Name(), layers) }

// Plan lists weight, scales and biases.
func (f Format) Plan(l layout.Layer) ([]layout.Spec, error) {
	if err := f.Check(l); err != nil {
		return nil, err
	}
	t, shape := stored(l.Scheme), []int{l.Out, l.Scheme.Groups(l.In)}
	if _, ok := grids.Name(l.Scheme); ok {
		return []layout.Spec{
			{Name: l.Name + suffixWeight, DType: safetensors.U32, Shape: []int{l.Out, layout.PackedWords(l.In, l.Scheme.Bits)}},
			{Name: l.Name + suffixScales, DType: safetensors.U8, Shape: shape},
		}, nil
	}
	return []layout.Spec{
		{Name: l.Name + suffixWeight, DType: safetensors.U32, Shape: []int{l.Out, layout.PackedWords(l.In, l.Scheme.Bits)}},
		{Name: l.Name + suffixScales, DType: t, Shape: shape},
		{Name: l.Name + suffixBiases, DType: t, Shape: shape},
	}, nil
}

// Encode packs a layer. A scale or bias beyond the range of its type is an error
// that wraps layout.ErrUnsupported.
func (f Format) Encode(l layout.Layer, w *quant.Weight) ([]layout.Tensor, error) {
	if err := layout.CheckWeight(f, l, w); err != nil {
		return nil, err
	}
	specs, err := f.Plan(l)
	if err != nil {
		return nil, err
	}
	if _, ok := grids.Name(w.Scheme); ok {
		words, scales, err := grids.Encode(w)
		if err != nil {
			return nil, fmt.Errorf("layer %q: %w", l.Name, err)
		}
		t := layout.Int32Tensor(specs[0].Name, words, specs[0].Shape...)
		t.DType = safetensors.U32
		return []layout.Tensor{t, {Spec: specs[1], Data: scales}}, nil
	}
	out := []layout.Tensor{layout.Int32Tensor(specs[0].Name, w.Codes, specs[0].Shape...)}
	out[0].DType = safetensors.U32
	for i, v := range [][]float32{w.Scales, biases(w)} {
		s := specs[1+i]
		t, err := layout.FloatTensor(s.Name, s.DType, v, s.Shape...)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// biases are the values of code 0.
func biases(w *quant.Weight) []float32 {
	b := make([]float32, len(w.Scales))
	for i, s := range w.Scales {
		if w.Shifts != nil {
			b[i] = 0 - w.Shifts[i]
		} else {
			b[i] = 0 - float32(s*float32(w.Zeros[i]))
		}
	}
	return b
}
