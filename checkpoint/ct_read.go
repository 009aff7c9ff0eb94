package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// ctTensors is one layer of a compressed-tensors checkpoint.
type ctTensors struct {
	name            string
	out, in         int
	bits, groups    int
	packed          Spec
	scale           Spec
	zero            Spec // no Name if there are no zero-points
	padded          bool // floor(32/bits) codes to a word
	symmetric       bool
	groupIndexSpare bool // weight_g_idx is there and says nothing
}

// Open reads pack-quantized files of llm-compressor, old and new.
func (f CompressedTensors) Open(quantization json.RawMessage, src Source) (Decoder, error) {
	schemes, err := parseCT(quantization)
	if err != nil {
		return nil, err
	}
	d := &packedDecoder{}
	for _, tensor := range src.Names() {
		name, ok := strings.CutSuffix(tensor, suffixCTPacked)
		if !ok {
			continue
		}
		weights, err := matchCT(schemes, name)
		if err != nil {
			return nil, tensorError(src, tensor, "%w", err)
		}
		l, err := ctLayer(src, name, weights)
		if err != nil {
			return nil, err
		}
		d.add(l)
	}
	return d, nil
}

// ctLayer checks the tensors of a layer and works out its scheme.
func ctLayer(src Source, name string, c *ctWeights) (packedLayer, error) {
	none := packedLayer{}
	t := ctTensors{name: name, bits: c.Bits, symmetric: c.Symmetric}
	if err := t.shapes(src); err != nil {
		return none, err
	}
	size, err := c.groupSize()
	if err != nil {
		return none, fmt.Errorf("%s: %w", quantConfigKey, err)
	}
	s := quant.Scheme{Bits: c.Bits, GroupSize: size, Symmetric: c.Symmetric}
	if n := s.Groups(t.in); n != t.groups || size != quant.WholeLine && t.in%size != 0 {
		return none, tensorError(src, t.scale.Name, "%d groups for %d inputs, but %s says groups of %d", t.groups, t.in, quantConfigKey, size)
	}
	if s.ScaleType, err = scaleTypeOf(src, t.scale); err != nil {
		return none, err
	}
	zeros, err := t.zeros(src)
	if err != nil {
		return none, err
	}
	noteZeros(&s, zeros)
	index, err := t.groupIndex(src, size)
	if err != nil {
		return none, err
	}
	l := packedLayer{
		Layer:   Layer{Name: name, Out: t.out, In: t.in, Scheme: s, GroupIndex: index != nil},
		tensors: []string{t.packed.Name, t.scale.Name},
		file:    src.File(t.packed.Name),
	}
	if t.zero.Name != "" {
		l.tensors = append(l.tensors, t.zero.Name)
	}
	l.tensors = append(l.tensors, name+suffixCTShape)
	if index != nil || t.groupIndexSpare {
		l.tensors = append(l.tensors, name+suffixCTGIdx)
	}
	l.read = func() (*quant.Weight, error) { return t.weight(src, s, index) }
	return l, nil
}

// shapes checks that the tensors fit together.
func (t *ctTensors) shapes(src Source) (err error) {
	shape, data, err := readBytes(src, t.name+suffixCTShape, []int{2}, safetensors.I64, safetensors.I32)
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
			return tensorError(src, shape.Name, "value %d is %d, want 1 to %d", i, int64(dims[i]), 1<<31/64)
		}
	}
	t.out, t.in = int(dims[0]), int(dims[1])
	perWord := 32 / t.bits
	dense, padded := packedWords(t.in, t.bits), (t.in+perWord-1)/perWord
	if t.packed, err = want(src, t.name+suffixCTPacked, []int{t.out, anyDim}, safetensors.I32); err != nil {
		return err
	}
	switch t.packed.Shape[1] {
	case dense:
	case padded:
		t.padded = true
	default:
		return tensorError(src, t.packed.Name, "shape %v, want [%d %d] for %d inputs of %d bits (%s)", t.packed.Shape, t.out, dense, t.in, t.bits, quantConfigKey)
	}
	if t.scale, err = want(src, t.name+suffixCTScale, []int{t.out, anyDim}, floatTypes()...); err != nil {
		return err
	}
	if t.groups = t.scale.Shape[1]; t.groups < 1 || t.groups > t.in {
		return tensorError(src, t.scale.Name, "shape %v, want [%d 1 to %d]", t.scale.Shape, t.out, t.in)
	}
	return t.zeroShape(src)
}

