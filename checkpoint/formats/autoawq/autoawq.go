// Package autoawq is the checkpoint format of AutoAWQ.
package autoawq

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/engines"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Format is the GEMM layout of AutoAWQ: 4 bits, packed along the outputs.
//
// For a linear X of shape [out, in] with G groups of inputs:
//
//	X.qweight  I32 [in, out/8]
//	X.qzeros   I32 [G, out/8]
//	X.scales   F16 [G, out]
//
// Nibble n of word c belongs to output 8c + nibbleOrder[n]. Zero-points are
// stored as they are, and always: symmetric weights have 8 everywhere.
type Format struct{}

const (
	suffixWeight = ".qweight"
	suffixZeros  = ".qzeros"
	suffixScales = ".scales"
)

// nibbleOrder is the order in which the outputs of a word come, low nibble first.
var nibbleOrder = [8]int{0, 2, 4, 6, 1, 3, 5, 7}

// Name returns "awq".
func (Format) Name() string { return "awq" }

// Check accepts 4 bits along the inputs, whole groups and F16 scales.
func (f Format) Check(l layout.Layer) error {
	if err := layout.CheckInputGroups(f.Name(), l); err != nil {
		return err
	}
	if err := layout.CheckHalfScales(f.Name(), l.Scheme); err != nil {
		return err
	}
	switch {
	case l.Scheme.Bits != 4:
		return layout.Unsupported("awq holds 4 bits only, not %d; use format gptq_v2 (2, 3, 4, 8), compressed-tensors (2 to 8) or lowbit", l.Scheme.Bits)
	case l.GroupIndex:
		return layout.Unsupported("awq has no group index; quantize with static groups, or use format gptq_v2 or lowbit")
	case l.Out%8 != 0:
		return layout.Unsupported("awq needs outputs that are a multiple of 8, not %d; keep the layer dense, or use format compressed-tensors or lowbit", l.Out)
	}
	return layout.CheckWholeGroups(f.Name(), l)
}

// Engines says which engines load the layers.
func (f Format) Engines(layers []layout.Layer) []layout.Note { return engines.Notes(f.Name(), layers) }

// Plan lists qweight, qzeros and scales.
func (f Format) Plan(l layout.Layer) ([]layout.Spec, error) {
	if err := f.Check(l); err != nil {
		return nil, err
	}
	groups := l.Scheme.Groups(l.In)
	return []layout.Spec{
		{Name: l.Name + suffixWeight, DType: safetensors.I32, Shape: []int{l.In, l.Out / 8}},
		{Name: l.Name + suffixZeros, DType: safetensors.I32, Shape: []int{groups, l.Out / 8}},
		{Name: l.Name + suffixScales, DType: safetensors.F16, Shape: []int{groups, l.Out}},
	}, nil
}

// Encode packs a layer.
func (f Format) Encode(l layout.Layer, w *quant.Weight) ([]layout.Tensor, error) {
	if err := layout.CheckWeight(f, l, w); err != nil {
		return nil, err
	}
	groups, words := w.Groups(), w.Out/8
	scales, err := layout.FloatTensor(l.Name+suffixScales, safetensors.F16, layout.Transposed(w.Scales, w.Out, groups), groups, w.Out)
	if err != nil {
		return nil, err
	}
	codes := make([]uint32, words*w.In) // transposed, for the sake of the cache
	zeros := make([]uint32, groups*words)
	line := make([]uint8, w.In)
	for c := range words {
		for n, k := range nibbleOrder {
			r := 8*c + k
			w.Line(line, r)
			column := codes[c*w.In : (c+1)*w.In]
			for i, u := range line {
				column[i] |= uint32(u) << (4 * n)
			}
			for g, z := range w.Zeros[r*groups : (r+1)*groups] {
				zeros[g*words+c] |= uint32(z) << (4 * n)
			}
		}
	}
	return []layout.Tensor{
		layout.Int32Tensor(l.Name+suffixWeight, layout.Transposed(codes, words, w.In), w.In, words),
		layout.Int32Tensor(l.Name+suffixZeros, zeros, groups, words),
		scales,
	}, nil
}

// quantConfig is the quantization_config; AutoAWQ's own has two of the keys
// under other names.
type quantConfig struct {
	QuantMethod string   `json:"quant_method"`
	ZeroPoint   *bool    `json:"zero_point"`
	GroupSize   *int     `json:"group_size"`
	Bits        *int     `json:"bits"`
	Version     string   `json:"version"`
	Skip        []string `json:"modules_to_not_convert"`

	OtherBits  *int `json:"w_bit,omitempty"`
	OtherGroup *int `json:"q_group_size,omitempty"`
}

// Config writes the quantization_config, which has one group size for all.
func (f Format) Config(c layout.Contents) (layout.Config, error) {
	size, bits, zeroPoint := 128, 4, true
	for i, l := range c.Layers {
		if i == 0 {
			size = l.Scheme.GroupSize
		}
		if l.Scheme.GroupSize != size {
			return layout.Config{}, layout.Unsupported("layer %q has groups of %d and %q of %d; awq has one group size for the whole model: use one, or format compressed-tensors",
				l.Name, l.Scheme.GroupSize, c.Layers[0].Name, size)
		}
	}
	skip := layout.SkippedLinears(c)
	if len(skip) == 1 && skip[0] == "lm_head" {
		skip = nil // every reader leaves the head alone
	}
	data, err := json.Marshal(quantConfig{
		QuantMethod: "awq", ZeroPoint: &zeroPoint, GroupSize: &size, Bits: &bits, Version: "gemm", Skip: skip,
	})
	return layout.Config{Quantization: data, Set: layout.HalfModel(c)}, err
}

