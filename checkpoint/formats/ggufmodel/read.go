package ggufmodel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel/internal/ordering"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	archs "github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// modelFile is a Source over a GGUF file. Tensors have Hugging Face's names,
// shapes and order of rows. Blocks are bytes, [rows, bytes of a row], except
// in the embedding, which is given as F32: formats that are folders have no
// packed embeddings.
type modelFile struct {
	f       *gguf.File
	path    string
	names   []string
	tensors map[string]fileTensor
	layers  []layout.Layer
	plain   bool // linears are given as floats, whatever they are stored as
}

// fileTensor is a tensor under its Hugging Face name.
type fileTensor struct {
	info gguf.Tensor
	spec layout.Spec
	// offset is where it begins in the stored tensor; rows and rowBytes are its
	// shape there, in bytes.
	offset         int64
	rows, rowBytes int
	to             []int // where each row is; nil: in order
	cols           []int // which segment of a row each of those in the file is; nil: in order
	plusOne        bool
	// decoded says that the tensor is given as F32 but stored as blocks, moved
	// that it is given transposed.
	decoded, moved bool
	// log says that the tensor is given as the logarithm of what is stored, negated.
	log bool
	// bands are the tensors in the file that have the rows, one after the other;
	// nil: it is one.
	bands []string
	// scale multiplies all values; 0 if there is none.
	scale float32
	// value are the bytes of what is no tensor in the file.
	value []byte
}

// Read opens a GGUF file of a model of the Llama family.
func (g Format) Read(path string) (*layout.Opened, error) { return read(path, false) }

// ReadPlain is Read with all tensors as the floats that they stand for, linears as
// float32.
func (g Format) ReadPlain(path string) (*layout.Opened, error) { return read(path, true) }

func read(path string, plain bool) (*layout.Opened, error) {
	ok, err := isGGUF(path)
	if err != nil || !ok {
		return nil, err
	}
	f, err := gguf.OpenParts(path)
	if err != nil {
		return nil, err
	}
	config, src, err := openFile(f, path, plain)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &layout.Opened{Config: config, Source: src, Decoder: src, Files: tokenizerFS(src)}, nil
}

// Parts implements layout.Parted: a model may lie in several files, whose names end in
// -00001-of-00003.gguf and so on.
func (Format) Parts(path string) []string { return gguf.Parts(path) }

// Ending implements layout.Parted.
func (Format) Ending() string { return ".gguf" }

func isGGUF(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	magic := make([]byte, len(gguf.Magic))
	if _, err := io.ReadFull(f, magic); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil
		}
		return false, err
	}
	return string(magic) == gguf.Magic, nil
}

