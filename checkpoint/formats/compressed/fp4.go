package compressed

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/checkpoint/internal/fp4"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// grids are those of floats of 4 bits. A scale of the whole tensor is a number that all
// other scales are divided by.
var grids = fp4.Grids{TensorScaled: true}

const (
	suffixGlobal = ".weight_global_scale"
	globalScale  = float32(1 / kquant.TensorScale)
)

// floatFormat is what the library calls the format of a grid.
func floatFormat(name string) string { return name + "-" + packFormat }

// floatWeights are the weights' arguments of a grid.
func floatWeights(name string) *weightArgs {
	size, group := grids.Grid(name).Scheme().GroupSize, "group"
	scale := "torch.uint8"
	if name == fp4.NV {
		group, scale = "tensor_group", "torch.float8_e4m3fn"
	}
	w := layerKind{bits: 4, group: size, symmetric: true}.weights()
	w.Type, w.Strategy, w.ScaleType = "float", group, scale
	return w
}

// ParseFP4 reads what Format.FP4 can be.
func ParseFP4(name string) (string, error) { return fp4.Parse(name) }

// Main is the grid of FP4.
func (f Format) Main() (s quant.Scheme, ok bool) {
	if f.FP4 == "" {
		return s, false
	}
	return grids.Grid(f.FP4).Scheme(), true
}

// Mix gives linears the grid of FP4.
func (f Format) Mix(layout.Origin, bool) (func(l layout.Layer) (quant.Scheme, string, error), error) {
	if f.FP4 == "" {
		return nil, nil
	}
	return func(l layout.Layer) (quant.Scheme, string, error) { return f.Typed(f.FP4, l.In) }, nil
}

// Typed implements layout.Typer: name is mxfp4 or nvfp4.
func (Format) Typed(name string, in int) (quant.Scheme, string, error) { return grids.Typed(name, in) }

// floatSpecs are the tensors of a layer on a grid.
func floatSpecs(name string, l layout.Layer) []layout.Spec {
	t := safetensors.U8
	if name == fp4.NV {
		t = safetensors.F8E4M3
	}
	specs := []layout.Spec{
		{Name: l.Name + suffixPacked, DType: safetensors.U8, Shape: []int{l.Out, l.In / 2}},
		{Name: l.Name + suffixScale, DType: t, Shape: []int{l.Out, l.Scheme.Groups(l.In)}},
	}
	if name == fp4.NV {
		specs = append(specs, layout.Spec{Name: l.Name + suffixGlobal, DType: safetensors.F32, Shape: []int{1}})
	}
	return specs
}

// encodeFloats is Encode for a layer on a grid.
func encodeFloats(name string, l layout.Layer, w *quant.Weight) ([]layout.Tensor, error) {
	words, scales, err := grids.Encode(w)
	if err != nil {
		return nil, fmt.Errorf("layer %q: %w", l.Name, err)
	}
	var packed []byte
	for _, v := range words {
		packed = binary.LittleEndian.AppendUint32(packed, v)
	}
	data := [][]byte{packed, scales, binary.LittleEndian.AppendUint32(nil, math.Float32bits(globalScale))}
	var out []layout.Tensor
	for i, s := range floatSpecs(name, l) {
		out = append(out, layout.Tensor{Spec: s, Data: data[i]})
	}
	return out, nil
}

// openFloats checks the tensors of a layer on a grid.
func openFloats(src layout.Source, name, grid string) (layout.PackedLayer, error) {
	none := layout.PackedLayer{}
	packed, err := layout.Want(src, name+suffixPacked, []int{layout.AnyDim, layout.AnyDim}, safetensors.U8)
	if err != nil {
		return none, err
	}
	l := layout.Layer{Name: name, Out: packed.Shape[0], In: 2 * packed.Shape[1], Scheme: grids.Grid(grid).Scheme()}
	if l.In%l.Scheme.GroupSize != 0 {
		return none, layout.TensorError(src, packed.Name, "shape %v, want whole groups of %d values, 2 a byte", packed.Shape, l.Scheme.GroupSize)
	}
	specs := floatSpecs(grid, l)
	scale := specs[1]
	if _, err := layout.Want(src, scale.Name, scale.Shape, scale.DType); err != nil {
		return none, err
	}
	if grid == fp4.NV {
		v, err := layout.ReadFloats(src, name+suffixGlobal, 1)
		if err != nil {
			return none, err
		}
		if v[0] != globalScale {
			return none, layout.TensorError(src, name+suffixGlobal, "%g, which cannot be read: want %g", v[0], globalScale)
		}
	}
	p := layout.PackedLayer{Layer: l, File: src.File(packed.Name)}
	for _, s := range specs {
		p.Parts = append(p.Parts, s.Name)
	}
	p.Read = func() (*quant.Weight, error) {
		_, data, err := layout.ReadBytes(src, packed.Name, packed.Shape, safetensors.U8)
		if err != nil {
			return nil, err
		}
		_, scales, err := layout.ReadBytes(src, scale.Name, scale.Shape, scale.DType)
		if err != nil {
			return nil, err
		}
		words := make([]uint32, len(data)/4)
		for i := range words {
			words[i] = binary.LittleEndian.Uint32(data[4*i:])
		}
		w, err := grids.Decode(grid, l.Out, l.In, words, scales)
		if err != nil {
			return nil, layout.TensorError(src, scale.Name, "%w", err)
		}
		return w, nil
	}
	return p, nil
}
