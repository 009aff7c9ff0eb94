package mlx

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

const (
	suffixWeight = ".weight"
	suffixScales = ".scales"
	suffixBiases = ".biases"
)

// Format reads folders that mlx-lm quantized. It writes none.
type Format struct{}

var _ layout.Reader = Format{}

// Name returns "mlx".
func (Format) Name() string { return "mlx" }

// Check refuses every layer.
func (Format) Check(layout.Layer) error {
	return layout.Unsupported("mlx is read and not written; use format dense, and mlx_lm.convert on that")
}

// Keys names the keys of config.json that mlx-lm uses, the first first. In the
// second, which others use too, it has no quant_method.
func (Format) Keys() []string { return []string{"quantization"} }

// Detect looks for group_size and bits without a quant_method.
func (Format) Detect(quantization json.RawMessage) bool {
	var c struct {
		Method *string `json:"quant_method"`
		Group  *int    `json:"group_size"`
		Bits   *int    `json:"bits"`
	}
	return json.Unmarshal(quantization, &c) == nil && c.Method == nil && c.Group != nil && c.Bits != nil
}

// config is the value of "quantization": how most modules are quantized, and
// by their names those that differ.
type config struct {
	common Scheme
	of     map[string]Scheme
}

func parse(quantization json.RawMessage) (*config, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(quantization, &keys); err != nil {
		return nil, fmt.Errorf("quantization: %w", err)
	}
	scheme := func(data json.RawMessage) (Scheme, error) {
		var c struct {
			Bits  int    `json:"bits"`
			Group int    `json:"group_size"`
			Mode  string `json:"mode"`
		}
		if err := json.Unmarshal(data, &c); err != nil {
			return Scheme{}, err
		}
		if c.Mode == "" {
			c.Mode = affine
		}
		s := Scheme{c.Bits, c.Group, c.Mode}
		return s, s.Validate()
	}
	c := &config{of: map[string]Scheme{}}
	var err error
	if c.common, err = scheme(quantization); err != nil {
		return nil, fmt.Errorf("quantization: %w", err)
	}
	for key, v := range keys {
		if len(v) == 0 || v[0] != '{' {
			continue // a value of the common scheme, or false: left in floats
		}
		if c.of[key], err = scheme(v); err != nil {
			return nil, fmt.Errorf("quantization: %.200q: %w", key, err)
		}
	}
	return c, nil
}

func (c *config) scheme(module string) Scheme {
	if s, ok := c.of[module]; ok {
		return s
	}
	return c.common
}

// Open finds the modules that have scales.
func (Format) Open(quantization json.RawMessage, src layout.Source) (layout.Decoder, error) {
	c, err := parse(quantization)
	if err != nil {
		return nil, err
	}
	d := &decoder{src: src, modules: map[string]*module{}}
	for _, name := range src.Names() {
		base, ok := strings.CutSuffix(name, suffixScales)
		if !ok {
			continue
		}
		m, err := open(src, base, c.scheme(base))
		if err != nil {
			return nil, err
		}
		d.modules[base] = m
		d.order = append(d.order, m)
	}
	return d, nil
}

// module is a quantized module.
type module struct {
	name    string
	out, in int
	scheme  Scheme
	parts   []string
	types   layout.Layer
}

// open checks the tensors of a module.
func open(src layout.Source, name string, s Scheme) (*module, error) {
	weight, err := layout.Want(src, name+suffixWeight, nil, safetensors.U32)
	if err != nil {
		return nil, err
	}
	d, err := layout.Dimensions(src, weight, 2)
	if err != nil {
		return nil, err
	}
	m := &module{name: name, out: d[0], in: d[1] * 32 / s.Bits, scheme: s}
	if d[1]*32%s.Bits != 0 || m.in%s.Group != 0 {
		return nil, layout.TensorError(src, weight.Name, "shape %v, want whole groups of %d codes of %d bits a row", weight.Shape, s.Group, s.Bits)
	}
	types := layout.FloatTypes()
	m.parts = []string{name + suffixWeight, name + suffixScales}
	if s.Mode != affine {
		types = []safetensors.DType{safetensors.U8}
	} else {
		m.parts = append(m.parts, name+suffixBiases)
	}
	for _, part := range m.parts[1:] {
		if _, err := layout.Want(src, part, []int{m.out, m.in / s.Group}, types...); err != nil {
			return nil, err
		}
	}
	scales, _ := src.Spec(name + suffixScales)
	m.types = layout.Layer{Name: name, Out: m.out, In: m.in, Scheme: quant.Scheme{Bits: s.Bits, GroupSize: s.Group}}
	if s.Mode == affine {
		m.types.DType = scales.DType
		m.types.Scheme.ScaleType, err = layout.ScaleTypeOf(src, scales)
	}
	return m, err
}

