// Package native is the project's own checkpoint format, lowbit.
package native

import (
	"encoding/binary"
	"encoding/json"
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
	"github.com/golowbit/lowbit/quant/olive"
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
	suffixTypes      = ".lowbit_types"
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
//	14  1  grid: 0 that of the scale type; OliVe's with normal values 1 adaptive, 2 int, 3 flint
//	15  1  summands beside the weight itself
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

// mostSummands is how many there may be.
const mostSummands = 2

// Check accepts every layer whose scheme fits its shape, on a uniform grid or on that of
// LLM.int8() or of OliVe.
func (Format) Check(l layout.Layer) error {
	l.Columns = 0
	_, pairs := l.Scheme.Grid.(olive.Grid)
	plain := l.Summands == 0 && (!pairs || !l.GroupIndex)
	if plain && (pairs || isInt8(l.Scheme)) || l.Scheme.Grid == nil && l.Summands <= mostSummands && (plain || !l.GroupIndex) {
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
	if suffix, bits := seconds(s); bits > 0 {
		specs = append(specs, layout.Spec{Name: l.Name + suffix, DType: safetensors.I32, Shape: []int{groups, layout.PackedWords(lines, bits)}})
	}
	own := specs[1:]
	for k := range l.Summands {
		for _, t := range own {
			t.Name = summand(l.Name, k) + strings.TrimPrefix(t.Name, l.Name)
			specs = append(specs, t)
		}
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

// seconds are what a group has beside its scale, by the suffix of the tensor and the bits of
// each: zero-points, or which normal values OliVe has; of 0 bits if nothing is stored.
func seconds(s quant.Scheme) (suffix string, bits int) {
	if g, ok := s.Grid.(olive.Grid); ok && g.Typed() {
		return suffixTypes, 1
	}
	if s.Symmetric || s.Grid != nil {
		return suffixZeros, 0
	}
	return suffixZeros, s.Bits
}

// summand is what the tensors of a summand are named after.
func summand(name string, k int) string { return fmt.Sprintf("%s.lowbit_summand%d", name, k+1) }

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
	out := []layout.Tensor{{}} // the header, when the checksum is known
	add := func(suffix string, float safetensors.DType, values []float32, shape ...int) error {
		t, err := layout.FloatTensor(l.Name+suffix, float, values, shape...)
		out = append(out, t)
		return err
	}
	for k, part := range append([]*quant.Weight{w}, w.Summands...) {
		name := l.Name
		if k > 0 {
			name = summand(l.Name, k-1)
		}
		tensors, err := encodeCodes(name, part)
		if err != nil {
			return nil, err
		}
		out = append(out, tensors...)
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

// encodeCodes packs codes, scales and what else groups have.
func encodeCodes(name string, w *quant.Weight) ([]layout.Tensor, error) {
	lines, groups := w.Lines(), w.Groups()
	scales, err := layout.FloatTensor(name+suffixScales, scaleDType(w.Scheme), layout.Transposed(w.Scales, lines, groups), groups, lines)
	if err != nil {
		return nil, err
	}
	out := []layout.Tensor{layout.Int32Tensor(name+suffixCodes, w.Codes, lines, w.WordsPerLine()), scales}
	suffix, bits := seconds(w.Scheme)
	if bits == 0 {
		for i, z := range w.Zeros { // none on another grid
			if int(z) != 1<<(w.Scheme.Bits-1) {
				return nil, fmt.Errorf("zero-point %d of line %d of a symmetric weight, want %d", z, i/groups, 1<<(w.Scheme.Bits-1))
			}
		}
		return out, nil
	}
	values := w.Zeros
	if suffix == suffixTypes {
		values = make([]uint8, len(w.Shifts))
		for i, t := range w.Shifts {
			values[i] = uint8(t)
		}
	}
	packed := layout.PackRows(layout.Transposed(values, lines, groups), groups, lines, bits)
	return append(out, layout.Int32Tensor(name+suffix, packed, groups, layout.PackedWords(lines, bits))), nil
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
	if g, ok := s.Grid.(olive.Grid); ok {
		h[14] = 1 + byte(g.Normal())
	}
	h[15] = byte(l.Summands)
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
	if h[15] > mostSummands {
		return l, 0, fmt.Errorf("header byte 15: %d summands, want at most %d", h[15], mostSummands)
	}
	l.Summands = int(h[15])
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
	if h[14] != 0 {
		g, ok := olive.GridOf(int(h[8]), olive.Normal(h[14]-1))
		if !ok {
			return l, 0, fmt.Errorf("header byte 14: no grid %d of %d bits", h[14], h[8])
		}
		if l.Scheme.Grid != nil {
			return l, 0, fmt.Errorf("header byte 14: no grid %d beside that of scale type %d", h[14], h[11])
		}
		l.Scheme.Grid = g
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
	parts := map[string]*quant.Weight{l.Name: w} // by what their tensors are named after
	for k := range l.Summands {
		s := &quant.Weight{Out: l.Out, In: l.In, Scheme: l.Scheme}
		parts[summand(l.Name, k)], w.Summands = s, append(w.Summands, s)
	}
	var sum uint32
	for _, s := range r.specs[1:] {
		at := strings.LastIndexByte(s.Name, '.')
		if err := r.read(parts[s.Name[:at]], s, s.Name[at:], &sum); err != nil {
			return nil, err
		}
	}
	if sum != r.want {
		return nil, fmt.Errorf("%s: layer %q: checksum %08x, want %08x: the file is damaged", r.src.File(l.Name+suffixCodes), l.Name, sum, r.want)
	}
	for _, part := range parts {
		switch _, bits := seconds(l.Scheme); {
		case bits > 0:
		case l.Scheme.Grid != nil:
			part.Shifts = slices.Repeat([]float32{shift(l.Scheme)}, len(part.Scales))
		default:
			part.Zeros = slices.Repeat([]uint8{layout.SymmetricZero(l.Scheme.Bits)}, len(part.Scales))
		}
	}
	return w, nil
}

// shift is that of all groups where none is stored.
func shift(s quant.Scheme) float32 {
	if g, ok := s.Grid.(olive.Grid); ok && g.Normal() == olive.Flint {
		return 1
	}
	return 0
}

// read reads a tensor of a layer or of a summand, and adds it to the checksum.
func (r layerReader) read(w *quant.Weight, s layout.Spec, suffix string, sum *uint32) (err error) {
	lines, groups := w.Lines(), w.Groups()
	words := func() ([]uint32, error) {
		v, err := layout.ReadWords(r.src, s.Name, s.Shape...)
		*sum = crc32.Update(*sum, castagnoli, wire.Bytes(v))
		return v, err
	}
	ints := func() ([]int32, error) {
		v, err := layout.ReadInt32s(r.src, s.Name, s.Shape...)
		*sum = crc32.Update(*sum, castagnoli, wire.Bytes(v))
		return v, err
	}
	floats := func() ([]float32, error) {
		_, data, err := layout.ReadBytes(r.src, s.Name, s.Shape, s.DType)
		if err != nil {
			return nil, err
		}
		*sum = crc32.Update(*sum, castagnoli, data)
		v := make([]float32, s.Elems())
		return v, safetensors.DecodeFloat32(v, s.DType, data)
	}
	switch suffix {
	case suffixCodes:
		w.Codes, err = words()
	case suffixScales:
		var scales []float32
		if scales, err = floats(); err == nil {
			w.Scales = layout.Transposed(scales, groups, lines)
		}
	case suffixZeros, suffixTypes:
		packed, err := words()
		if err != nil {
			return err
		}
		_, bits := seconds(w.Scheme)
		values := layout.Transposed(layout.UnpackRows(packed, groups, lines, bits), groups, lines)
		if suffix == suffixZeros {
			w.Zeros = values
			return nil
		}
		w.Shifts = make([]float32, len(values))
		for i, v := range values {
			w.Shifts[i] = float32(v)
		}
	case suffixGroupIndex:
		w.GroupIndex, err = ints()
	case suffixRowScale:
		w.RowScale, err = floats()
	case suffixInputScale:
		w.InputScale, err = floats()
	case suffixColumns:
		w.Columns, err = ints()
	case suffixValues:
		w.ColumnValues, err = floats()
	}
	return err
}
