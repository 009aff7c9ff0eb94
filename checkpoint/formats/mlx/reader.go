package mlx

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/fp4"
	"github.com/golowbit/lowbit/checkpoint/internal/parts"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/affine"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

const (
	suffixWeight = ".weight"
	suffixScales = ".scales"
	suffixBiases = ".biases"
)

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
		stored := name
		if inside, ok := src.(*parts.Inside); ok {
			stored = inside.Stored(name)
		}
		m, err := open(src, base, c.scheme(strings.TrimSuffix(stored, suffixScales)))
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
	layer   layout.Layer
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
	if s.Mode != affineMode {
		types = []safetensors.DType{safetensors.U8}
	} else {
		m.parts = append(m.parts, name+suffixBiases)
	}
	for _, part := range m.parts[1:] {
		if _, err := layout.Want(src, part, []int{m.out, m.groups()}, types...); err != nil {
			return nil, err
		}
	}
	m.layer = layout.Layer{Name: name, Out: m.out, In: m.in, Scheme: quant.Scheme{Bits: s.Bits, GroupSize: s.Group}}
	switch s.Mode {
	case affineMode:
		err = m.describe(src)
	case fp4.MX, fp4.NV:
		m.layer.Scheme = grids.Grid(s.Mode).Scheme()
	}
	return m, err
}

func (m *module) groups() int { return m.in / m.scheme.Group }

// describe finds the grid: a uniform one where every bias is a multiple of its
// scale, else one of free biases.
func (m *module) describe(src layout.Source) error {
	scales, _ := src.Spec(m.name + suffixScales)
	biases, _ := src.Spec(m.name + suffixBiases)
	s, b, err := m.params(src)
	if err != nil {
		return err
	}
	if zeros, i := zeroPoints(s, b, m.layer.Scheme.MaxCode()); i < 0 {
		t, err := layout.ScaleTypeOf(src, scales)
		m.layer.Scheme.ScaleType = t
		m.layer.Scheme.Symmetric = layout.AllEqual(zeros, layout.SymmetricZero(m.scheme.Bits))
		layout.NoteMinZero(&m.layer.Scheme, zeros)
		return err
	}
	t := quant.F32
	switch {
	case scales.DType != biases.DType:
	case scales.DType == safetensors.F16:
		t = quant.F16
	case scales.DType == safetensors.BF16:
		t = quant.BF16
	}
	if grid, ok := affine.Of(m.scheme.Bits, t); ok {
		m.layer.Scheme = grid.Scheme(m.scheme.Group)
	}
	return nil
}

// params reads scales and biases.
func (m *module) params(src layout.Source) (scales, biases []float32, err error) {
	if scales, err = layout.ReadFloats(src, m.name+suffixScales, m.out, m.groups()); err != nil {
		return nil, nil, err
	}
	biases, err = layout.ReadFloats(src, m.name+suffixBiases, m.out, m.groups())
	return scales, biases, err
}

// decoder reads the modules. Those of one bit, and of mode mxfp8, are no quant.Weight.
type decoder struct {
	src     layout.Source
	modules map[string]*module
	order   []*module
}

var _ layout.DenseDecoder = (*decoder)(nil)

func (d *decoder) Layers() []layout.Layer {
	out := make([]layout.Layer, len(d.order))
	for i, m := range d.order {
		out[i] = m.layer
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
	s, groups := m.scheme, m.groups()
	var scales, biases []float32
	var small []byte
	if s.Mode == affineMode {
		scales, biases, err = m.params(d.src)
	} else {
		_, small, err = layout.ReadBytes(d.src, name+suffixScales, nil, safetensors.U8)
	}
	if err != nil {
		return nil, err
	}
	w, codes, values := tensor.New(m.out, m.in), make([]uint8, m.in), levels(s)
	for r := range m.out {
		unpack(codes, words[r*m.in*s.Bits/32:], s.Bits)
		if s.Mode == affineMode {
			affineRow(w.Row(r), codes, scales[r*groups:(r+1)*groups], biases[r*groups:(r+1)*groups], s.Group)
		} else {
			floatRow(w.Row(r), codes, small[r*groups:(r+1)*groups], values, s)
		}
	}
	return w, nil
}

// Weight reads a module, in mode affine with zero-points where every bias is a
// multiple of its scale, as those of a grid with integer zero-points are, else on
// the grid of free biases.
func (d *decoder) Weight(name string) (*quant.Weight, error) {
	m, err := d.find(name)
	if err != nil {
		return nil, err
	}
	not := func(format string, args ...any) error {
		return layout.TensorError(d.src, name+suffixScales, "%s: %w", fmt.Sprintf(format, args...), layout.ErrNotWeight)
	}
	switch m.scheme.Mode {
	case affineMode:
	case fp4.MX, fp4.NV:
		words, err := d.words(m)
		if err != nil {
			return nil, err
		}
		_, scales, err := layout.ReadBytes(d.src, name+suffixScales, nil, safetensors.U8)
		if err != nil {
			return nil, err
		}
		w, err := grids.Decode(m.scheme.Mode, m.out, m.in, words, scales)
		if err != nil {
			return nil, layout.TensorError(d.src, name+suffixScales, "%w", err)
		}
		return w, nil
	default:
		return nil, not("mode %s", m.scheme.Mode)
	}
	if m.scheme.Bits < 2 {
		return nil, not("%d bits", m.scheme.Bits)
	}
	w := quant.NewWeight(m.out, m.in, m.layer.Scheme)
	var biases []float32
	if w.Scales, biases, err = m.params(d.src); err != nil {
		return nil, err
	}
	if w.Scheme.Grid != nil {
		for i, b := range biases {
			w.Shifts[i] = 0 - b
		}
	} else {
		var at int
		if w.Zeros, at = zeroPoints(w.Scales, biases, w.Scheme.MaxCode()); at >= 0 {
			return nil, layout.TensorError(d.src, name+suffixBiases, "element %d is %g, which it was not when the file was opened", at, biases[at])
		}
	}
	// A row is the same stream of bits here and there, and whole words.
	if w.Codes, err = d.words(m); err != nil {
		return nil, err
	}
	if err := w.Validate(); err != nil {
		return nil, fmt.Errorf("%s: layer %q: %w", d.src.File(name+suffixScales), name, err)
	}
	return w, nil
}

// zeroPoints are those of groups whose biases are exactly -scale·z for a code z; at
// is the first of another kind, or -1.
func zeroPoints(scales, biases []float32, most int) (zeros []uint8, at int) {
	zeros = make([]uint8, len(scales))
	for i, s := range scales {
		b := float64(biases[i])
		if s == 0 && b == 0 {
			continue
		}
		z := math.Round(-b / float64(s))
		if !(z >= 0 && z <= float64(most)) || b != -float64(s)*z {
			return nil, i
		}
		zeros[i] = uint8(z)
	}
	return zeros, -1
}