// decoder reads the modules. Most are no quant.Weight: their biases are no
// multiples of the scales.
type decoder struct {
	src     layout.Source
	modules map[string]*module
	order   []*module
}

var _ layout.DenseDecoder = (*decoder)(nil)

func (d *decoder) Layers() []layout.Layer {
	out := make([]layout.Layer, len(d.order))
	for i, m := range d.order {
		out[i] = m.types
	}
	return out
}

func (d *decoder) Tensors(name string) []string {
	m, ok := d.modules[name]
	if !ok {
		return nil
	}
	return slices.Clone(m.parts)
}

func (d *decoder) find(name string) (*module, error) {
	m, ok := d.modules[name]
	if !ok {
		return nil, fmt.Errorf("no quantized layer %q", name)
	}
	return m, nil
}

// words reads the codes of a module as they lie.
func (d *decoder) words(m *module) ([]uint32, error) {
	_, data, err := layout.ReadBytes(d.src, m.name+suffixWeight, nil, safetensors.U32)
	if err != nil {
		return nil, err
	}
	v := make([]uint32, len(data)/4)
	for i := range v {
		v[i] = binary.LittleEndian.Uint32(data[4*i:])
	}
	return v, nil
}

// Matrix dequantizes in float32.
func (d *decoder) Matrix(name string) (*tensor.Matrix, error) {
	m, err := d.find(name)
	if err != nil {
		return nil, err
	}
	words, err := d.words(m)
	if err != nil {
		return nil, err
	}
	s, groups := m.scheme, m.in/m.scheme.Group
	var scales, biases []float32
	var small []byte
	if s.Mode == affine {
		if scales, err = layout.ReadFloats(d.src, name+suffixScales, m.out, groups); err != nil {
			return nil, err
		}
		biases, err = layout.ReadFloats(d.src, name+suffixBiases, m.out, groups)
	} else {
		_, small, err = layout.ReadBytes(d.src, name+suffixScales, nil, safetensors.U8)
	}
	if err != nil {
		return nil, err
	}
	w, codes, values := tensor.New(m.out, m.in), make([]uint8, m.in), levels(s)
	for r := range m.out {
		unpack(codes, words[r*m.in*s.Bits/32:], s.Bits)
		if s.Mode == affine {
			affineRow(w.Row(r), codes, scales[r*groups:(r+1)*groups], biases[r*groups:(r+1)*groups], s.Group)
		} else {
			floatRow(w.Row(r), codes, small[r*groups:(r+1)*groups], values, s)
		}
	}
	return w, nil
}

// Weight reads a module whose biases are whole multiples of its scales, as
// those of a grid with integer zero-points are.
func (d *decoder) Weight(name string) (*quant.Weight, error) {
	m, err := d.find(name)
	if err != nil {
		return nil, err
	}
	not := func(format string, args ...any) error {
		return layout.TensorError(d.src, name+suffixScales, "%s: %w", fmt.Sprintf(format, args...), layout.ErrNotWeight)
	}
	if m.scheme.Mode != affine {
		return nil, not("mode %s", m.scheme.Mode)
	}
	if m.scheme.Bits < 2 {
		return nil, not("%d bits", m.scheme.Bits)
	}
	groups := m.in / m.scheme.Group
	scales, err := layout.ReadFloats(d.src, name+suffixScales, m.out, groups)
	if err != nil {
		return nil, err
	}
	biases, err := layout.ReadFloats(d.src, name+suffixBiases, m.out, groups)
	if err != nil {
		return nil, err
	}
	w := quant.NewWeight(m.out, m.in, m.types.Scheme)
	for i, s := range scales {
		z, ok := zeroPoint(s, biases[i], w.Scheme.MaxCode())
		if !ok {
			return nil, not("bias %g of group %d of row %d is no multiple of the scale %g", biases[i], i%groups, i/groups, s)
		}
		w.Zeros[i] = z
	}
	w.Scales = scales
	words, err := d.words(m)
	if err != nil {
		return nil, err
	}
	codes := make([]uint8, m.in)
	for r := range m.out {
		unpack(codes, words[r*m.in*m.scheme.Bits/32:], m.scheme.Bits)
		w.SetLine(r, codes)
	}
	return w, w.Validate()
}

// zeroPoint is z where the bias is exactly -s·z.
func zeroPoint(s, bias float32, most int) (uint8, bool) {
	if s == 0 && bias == 0 {
		return 0, true
	}
	z := math.Round(-float64(bias) / float64(s))
	if !(z >= 0 && z <= float64(most)) || float64(bias) != -float64(s)*z {
		return 0, false
	}
	return uint8(z), true
}
