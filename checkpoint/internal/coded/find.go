package coded

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/minifloat"
	"github.com/golowbit/lowbit/safetensors"
)

// methods are the quant_method of models that have such tensors.
var methods = []string{"fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "modelopt_fp4", "mxfp4", "bitsandbytes"}

// served are endings of tensors that tell engines how to quantize activations and what is
// kept of attention: nothing that a weight is made of.
var served = []string{".input_scale", ".activation_scale", ".input_global_scale", ".input_zero_point", ".output_scale", ".k_scale", ".v_scale"}

// Show shows the coded tensors of a model with this quantization_config as floats. Packed
// ones of compressed-tensors and the int8 of bitsandbytes are left to their readers. It is nil if there is none: then
// nothing has been read but headers. Of scales so much is read as tells whether BF16
// holds the products. Errors name file, tensor, expected and found.
func Show(quantization json.RawMessage, src layout.Source) (*Source, error) {
	method := layout.QuantMethod(quantization)
	if !slices.Contains(methods, method) {
		return nil, nil
	}
	s := &Source{Source: src, tensors: map[string]*codes{}, hidden: map[string]bool{}, kinds: map[string]int{}}
	var c struct {
		Block []int `json:"weight_block_size"`
	}
	if json.Unmarshal(quantization, &c) != nil || len(c.Block) != 2 || c.Block[0] < 1 || c.Block[1] < 1 {
		c.Block = nil
	}
	shown := map[string]string{} // by the stored name
	for _, name := range src.Names() {
		spec, _ := src.Spec(name)
		found, err := s.find(spec, c.Block)
		if err != nil {
			return nil, err
		}
		if found != nil {
			s.tensors[found.Name], shown[name] = found, found.Name
		}
	}
	for _, name := range src.Names() {
		as, ok := shown[name]
		switch {
		case ok:
			s.names = append(s.names, as)
		case s.hidden[name]:
		case slices.ContainsFunc(served, func(end string) bool { return strings.HasSuffix(name, end) }):
			s.hidden[name] = true
		default:
			s.names = append(s.names, name)
		}
	}
	if len(s.tensors) == 0 && len(s.names) == len(src.Names()) {
		return nil, nil
	}
	for stored, as := range shown {
		if stored != as {
			s.hidden[stored] = true
		}
	}
	return s, nil
}

// find describes a tensor of codes; nil if it is none.
func (s *Source) find(spec layout.Spec, block []int) (*codes, error) {
	name := spec.Name
	switch spec.DType {
	case safetensors.F8E4M3:
		if slices.ContainsFunc([]string{"_scale", "_scale_inv"}, func(end string) bool { return strings.HasSuffix(name, end) }) {
			return nil, nil
		}
		return s.scaled(spec, "FP8 (E4M3)", minifloat.E4M3[:], 4, block)
	case safetensors.F8E5M2:
		return s.scaled(spec, "FP8 (E5M2)", minifloat.E5M2[:], 3, block)
	case safetensors.I8:
		if s.has(name + "_scale") {
			return s.scaled(spec, "INT8", i8, 8, block)
		}
	case safetensors.U8:
		if base, ok := strings.CutSuffix(name, "_blocks"); ok && s.has(base+"_scales") && len(spec.Shape) == 4 {
			return s.blocks(spec, base)
		}
		if s.has(name+"_scale") && s.has(name+"_scale_2") {
			return s.nvfp4(spec)
		}
		for _, kind := range []string{"nf4", "fp4"} {
			if s.has(name + stateKey + kind) {
				return s.bitsandbytes(spec, kind)
			}
		}
	}
	return nil, nil
}

func (s *Source) has(name string) bool {
	_, ok := s.Source.Spec(name)
	return ok
}

// part takes a stored tensor for a part of another.
func (s *Source) part(name string) { s.hidden[name] = true }

// matrix gives rows and columns of a tensor's matrices.
func (s *Source) matrix(spec layout.Spec, perCode int) (rows, cols, matrices int, err error) {
	n := len(spec.Shape)
	if n < 2 || spec.Elems() == 0 {
		return 0, 0, 0, layout.TensorError(s.Source, spec.Name, "shape %v, want [.., out, in]", spec.Shape)
	}
	rows, cols, matrices = spec.Shape[n-2], spec.Shape[n-1]*perCode, 1
	for _, d := range spec.Shape[:n-2] {
		matrices *= d
	}
	return rows, cols, matrices, nil
}

// scaled is a tensor of a code a byte with scales of blocks, rows or all of it.
func (s *Source) scaled(spec layout.Spec, kind string, table []float32, bits int, block []int) (*codes, error) {
	rows, cols, matrices, err := s.matrix(spec, 1)
	if err != nil {
		return nil, err
	}
	name := spec.Name + "_scale_inv"
	if !s.has(name) {
		if name = spec.Name + "_scale"; !s.has(name) {
			return nil, layout.TensorError(s.Source, spec.Name, "%v without %q or %q beside it", spec.DType, spec.Name+"_scale_inv", name)
		}
	}
	scale, err := layout.Want(s.Source, name, nil, safetensors.F32, safetensors.F16, safetensors.BF16, safetensors.F8E8M0, safetensors.U8)
	if err != nil {
		return nil, err
	}
	shape := grid{down: 1, across: 1, height: rows, width: cols}
	dims := scale.Shape
	perMatrix := scale.Elems() / matrices
	switch n := len(dims); {
	case scale.Elems() == 1 && matrices == 1:
	case perMatrix == 1 && scale.Elems() == matrices:
	case perMatrix == rows && scale.Elems() == rows*matrices && (n == 1 || dims[n-1] == 1 || dims[n-1] == rows):
		shape.down, shape.height = rows, 1
	case n >= 2 && perMatrix == dims[n-2]*dims[n-1] && scale.Elems() == perMatrix*matrices:
		shape.down, shape.across = dims[n-2], dims[n-1]
		if shape.height, err = blockSize(s.Source, scale, rows, shape.down, block, 0); err != nil {
			return nil, err
		}
		if shape.width, err = blockSize(s.Source, scale, cols, shape.across, block, 1); err != nil {
			return nil, err
		}
	default:
		return nil, layout.TensorError(s.Source, name, "shape %v, want that of one scale, of %d rows or of blocks of %v", dims, rows, spec.Shape)
	}
	c := &codes{Spec: spec, stored: spec.Name, table: table, rows: rows, cols: cols}
	zeros := spec.Name + "_zero_point"
	if spec.DType != safetensors.I8 || !s.has(zeros) {
		zeros = ""
	} else if z, err := layout.Want(s.Source, zeros, scale.Shape, safetensors.I8); err != nil {
		return nil, err
	} else {
		s.part(z.Name)
		bits++ // of a difference
	}
	c.read = func() (grid, error) {
		g := shape
		var err error
		if g.scales, err = s.numbers(scale); err == nil && zeros != "" {
			g.zeros, err = s.numbers(layout.Spec{Name: zeros, DType: safetensors.I8, Shape: scale.Shape})
		}
		return g, err
	}
	s.part(name)
	exact := scale.DType == safetensors.F8E8M0 || scale.DType == safetensors.U8
	if !exact {
		g, err := c.read()
		if err != nil {
			return nil, err
		}
		exact = bits < 9 && fits(g.scales, bits)
	}
	c.DType = typeFor(exact)
	s.kinds[kind+" "+shape.text(rows, cols)]++
	return c, nil
}

// fits says whether BF16 holds all products of these scales with numbers of so many
// significant bits, which are neither very small nor very large.
func fits(scales []float32, bits int) bool {
	for _, s := range scales {
		a := math.Abs(float64(s))
		if a != 0 && !(a > 0x1p-90 && a < 0x1p90) {
			return false
		}
		if math.Float32bits(s)&(1<<(24-8+bits)-1)&(1<<23-1) != 0 { // BF16 has 8 of 24
			return false
		}
	}
	return true
}

// i8 are the values of INT8.
var i8 = func() []float32 {
	v := make([]float32, 256)
	for i := range v {
		v[i] = float32(int8(i))
	}
	return v
}()

func typeFor(bf16 bool) safetensors.DType {
	if bf16 {
		return safetensors.BF16
	}
	return safetensors.F32
}

// text says what a scale is for.
func (g *grid) text(rows, cols int) string {
	switch {
	case g.height == rows && g.width == cols:
		return "with a scale a tensor"
	case g.height == 1 && g.width == cols:
		return "with a scale a row"
	}
	return "with a scale for " + strconv.Itoa(g.height) + " x " + strconv.Itoa(g.width)
}

// blockSize is how many of n rows (dim 0) or columns have a scale in common, of which
// there are so many: what config.json says where that fits, else what divides evenly.
func blockSize(src layout.Source, scale layout.Spec, n, scales int, block []int, dim int) (int, error) {
	if block != nil && (n+block[dim]-1)/block[dim] == scales {
		return block[dim], nil
	}
	if scales > 0 && n%scales == 0 {
		return n / scales, nil
	}
	const usual = 128
	if (n+usual-1)/usual == scales {
		return usual, nil
	}
	return 0, layout.TensorError(src, scale.Name, "%d scales for %d %s, want one for each %v (weight_block_size)", scales, n, []string{"rows", "columns"}[dim], block)
}

// numbers reads scales or zero-points.
func (s *Source) numbers(spec layout.Spec) ([]float32, error) {
	if slices.Contains(layout.FloatTypes(), spec.DType) {
		return layout.ReadFloats(s.Source, spec.Name, spec.Shape...)
	}
	_, data, err := layout.ReadBytes(s.Source, spec.Name, spec.Shape, spec.DType)
	if err != nil {
		return nil, err
	}
	table := map[safetensors.DType][]float32{safetensors.I8: i8, safetensors.U8: minifloat.E8M0[:], safetensors.F8E8M0: minifloat.E8M0[:], safetensors.F8E4M3: minifloat.E4M3[:]}[spec.DType]
	v := make([]float32, len(data))
	for i, b := range data {
		v[i] = table[b]
	}
	return v, nil
}

// nvfp4 is modelopt's: the scales of groups are multiplied with that of the tensor.
func (s *Source) nvfp4(spec layout.Spec) (*codes, error) {
	rows, cols, _, err := s.matrix(spec, 2)
	if err != nil {
		return nil, err
	}
	const group = 16
	shape := append(slices.Clone(spec.Shape[:len(spec.Shape)-1]), cols/group)
	scale, err := layout.Want(s.Source, spec.Name+"_scale", shape, safetensors.F8E4M3)
	if err != nil {
		return nil, err
	}
	if cols%group != 0 {
		return nil, layout.TensorError(s.Source, spec.Name, "shape %v, want whole groups of %d values, 2 a byte", spec.Shape, group)
	}
	whole, err := layout.Want(s.Source, spec.Name+"_scale_2", nil, safetensors.F32)
	if err != nil {
		return nil, err
	}
	of, err := layout.ReadFloats(s.Source, whole.Name, whole.Shape...)
	if err != nil {
		return nil, err
	}
	matrices := spec.Elems() * 2 / (rows * cols)
	if len(of) != 1 && len(of) != matrices {
		return nil, layout.TensorError(s.Source, whole.Name, "shape %v, want one number, or one for each of %d matrices", whole.Shape, matrices)
	}
	s.part(scale.Name)
	s.part(whole.Name)
	c := &codes{Spec: spec, stored: spec.Name, table: minifloat.E2M1[:], rows: rows, cols: cols}
	c.Shape = append(slices.Clone(spec.Shape[:len(spec.Shape)-1]), cols)
	c.DType = typeFor(fits(of, 6))
	c.read = func() (grid, error) {
		v, err := s.numbers(scale)
		for i := range v {
			v[i] *= of[i/(rows*cols/group)%len(of)]
		}
		return grid{scales: v, down: rows, across: cols / group, height: 1, width: group}, err
	}
	s.kinds["NVFP4"]++
	return c, nil
}

// blocks is MXFP4 of gpt-oss.
func (s *Source) blocks(spec layout.Spec, name string) (*codes, error) {
	d := spec.Shape
	const half, group = 16, 32
	if d[3] != half || spec.Elems() == 0 {
		return nil, layout.TensorError(s.Source, spec.Name, "shape %v, want [experts, out, in/%d, %d]", d, group, half)
	}
	scale, err := layout.Want(s.Source, name+"_scales", d[:3], safetensors.U8, safetensors.F8E8M0)
	if err != nil {
		return nil, err
	}
	s.part(scale.Name)
	if s.has(name) {
		return nil, layout.TensorError(s.Source, name, "the tensor is there in packed form too, %q", spec.Name)
	}
	rows, cols := d[1], d[2]*group
	c := &codes{Spec: layout.Spec{Name: name, DType: safetensors.BF16, Shape: []int{d[0], cols, rows}}, stored: spec.Name, table: minifloat.E2M1[:], rows: rows, cols: cols, transposed: true}
	c.read = func() (grid, error) {
		v, err := s.numbers(scale)
		return grid{scales: v, down: rows, across: d[2], height: 1, width: group}, err
	}
	s.kinds["MXFP4"]++
	return c, nil
}

// stateKey and what follows names the tensor in which bitsandbytes keeps how a weight is
// quantized.
const stateKey = ".quant_state.bitsandbytes__"

// state is what it holds.
type state struct {
	Type      string  `json:"quant_type"`
	Block     int     `json:"blocksize"`
	Shape     []int   `json:"shape"`
	Nested    int     `json:"nested_blocksize"`
	NestedOff float64 `json:"nested_offset"`
}

// bitsandbytes is NF4 or FP4.
func (s *Source) bitsandbytes(spec layout.Spec, kind string) (*codes, error) {
	name := spec.Name
	key := name + stateKey + kind
	_, text, err := layout.ReadBytes(s.Source, key, nil, safetensors.U8)
	if err != nil {
		return nil, err
	}
	var st state
	if err := json.Unmarshal(text, &st); err != nil {
		return nil, layout.TensorError(s.Source, key, "%w", err)
	}
	if st.Type != kind || st.Block < 1 || len(st.Shape) != 2 || st.Shape[0] < 1 || st.Shape[1] < 1 {
		return nil, layout.TensorError(s.Source, key, "type %q, blocksize %d, shape %v, want %s, a positive number, [out, in]", st.Type, st.Block, st.Shape, kind)
	}
	n := int64(st.Shape[0]) * int64(st.Shape[1])
	if n > math.MaxInt32*64 || int64(spec.Elems()) != (n+1)/2 {
		return nil, layout.TensorError(s.Source, name, "%d bytes, want 2 values a byte of %v", spec.Elems(), st.Shape)
	}
	table, err := layout.ReadFloats(s.Source, name+".quant_map", 16)
	if err != nil {
		return nil, err
	}
	blocks := int((n + int64(st.Block) - 1) / int64(st.Block))
	read, nested, err := s.absmax(name, blocks, st)
	if err != nil {
		return nil, err
	}
	for _, end := range []string{".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", stateKey + kind} {
		s.part(name + end)
	}
	// One row: blocks go over the ends of the matrix's.
	c := &codes{Spec: layout.Spec{Name: name, DType: safetensors.F32, Shape: st.Shape}, stored: name, table: table, highFirst: true, rows: 1, cols: int(n)}
	c.read = func() (grid, error) {
		v, err := read()
		return grid{scales: v, down: 1, across: blocks, height: 1, width: st.Block}, err
	}
	label := strings.ToUpper(kind) + " of bitsandbytes"
	if nested {
		label += " with double quantization"
	}
	s.kinds[label]++
	return c, nil
}

// absmax reads the scales of blocks, which may be coded themselves.
func (s *Source) absmax(name string, blocks int, st state) (read func() ([]float32, error), nested bool, err error) {
	spec, err := layout.Want(s.Source, name+".absmax", []int{blocks}, safetensors.F32, safetensors.U8)
	if err != nil {
		return nil, false, err
	}
	if spec.DType == safetensors.F32 {
		return func() ([]float32, error) { return layout.ReadFloats(s.Source, spec.Name, blocks) }, false, nil
	}
	if st.Nested < 1 {
		return nil, false, layout.TensorError(s.Source, spec.Name, "U8, but nested_blocksize is %d", st.Nested)
	}
	outer := (blocks + st.Nested - 1) / st.Nested
	if _, err := layout.Want(s.Source, name+".nested_absmax", []int{outer}, safetensors.F32); err != nil {
		return nil, false, err
	}
	if _, err := layout.Want(s.Source, name+".nested_quant_map", []int{256}, safetensors.F32); err != nil {
		return nil, false, err
	}
	return func() ([]float32, error) {
		_, data, err := layout.ReadBytes(s.Source, spec.Name, []int{blocks}, safetensors.U8)
		if err != nil {
			return nil, err
		}
		scales, err := layout.ReadFloats(s.Source, name+".nested_absmax", outer)
		if err != nil {
			return nil, err
		}
		table, err := layout.ReadFloats(s.Source, name+".nested_quant_map", 256)
		if err != nil {
			return nil, err
		}
		v := make([]float32, blocks)
		for i, b := range data {
			v[i] = float32(table[b]*scales[i/st.Nested]) + float32(st.NestedOff)
		}
		return v, nil
	}, true, nil
}
