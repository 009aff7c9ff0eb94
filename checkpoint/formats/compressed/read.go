package compressed

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// layerTensors is one layer of a compressed-tensors checkpoint.
type layerTensors struct {
	name            string
	out, in         int
	bits, groups    int
	packed          layout.Spec
	scale           layout.Spec
	zero            layout.Spec // no Name if there are no zero-points
	padded          bool        // floor(32/bits) codes to a word
	symmetric       bool
	groupIndexSpare bool // weight_g_idx is there and says nothing
}

// Open reads pack-quantized files of llm-compressor, old and new, and those of floats of
// 4 bits.
func (f Format) Open(quantization json.RawMessage, src layout.Source) (layout.Decoder, error) {
	schemes, err := parseConfig(quantization)
	if err != nil {
		return nil, err
	}
	d := &decoder{dense: map[string]func() (*tensor.Matrix, error){}}
	for _, tensor := range src.Names() {
		name, ok := strings.CutSuffix(tensor, suffixPacked)
		if !ok {
			continue
		}
		weights, err := matchTarget(schemes, name)
		if err != nil {
			return nil, layout.TensorError(src, tensor, "%w", err)
		}
		if weights.float != "" {
			if err := d.addFloats(src, name, weights.float); err != nil {
				return nil, err
			}
			continue
		}
		l, err := openLayer(src, name, weights)
		if err != nil {
			return nil, err
		}
		d.Add(l)
	}
	return d, nil
}

// openLayer checks the tensors of a layer and works out its scheme.
func openLayer(src layout.Source, name string, c *weightArgs) (layout.PackedLayer, error) {
	none := layout.PackedLayer{}
	t := layerTensors{name: name, bits: c.Bits, symmetric: c.Symmetric}
	if err := t.shapes(src); err != nil {
		return none, err
	}
	size, err := c.groupSize()
	if err != nil {
		return none, fmt.Errorf("%s: %w", layout.QuantizationKey, err)
	}
	s := quant.Scheme{Bits: c.Bits, GroupSize: size, Symmetric: c.Symmetric}
	if n := s.Groups(t.in); n != t.groups || size != quant.WholeLine && t.in%size != 0 {
		return none, layout.TensorError(src, t.scale.Name, "%d groups for %d inputs, but %s says groups of %d", t.groups, t.in, layout.QuantizationKey, size)
	}
	if s.ScaleType, err = layout.ScaleTypeOf(src, t.scale); err != nil {
		return none, err
	}
	zeros, err := t.zeros(src)
	if err != nil {
		return none, err
	}
	layout.NoteMinZero(&s, zeros)
	index, err := t.groupIndex(src, size)
	if err != nil {
		return none, err
	}
	l := layout.PackedLayer{
		Layer: layout.Layer{Name: name, Out: t.out, In: t.in, Scheme: s, GroupIndex: index != nil},
		Parts: []string{t.packed.Name, t.scale.Name},
		File:  src.File(t.packed.Name),
	}
	if t.zero.Name != "" {
		l.Parts = append(l.Parts, t.zero.Name)
	}
	l.Parts = append(l.Parts, name+suffixShape)
	if index != nil || t.groupIndexSpare {
		l.Parts = append(l.Parts, name+suffixIndex)
	}
	l.Read = func() (*quant.Weight, error) { return t.weight(src, s, index) }
	return l, nil
}

// shapes checks that the tensors fit together.
func (t *layerTensors) shapes(src layout.Source) (err error) {
	shape, data, err := layout.ReadBytes(src, t.name+suffixShape, []int{2}, safetensors.I64, safetensors.I32)
	if err != nil {
		return err
	}
	size := len(data) / 2
	var dims [2]uint64
	for i := range dims {
		if size == 8 {
			dims[i] = binary.LittleEndian.Uint64(data[8*i:])
		} else {
			dims[i] = uint64(binary.LittleEndian.Uint32(data[4*i:]))
		}
		if dims[i] < 1 || dims[i] > 1<<31/64 {
			return layout.TensorError(src, shape.Name, "value %d is %d, want 1 to %d", i, int64(dims[i]), 1<<31/64)
		}
	}
	t.out, t.in = int(dims[0]), int(dims[1])
	perWord := 32 / t.bits
	dense, padded := layout.PackedWords(t.in, t.bits), (t.in+perWord-1)/perWord
	if t.packed, err = layout.Want(src, t.name+suffixPacked, []int{t.out, layout.AnyDim}, safetensors.I32); err != nil {
		return err
	}
	switch t.packed.Shape[1] {
	case dense:
	case padded:
		t.padded = true
	default:
		return layout.TensorError(src, t.packed.Name, "shape %v, want [%d %d] for %d inputs of %d bits (%s)", t.packed.Shape, t.out, dense, t.in, t.bits, layout.QuantizationKey)
	}
	if t.scale, err = layout.Want(src, t.name+suffixScale, []int{t.out, layout.AnyDim}, layout.FloatTypes()...); err != nil {
		return err
	}
	if t.groups = t.scale.Shape[1]; t.groups < 1 || t.groups > t.in {
		return layout.TensorError(src, t.scale.Name, "shape %v, want [%d 1 to %d]", t.scale.Shape, t.out, t.in)
	}
	return t.zeroShape(src)
}

