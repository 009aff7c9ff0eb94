// Package compressed is the checkpoint format of compressed-tensors and
// llm-compressor.
package compressed

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Format is the pack-quantized format of compressed-tensors and
// llm-compressor: 2 to 8 bits, groups of inputs that divide them evenly.
//
// For a linear X of shape [out, in] with G groups:
//
//	X.weight_packed      I32 [out, ceil(in*bits/32)]  each row a dense little-endian stream of codes
//	X.weight_scale       F16 [out, G]; BF16 in a bfloat16 model whose scales are such
//	X.weight_zero_point  I32 [ceil(out*bits/32), G]   streams along the outputs; asymmetric only
//	X.weight_shape       I64 [2]                      out, in
//	X.weight_g_idx       I32 [in]                     only with a group index
//
// The words are the transpose of those of GPTQ version 2. Scales of 7
// significant bits (quant.F16Short) in a bfloat16 model are stored as BF16 too,
// which holds them exactly.
//
// Before compressed-tensors' change of May 2026 (pull request 715), widths of
// 3, 5, 6 and 7 bits were packed floor(32/bits) codes to a word. Files of both
// kinds are read; only the dense kind is written.
//
// With FP4 it is the format mxfp4-pack-quantized or nvfp4-pack-quantized:
//
//	X.weight_packed        U8 [out, in/2]       two floats of 4 bits a byte, the first one low
//	X.weight_scale         U8 [out, in/32]      powers of two; F8_E4M3 [out, in/16] in nvfp4
//	X.weight_global_scale  F32 [1]              what scales are divided by, in nvfp4: 256,
//	                                            or 1 of a weight that has no such scale
type Format struct {
	// FP4 is mxfp4 or nvfp4: linears are put on that grid of floats of 4 bits. It
	// matters to quantization only.
	FP4 string
}

var (
	_ layout.Mixer = Format{}
	_ layout.Typer = Format{}
)

const (
	suffixPacked = ".weight_packed"
	suffixScale  = ".weight_scale"
	suffixZero   = ".weight_zero_point"
	suffixShape  = ".weight_shape"
	suffixIndex  = ".weight_g_idx"
)

// Name returns "compressed-tensors".
func (Format) Name() string { return "compressed-tensors" }

// Check accepts 2 to 8 bits along the inputs, whole groups and scales of F16, or
// BF16 in a bfloat16 model.
func (f Format) Check(l layout.Layer) error {
	if g, _, _, ok := gridsOf(l.Scheme); ok {
		return g.Check(f.Name(), l)
	}
	bf16 := l.Scheme.ScaleType == quant.BF16
	if bf16 && l.DType != safetensors.BF16 {
		return layout.Unsupported("scales are converted to the type of the model, which is %s and not BF16; quantize with scale type f16, or use format lowbit or dense", l.DType)
	}
	err := layout.CheckInputGroups(f.Name(), l)
	if err == nil && !bf16 {
		err = layout.CheckHalfScales(f.Name(), l.Scheme)
	}
	if err != nil {
		return err
	}
	if l.GroupIndex && l.Scheme.GroupSize == quant.WholeLine {
		return layout.Unsupported("%s has a group index only with groups, not with whole rows", f.Name())
	}
	return layout.CheckWholeGroups(f.Name(), l)
}

// scaleType is the type in which the scales of a layer are stored.
func scaleType(l layout.Layer) safetensors.DType {
	if l.DType == safetensors.BF16 && layout.BF16Scales(l.Scheme) {
		return safetensors.BF16
	}
	return safetensors.F16
}

// Plan lists weight_packed, weight_scale, weight_zero_point if the layer is
// asymmetric, weight_shape, and weight_g_idx if it has a group index.
func (f Format) Plan(l layout.Layer) ([]layout.Spec, error) {
	if err := f.Check(l); err != nil {
		return nil, err
	}
	if _, name, _, ok := gridsOf(l.Scheme); ok {
		return floatSpecs(name, l), nil
	}
	groups, b := l.Scheme.Groups(l.In), l.Scheme.Bits
	specs := []layout.Spec{
		{Name: l.Name + suffixPacked, DType: safetensors.I32, Shape: []int{l.Out, layout.PackedWords(l.In, b)}},
		{Name: l.Name + suffixScale, DType: scaleType(l), Shape: []int{l.Out, groups}},
	}
	if !l.Scheme.Symmetric {
		specs = append(specs, layout.Spec{Name: l.Name + suffixZero, DType: safetensors.I32, Shape: []int{layout.PackedWords(l.Out, b), groups}})
	}
	specs = append(specs, layout.Spec{Name: l.Name + suffixShape, DType: safetensors.I64, Shape: []int{2}})
	if l.GroupIndex {
		specs = append(specs, layout.Spec{Name: l.Name + suffixIndex, DType: safetensors.I32, Shape: []int{l.In}})
	}
	return specs, nil
}

// Encode packs a layer. A group index must give every group as many inputs
// as the scheme says, because readers sort the inputs by group and cut.
func (f Format) Encode(l layout.Layer, w *quant.Weight) ([]layout.Tensor, error) {
	if err := layout.CheckWeight(f, l, w); err != nil {
		return nil, err
	}
	if _, _, _, ok := gridsOf(w.Scheme); ok {
		return encodeFloats(l, w)
	}
	groups, b := w.Groups(), w.Scheme.Bits
	scales, err := layout.FloatTensor(l.Name+suffixScale, scaleType(l), w.Scales, w.Out, groups)
	if err != nil {
		return nil, err
	}
	out := []layout.Tensor{layout.Int32Tensor(l.Name+suffixPacked, w.Codes, w.Out, w.WordsPerLine()), scales}
	if !w.Scheme.Symmetric {
		words := layout.PackedWords(w.Out, b)
		packed := layout.PackRows(layout.Transposed(w.Zeros, w.Out, groups), groups, w.Out, b)
		out = append(out, layout.Int32Tensor(l.Name+suffixZero, layout.Transposed(packed, groups, words), words, groups))
	}
	shape := layout.Tensor{Spec: layout.Spec{Name: l.Name + suffixShape, DType: safetensors.I64, Shape: []int{2}}}
	shape.Data = binary.LittleEndian.AppendUint64(shape.Data, uint64(w.Out))
	shape.Data = binary.LittleEndian.AppendUint64(shape.Data, uint64(w.In))
	out = append(out, shape)
	if w.GroupIndex != nil {
		if g, n, ok := fullGroups(w.GroupIndex, groups, w.In/groups); !ok {
			return nil, fmt.Errorf("layer %q: group %d has %d inputs: %w", l.Name, g, n,
				layout.Unsupported("%s needs a group index with %d inputs in each group", f.Name(), w.In/groups))
		}
		out = append(out, layout.Int32Tensor(l.Name+suffixIndex, w.GroupIndex, w.In))
	}
	return out, nil
}

// fullGroups reports whether every group has size members, or which has not.
func fullGroups(index []int32, groups, size int) (group, members int, ok bool) {
	count := make([]int, groups)
	for _, g := range index {
		count[g]++
	}
	for g, n := range count {
		if n != size {
			return g, n, false
		}
	}
	return 0, 0, true
}

// Detect looks at quant_method, or at format where older files have none.
func (f Format) Detect(quantization json.RawMessage) bool {
	if m := layout.QuantMethod(quantization); m != "" {
		return m == f.Name()
	}
	var c quantConfig
	return json.Unmarshal(quantization, &c) == nil && slices.Contains(formats, c.Format)
}
