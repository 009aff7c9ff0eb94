package compressed

import (
	"fmt"
	"math"

	"github.com/golowbit/lowbit/checkpoint/internal/fp4"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// grids are those of floats of 4 bits, plain those that weights of other formats have. A
// scale of the whole tensor is a number that all other scales are divided by, 1 in the
// latter.
var (
	grids = fp4.Grids{TensorScaled: true}
	plain = fp4.Grids{}
)

const (
	suffixGlobal = ".weight_global_scale"
	globalScale  = float32(1 / kquant.TensorScale)
)

// gridsOf are those that have the grid of a scheme, with the scale of the whole tensor;
// ok is false if none have.
func gridsOf(s quant.Scheme) (g fp4.Grids, name string, global float32, ok bool) {
	if name, ok = grids.Name(s); ok {
		return grids, name, globalScale, true
	}
	name, ok = plain.Name(s)
	return plain, name, 1, ok
}

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
func (f Format) Main() (s quant.Scheme, ok bool) { return grids.Main(f.FP4) }

// Mix gives linears the grid of FP4.
func (f Format) Mix(layout.Origin, bool) (func(l layout.Layer) (quant.Scheme, string, error), error) {
	return grids.Mix(f.FP4), nil
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
func encodeFloats(l layout.Layer, w *quant.Weight) ([]layout.Tensor, error) {
	g, name, global, _ := gridsOf(w.Scheme)
	words, scales, err := g.Encode(w)
	if err != nil {
		return nil, fmt.Errorf("layer %q: %w", l.Name, err)
	}
	data := [][]byte{wire.Bytes(words), scales, wire.Bytes([]uint32{math.Float32bits(global)})}
	var out []layout.Tensor
	for i, s := range floatSpecs(name, l) {
		out = append(out, layout.Tensor{Spec: s, Data: data[i]})
	}
	return out, nil
}

// decoder reads what is packed. Layers of nvfp4 by others, whose scale of the whole tensor
// is any number, are no quant.Weight.
type decoder struct {
	layout.PackedDecoder
	dense map[string]func() (*tensor.Matrix, error)
}

var _ layout.DenseDecoder = (*decoder)(nil)

// Matrix implements layout.DenseDecoder.
func (d *decoder) Matrix(name string) (*tensor.Matrix, error) {
	if read, ok := d.dense[name]; ok {
		return read()
	}
	w, err := d.Weight(name)
	if err != nil {
		return nil, err
	}
	return w.Dequantize(), nil
}

// addFloats adds a layer on a grid.
func (d *decoder) addFloats(src layout.Source, name, grid string) error {
	packed, err := layout.Want(src, name+suffixPacked, []int{layout.AnyDim, layout.AnyDim}, safetensors.U8)
	if err != nil {
		return err
	}
	by, global := grids, globalScale
	if _, ok := src.Spec(name + suffixGlobal); ok && grid == fp4.NV {
		v, err := layout.ReadFloats(src, name+suffixGlobal, 1)
		if err != nil {
			return err
		}
		if global = v[0]; !(global > 0) || math.IsInf(float64(global), 0) {
			return layout.TensorError(src, name+suffixGlobal, "%g, want a positive number", global)
		}
		if global != globalScale {
			by = plain
		}
	}
	l := layout.Layer{Name: name, Out: packed.Shape[0], In: 2 * packed.Shape[1], Scheme: by.Grid(grid).Scheme()}
	if l.In%l.Scheme.GroupSize != 0 {
		return layout.TensorError(src, packed.Name, "shape %v, want whole groups of %d values, 2 a byte", packed.Shape, l.Scheme.GroupSize)
	}
	p := layout.PackedLayer{Layer: l, File: src.File(packed.Name)}
	specs := floatSpecs(grid, l)
	for _, s := range specs {
		if _, err := layout.Want(src, s.Name, s.Shape, s.DType); err != nil {
			return err
		}
		p.Parts = append(p.Parts, s.Name)
	}
	p.Read = func() (*quant.Weight, error) { return readFloats(src, l, by, grid, specs) }
	if by == plain && global != 1 {
		read := p.Read
		p.Read = func() (*quant.Weight, error) {
			return nil, layout.TensorError(src, name+suffixGlobal, "%g, want %g or 1: %w", global, globalScale, layout.ErrNotWeight)
		}
		d.dense[name] = func() (*tensor.Matrix, error) {
			w, err := read()
			if err != nil {
				return nil, err
			}
			for i := range w.Scales {
				w.Scales[i] /= global
			}
			return w.Dequantize(), nil
		}
	}
	d.Add(p)
	return nil
}

// readFloats reads a layer on a grid.
func readFloats(src layout.Source, l layout.Layer, by fp4.Grids, grid string, specs []layout.Spec) (*quant.Weight, error) {
	var data [2][]byte
	for i := range data {
		var err error
		if _, data[i], err = layout.ReadBytes(src, specs[i].Name, specs[i].Shape, specs[i].DType); err != nil {
			return nil, err
		}
	}
	w, err := by.Decode(grid, l.Out, l.In, wire.Words(data[0]), data[1])
	if err != nil {
		return nil, layout.TensorError(src, specs[1].Name, "%w", err)
	}
	return w, nil
}