// zeroShape finds the zero-points, which were not packed in the oldest files.
func (t *ctTensors) zeroShape(src Source) error {
	spec, ok := src.Spec(t.name + suffixCTZero)
	if t.symmetric {
		if ok {
			t.zero = spec // written by some versions, all the middle
		}
		return nil
	}
	if !ok {
		return fmt.Errorf("%s: no tensor %q, but %s says that weights are asymmetric", src.File(t.packed.Name), t.name+suffixCTZero, quantConfigKey)
	}
	shape := []int{packedWords(t.out, t.bits), t.groups}
	switch {
	case spec.DType == safetensors.I8:
		shape[0] = t.out
	case t.padded || spec.DType == safetensors.I32 && len(spec.Shape) == 2 && spec.Shape[0] != shape[0]:
		perWord := 32 / t.bits
		shape[0] = (t.out + perWord - 1) / perWord
	}
	var err error
	t.zero, err = want(src, t.name+suffixCTZero, shape, safetensors.I32, safetensors.I8)
	return err
}

// zeros reads the zero-points, [out, groups].
func (t *ctTensors) zeros(src Source) ([]uint8, error) {
	mid := middle(t.bits)
	if t.symmetric {
		return constant(mid, t.out*t.groups), nil
	}
	_, data, err := readBytes(src, t.zero.Name, t.zero.Shape, t.zero.DType)
	if err != nil {
		return nil, err
	}
	if t.zero.DType == safetensors.I8 {
		zeros := make([]uint8, len(data))
		for i, b := range data {
			z := int(int8(b)) + int(mid)
			if z < 0 || z > 1<<t.bits-1 {
				return nil, tensorError(src, t.zero.Name, "zero-point %d at %d, want %d to %d", int8(b), i, -int(mid), int(mid)-1)
			}
			zeros[i] = uint8(z)
		}
		return zeros, nil
	}
	words := transposed(wire.Words(data), t.zero.Shape[0], t.groups)
	padded := t.padded || t.zero.Shape[0] != packedWords(t.out, t.bits)
	return transposed(t.unpack(words, t.groups, t.out, padded), t.groups, t.out), nil
}

// unpack unpacks rows of n codes.
func (t *ctTensors) unpack(words []uint32, rows, n int, padded bool) []uint8 {
	if !padded {
		return unpackRows(words, rows, n, t.bits)
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
func (t *ctTensors) groupIndex(src Source, size int) ([]int32, error) {
	name := t.name + suffixCTGIdx
	if _, ok := src.Spec(name); !ok {
		return nil, nil
	}
	index, err := readInt32s(src, name, t.in)
	if err != nil {
		return nil, err
	}
	if slices.Contains(index, -1) || slices.Equal(index, trivialGroups(t.in, size)) {
		t.groupIndexSpare = true
		return nil, nil
	}
	for i, g := range index {
		if g < 0 || int(g) >= t.groups {
			return nil, tensorError(src, name, "group %d of input %d, want 0 to %d", g, i, t.groups-1)
		}
	}
	if g, n, ok := fullGroups(index, t.groups, t.in/t.groups); !ok {
		return nil, tensorError(src, name, "group %d has %d inputs, want %d", g, n, t.in/t.groups)
	}
	return index, nil
}

func (t *ctTensors) weight(src Source, s quant.Scheme, index []int32) (*quant.Weight, error) {
	words, err := readWords(src, t.packed.Name, t.packed.Shape...)
	if err != nil {
		return nil, err
	}
	w := &quant.Weight{Out: t.out, In: t.in, Scheme: s, GroupIndex: slices.Clone(index)}
	if t.padded {
		words = packRows(t.unpack(words, t.out, t.in, true), t.out, t.in, t.bits)
	}
	w.Codes = words
	clearTail(w.Codes, w.Out, w.In, t.bits)
	if w.Scales, err = readFloats(src, t.scale.Name, t.scale.Shape...); err != nil {
		return nil, err
	}
	w.Zeros, err = t.zeros(src)
	return w, err
}
