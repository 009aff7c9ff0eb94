package checkpoint

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// AWQ is the GEMM layout of AutoAWQ: 4 bits, packed along the outputs.
//
// For a linear X of shape [out, in] with G groups of inputs:
//
//	X.qweight  I32 [in, out/8]
//	X.qzeros   I32 [G, out/8]
//	X.scales   F16 [G, out]
//
// Nibble n of word c belongs to output 8c + awqOrder[n]. Zero-points are
// stored as they are, and always: symmetric weights have 8 everywhere.
type AWQ struct{}

const (
	suffixAWQWeight = ".qweight"
	suffixAWQZeros  = ".qzeros"
	suffixAWQScales = ".scales"
)

// awqOrder is the order in which the outputs of a word come, low nibble first.
var awqOrder = [8]int{0, 2, 4, 6, 1, 3, 5, 7}

// Name returns "awq".
func (AWQ) Name() string { return "awq" }

// Check accepts 4 bits along the inputs, whole groups and F16 scales.
func (f AWQ) Check(l Layer) error {
	if err := checkInputGroups(f.Name(), l); err != nil {
		return err
	}
	switch {
	case l.Scheme.Bits != 4:
		return Unsupported("awq holds 4 bits only, not %d; use format gptq_v2 (2, 3, 4, 8), compressed-tensors (2 to 8) or lowbit", l.Scheme.Bits)
	case l.GroupIndex:
		return Unsupported("awq has no group index; quantize with static groups, or use format gptq_v2 or lowbit")
	case l.Out%8 != 0:
		return Unsupported("awq needs outputs that are a multiple of 8, not %d; keep the layer dense, or use format compressed-tensors or lowbit", l.Out)
	}
	return checkWholeGroups(f.Name(), l)
}

// Engines says which engines load the layers.
func (AWQ) Engines(layers []Layer) []Note {
	return []Note{
		judgeVLLM(layers, func(l Layer) (bool, string) {
			if !marlinGroup(l.Scheme.GroupSize) {
				return true, fmt.Sprintf("with the slower AWQ kernel, as Marlin has no groups of %d", l.Scheme.GroupSize)
			}
			return true, bfloatNote(l)
		}),
		Judge(EngineTransformers, layers, Always(true, "needs the package autoawq or gptqmodel")),
		Judge(EngineGPTQModel, layers, Always(true, "")),
	}
}

// Plan lists qweight, qzeros and scales.
func (f AWQ) Plan(l Layer) ([]Spec, error) {
	if err := f.Check(l); err != nil {
		return nil, err
	}
	groups := l.Scheme.Groups(l.In)
	return []Spec{
		{l.Name + suffixAWQWeight, safetensors.I32, []int{l.In, l.Out / 8}},
		{l.Name + suffixAWQZeros, safetensors.I32, []int{groups, l.Out / 8}},
		{l.Name + suffixAWQScales, safetensors.F16, []int{groups, l.Out}},
	}, nil
}

