package hqq

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

// layerTensors is one layer of an hqq checkpoint.
type layerTensors struct {
	name          string
	out, in       int
	bits, g, axis int
	packing       bitPacking
	rows, columns int // of R
	weight        layout.Spec
	scale         layout.Spec
	notWeight     string // why no quant.Weight holds the layer, or ""
}

// decoder also dequantizes layers whose zero-points are not integers,
// which is what hqq's own quantizer makes by default.
type decoder struct {
	layout.PackedDecoder
	src   layout.Source
	state map[string]*layerTensors
}

var _ layout.DenseDecoder = (*decoder)(nil)

// Open reads checkpoints that transformers saved with hqq. Everything is in
// the stored state of the layers; 5- and 6-bit layers, which hqq stores as
// bytes, are read too.
func (Format) Open(quantization json.RawMessage, src layout.Source) (layout.Decoder, error) {
	var config struct {
		Quant struct {
			Weight struct {
				GroupSize *int `json:"group_size"`
			} `json:"weight_quant_params"`
		} `json:"quant_config"`
	}
	if err := json.Unmarshal(quantization, &config); err != nil {
		return nil, fmt.Errorf("%s: %w", layout.QuantizationKey, err)
	}
	d := &decoder{src: src, state: map[string]*layerTensors{}}
	for _, name := range src.Names() {
		base, ok := strings.CutSuffix(name, suffixWeight)
		if !ok {
			continue
		}
		t, err := openLayer(src, base)
		if err != nil {
			return nil, err
		}
		l, err := t.layer(src, config.Quant.Weight.GroupSize)
		if err != nil {
			return nil, err
		}
		d.state[base] = t
		d.Add(l)
	}
	return d, nil
}

// stateReader reads the small tensors of a layer, keeping the first error.
type stateReader struct {
	src  layout.Source
	name string
	err  error
}

func (r *stateReader) bytes(key string, required bool, shape []int, types ...safetensors.DType) (layout.Spec, []byte) {
	name := r.name + "." + key
	if _, ok := r.src.Spec(name); r.err != nil || !ok && !required {
		return layout.Spec{}, nil
	}
	spec, err := layout.Want(r.src, name, shape, types...)
	if err == nil && spec.Bytes() > 64 {
		err = layout.TensorError(r.src, name, "%d bytes, want at most 64", spec.Bytes())
	}
	if err != nil {
		r.err = err
		return layout.Spec{}, nil
	}
	data := make([]byte, spec.Bytes())
	r.err = r.src.ReadAt(name, data, 0)
	return spec, data
}

func (r *stateReader) number(key string) int {
	_, data := r.bytes(key, true, []int{}, safetensors.I32)
	if r.err != nil {
		return 0
	}
	return int(int32(binary.LittleEndian.Uint32(data)))
}

func (r *stateReader) flag(key string, absent bool) bool {
	_, data := r.bytes(key, false, []int{}, safetensors.U8)
	if data == nil {
		return absent
	}
	return data[0] != 0
}

func (r *stateReader) fail(key, format string, args ...any) {
	if r.err == nil {
		r.err = layout.TensorError(r.src, r.name+"."+key, format, args...)
	}
}