// Detect looks at quant_method.
func (Format) Detect(quantization json.RawMessage) bool {
	return layout.QuantMethod(quantization) == "awq"
}

func parseConfig(quantization json.RawMessage) (groupSize int, err error) {
	var c quantConfig
	if err := json.Unmarshal(quantization, &c); err != nil {
		return 0, fmt.Errorf("%s: %w", layout.QuantizationKey, err)
	}
	if c.Bits == nil {
		c.Bits = c.OtherBits
	}
	if c.GroupSize == nil {
		c.GroupSize = c.OtherGroup
	}
	switch {
	case c.Version != "" && strings.ToLower(c.Version) != "gemm":
		return 0, fmt.Errorf("%s: awq version %q cannot be read: want gemm", layout.QuantizationKey, c.Version)
	case c.Bits == nil || *c.Bits != 4:
		return 0, fmt.Errorf("%s: awq bits %s, want 4", layout.QuantizationKey, orNone(c.Bits))
	case c.GroupSize == nil || *c.GroupSize == 0 || *c.GroupSize < quant.WholeLine:
		return 0, fmt.Errorf("%s: awq group_size %s, want a positive number or -1", layout.QuantizationKey, orNone(c.GroupSize))
	}
	return *c.GroupSize, nil
}

func orNone(n *int) string {
	if n == nil {
		return "missing"
	}
	return fmt.Sprint(*n)
}

// Open reads the GEMM files of AutoAWQ and llm-awq's config spelling.
func (Format) Open(quantization json.RawMessage, src layout.Source) (layout.Decoder, error) {
	size, err := parseConfig(quantization)
	if err != nil {
		return nil, err
	}
	d := &layout.PackedDecoder{}
	for _, tensor := range src.Names() {
		name, ok := strings.CutSuffix(tensor, suffixWeight)
		if !ok {
			continue
		}
		l, err := openLayer(src, name, size)
		if err != nil {
			return nil, err
		}
		d.Add(l)
	}
	return d, nil
}

// openLayer checks the tensors of a layer. It is symmetric if all its
// zero-points are 8: the config does not say.
func openLayer(src layout.Source, name string, size int) (layout.PackedLayer, error) {
	none := layout.PackedLayer{}
	qweight, err := layout.Want(src, name+suffixWeight, nil, safetensors.I32)
	if err != nil {
		return none, err
	}
	d, err := layout.Dimensions(src, qweight, 2)
	if err != nil {
		return none, err
	}
	in, words := d[0], d[1]
	out := 8 * words
	s := quant.Scheme{Bits: 4, GroupSize: size}
	groups := s.Groups(in)
	if size != quant.WholeLine && in%size != 0 {
		return none, layout.TensorError(src, qweight.Name, "%d inputs, want a multiple of the group_size %d (%s)", in, size, layout.QuantizationKey)
	}
	scales, err := layout.Want(src, name+suffixScales, []int{groups, out}, layout.FloatTypes()...)
	if err != nil {
		return none, err
	}
	if s.ScaleType, err = layout.ScaleTypeOf(src, scales); err != nil {
		return none, err
	}
	zeroWords, err := layout.ReadWords(src, name+suffixZeros, groups, words)
	if err != nil {
		return none, err
	}
	zeros := unpackNibbles(zeroWords, groups, words)
	s.Symmetric = layout.AllEqual(zeros, layout.SymmetricZero(4))
	layout.NoteMinZero(&s, zeros)
	l := layout.PackedLayer{
		Layer: layout.Layer{Name: name, Out: out, In: in, Scheme: s},
		Parts: []string{name + suffixWeight, name + suffixZeros, name + suffixScales},
		File:  src.File(qweight.Name),
	}
	l.Read = func() (*quant.Weight, error) {
		w := quant.NewWeight(out, in, s)
		packed, err := layout.ReadWords(src, qweight.Name, in, words)
		if err != nil {
			return nil, err
		}
		packed = layout.Transposed(packed, in, words)
		line := make([]uint8, in)
		for c := range words {
			for n, k := range nibbleOrder {
				for i, p := range packed[c*in : (c+1)*in] {
					line[i] = uint8(p >> (4 * n) & 15)
				}
				w.SetLine(8*c+k, line)
			}
		}
		v, err := layout.ReadFloats(src, scales.Name, groups, out)
		if err != nil {
			return nil, err
		}
		w.Scales = layout.Transposed(v, groups, out)
		w.Zeros = layout.Transposed(zeros, groups, out)
		return w, nil
	}
	return l, nil
}

// unpackNibbles unpacks words [rows, words] to codes [rows, 8*words].
func unpackNibbles(packed []uint32, rows, words int) []uint8 {
	codes := make([]uint8, rows*words*8)
	for i, p := range packed {
		for n, k := range nibbleOrder {
			codes[8*i+k] = uint8(p >> (4 * n) & 15)
		}
	}
	return codes
}
