package autogptq

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// layerFinder opens the layers of one checkpoint.
type layerFinder struct {
	src     layout.Source
	config  quantConfig
	version int

	// What the config allows, the defaults first. Rules in dynamic say which
	// layers have which, but the tensors tell as well, and without regular
	// expressions from a stranger.
	bits   []int
	groups []int
	syms   []bool // empty if the config does not say
}

// layerTensors is the shape of one layer's tensors.
type layerTensors struct {
	name             string
	bits, out, in    int
	groups           int
	qweight, scales  layout.Spec
	rows, zeroWords  int
	groupIndexStored bool
}

// Open reads the layouts of AutoGPTQ and GPTQModel, versions 1 and 2.
//
// In version 1 a stored field of all ones is a zero-point of 0, except in
// files of GPTQModel with 2, 4 and 8 bits, whose words are what they are
// after adding 1 to every field of the whole word with carries.
func (f Format) Open(quantization json.RawMessage, src layout.Source) (layout.Decoder, error) {
	c, version, err := parseConfig(quantization)
	if err != nil {
		return nil, err
	}
	overrides, err := c.overrides()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", layout.QuantizationKey, err)
	}
	r := &layerFinder{src: src, config: c, version: version, bits: []int{c.Bits}, groups: []int{c.GroupSize}}
	if c.Sym != nil {
		r.syms = []bool{*c.Sym}
	}
	for _, o := range overrides {
		if o.Bits != nil && slices.Contains([]int{2, 3, 4, 8}, *o.Bits) {
			r.bits = append(r.bits, *o.Bits)
		}
		if o.GroupSize != nil && (*o.GroupSize > 0 || *o.GroupSize == quant.WholeLine) {
			r.groups = append(r.groups, *o.GroupSize)
		}
		if o.Sym != nil && r.syms != nil {
			r.syms = append(r.syms, *o.Sym)
		}
	}
	d := &layout.PackedDecoder{}
	for _, tensor := range src.Names() {
		name, ok := strings.CutSuffix(tensor, suffixWeight)
		if !ok {
			continue
		}
		l, err := r.layer(name)
		if err != nil {
			return nil, err
		}
		d.Add(l)
	}
	return d, nil
}

// layer checks the tensors of a layer and works out its scheme.
func (r *layerFinder) layer(name string) (layout.PackedLayer, error) {
	t, err := r.shapes(name)
	if err != nil {
		return layout.PackedLayer{}, err
	}
	s := quant.Scheme{Bits: t.bits}
	if s.ScaleType, err = layout.ScaleTypeOf(r.src, t.scales); err != nil {
		return layout.PackedLayer{}, err
	}
	index, err := r.groupIndex(t)
	if err != nil {
		return layout.PackedLayer{}, err
	}
	if s.GroupSize, index, err = r.grouping(t, index); err != nil {
		return layout.PackedLayer{}, err
	}
	zeros, err := r.zeros(t)
	if err != nil {
		return layout.PackedLayer{}, err
	}
	switch symmetric := layout.AllEqual(zeros, layout.SymmetricZero(t.bits)); {
	case len(r.syms) == 0 || slices.Contains(r.syms, true) && slices.Contains(r.syms, false):
		s.Symmetric = symmetric
	case r.syms[0] && !symmetric:
		return layout.PackedLayer{}, layout.TensorError(r.src, name+suffixZeros, "zero-points other than %d, but %s says sym", layout.SymmetricZero(t.bits), layout.QuantizationKey)
	default:
		s.Symmetric = r.syms[0]
	}
	layout.NoteMinZero(&s, zeros)
	l := layout.PackedLayer{
		Layer: layout.Layer{Name: name, Out: t.out, In: t.in, Scheme: s, GroupIndex: index != nil},
		Parts: []string{name + suffixWeight, name + suffixZeros, name + suffixScales},
		File:  r.src.File(name + suffixWeight),
	}
	if t.groupIndexStored {
		l.Parts = append(l.Parts, name+suffixIndex)
	}
	l.Read = func() (*quant.Weight, error) { return r.weight(t, s, index) }
	return l, nil
}