// openLayer reads the state of a layer and checks its tensors.
func openLayer(src layout.Source, name string) (*layerTensors, error) {
	r := &stateReader{src: src, name: name}
	t := &layerTensors{name: name, bits: r.number("nbits"), g: r.number("group_size"), axis: r.number("axis")}
	_, text := r.bytes("packing", true, []int{layout.AnyDim}, safetensors.U8)
	viewed := r.flag("view_as_float", false)
	switch i := slices.IndexFunc(bitPackings, func(p bitPacking) bool { return p.name == string(text) }); {
	case r.err != nil:
	case i < 0:
		r.fail("packing", "packing %q, want 2bit_u8, 3bit_32, 4bit_u8 or 8bit_u8", text)
	default:
		t.packing = bitPackings[i]
	}
	spec, data := r.bytes("shape", true, []int{2}, safetensors.I64, safetensors.I32)
	for i, d := range []*int{&t.out, &t.in} {
		if r.err != nil {
			break
		}
		v := uint64(0)
		if spec.DType == safetensors.I64 {
			v = binary.LittleEndian.Uint64(data[8*i:])
		} else {
			v = uint64(binary.LittleEndian.Uint32(data[4*i:]))
		}
		if v < 1 || v > math.MaxInt32/64 {
			r.fail("shape", "value %d is %d, want 1 to %d", i, int64(v), math.MaxInt32/64)
		}
		*d = int(v)
	}
	switch {
	case r.err != nil:
	case t.bits < 2 || t.bits > t.packing.bits || t.packing.bits < 8 && t.bits != t.packing.bits:
		r.fail("nbits", "%d bits in packing %s, want %d", t.bits, t.packing.name, t.packing.bits)
	case t.axis != 0 && t.axis != 1:
		r.fail("axis", "axis %d, want 0 or 1", t.axis)
	case t.g < 1 || t.out*t.in%t.g != 0:
		r.fail("group_size", "group_size %d does not divide [%d %d]", t.g, t.out, t.in)
	case r.flag("quant_scale", false) || r.flag("quant_zero", false):
		r.fail("quant_scale", "quantized scales or zero-points cannot be read")
	case !r.flag("channel_wise", true):
		r.fail("channel_wise", "one scale for the whole tensor cannot be read, want groups")
	}
	if r.err != nil {
		return nil, r.err
	}
	return t, t.checkShapes(src, viewed)
}

// checkShapes checks the three large tensors. view_as_float is another type
// for the same bytes.
func (t *layerTensors) checkShapes(src layout.Source, viewed bool) (err error) {
	n := t.out * t.in
	t.rows, t.columns = n/t.g, t.g
	meta := []int{t.rows, 1}
	if t.axis == 0 {
		t.rows, t.columns = t.g, n/t.g
		meta = []int{1, t.columns}
	}
	if p := t.packing; p.bits != 3 && t.rows%p.bands != 0 {
		return layout.TensorError(src, t.name+suffixWeight, "%d rows of groups do not divide into the %d bands of %s", t.rows, p.bands, p.name)
	}
	shape := []int{t.packing.step(t.rows), t.columns}
	if viewed {
		t.weight, err = layout.Want(src, t.name+suffixWeight, nil, layout.FloatTypes()...)
		packed := layout.Spec{DType: t.packing.dtype, Shape: shape}
		if err == nil && t.weight.Bytes() != packed.Bytes() {
			err = layout.TensorError(src, t.weight.Name, "%d bytes, want %d", t.weight.Bytes(), packed.Bytes())
		}
	} else {
		t.weight, err = layout.Want(src, t.name+suffixWeight, shape, t.packing.dtype)
	}
	if err != nil {
		return err
	}
	if t.scale, err = layout.Want(src, t.name+suffixScale, meta, layout.FloatTypes()...); err != nil {
		return err
	}
	_, err = layout.Want(src, t.name+suffixZero, meta, layout.FloatTypes()...)
	return err
}

// layer describes the layer. Whether the zero-points are integers, and which,
// decides what can hold it. usual is the config's group size: a group of
// another size that is as long as its line stands for whole lines.
func (t *layerTensors) layer(src layout.Source, usual *int) (layout.PackedLayer, error) {
	s := quant.Scheme{Bits: t.bits, GroupSize: t.g, Axis: quant.OC}
	if t.axis == 0 {
		s.Axis, s.Strided = quant.IC, t.g < t.out
	}
	_, length := s.Lines(t.out, t.in)
	if t.g == length && (usual == nil || *usual != t.g) {
		s.GroupSize = quant.WholeLine
	}
	if length%t.g != 0 {
		t.notWeight = fmt.Sprintf("groups of %d do not divide the lines of [%d %d]", t.g, t.out, t.in)
	}
	var err error
	if s.ScaleType, err = layout.ScaleTypeOf(src, t.scale); err != nil {
		return layout.PackedLayer{}, err
	}
	zeros, err := t.floats(src, suffixZero)
	if err != nil {
		return layout.PackedLayer{}, err
	}
	symmetric, least := true, zeros[0]
	for i, z := range zeros {
		switch {
		case z-z != 0:
			return layout.PackedLayer{}, layout.TensorError(src, t.name+suffixZero, "zero-point %g at %d is not finite", z, i)
		case z < 0 || z > float32(s.MaxCode()) || z != float32(math.Trunc(float64(z))):
			if t.notWeight == "" {
				t.notWeight = fmt.Sprintf("zero-point %g at %d, want an integer from 0 to %d", z, i, s.MaxCode())
			}
		}
		symmetric = symmetric && z == float32(layout.SymmetricZero(t.bits))
		least = min(least, z)
	}
	s.Symmetric = symmetric
	if !symmetric && least >= 1 {
		s.MinZero = 1
	}
	l := layout.PackedLayer{Layer: layout.Layer{Name: t.name, Out: t.out, In: t.in, Scheme: s}, File: src.File(t.weight.Name)}
	l.Parts = []string{t.name + suffixWeight, t.name + suffixScale, t.name + suffixZero}
	for _, tn := range storedState(layout.Layer{Name: t.name, Out: t.out, In: t.in, Scheme: quant.Scheme{Bits: t.packing.bits, GroupSize: quant.WholeLine}}) {
		if _, ok := src.Spec(tn.Name); ok {
			l.Parts = append(l.Parts, tn.Name)
		}
	}
	l.Read = func() (*quant.Weight, error) { return t.readWeight(src, s) }
	return l, nil
}