// zeroShape finds the zero-points, which were not packed in the oldest files.
func (t *layerTensors) zeroShape(src layout.Source) error {
	spec, ok := src.Spec(t.name + suffixZero)
	if t.symmetric {
		if ok {
			t.zero = spec // written by some versions, all the middle
		}
		return nil
	}
	if !ok {
		return fmt.Errorf("%s: no tensor %q, but %s says that weights are asymmetric", src.File(t.packed.Name), t.name+suffixZero, layout.QuantizationKey)
	}
	shape := []int{layout.PackedWords(t.out, t.bits), t.groups}
	switch {
	case spec.DType == safetensors.I8:
		shape[0] = t.out
	case t.padded || spec.DType == safetensors.I32 && len(spec.Shape) == 2 && spec.Shape[0] != shape[0]:
		perWord := 32 / t.bits
		shape[0] = (t.out + perWord - 1) / perWord
	}
	var err error
	t.zero, err = layout.Want(src, t.name+suffixZero, shape, safetensors.I32, safetensors.I8)
	return err
}

// zeros reads the zero-points, [out, groups].
func (t *layerTensors) zeros(src layout.Source) ([]uint8, error) {
	mid := layout.SymmetricZero(t.bits)
	if t.symmetric {
		return slices.Repeat([]uint8{mid}, t.out*t.groups), nil
	}
	_, data, err := layout.ReadBytes(src, t.zero.Name, t.zero.Shape, t.zero.DType)
	if err != nil {
		return nil, err
	}
	if t.zero.DType == safetensors.I8 {
		zeros := make([]uint8, len(data))
		for i, b := range data {
			z := int(int8(b)) + int(mid)
			if z < 0 || z > 1<<t.bits-1 {
				return nil, layout.TensorError(src, t.zero.Name, "zero-point %d at %d, want %d to %d", int8(b), i, -int(mid), int(mid)-1)
			}
			zeros[i] = uint8(z)
		}
		return zeros, nil
	}
	words := layout.Transposed(wire.Words(data), t.zero.Shape[0], t.groups)
	padded := t.padded || t.zero.Shape[0] != layout.PackedWords(t.out, t.bits)
	return layout.Transposed(t.unpack(words, t.groups, t.out, padded), t.groups, t.out), nil
}

// unpack unpacks rows of n codes.
func (t *layerTensors) unpack(words []uint32, rows, n int, padded bool) []uint8 {
	if !padded {
		return layout.UnpackRows(words, rows, n, t.bits)
	}
	perWord := 32 / t.bits
	stride := (n + perWord - 1) / perWord
	codes := make([]uint8, rows*n)
	mask := uint32(1<<t.bits - 1)
	for r := range rows {
		for i := range n {
			codes[r*n+i] = uint8(words[r*stride+i/perWord] >> (i % perWord * t.bits) & mask)
		}
	}
	return codes
}

// groupIndex reads weight_g_idx: nil if there is none, or if it says nothing
// because it follows from the group size or was never filled in (-1).
func (t *layerTensors) groupIndex(src layout.Source, size int) ([]int32, error) {
	name := t.name + suffixIndex
	if _, ok := src.Spec(name); !ok {
		return nil, nil
	}
	index, err := layout.ReadInt32s(src, name, t.in)
	if err != nil {
		return nil, err
	}
	if slices.Contains(index, -1) || slices.Equal(index, layout.ConsecutiveGroups(t.in, size)) {
		t.groupIndexSpare = true
		return nil, nil
	}
	for i, g := range index {
		if g < 0 || int(g) >= t.groups {
			return nil, layout.TensorError(src, name, "group %d of input %d, want 0 to %d", g, i, t.groups-1)
		}
	}
	if g, n, ok := fullGroups(index, t.groups, t.in/t.groups); !ok {
		return nil, layout.TensorError(src, name, "group %d has %d inputs, want %d", g, n, t.in/t.groups)
	}
	return index, nil
}

func (t *layerTensors) weight(src layout.Source, s quant.Scheme, index []int32) (*quant.Weight, error) {
	words, err := layout.ReadWords(src, t.packed.Name, t.packed.Shape...)
	if err != nil {
		return nil, err
	}
	w := &quant.Weight{Out: t.out, In: t.in, Scheme: s, GroupIndex: slices.Clone(index)}
	if t.padded {
		words = layout.PackRows(t.unpack(words, t.out, t.in, true), t.out, t.in, t.bits)
	}
	w.Codes = words
	layout.ClearTail(w.Codes, w.Out, w.In, t.bits)
	if w.Scales, err = layout.ReadFloats(src, t.scale.Name, t.scale.Shape...); err != nil {
		return nil, err
	}
	w.Zeros, err = t.zeros(src)
	return w, err
}