// shapes checks that the tensors fit together and finds the bits.
func (r *layerFinder) shapes(name string) (t layerTensors, err error) {
	t.name = name
	if t.qweight, err = layout.Want(r.src, name+suffixWeight, nil, safetensors.I32); err != nil {
		return t, err
	}
	d, err := layout.Dimensions(r.src, t.qweight, 2)
	if err != nil {
		return t, err
	}
	t.rows, t.out = d[0], d[1]
	qzeros, err := layout.Want(r.src, name+suffixZeros, nil, safetensors.I32)
	if err != nil {
		return t, err
	}
	if d, err = layout.Dimensions(r.src, qzeros, 2); err != nil {
		return t, err
	}
	t.groups, t.zeroWords = d[0], d[1]
	if t.scales, err = layout.Want(r.src, name+suffixScales, []int{t.groups, t.out}, layout.FloatTypes()...); err != nil {
		return t, err
	}
	stored := -1
	if spec, ok := r.src.Spec(name + suffixIndex); ok {
		if d, err = layout.Dimensions(r.src, spec, 1); err != nil {
			return t, err
		}
		stored, t.groupIndexStored = d[0], true
	}
	for _, b := range r.bits {
		in := stored
		if in < 0 {
			in = t.rows * 32 / b
		}
		if layout.PackedWords(in, b) == t.rows && layout.PackedWords(t.out, b) == t.zeroWords {
			t.bits, t.in = b, in
			return t, nil
		}
	}
	if stored < 0 {
		return t, layout.TensorError(r.src, qzeros.Name, "shape %v, want [any %d] for %d outputs of %d bits", qzeros.Shape, layout.PackedWords(t.out, r.bits[0]), t.out, r.bits[0])
	}
	if n := layout.PackedWords(stored, r.bits[0]); n != t.rows {
		return t, layout.TensorError(r.src, t.qweight.Name, "shape %v, want [%d any] for %d inputs (g_idx) of %d bits (%s)", t.qweight.Shape, n, stored, r.bits[0], layout.QuantizationKey)
	}
	return t, layout.TensorError(r.src, qzeros.Name, "shape %v, want [any %d] for %d outputs of %d bits", qzeros.Shape, layout.PackedWords(t.out, r.bits[0]), t.out, r.bits[0])
}

// groupIndex reads g_idx; negative groups count from the end. It is nil if
// the file has none.
func (r *layerFinder) groupIndex(t layerTensors) ([]int32, error) {
	if !t.groupIndexStored {
		return nil, nil
	}
	index, err := layout.ReadInt32s(r.src, t.name+suffixIndex, t.in)
	if err != nil {
		return nil, err
	}
	for i, g := range index {
		group := g
		if group < 0 {
			group += int32(t.groups)
		}
		if group < 0 || int(group) >= t.groups {
			return nil, layout.TensorError(r.src, t.name+suffixIndex, "group %d of input %d, want 0 to %d", g, i, t.groups-1)
		}
		index[i] = group
	}
	return index, nil
}

// grouping finds the group size among those the config names. The index that
// it returns is nil if it follows from the group size.
func (r *layerFinder) grouping(t layerTensors, index []int32) (int, []int32, error) {
	fits := func(size int) bool { return (quant.Scheme{GroupSize: size}).Groups(t.in) == t.groups }
	for _, size := range r.groups {
		if fits(size) && (index == nil || slices.Equal(index, layout.ConsecutiveGroups(t.in, size))) {
			return size, nil, nil
		}
	}
	for _, size := range r.groups {
		if fits(size) {
			return size, index, nil
		}
	}
	return 0, nil, layout.TensorError(r.src, t.scales.Name, "%d groups, want %d for %d inputs in groups of %d (%s)",
		t.groups, (quant.Scheme{GroupSize: r.groups[0]}).Groups(t.in), t.in, r.groups[0], layout.QuantizationKey)
}

// zeros reads the zero-points [groups, out].
func (r *layerFinder) zeros(t layerTensors) ([]uint8, error) {
	words, err := layout.ReadWords(r.src, t.name+suffixZeros, t.groups, t.zeroWords)
	if err != nil {
		return nil, err
	}
	byWord := r.version == 1 && r.config.wordZeros(t.bits)
	if byWord {
		one := ^uint32(0) / (1<<t.bits - 1) // 1 in every field
		for i := range words {
			words[i] += one
		}
	}
	zeros := layout.UnpackRows(words, t.groups, t.out, t.bits)
	if r.version == 1 && !byWord {
		mask := uint8(1<<t.bits - 1)
		for i, z := range zeros {
			zeros[i] = (z + 1) & mask
		}
	}
	return zeros, nil
}

func (r *layerFinder) weight(t layerTensors, s quant.Scheme, index []int32) (*quant.Weight, error) {
	words, err := layout.ReadWords(r.src, t.qweight.Name, t.rows, t.out)
	if err != nil {
		return nil, err
	}
	scales, err := layout.ReadFloats(r.src, t.scales.Name, t.groups, t.out)
	if err != nil {
		return nil, err
	}
	zeros, err := r.zeros(t)
	if err != nil {
		return nil, err
	}
	w := &quant.Weight{
		Out: t.out, In: t.in, Scheme: s,
		Codes:      layout.Transposed(words, t.rows, t.out),
		Scales:     layout.Transposed(scales, t.groups, t.out),
		Zeros:      layout.Transposed(zeros, t.groups, t.out),
		GroupIndex: slices.Clone(index),
	}
	layout.ClearTail(w.Codes, w.Out, w.In, t.bits)
	return w, nil
}