func (t *layerTensors) floats(src layout.Source, suffix string) ([]float32, error) {
	spec, err := layout.Want(src, t.name+suffix, t.scale.Shape, layout.FloatTypes()...)
	if err != nil {
		return nil, err
	}
	return layout.ReadFloats(src, spec.Name, spec.Shape...)
}

// codes reads the codes by rows of the weight, [out, in].
func (t *layerTensors) codes(src layout.Source) ([]uint8, error) {
	_, data, err := layout.ReadBytes(src, t.weight.Name, t.weight.Shape, t.weight.DType)
	if err != nil {
		return nil, err
	}
	codes := t.packing.unpack(data, t.out*t.in)
	if t.bits < t.packing.bits {
		for i, u := range codes {
			if int(u) >= 1<<t.bits {
				return nil, layout.TensorError(src, t.weight.Name, "code %d at %d, want at most %d", u, i, 1<<t.bits-1)
			}
		}
	}
	return codes, nil
}

func (t *layerTensors) readWeight(src layout.Source, s quant.Scheme) (*quant.Weight, error) {
	if t.notWeight != "" {
		return nil, fmt.Errorf("%s: layer %q: %s: %w", src.File(t.weight.Name), t.name, t.notWeight, layout.ErrNotWeight)
	}
	codes, err := t.codes(src)
	if err != nil {
		return nil, err
	}
	scales, err := t.floats(src, suffixScale)
	if err != nil {
		return nil, err
	}
	zeros, err := t.floats(src, suffixZero)
	if err != nil {
		return nil, err
	}
	w := quant.NewWeight(t.out, t.in, s)
	if s.Axis == quant.IC {
		codes = layout.Transposed(codes, t.out, t.in)
		scales, zeros = layout.Transposed(scales, w.Groups(), t.in), layout.Transposed(zeros, w.Groups(), t.in)
	}
	for l := range w.Lines() {
		w.SetLine(l, codes[l*w.LineLen():(l+1)*w.LineLen()])
	}
	w.Scales = scales
	for i, z := range zeros {
		w.Zeros[i] = uint8(z)
	}
	return w, nil
}

// Matrix dequantizes in float32; hqq itself does it in the compute type.
func (d *decoder) Matrix(name string) (*tensor.Matrix, error) {
	t, ok := d.state[name]
	if !ok {
		return nil, fmt.Errorf("no quantized layer %q", name)
	}
	codes, err := t.codes(d.src)
	if err != nil {
		return nil, err
	}
	scales, err := t.floats(d.src, suffixScale)
	if err != nil {
		return nil, err
	}
	zeros, err := t.floats(d.src, suffixZero)
	if err != nil {
		return nil, err
	}
	m := tensor.New(t.out, t.in)
	for i, u := range codes {
		group := i / t.columns
		if t.axis == 0 {
			group = i % t.columns
		}
		m.Data[i] = scales[group] * (float32(u) - zeros[group])
	}
	return m, nil
}