func openFile(f *gguf.File, path string, plain bool) (json.RawMessage, *modelFile, error) {
	arch, err := archOf(f)
	if err != nil {
		return nil, nil, err
	}
	config, err := configOf(arch, f)
	if err != nil {
		return nil, nil, err
	}
	m, err := archs.ParseConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("metadata, as a %s: %w", layout.ConfigFile, err)
	}
	if err := checkPairs(m); err != nil {
		return nil, nil, err
	}
	known := knownTensors(m)
	scales, err := tensorScales(f, known)
	if err != nil {
		return nil, nil, err
	}
	src := &modelFile{f: f, path: path, plain: plain, tensors: map[string]fileTensor{}}
	for _, t := range f.Tensors() {
		if t.Name == nameRopeFreqs || t.Name == nameRopeLong || t.Name == nameRopeShort {
			continue // part of the configuration
		}
		k, ok := known[t.Name]
		if !ok && scales[t.Name] != nil {
			continue // part of a matrix
		}
		if !ok {
			return nil, nil, fmt.Errorf("tensor %q: %w", t.Name, layout.Unsupported("no tensor of a %s of %d layers that can be read", arch.GGUF.Name, m.Layers))
		}
		if err := src.add(k, t, scales[scaleOf(t.Name)]); err != nil {
			return nil, nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	for name, e := range src.tensors {
		if slices.Contains(e.bands, "") {
			return nil, nil, fmt.Errorf("a part of tensor %q is missing", name)
		}
	}
	return config, src, src.addNumbers(m)
}

// knownTensors are the tensors of a model by their names in the file. Of several
// with one name it is the one that the model has.
func knownTensors(m *decoder.Model) map[string]decoder.GGUFTensor {
	has := map[string]bool{}
	for _, t := range m.Tensors() {
		has[t.Name] = true
	}
	known := map[string]decoder.GGUFTensor{}
	for _, t := range m.GGUFTensors() {
		if _, ok := known[t.Name]; !ok || has[t.Parts[0]] {
			known[t.Name] = t
		}
	}
	return known
}

// add registers a tensor, or all that are stacked in it, of which each has a scale, or
// none has.
func (g *modelFile) add(k decoder.GGUFTensor, t gguf.Tensor, scales []float32) error {
	if !t.Type.Readable() {
		return layout.Unsupported("values of type %v are not read, only "+gguf.ReadableTypes, t.Type)
	}
	dims := t.Dims
	if k.Stacked {
		if len(dims) < 2 || dims[len(dims)-1] != len(k.Parts) {
			return fmt.Errorf("dimensions %v, want %d in the last", t.Dims, len(k.Parts))
		}
		dims = dims[:len(dims)-1]
	}
	if k.Dims != nil {
		return g.addReshaped(k, t)
	}
	_, matrix := layout.CutWeight(k.Parts[0])
	matrix = matrix && len(dims) == 2
	if !matrix && len(dims) != 1 {
		return fmt.Errorf("dimensions %v, want a vector or matrix", t.Dims)
	}
	e := fileTensor{info: t, rows: dims[len(dims)-1], plusOne: k.PlusOne}
	e.info.Dims = dims
	size := t.Bytes() / int64(len(k.Parts))
	e.rowBytes = int(size / int64(e.rows))
	if k.From != nil {
		if len(k.From) != e.rows {
			return fmt.Errorf("%d rows, want %d", e.rows, len(k.From))
		}
		if k.Total == 0 {
			e.to = inverted(k.From)
		}
	}
	if n := len(k.Cols); n > 0 && matrix {
		if e.cols = k.Cols; dims[0]%n != 0 {
			return fmt.Errorf("%d columns, want a multiple of %d", dims[0], n)
		}
	}
	if n := len(scales); n > 0 && (n != len(k.Parts) || t.Type != gguf.NVFP4) {
		return fmt.Errorf("%d scales in %q, want %d", n, scaleOf(t.Name), len(k.Parts))
	}
	for i, name := range k.Parts {
		e.offset = int64(i) * size
		if scales != nil {
			e.scale = scales[i]
		}
		if err := g.addOne(k, name, e, matrix); err != nil {
			return err
		}
	}
	return nil
}

// addReshaped registers a tensor that has other dimensions.
func (g *modelFile) addReshaped(k decoder.GGUFTensor, t gguf.Tensor) error {
	name := k.Parts[0]
	e := fileTensor{info: t, log: k.NegExp, spec: layout.Spec{Name: name, DType: safetensors.F32, Shape: k.Shape}}
	if t.Type != gguf.F32 || !slices.Equal(t.Dims, k.Dims) || product(k.Shape) != product(k.Dims) {
		return fmt.Errorf("%v %v, want F32 %v", t.Type, t.Dims, k.Dims)
	}
	if n := len(k.From); n > 0 {
		e.to, e.rowBytes = inverted(k.From), int(t.Bytes())/n
	}
	g.names = append(g.names, name)
	g.tensors[name] = e
	return nil
}

func (g *modelFile) addOne(k decoder.GGUFTensor, name string, e fileTensor, matrix bool) error {
	t := e.info
	if k.Bands > 0 {
		if first, ok := g.tensors[name]; ok {
			if t.Type != first.info.Type || t.Dims[0] != first.info.Dims[0] || k.Total == 0 && !slices.Equal(t.Dims, first.info.Dims) || e.scale != first.scale {
				return fmt.Errorf("%v %v, want %v %v as in %q", t.Type, t.Dims, first.info.Type, first.info.Dims, first.info.Name)
			}
			first.bands[k.Band] = t.Name
			place(first.to, k)
			return nil
		}
		e.bands = make([]string, k.Bands)
		e.bands[k.Band] = t.Name
		if e.rows *= k.Bands; k.Total > 0 {
			e.rows, e.to = k.Total, make([]int, k.Total)
			place(e.to, k)
		}
	}
	e.spec = layout.Spec{Name: name, Shape: append([]int(nil), e.rows)}
	if matrix {
		e.spec.Shape = append(e.spec.Shape, t.Dims[0])
	}
	if k.Flat {
		e.spec.Shape = []int{1, e.rows}
	}
	switch t.Type {
	case gguf.F32:
		e.spec.DType = safetensors.F32
	case gguf.F16:
		e.spec.DType = safetensors.F16
	case gguf.BF16:
		e.spec.DType = safetensors.BF16
	default:
		if !matrix {
			return fmt.Errorf("a vector of type %v, want F32, F16 or BF16", t.Type)
		}
		if k.Dense || k.Outer && t.Name != nameHead {
			if e.scale != 0 {
				return layout.Unsupported("it has a scale, %q, as only linears may", scaleOf(t.Name))
			}
			e.spec.DType, e.decoded = safetensors.F32, true
			break
		}
		if g.plain || e.cols != nil && t.Dims[0]/len(e.cols)%t.Type.Block() != 0 {
			e.spec.DType, e.decoded = safetensors.F32, true
			break
		}
		e.spec.DType, e.spec.Shape[1] = safetensors.U8, e.rowBytes
		base, _ := layout.CutWeight(name)
		g.layers = append(g.layers, layout.Layer{Name: base, Out: e.rows, In: t.Dims[0], Scheme: e.schemeOf()})
	}
	if k.Transposed && e.spec.DType != safetensors.U8 {
		e.moved = true
		slices.Reverse(e.spec.Shape)
	}
	g.names = append(g.names, name)
	g.tensors[name] = e
	return nil
}

// place notes where the rows of a part are.
func place(to []int, k decoder.GGUFTensor) {
	if k.Total > 0 {
		for i, r := range k.From {
			to[r] = k.First + i
		}
	}
}

func (g *modelFile) Names() []string { return g.names }

func (g *modelFile) Spec(name string) (layout.Spec, bool) {
	e, ok := g.tensors[name]
	return e.spec, ok
}

func (g *modelFile) File(name string) string { return g.f.Path(g.tensors[name].info.Name) }

func (g *modelFile) Close() error { return g.f.Close() }

// ReadAt reads bytes of the tensor as Spec describes it.
func (g *modelFile) ReadAt(name string, p []byte, off int64) error {
	e, ok := g.tensors[name]
	if !ok {
		return fmt.Errorf("%s: no tensor %q", g.path, name)
	}
	if size := e.spec.Bytes(); off < 0 || off > size || int64(len(p)) > size-off {
		return layout.TensorError(g, name, "bytes %d to %d of %d asked for", off, off+int64(len(p)), size)
	}
	if e.value != nil {
		copy(p, e.value[off:])
		return nil
	}
	if e.moved || e.plusOne || e.log {
		whole, err := g.whole(e)
		if err != nil {
			return err
		}
		copy(p, whole[off:])
		return nil
	}
	return g.readRows(e, p, off)
}

// readRows reads rows in Hugging Face's order.
func (g *modelFile) readRows(e fileTensor, p []byte, off int64) error {
	if e.to == nil && e.cols == nil && !e.decoded {
		return g.readFile(e, p, off)
	}
	// Row by row: rows lie elsewhere, or are decoded.
	width := int64(e.rowBytes)
	if e.decoded {
		width = 4 * int64(e.info.Dims[0])
	}
	row := make([]byte, width)
	for len(p) > 0 {
		r, skip := off/width, off%width
		if err := g.readRow(e, row, int(r)); err != nil {
			return err
		}
		n := copy(p, row[skip:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// whole reads a tensor that is given transposed, as one less or as a logarithm.
func (g *modelFile) whole(e fileTensor) ([]byte, error) {
	data := make([]byte, e.spec.Bytes())
	if err := g.readRows(e, data, 0); err != nil {
		return nil, err
	}
	if e.plusOne || e.log {
		values := make([]float32, e.spec.Elems())
		if err := e.info.Type.Decode(values, data); err != nil {
			return nil, err
		}
		for i := range values {
			if e.log {
				values[i] = float32(math.Log(-float64(values[i])))
			} else {
				values[i]--
			}
		}
		return data, e.info.Type.Encode(data, values)
	}
	size := len(data) / e.spec.Elems()
	in, out := e.spec.Shape[0], e.spec.Shape[1]
	moved := make([]byte, len(data))
	for r := range out {
		for c := range in {
			copy(moved[(c*out+r)*size:][:size], data[(r*in+c)*size:])
		}
	}
	return moved, nil
}

func (g *modelFile) readFile(e fileTensor, p []byte, off int64) error {
	if e.bands == nil {
		return g.readAt(e.info.Name, p, e.offset+off)
	}
	first := int64(0)
	for _, name := range e.bands {
		t, _ := g.f.Tensor(name)
		if from, to := max(off, first), min(off+int64(len(p)), first+t.Bytes()); from < to {
			if err := g.readAt(name, p[from-off:to-off], from-first); err != nil {
				return err
			}
		}
		first += t.Bytes()
	}
	return nil
}

func (g *modelFile) readAt(name string, p []byte, off int64) error {
	if err := g.f.ReadAt(name, p, off); err != nil {
		return fmt.Errorf("%s: %w", g.f.Path(name), err)
	}
	return nil
}

// readRow reads Hugging Face's row r.
func (g *modelFile) readRow(e fileTensor, dst []byte, r int) error {
	if e.to != nil {
		r = e.to[r]
	}
	if !e.decoded {
		err := g.readFile(e, dst, int64(r)*int64(e.rowBytes))
		if e.cols != nil {
			copy(dst, ordering.Scatter(dst, len(dst), e.cols))
		}
		return err
	}
	packed := make([]byte, e.rowBytes)
	if err := g.readFile(e, packed, int64(r)*int64(e.rowBytes)); err != nil {
		return err
	}
	values := make([]float32, e.info.Dims[0])
	if err := e.info.Type.Decode(values, packed); err != nil {
		return err
	}
	if e.scaled(values); e.cols != nil {
		values = ordering.Scatter(values, len(values), e.cols)
	}
	return safetensors.EncodeFloat32(dst, safetensors.F32, values)
}

// Layers lists the linears stored in blocks.
func (g *modelFile) Layers() []layout.Layer { return append([]layout.Layer(nil), g.layers...) }

// Tensors names the one tensor of a layer.
func (g *modelFile) Tensors(name string) []string { return []string{name + layout.WeightSuffix} }

// blocks reads the blocks of a layer.
func (g *modelFile) blocks(name string) (fileTensor, []byte, error) {
	e, ok := g.tensors[name+layout.WeightSuffix]
	if !ok || e.spec.DType != safetensors.U8 {
		return e, nil, fmt.Errorf("%s: no quantized layer %q", g.path, name)
	}
	data := make([]byte, e.spec.Bytes())
	return e, data, g.ReadAt(name+layout.WeightSuffix, data, 0)
}

// schemeOf is the scheme of a block type: uniform where scales and zero-points say
// all of it, as far as the type tells.
func schemeOf(t gguf.Type) quant.Scheme {
	if g, ok := kquant.Of(t); ok && !g.Uniform() {
		return g.Scheme()
	}
	if group, bits, zero, ok := t.Whole(); ok {
		return quant.Scheme{Bits: bits, GroupSize: group, Symmetric: zero == 1<<(bits-1)}
	}
	if bits, ok := t.Vectors(); ok {
		return quant.Scheme{Bits: bits, GroupSize: gguf.BlockLen, Symmetric: true} // no grid has the values
	}
	return quant.Scheme{Bits: t.Bits(), GroupSize: gguf.BlockLen, Symmetric: !t.HasMin()}
}

// Weight gives the blocks as groups of 32, those of Q2_K to Q6_K, IQ4_NL, IQ4_XS,
// MXFP4 and NVFP4 on grids of their own, and those of few levels on a uniform one. Q4_1
// and Q5_1 are a weight only if every minimum is a whole multiple of its scale.
func (g *modelFile) Weight(name string) (*quant.Weight, error) {
	e, data, err := g.blocks(name)
	if err != nil {
		return nil, err
	}
	t := e.info.Type
	if _, ok := t.Vectors(); ok {
		return nil, layout.TensorError(g, name+layout.WeightSuffix, "type %v has vectors for values, which lie on no grid: %w", t, layout.ErrNotWeight)
	}
	w := quant.NewWeight(e.rows, e.info.Dims[0], e.schemeOf())
	if e.scale != 0 && !tensorScaled(w.Scheme) {
		return nil, layout.TensorError(g, name+layout.WeightSuffix, "scale %g of the tensor, want %g: %w", e.scale, kquant.TensorScale, layout.ErrNotWeight)
	}
	if grid, ok := w.Scheme.Grid.(kquant.Grid); ok {
		codes := make([]uint8, w.In)
		for r := range w.Out {
			a, b := r*w.Groups(), (r+1)*w.Groups()
			grid.Unpack(data[r*e.rowBytes:], codes, w.Scales[a:b], w.Shifts[a:b])
			w.SetLine(r, codes)
		}
		if err := w.Validate(); err != nil {
			return nil, layout.TensorError(g, name+layout.WeightSuffix, "%w", err)
		}
		return w, nil
	}
	if _, _, _, ok := t.Whole(); ok {
		return g.leveled(w, e, data)
	}
	var block [gguf.BlockLen]uint8
	codes := make([]uint8, w.In)
	for r := range w.Out {
		for b := range w.Groups() {
			d, m := t.UnpackBlock(data, &block)
			data = data[t.BlockBytes():]
			copy(codes[b*gguf.BlockLen:], block[:])
			k := r*w.Groups() + b
			w.Scales[k] = wire.Half(d)
			w.Zeros[k] = 1 << (t.Bits() - 1)
			if !t.HasMin() {
				continue
			}
			z, ok := wholeZero(w.Scales[k], wire.Half(m), w.Scheme.MaxCode())
			if !ok {
				return nil, layout.TensorError(g, name+layout.WeightSuffix, "row %d block %d: minimum %g is no multiple of scale %g: %w", r, b, wire.Half(m), w.Scales[k], layout.ErrNotWeight)
			}
			w.Zeros[k] = z
		}
		w.SetLine(r, codes)
	}
	if err := w.Validate(); err != nil {
		return nil, layout.TensorError(g, name+layout.WeightSuffix, "%w", err)
	}
	return w, nil
}

// leveled fills a weight from blocks whose levels are whole numbers.
func (g *modelFile) leveled(w *quant.Weight, e fileTensor, data []byte) (*quant.Weight, error) {
	t := e.info.Type
	group, _, zero, _ := t.Whole()
	levels, codes := make([]int8, t.Block()), make([]uint8, w.In)
	for r := range w.Out {
		for from := 0; from < w.In; from += len(levels) {
			k := r*w.Groups() + from/group
			scales := w.Scales[k : k+len(levels)/group]
			t.UnpackWhole(data, levels, scales)
			data = data[t.BlockBytes():]
			for i, v := range levels {
				code := int(v) + zero
				if code > int(w.Scheme.MaxCode()) {
					return nil, layout.TensorError(g, e.spec.Name, "row %d: level %d in a block of %v: %w", r, v, t, layout.ErrNotWeight)
				}
				codes[from+i] = uint8(code)
			}
			for i, s := range scales {
				if _, exact := wire.ToHalf(s); !exact {
					return nil, layout.TensorError(g, e.spec.Name, "row %d: scale %g is no half float: %w", r, s, layout.ErrNotWeight)
				}
				w.Zeros[k+i] = uint8(zero)
			}
		}
		w.SetLine(r, codes)
	}
	if err := w.Validate(); err != nil {
		return nil, layout.TensorError(g, e.spec.Name, "%w", err)
	}
	return w, nil
}

// Matrix dequantizes a layer as the engine does.
func (g *modelFile) Matrix(name string) (*tensor.Matrix, error) {
	e, data, err := g.blocks(name)
	if err != nil {
		return nil, err
	}
	m := tensor.New(e.rows, e.info.Dims[0])
	for r := range m.Rows {
		if err := e.info.Type.Decode(m.Row(r), data[r*e.rowBytes:][:e.rowBytes]); err != nil {
			return nil, layout.TensorError(g, name+layout.WeightSuffix, "%w", err)
		}
		e.scaled(m.Row(r))
	}
	return m, nil
}

// wholeZero returns the zero-point z with m = -d*z exactly.
func wholeZero(d, m float32, limit int) (z uint8, ok bool) {
	if m == 0 {
		return 0, d-d == 0
	}
	q := -float64(m) / float64(d)
	if !(q >= 0 && q <= float64(limit)) || q != math.Trunc(q) {
		return 0, false
	}
	return uint8(q), true
}
