// Package hqq is the checkpoint format of hqq.
package hqq

import (
	"encoding/binary"
	"encoding/json"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/internal/engines"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Format is the format of hqq, as transformers saves and loads it: 2, 3, 4 or 8
// bits, and an axis for each layer. It is the one format of other projects
// that holds groups of outputs (axis ic), and so a mix of axes.
//
// A weight [out, in] is flattened and cut into a matrix R: axis 1 (oc) gives
// [out*in/g, g], one group of g consecutive inputs in each row; axis 0 (ic)
// gives [g, out*in/g], one group in each column, which is input i and the
// outputs r, r+out/g, r+2*out/g, … (quant.Scheme.Strided). R is packed in
// bands: its rows are cut into equal bands, and byte or word j holds element
// j of every band, the first band in the highest bits.
//
//	X.W_q          U8, or I32 for 3 bits [rows/bands, columns]; see bitPackings
//	X.scale        F16 [1, columns] or [rows, 1]
//	X.zero         F16, the same shape
//	X.shape        I64 [2]: out, in
//	X.nbits, X.group_size, X.axis                    I32 scalars
//	X.packing, X.unpack_view_dtype, X.compute_dtype  U8, ASCII
//	X.view_as_float, X.quant_scale, X.quant_zero, X.offload_meta,
//	X.round_zero, X.optimize, X.channel_wise,
//	X.encoded_state_dict, X.stores_quant_config      U8 scalars, 0 or 1
type Format struct{}

const (
	suffixWeight = ".W_q"
	suffixScale  = ".scale"
	suffixZero   = ".zero"
)

// bitPacking is a way to pack R.
type bitPacking struct {
	name  string
	bits  int // of a field; narrower codes may be stored in wider fields
	bands int
	dtype safetensors.DType
	view  string
}

var bitPackings = []bitPacking{
	{"8bit_u8", 8, 1, safetensors.U8, "torch.uint8"},
	{"4bit_u8", 4, 2, safetensors.U8, "torch.uint8"},
	{"3bit_32", 3, 10, safetensors.I32, "torch.int32"},
	{"2bit_u8", 2, 4, safetensors.U8, "torch.uint8"},
}

func packingOf(bits int) bitPacking {
	i := slices.IndexFunc(bitPackings, func(p bitPacking) bool { return p.bits == bits })
	return bitPackings[i]
}

// step is the number of rows that the packed matrix has for rows of R. Only
// 3 bits allow rows that do not divide into bands; zeros follow them.
func (p bitPacking) step(rows int) int { return (rows + p.bands - 1) / p.bands }

// Name returns "hqq".
func (Format) Name() string { return "hqq" }

// Check accepts 2, 3, 4 and 8 bits along both axes, whole groups, and strided
// groups for axis ic.
func (f Format) Check(l layout.Layer) error {
	s := l.Scheme
	if err := layout.CheckScheme(l); err != nil {
		return err
	}
	if err := layout.CheckHalfScales(f.Name(), s); err != nil {
		return err
	}
	lines, length := s.Lines(l.Out, l.In)
	switch {
	case l.RowScale || l.InputScale:
		return layout.Unsupported("hqq has no row or input scales, and folding them into the scales would round; quantize without them, or use format lowbit or dense")
	case l.GroupIndex:
		return layout.Unsupported("hqq has no group index; quantize with static groups, or use format gptq_v2 or lowbit")
	case s.Bits != 2 && s.Bits != 3 && s.Bits != 4 && s.Bits != 8:
		return layout.Unsupported("hqq packs 2, 3, 4 or 8 bits, and would store %d as 8; use 8 bits, or format lowbit", s.Bits)
	case s.Axis == quant.OC:
		if err := layout.CheckWholeGroups(f.Name(), l); err != nil {
			return err
		}
	case s.GroupSize != quant.WholeLine && length%s.GroupSize != 0:
		return layout.Unsupported("hqq needs groups that divide the outputs, and %d does not divide %d; %s, or use format lowbit or dense",
			s.GroupSize, length, layout.SuggestGroup(length, s.GroupSize))
	case s.Groups(length) > 1 && !s.Strided:
		return layout.Unsupported("hqq holds groups of outputs r, r+n, r+2n, … only, not consecutive ones; quantize with strided groups, or use format lowbit")
	}
	rows := rowsOf(l.Out, l.In, s)
	if p := packingOf(s.Bits); p.bits != 3 && rows%p.bands != 0 {
		return layout.Unsupported("hqq packs %d bits in %d bands, which do not divide %d rows (%d lines, groups of %d); use 8 bits or another group size, or format lowbit",
			s.Bits, p.bands, rows, lines, l.Out*l.In/(lines*s.Groups(length)))
	}
	return nil
}

// rowsOf is the number of rows of R.
func rowsOf(out, in int, s quant.Scheme) int {
	lines, length := s.Lines(out, in)
	if s.Axis == quant.IC {
		return length / s.Groups(length)
	}
	return lines * s.Groups(length)
}

// Plan lists the tensors in the order of the table above.
func (f Format) Plan(l layout.Layer) ([]layout.Spec, error) {
	if err := f.Check(l); err != nil {
		return nil, err
	}
	s := l.Scheme
	rows, p := rowsOf(l.Out, l.In, s), packingOf(s.Bits)
	columns := l.Out * l.In / rows
	meta := []int{rows, 1}
	if s.Axis == quant.IC {
		meta = []int{1, columns}
	}
	specs := []layout.Spec{
		{Name: l.Name + suffixWeight, DType: p.dtype, Shape: []int{p.step(rows), columns}},
		{Name: l.Name + suffixScale, DType: safetensors.F16, Shape: meta},
		{Name: l.Name + suffixZero, DType: safetensors.F16, Shape: meta},
	}
	for _, t := range storedState(l) {
		specs = append(specs, t.Spec)
	}
	return specs, nil
}

// storedState returns the tensors that describe a layer.
func storedState(l layout.Layer) []layout.Tensor {
	var out []layout.Tensor
	add := func(name string, t safetensors.DType, shape []int, data []byte) {
		out = append(out, layout.Tensor{Spec: layout.Spec{Name: l.Name + "." + name, DType: t, Shape: shape}, Data: data})
	}
	number := func(name string, v int) {
		add(name, safetensors.I32, []int{}, binary.LittleEndian.AppendUint32(nil, uint32(v)))
	}
	text := func(name, v string) { add(name, safetensors.U8, []int{len(v)}, []byte(v)) }
	flag := func(name string, v byte) { add(name, safetensors.U8, []int{}, []byte{v}) }

	s := l.Scheme
	_, length := s.Lines(l.Out, l.In)
	p, axis := packingOf(s.Bits), 1
	if s.Axis == quant.IC {
		axis = 0
	}
	shape := binary.LittleEndian.AppendUint64(nil, uint64(l.Out))
	add("shape", safetensors.I64, []int{2}, binary.LittleEndian.AppendUint64(shape, uint64(l.In)))
	number("nbits", s.Bits)
	number("group_size", length/s.Groups(length))
	number("axis", axis)
	text("packing", p.name)
	text("unpack_view_dtype", p.view)
	text("compute_dtype", "torch.float16")
	for _, name := range []string{"view_as_float", "quant_scale", "quant_zero", "offload_meta"} {
		flag(name, 0)
	}
	flag("round_zero", 1)
	flag("optimize", 0)
	for _, name := range []string{"channel_wise", "encoded_state_dict", "stores_quant_config"} {
		flag(name, 1)
	}
	return out
}

// Engines says which engines load the layers.
func (f Format) Engines(layers []layout.Layer) []layout.Note { return engines.Notes(f.Name(), layers) }

// Encode packs a layer.
func (f Format) Encode(l layout.Layer, w *quant.Weight) ([]layout.Tensor, error) {
	if err := layout.CheckWeight(f, l, w); err != nil {
		return nil, err
	}
	specs, err := f.Plan(l)
	if err != nil {
		return nil, err
	}
	flat := make([]uint8, w.Out*w.In)
	for i := range w.Lines() {
		w.Line(flat[i*w.LineLen():(i+1)*w.LineLen()], i)
	}
	scales, zeros := w.Scales, make([]float32, len(w.Zeros))
	for i, z := range w.Zeros {
		zeros[i] = float32(z)
	}
	if w.Scheme.Axis == quant.IC {
		flat = layout.Transposed(flat, w.In, w.Out)
		scales, zeros = layout.Transposed(scales, w.In, w.Groups()), layout.Transposed(zeros, w.In, w.Groups())
	}
	out := []layout.Tensor{{Spec: specs[0], Data: packingOf(w.Scheme.Bits).pack(flat, rowsOf(w.Out, w.In, w.Scheme))}}
	for i, v := range [][]float32{scales, zeros} {
		t, err := layout.FloatTensor(specs[1+i].Name, safetensors.F16, v, specs[1+i].Shape...)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return append(out, storedState(l)...), nil
}

// pack packs R, given by rows.
func (p bitPacking) pack(r []uint8, rows int) []byte {
	n := p.step(rows) * (len(r) / rows)
	if p.dtype == safetensors.I32 {
		words := make([]uint32, n)
		p.eachBand(r, n, func(band []uint8, shift int) {
			for i, u := range band {
				words[i] |= uint32(u) << shift
			}
		})
		return layout.Int32Tensor("", words, n).Data
	}
	packed := make([]byte, n)
	p.eachBand(r, n, func(band []uint8, shift int) {
		for i, u := range band {
			packed[i] |= u << shift
		}
	})
	return packed
}

// unpack undoes pack for elements of R.
func (p bitPacking) unpack(packed []byte, elements int) []uint8 {
	r := make([]uint8, elements)
	if p.dtype == safetensors.I32 {
		words := wire.Words(packed)
		p.eachBand(r, len(words), func(band []uint8, shift int) {
			for i := range band {
				band[i] = uint8(words[i]>>shift) & 7
			}
		})
		return r
	}
	mask := uint8(1<<p.bits - 1)
	p.eachBand(r, len(packed), func(band []uint8, shift int) {
		for i := range band {
			band[i] = packed[i] >> shift & mask
		}
	})
	return r
}

// eachBand calls f with each band of n elements of R, of which the last may
// be short, and where its codes lie in a byte or word.
func (p bitPacking) eachBand(r []uint8, n int, f func(band []uint8, shift int)) {
	for k := 0; k*n < len(r); k++ {
		f(r[k*n:min((k+1)*n, len(r))], (p.bands-1-k)*p.bits)
	}
}

// weightParams is quant_config.weight_quant_params. The stored state of each
// layer goes before it; it is what most layers have.
type weightParams struct {
	Bits        int  `json:"nbits"`
	GroupSize   *int `json:"group_size"`
	Axis        int  `json:"axis"`
	ChannelWise bool `json:"channel_wise"`
	Optimize    bool `json:"optimize"`
	RoundZero   bool `json:"round_zero"`
	ViewAsFloat bool `json:"view_as_float"`
}

// Config writes the quantization_config.
func (f Format) Config(c layout.Contents) (layout.Config, error) {
	type kind struct {
		bits, group int
		axis        quant.Axis
	}
	var kinds []kind
	for _, l := range c.Layers {
		kinds = append(kinds, kind{l.Scheme.Bits, l.Scheme.GroupSize, l.Scheme.Axis})
	}
	k := kind{4, 64, quant.OC}
	if len(kinds) > 0 {
		k = layout.MostFrequent(kinds)
	}
	params := weightParams{Bits: k.bits, ChannelWise: true, RoundZero: true, Axis: 1}
	if k.group != quant.WholeLine {
		params.GroupSize = &k.group
	}
	if k.axis == quant.IC {
		params.Axis = 0
	}
	type quantConfig struct {
		Weight      weightParams `json:"weight_quant_params"`
		Scale       *struct{}    `json:"scale_quant_params"`
		Zero        *struct{}    `json:"zero_quant_params"`
		OffloadMeta bool         `json:"offload_meta"`
	}
	data, err := json.Marshal(struct {
		Method string      `json:"quant_method"`
		Config quantConfig `json:"quant_config"`
		Skip   []string    `json:"skip_modules"`
	}{"hqq", quantConfig{Weight: params}, layout.SkippedLinears(c)})
	return layout.Config{Quantization: data, Set: layout.HalfModel(c)}, err
}

// Detect looks at quant_method.
func (Format) Detect(quantization json.RawMessage) bool {
	return layout.QuantMethod(quantization) == "hqq"
}