// Encode packs a layer.
func (f AWQ) Encode(l Layer, w *quant.Weight) ([]Tensor, error) {
	if err := checkWeight(f, l, w); err != nil {
		return nil, err
	}
	groups, words := w.Groups(), w.Out/8
	scales, err := floatTensor(l.Name+suffixAWQScales, safetensors.F16, transposed(w.Scales, w.Out, groups), groups, w.Out)
	if err != nil {
		return nil, err
	}
	codes := make([]uint32, words*w.In) // transposed, for the sake of the cache
	zeros := make([]uint32, groups*words)
	line := make([]uint8, w.In)
	for c := range words {
		for n, k := range awqOrder {
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
	return []Tensor{
		int32Tensor(l.Name+suffixAWQWeight, transposed(codes, words, w.In), w.In, words),
		int32Tensor(l.Name+suffixAWQZeros, zeros, groups, words),
		scales,
	}, nil
}

// awqConfig is the quantization_config; AutoAWQ's own has two of the keys
// under other names.
type awqConfig struct {
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
func (f AWQ) Config(c Contents) (Config, error) {
	size, bits, zeroPoint := 128, 4, true
	for i, l := range c.Layers {
		if i == 0 {
			size = l.Scheme.GroupSize
		}
		if l.Scheme.GroupSize != size {
			return Config{}, Unsupported("layer %q has groups of %d and %q of %d; awq has one group size for the whole model: use one, or format compressed-tensors",
				l.Name, l.Scheme.GroupSize, c.Layers[0].Name, size)
		}
	}
	skip := skippedLinears(c)
	if len(skip) == 1 && skip[0] == "lm_head" {
		skip = nil // every reader leaves the head alone
	}
	data, err := json.Marshal(awqConfig{
		QuantMethod: "awq", ZeroPoint: &zeroPoint, GroupSize: &size, Bits: &bits, Version: "gemm", Skip: skip,
	})
	return Config{Quantization: data, Set: halfModel(c)}, err
}

// Detect looks at quant_method.
func (AWQ) Detect(quantization json.RawMessage) bool { return quantMethod(quantization) == "awq" }

func parseAWQ(quantization json.RawMessage) (groupSize int, err error) {
	var c awqConfig
	if err := json.Unmarshal(quantization, &c); err != nil {
		return 0, fmt.Errorf("%s: %w", quantConfigKey, err)
	}
	if c.Bits == nil {
		c.Bits = c.OtherBits
	}
	if c.GroupSize == nil {
		c.GroupSize = c.OtherGroup
	}
	switch {
	case c.Version != "" && strings.ToLower(c.Version) != "gemm":
		return 0, fmt.Errorf("%s: awq version %q cannot be read: want gemm", quantConfigKey, c.Version)
	case c.Bits == nil || *c.Bits != 4:
		return 0, fmt.Errorf("%s: awq bits %s, want 4", quantConfigKey, orNone(c.Bits))
	case c.GroupSize == nil || *c.GroupSize == 0 || *c.GroupSize < quant.WholeLine:
		return 0, fmt.Errorf("%s: awq group_size %s, want a positive number or -1", quantConfigKey, orNone(c.GroupSize))
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
func (AWQ) Open(quantization json.RawMessage, src Source) (Decoder, error) {
	size, err := parseAWQ(quantization)
	if err != nil {
		return nil, err
	}
	d := &packedDecoder{}
	for _, tensor := range src.Names() {
		name, ok := strings.CutSuffix(tensor, suffixAWQWeight)
		if !ok {
			continue
		}
		l, err := awqLayer(src, name, size)
		if err != nil {
			return nil, err
		}
		d.add(l)
	}
	return d, nil
}

// awqLayer checks the tensors of a layer. It is symmetric if all its
// zero-points are 8: the config does not say.
func awqLayer(src Source, name string, size int) (packedLayer, error) {
	none := packedLayer{}
	qweight, err := want(src, name+suffixAWQWeight, nil, safetensors.I32)
	if err != nil {
		return none, err
	}
	d, err := dimensions(src, qweight, 2)
	if err != nil {
		return none, err
	}
	in, words := d[0], d[1]
	out := 8 * words
	s := quant.Scheme{Bits: 4, GroupSize: size}
	groups := s.Groups(in)
	if size != quant.WholeLine && in%size != 0 {
		return none, tensorError(src, qweight.Name, "%d inputs, want a multiple of the group_size %d (%s)", in, size, quantConfigKey)
	}
	scales, err := want(src, name+suffixAWQScales, []int{groups, out}, floatTypes()...)
	if err != nil {
		return none, err
	}
	if s.ScaleType, err = scaleTypeOf(src, scales); err != nil {
		return none, err
	}
	zeroWords, err := readWords(src, name+suffixAWQZeros, groups, words)
	if err != nil {
		return none, err
	}
	zeros := awqUnpack(zeroWords, groups, words)
	s.Symmetric = allEqual(zeros, middle(4))
	noteZeros(&s, zeros)
	l := packedLayer{
		Layer:   Layer{Name: name, Out: out, In: in, Scheme: s},
		tensors: []string{name + suffixAWQWeight, name + suffixAWQZeros, name + suffixAWQScales},
		file:    src.File(qweight.Name),
	}
	l.read = func() (*quant.Weight, error) {
		w := quant.NewWeight(out, in, s)
		packed, err := readWords(src, qweight.Name, in, words)
		if err != nil {
			return nil, err
		}
		packed = transposed(packed, in, words)
		line := make([]uint8, in)
		for c := range words {
			for n, k := range awqOrder {
				for i, p := range packed[c*in : (c+1)*in] {
					line[i] = uint8(p >> (4 * n) & 15)
				}
				w.SetLine(8*c+k, line)
			}
		}
		v, err := readFloats(src, scales.Name, groups, out)
		if err != nil {
			return nil, err
		}
		w.Scales = transposed(v, groups, out)
		w.Zeros = transposed(zeros, groups, out)
		return w, nil
	}
	return l, nil
}

// awqUnpack unpacks words [rows, words] to codes [rows, 8*words].
func awqUnpack(packed []uint32, rows, words int) []uint8 {
	codes := make([]uint8, rows*words*8)
	for i, p := range packed {
		for n, k := range awqOrder {
			codes[8*i+k] = uint8(p >> (4 * n) & 15)
		}
	}
	return codes
}
