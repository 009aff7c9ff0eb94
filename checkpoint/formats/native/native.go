// Package native is the project's own checkpoint format, lowbit.
package native

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/engines"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/safetensors"
)

// Format is the project's own format. It holds everything a quant.Weight
// can be, and each layer describes itself in a small header tensor, so that
// resharding, merging and renaming files lose nothing. docs/format.md
// specifies it byte by byte; the names here follow it.
type Format struct{}

// Version is the version of the layer header that is written.
const Version = 1

// Suffixes of the tensors of a layer.
const (
	suffixHeader     = ".lowbit_header"
	suffixCodes      = ".lowbit_codes"
	suffixScales     = ".lowbit_scales"
	suffixZeros      = ".lowbit_zeros"
	suffixGroupIndex = ".lowbit_group_index"
	suffixRowScale   = ".lowbit_row_scale"
	suffixInputScale = ".lowbit_input_scale"
	suffixColumns    = ".lowbit_columns"
	suffixValues     = ".lowbit_column_values"
)

// The header, little-endian:
//
//	 0  4  magic "LBQW"
//	 4  2  version
//	 6  2  header length in bytes, 48
//	 8  1  bits
//	 9  1  axis: 0 oc, 1 ic
//	10  1  flags
//	11  1  scale type: 0 f16, 1 f32, 2 f16 of 7 significant bits, 3 bf16,
//	       4 f32 of the grid llm.int8
//	12  1  range rule: 0 zero, 1 paper
//	13  1  smallest zero-point the quantizer was allowed: 0 or 1
//	14  2  zero
//	16  8  out
//	24  8  in
//	32  8  group size, signed; -1 for whole lines
//	40  4  CRC-32C of the layer's other tensors
//	44  4  CRC-32C of the bytes 0 to 43
const (
	magic     = "LBQW"
	headerLen = 48

	flagSymmetric  = 1 << 0
	flagStrided    = 1 << 1
	flagGroupIndex = 1 << 2
	flagRowScale   = 1 << 3
	flagInputScale = 1 << 4
	flagClip       = 1 << 5
	flagColumns    = 1 << 6
	flagsKnown     = 1<<7 - 1

	typeInt8 = 4 // scale type of llmint8.Grid
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Name returns "lowbit".
func (Format) Name() string { return "lowbit" }

// Check accepts every layer whose scheme fits its shape, on a uniform grid or on that of
// LLM.int8().
func (Format) Check(l layout.Layer) error {
	l.Columns = 0
	if isInt8(l.Scheme) {
		return layout.CheckShape(l)
	}
	return layout.CheckScheme(l)
}

func isInt8(s quant.Scheme) bool { return s.Grid == llmint8.Grid{} }

// Engines says that no engine but this module reads the format.
func (f Format) Engines(layers []layout.Layer) []layout.Note { return engines.Notes(f.Name(), layers) }

// Plan lists the tensors of a layer: header, codes, scales, and as the layer
// has them zero-points, group index, row scales and input scales.
func (f Format) Plan(l layout.Layer) ([]layout.Spec, error) {
	if err := f.Check(l); err != nil {
		return nil, err
	}
	s := l.Scheme
	lines, length := s.Lines(l.Out, l.In)
	groups := s.Groups(length)
	float := vectorDType(s)
	specs := []layout.Spec{
		{Name: l.Name + suffixHeader, DType: safetensors.U8, Shape: []int{headerLen}},
		{Name: l.Name + suffixCodes, DType: safetensors.I32, Shape: []int{lines, layout.PackedWords(length, s.Bits)}},
		{Name: l.Name + suffixScales, DType: scaleDType(s), Shape: []int{groups, lines}},
	}
	if !s.Symmetric && !isInt8(s) {
		specs = append(specs, layout.Spec{Name: l.Name + suffixZeros, DType: safetensors.I32, Shape: []int{groups, layout.PackedWords(lines, s.Bits)}})
	}
	if l.GroupIndex {
		specs = append(specs, layout.Spec{Name: l.Name + suffixGroupIndex, DType: safetensors.I32, Shape: []int{length}})
	}
	if l.RowScale {
		specs = append(specs, layout.Spec{Name: l.Name + suffixRowScale, DType: float, Shape: []int{l.Out}})
	}
	if l.InputScale {
		specs = append(specs, layout.Spec{Name: l.Name + suffixInputScale, DType: float, Shape: []int{l.In}})
	}
	if l.Columns > 0 {
		specs = append(specs, layout.Spec{Name: l.Name + suffixColumns, DType: safetensors.I32, Shape: []int{l.Columns}},
			layout.Spec{Name: l.Name + suffixValues, DType: safetensors.F16, Shape: []int{l.Columns, l.Out}})
	}
	return specs, nil
}

func scaleDType(s quant.Scheme) safetensors.DType {
	if s.ScaleType == quant.BF16 {
		return safetensors.BF16
	}
	return vectorDType(s)
}

// vectorDType is the type of row and input scales, which are half floats beside
// groups' scales of bfloat16.
func vectorDType(s quant.Scheme) safetensors.DType {
	if s.ScaleType == quant.F32 || isInt8(s) {
		return safetensors.F32
	}
	return safetensors.F16
}

// Encode packs a layer. The scales, row scales and input scales must be
// exact in the scheme's scale type.
func (f Format) Encode(l layout.Layer, w *quant.Weight) ([]layout.Tensor, error) {
	if err := w.Validate(); err != nil {
		return nil, err
	}
	lines, groups := w.Lines(), w.Groups()
	out := []layout.Tensor{
		{}, // the header, when the checksum is known
		layout.Int32Tensor(l.Name+suffixCodes, w.Codes, lines, w.WordsPerLine()),
	}
	add := func(suffix string, float safetensors.DType, values []float32, shape ...int) error {
		t, err := layout.FloatTensor(l.Name+suffix, float, values, shape...)
		out = append(out, t)
		return err
	}
	if err := add(suffixScales, scaleDType(w.Scheme), layout.Transposed(w.Scales, lines, groups), groups, lines); err != nil {
		return nil, err
	}
	switch {
	case isInt8(w.Scheme): // the shifts are 0
	case w.Scheme.Symmetric:
		for i, z := range w.Zeros {
			if int(z) != 1<<(w.Scheme.Bits-1) {
				return nil, fmt.Errorf("zero-point %d of line %d of a symmetric weight, want %d", z, i/groups, 1<<(w.Scheme.Bits-1))
			}
		}
	default:
		words := layout.PackedWords(lines, w.Scheme.Bits)
		packed := layout.PackRows(layout.Transposed(w.Zeros, lines, groups), groups, lines, w.Scheme.Bits)
		out = append(out, layout.Int32Tensor(l.Name+suffixZeros, packed, groups, words))
	}
	if w.GroupIndex != nil {
		out = append(out, layout.Int32Tensor(l.Name+suffixGroupIndex, w.GroupIndex, len(w.GroupIndex)))
	}
	if w.RowScale != nil {
		if err := add(suffixRowScale, vectorDType(w.Scheme), w.RowScale, w.Out); err != nil {
			return nil, err
		}
	}
	if w.InputScale != nil {
		if err := add(suffixInputScale, vectorDType(w.Scheme), w.InputScale, w.In); err != nil {
			return nil, err
		}
	}
	if len(w.Columns) > 0 {
		out = append(out, layout.Int32Tensor(l.Name+suffixColumns, w.Columns, len(w.Columns)))
		if err := add(suffixValues, safetensors.F16, w.ColumnValues, len(w.Columns), w.Out); err != nil {
			return nil, err
		}
	}
	var sum uint32
	for _, t := range out[1:] {
		sum = crc32.Update(sum, castagnoli, t.Data)
	}
	out[0] = layout.Tensor{
		Spec: layout.Spec{Name: l.Name + suffixHeader, DType: safetensors.U8, Shape: []int{headerLen}},
		Data: encodeHeader(layout.LayerOf(l.Name, w), sum),
	}
	return out, nil
}

func encodeHeader(l layout.Layer, sum uint32) []byte {
	h := make([]byte, headerLen)
	le := binary.LittleEndian
	copy(h, magic)
	le.PutUint16(h[4:], Version)
	le.PutUint16(h[6:], headerLen)
	s := l.Scheme
	h[8], h[9], h[11], h[12], h[13] = byte(s.Bits), byte(s.Axis), byte(s.ScaleType), byte(s.Range), byte(s.MinZero)
	if isInt8(s) {
		h[11] = typeInt8
	}
	for _, f := range []struct {
		on  bool
		bit byte
	}{
		{s.Symmetric, flagSymmetric}, {s.Strided, flagStrided}, {l.GroupIndex, flagGroupIndex},
		{l.RowScale, flagRowScale}, {l.InputScale, flagInputScale}, {s.Clip, flagClip}, {l.Columns > 0, flagColumns},
	} {
		if f.on {
			h[10] |= f.bit
		}
	}
	le.PutUint64(h[16:], uint64(l.Out))
	le.PutUint64(h[24:], uint64(l.In))
	le.PutUint64(h[32:], uint64(int64(s.GroupSize)))
	le.PutUint32(h[40:], sum)
	le.PutUint32(h[44:], crc32.Checksum(h[:44], castagnoli))
	return h
}

// parseHeader reads a header; sum is the checksum of the payload.
func parseHeader(h []byte) (l layout.Layer, sum uint32, err error) {
	le := binary.LittleEndian
	if len(h) < 8 || string(h[:4]) != magic {
		return l, 0, fmt.Errorf("header does not start with %q", magic)
	}
	if v := le.Uint16(h[4:]); v != Version {
		return l, 0, fmt.Errorf("header version %d, want %d: the file was written by a newer lowbit", v, Version)
	}
	if n := le.Uint16(h[6:]); n != headerLen || len(h) != headerLen {
		return l, 0, fmt.Errorf("header of %d bytes says it has %d, want %d", len(h), n, headerLen)
	}
	if got, sum := crc32.Checksum(h[:44], castagnoli), le.Uint32(h[44:]); got != sum {
		return l, 0, fmt.Errorf("header checksum %08x, want %08x: the file is damaged", got, sum)
	}
	flags := h[10]
	if flags&^flagsKnown != 0 {
		return l, 0, fmt.Errorf("header flags %#02x, want none beyond %#02x", flags, flagsKnown)
	}
	if h[14] != 0 || h[15] != 0 {
		return l, 0, errors.New("header bytes 14 and 15 are not zero")
	}
	l.Scheme = quant.Scheme{
		Bits: int(h[8]), Axis: quant.Axis(h[9]), ScaleType: quant.ScaleType(h[11]), Range: quant.Range(h[12]), MinZero: int(h[13]),
		Symmetric: flags&flagSymmetric != 0, Strided: flags&flagStrided != 0, Clip: flags&flagClip != 0,
	}
	l.GroupIndex, l.RowScale, l.InputScale = flags&flagGroupIndex != 0, flags&flagRowScale != 0, flags&flagInputScale != 0
	if flags&flagColumns != 0 {
		l.Columns = 1 // as many as there are indices
	}
	if h[11] == typeInt8 {
		l.Scheme.ScaleType, l.Scheme.Grid = 0, llmint8.Grid{}
	}
	out, in, group := le.Uint64(h[16:]), le.Uint64(h[24:]), int64(le.Uint64(h[32:]))
	if out > math.MaxInt32 || in > math.MaxInt32 || group > math.MaxInt32 || group < quant.WholeLine {
		return l, 0, fmt.Errorf("header shape [%d %d] with groups of %d is impossible", out, in, group)
	}
	l.Out, l.In, l.Scheme.GroupSize = int(out), int(in), int(group)
	if err := l.Scheme.CheckShape(l.Out, l.In); err != nil {
		return l, 0, err
	}
	return l, le.Uint32(h[40:]), nil
}

// summary is the summary in config.json. It is for people: reading
// depends on the headers alone.
type summary struct {
	QuantMethod string          `json:"quant_method"`
	Version     int             `json:"version"`
	Bits        []int           `json:"bits"`
	GroupSize   []int           `json:"group_size"`
	Axes        map[string]int  `json:"axes"`
	Symmetric   []bool          `json:"sym"`
	Method      json.RawMessage `json:"method,omitempty"`
}

// Config summarizes the layers: the values of each option that occur, and
// the number of layers of each axis.
func (Format) Config(c layout.Contents) (layout.Config, error) {
	q := summary{
		QuantMethod: "lowbit", Version: Version, Method: c.Method,
		Bits: []int{}, GroupSize: []int{}, Symmetric: []bool{}, Axes: map[string]int{},
	}
	for _, l := range c.Layers {
		q.Axes[l.Scheme.Axis.String()]++
		if !slices.Contains(q.Bits, l.Scheme.Bits) {
			q.Bits = append(q.Bits, l.Scheme.Bits)
		}
		if !slices.Contains(q.GroupSize, l.Scheme.GroupSize) {
			q.GroupSize = append(q.GroupSize, l.Scheme.GroupSize)
		}
		if !slices.Contains(q.Symmetric, l.Scheme.Symmetric) {
			q.Symmetric = append(q.Symmetric, l.Scheme.Symmetric)
		}
	}
	slices.Sort(q.Bits)
	slices.Sort(q.GroupSize)
	data, err := json.Marshal(q)
	return layout.Config{Quantization: data}, err
}

// Detect looks at quant_method.
func (Format) Detect(quantization json.RawMessage) bool {
	return layout.QuantMethod(quantization) == "lowbit"
}

// Open finds the layers by their headers and checks the types and shapes of
// all their tensors.
func (f Format) Open(quantization json.RawMessage, src layout.Source) (layout.Decoder, error) {
	var q struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(quantization, &q); err != nil {
		return nil, fmt.Errorf("quantization_config: %w", err)
	}
	if q.Version != nil && *q.Version != Version {
		return nil, fmt.Errorf("quantization_config: lowbit version %d, want %d", *q.Version, Version)
	}
	d := &layout.PackedDecoder{}
	for _, name := range src.Names() {
		base, ok := strings.CutSuffix(name, suffixHeader)
		if !ok {
			continue
		}
		_, h, err := layout.ReadBytes(src, name, []int{headerLen}, safetensors.U8)
		if err != nil {
			return nil, err
		}
		l, sum, err := parseHeader(h)
		if err != nil {
			return nil, layout.TensorError(src, name, "%w", err)
		}
		l.Name = base
		if c, ok := src.Spec(base + suffixColumns); ok && l.Columns > 0 && len(c.Shape) == 1 && c.Shape[0] <= l.In {
			l.Columns = c.Shape[0]
		}
		specs, err := f.Plan(l)
		if err != nil {
			return nil, layout.TensorError(src, name, "%w", err)
		}
		p := layout.PackedLayer{Layer: l, File: src.File(base + suffixCodes)}
		for _, s := range specs {
			if _, err := layout.Want(src, s.Name, s.Shape, s.DType); err != nil {
				return nil, err
			}
			p.Parts = append(p.Parts, s.Name)
		}
		r := layerReader{src: src, layer: l, specs: specs, want: sum}
		p.Read = r.weight
		d.Add(p)
	}
	return d, nil
}

// layerReader reads one layer.
type layerReader struct {
	src   layout.Source
	layer layout.Layer
	specs []layout.Spec
	want  uint32 // checksum of the payload
}

func (r layerReader) weight() (*quant.Weight, error) {
	l := r.layer
	w := &quant.Weight{Out: l.Out, In: l.In, Scheme: l.Scheme}
	lines, groups := w.Lines(), w.Groups()
	var sum uint32
	words := func(s layout.Spec) ([]uint32, error) {
		v, err := layout.ReadWords(r.src, s.Name, s.Shape...)
		sum = crc32.Update(sum, castagnoli, wire.Bytes(v))
		return v, err
	}
	floats := func(s layout.Spec) ([]float32, error) {
		_, data, err := layout.ReadBytes(r.src, s.Name, s.Shape, s.DType)
		if err != nil {
			return nil, err
		}
		sum = crc32.Update(sum, castagnoli, data)
		v := make([]float32, s.Elems())
		return v, safetensors.DecodeFloat32(v, s.DType, data)
	}
	for _, s := range r.specs[1:] {
		var err error
		switch s.Name[len(l.Name):] {
		case suffixCodes:
			w.Codes, err = words(s)
		case suffixScales:
			var scales []float32
			if scales, err = floats(s); err == nil {
				w.Scales = layout.Transposed(scales, groups, lines)
			}
		case suffixZeros:
			var packed []uint32
			if packed, err = words(s); err == nil {
				w.Zeros = layout.Transposed(layout.UnpackRows(packed, groups, lines, l.Scheme.Bits), groups, lines)
			}
		case suffixGroupIndex:
			w.GroupIndex, err = layout.ReadInt32s(r.src, s.Name, s.Shape...)
			sum = crc32.Update(sum, castagnoli, wire.Bytes(w.GroupIndex))
		case suffixRowScale:
			w.RowScale, err = floats(s)
		case suffixInputScale:
			w.InputScale, err = floats(s)
		case suffixColumns:
			w.Columns, err = layout.ReadInt32s(r.src, s.Name, s.Shape...)
			sum = crc32.Update(sum, castagnoli, wire.Bytes(w.Columns))
		case suffixValues:
			w.ColumnValues, err = floats(s)
		}
		if err != nil {
			return nil, err
		}
	}
	if sum != r.want {
		return nil, fmt.Errorf("%s: layer %q: checksum %08x, want %08x: the file is damaged", r.src.File(l.Name+suffixCodes), l.Name, sum, r.want)
	}
	switch {
	case isInt8(l.Scheme):
		w.Shifts = make([]float32, lines*groups)
	case l.Scheme.Symmetric:
		w.Zeros = slices.Repeat([]uint8{layout.SymmetricZero(l.Scheme.Bits)}, lines*groups)
	}
	return w, nil
}
