// Package autogptq is the checkpoint format of AutoGPTQ and GPTQModel.
package autogptq

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Format is the format of AutoGPTQ and GPTQModel: 2, 3, 4 or 8 bits, groups of
// inputs, optionally a group index (act-order).
//
// For a linear X of shape [out, in] with G groups:
//
//	X.qweight  I32 [ceil(in*bits/32), out]  column o is row o's dense little-endian stream of codes
//	X.qzeros   I32 [G, ceil(out*bits/32)]   the same stream of zero-points along the outputs
//	X.scales   F16 [G, out]
//	X.g_idx    I32 [in]                     group of each input, always written
//
// Version 1 of the layout stores zero-points less one, version 2 as they are.
// Readers of version 1 disagree on a zero-point of 0, so it is not written:
// asymmetric weights go to version 1 only with Scheme.MinZero 1.
type Format struct {
	// Version is 1 or 2, or 0 for 1 where the weights are symmetric and 2
	// where they are not, which is what the engines of each expect.
	Version int
}

const (
	suffixWeight = ".qweight"
	suffixZeros  = ".qzeros"
	suffixScales = ".scales"
	suffixIndex  = ".g_idx"
)

const quantizeFile = "quantize_config.json"

// groupSizes are those that GPTQModel's kernels take, and with them
// transformers; vLLM takes fewer.
var groupSizes = []int{quant.WholeLine, 16, 32, 64, 128, 256, 512, 1024}

// Name returns "gptq", "gptq_v1" or "gptq_v2".
func (f Format) Name() string {
	switch f.Version {
	case 1:
		return "gptq_v1"
	case 2:
		return "gptq_v2"
	}
	return "gptq"
}

// version is the version in which a layer is stored.
func (f Format) version(symmetric bool) int {
	switch {
	case f.Version != 0:
		return f.Version
	case symmetric:
		return 1
	}
	return 2
}

// Check accepts 2, 3, 4 and 8 bits along the inputs, with F16 scales and the
// shapes and group sizes that at least one engine loads.
func (f Format) Check(l layout.Layer) error {
	if err := layout.CheckInputGroups(f.Name(), l); err != nil {
		return err
	}
	if err := layout.CheckHalfScales(f.Name(), l.Scheme); err != nil {
		return err
	}
	s := l.Scheme
	switch {
	case !slices.Contains([]int{2, 3, 4, 8}, s.Bits):
		return layout.Unsupported("%s holds 2, 3, 4 or 8 bits, not %d; use format compressed-tensors or lowbit", f.Name(), s.Bits)
	case l.In%32 != 0 || l.Out%32 != 0:
		return layout.Unsupported("%s needs inputs and outputs that are multiples of 32, not [%d %d]; keep the layer dense, or use format lowbit", f.Name(), l.Out, l.In)
	case !slices.Contains(groupSizes, s.GroupSize):
		return layout.Unsupported("no engine that reads %s takes groups of %d; use one of %v", f.Name(), s.GroupSize, groupSizes)
	case !s.Symmetric && f.version(false) == 1 && s.MinZero < 1:
		return layout.Unsupported("readers of %s disagree on a zero-point of 0; quantize with smallest zero-point 1, or symmetric, or use format gptq_v2", f.Name())
	}
	return nil
}

// Plan lists qweight, qzeros, scales and g_idx.
func (f Format) Plan(l layout.Layer) ([]layout.Spec, error) {
	if err := f.Check(l); err != nil {
		return nil, err
	}
	groups, b := l.Scheme.Groups(l.In), l.Scheme.Bits
	return []layout.Spec{
		{Name: l.Name + suffixWeight, DType: safetensors.I32, Shape: []int{layout.PackedWords(l.In, b), l.Out}},
		{Name: l.Name + suffixZeros, DType: safetensors.I32, Shape: []int{groups, layout.PackedWords(l.Out, b)}},
		{Name: l.Name + suffixScales, DType: safetensors.F16, Shape: []int{groups, l.Out}},
		{Name: l.Name + suffixIndex, DType: safetensors.I32, Shape: []int{l.In}},
	}, nil
}

// Encode packs a layer.
func (f Format) Encode(l layout.Layer, w *quant.Weight) ([]layout.Tensor, error) {
	if err := layout.CheckWeight(f, l, w); err != nil {
		return nil, err
	}
	groups, b := w.Groups(), w.Scheme.Bits
	zeros := layout.Transposed(w.Zeros, w.Out, groups)
	if f.version(w.Scheme.Symmetric) == 1 {
		for i, z := range zeros {
			if z == 0 {
				return nil, fmt.Errorf("layer %q: zero-point 0 in group %d of output %d: %w", l.Name, i/w.Out, i%w.Out,
					layout.Unsupported("%s needs zero-points of 1 and more; use format gptq_v2", f.Name()))
			}
			zeros[i] = z - 1
		}
	}
	scales, err := layout.FloatTensor(l.Name+suffixScales, safetensors.F16, layout.Transposed(w.Scales, w.Out, groups), groups, w.Out)
	if err != nil {
		return nil, err
	}
	index := w.GroupIndex
	if index == nil {
		index = layout.ConsecutiveGroups(w.In, w.Scheme.GroupSize)
	}
	rows := w.WordsPerLine()
	return []layout.Tensor{
		layout.Int32Tensor(l.Name+suffixWeight, layout.Transposed(w.Codes, w.Out, rows), rows, w.Out),
		layout.Int32Tensor(l.Name+suffixZeros, layout.PackRows(zeros, groups, w.Out, b), groups, layout.PackedWords(w.Out, b)),
		scales,
		layout.Int32Tensor(l.Name+suffixIndex, index, w.In),
	}, nil
}

// Sidecar names the file in which AutoGPTQ first kept the configuration.
func (Format) Sidecar() string { return quantizeFile }

// FromSidecar adds the quant_method, which such files may lack.
func (Format) FromSidecar(data []byte) (json.RawMessage, error) {
	o, err := layout.ParseObject(data)
	if err != nil {
		return nil, err
	}
	if _, ok := o.Get("quant_method"); !ok {
		o.Set("quant_method", json.RawMessage(`"gptq"`))
	}
	return o.Bytes(), nil
}

// Detect takes checkpoint_format "gptq_v2" for version 2, and everything else
// of quant_method "gptq" for "gptq".
func (f Format) Detect(quantization json.RawMessage) bool {
	if layout.QuantMethod(quantization) != "gptq" {
		return false
	}
	var c quantConfig
	v2 := json.Unmarshal(quantization, &c) == nil && c.layout() == "gptq_v2"
	return f.Version == 2 && v2 || f.Version == 0 && !v2
}
