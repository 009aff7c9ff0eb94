package ggufmodel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
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
}

// fileTensor is a tensor under its Hugging Face name.
type fileTensor struct {
	info gguf.Tensor
	spec layout.Spec
	// rows and rowBytes are the shape in the file, in bytes; head is the
	// number of rows of a head where rows have other places, else 0.
	rows, rowBytes int
	head           int
	// decoded says that the tensor is given as F32 but stored as blocks.
	decoded bool
}

// Read opens a GGUF file of a model of the Llama family.
func (g Format) Read(path string) (*layout.Opened, error) {
	ok, err := isGGUF(path)
	if err != nil || !ok {
		return nil, err
	}
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	config, src, err := openFile(f, path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &layout.Opened{Config: config, Source: src, Decoder: src, Files: tokenizerFS(src)}, nil
}

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

func openFile(f *gguf.File, path string) (json.RawMessage, *modelFile, error) {
	m, err := readFileShape(f)
	if err != nil {
		return nil, nil, err
	}
	src := &modelFile{f: f, path: path, tensors: map[string]fileTensor{}}
	for _, t := range f.Tensors() {
		if t.Name == nameRopeFreqs {
			continue // part of the configuration
		}
		name, ok := huggingFaceName(t.Name, m.layers)
		if !ok {
			return nil, nil, fmt.Errorf("tensor %q: %w", t.Name, layout.Unsupported("no tensor of a %s of %d layers that can be read", m.arch, m.layers))
		}
		if err := src.add(name, t, m); err != nil {
			return nil, nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	embedding, ok := src.tensors[embeddingName]
	if !ok {
		return nil, nil, fmt.Errorf("no tensor %q", nameEmbedding)
	}
	config, err := m.config(f, src, embedding)
	if err != nil {
		return nil, nil, err
	}
	if err := checkConfig(config); err != nil {
		return nil, nil, fmt.Errorf("metadata, as a %s: %w", layout.ConfigFile, err)
	}
	return config, src, nil
}

// add registers a tensor.
func (g *modelFile) add(name string, t gguf.Tensor, m *fileShape) error {
	if !t.Type.Readable() {
		return layout.Unsupported("values of type %v are not read, only "+gguf.ReadableTypes, t.Type)
	}
	_, matrix := layout.CutWeight(name)
	matrix = matrix && len(t.Dims) == 2
	if !matrix && len(t.Dims) != 1 {
		return fmt.Errorf("dimensions %v, want a vector or matrix", t.Dims)
	}
	e := fileTensor{info: t, rows: t.Dims[len(t.Dims)-1]}
	e.rowBytes = int(t.Bytes() / int64(e.rows))
	e.spec = layout.Spec{Name: name, Shape: append([]int(nil), e.rows)}
	if matrix {
		e.spec.Shape = append(e.spec.Shape, t.Dims[0])
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
		if name == embeddingName {
			e.spec.DType, e.decoded = safetensors.F32, true
			break
		}
		e.spec.DType, e.spec.Shape[1] = safetensors.U8, e.rowBytes
		base, _ := layout.CutWeight(name)
		g.layers = append(g.layers, layout.Layer{
			Name: base, Out: e.rows, In: t.Dims[0],
			Scheme: quant.Scheme{Bits: t.Type.CodeBits(), GroupSize: t.Type.Group(), Symmetric: symmetricType(t.Type)},
		})
	}
	if heads := rotaryRows(m.arch, name, m.heads, m.kvHeads); heads > 0 {
		if e.rows%(2*heads) != 0 {
			return fmt.Errorf("%d rows are not an even number for each of %d heads", e.rows, heads)
		}
		e.head = e.rows / heads
	}
	g.names = append(g.names, name)
	g.tensors[name] = e
	return nil
}

func (g *modelFile) Names() []string { return g.names }

func (g *modelFile) Spec(name string) (layout.Spec, bool) {
	e, ok := g.tensors[name]
	return e.spec, ok
}

func (g *modelFile) File(string) string { return g.path }

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
	if e.head == 0 && !e.decoded {
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

func (g *modelFile) readFile(e fileTensor, p []byte, off int64) error {
	if err := g.f.ReadAt(e.info.Name, p, off); err != nil {
		return fmt.Errorf("%s: %w", g.path, err)
	}
	return nil
}

// readRow reads Hugging Face's row r.
func (g *modelFile) readRow(e fileTensor, dst []byte, r int) error {
	if e.head > 0 {
		r = interleaved(r, e.head)
	}
	if !e.decoded {
		return g.readFile(e, dst, int64(r)*int64(e.rowBytes))
	}
	packed := make([]byte, e.rowBytes)
	if err := g.readFile(e, packed, int64(r)*int64(e.rowBytes)); err != nil {
		return err
	}
	values := make([]float32, e.info.Dims[0])
	if err := e.info.Type.Decode(values, packed); err != nil {
		return err
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

// symmetric reports whether a type has no minimum.
func symmetricType(t gguf.Type) bool {
	return !t.HasMin() && t != gguf.Q2_K && t != gguf.Q4_K && t != gguf.Q5_K
}

// Weight gives the blocks as groups of 32. Types with a minimum are a weight
// only if every minimum is a whole multiple of its scale, and those of 256
// values never.
func (g *modelFile) Weight(name string) (*quant.Weight, error) {
	e, data, err := g.blocks(name)
	if err != nil {
		return nil, err
	}
	t := e.info.Type
	if t.Bits() == 0 {
		return nil, layout.TensorError(g, name+layout.WeightSuffix, "type %v has quantized scales: %w", t, layout.ErrNotWeight)
	}
	w := quant.NewWeight(e.rows, e.info.Dims[0], quant.Scheme{
		Bits: t.Bits(), GroupSize: gguf.BlockLen, Symmetric: !t.HasMin(),
	})
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

// fileShape is what the metadata says of the model's shape.
type fileShape struct {
	arch           string
	layers         int
	heads, kvHeads int
}

func readFileShape(f *gguf.File) (*fileShape, error) {
	v, _ := f.Value("general.architecture")
	arch, _ := v.(string)
	if _, ok := classes[arch]; !ok {
		return nil, layout.Unsupported("general.architecture %q is not read, only llama, qwen2 and qwen3", arch)
	}
	m := &fileShape{arch: arch}
	r := metadata{f: f, prefix: arch + "."}
	m.layers = r.need("block_count")
	m.heads = r.need("attention.head_count")
	m.kvHeads = r.int("attention.head_count_kv", m.heads)
	if n := r.int("expert_count", 0); n != 0 && r.err == nil {
		r.err = layout.Unsupported("a mixture of %d experts is not read", n)
	}
	return m, r.err
}

// config makes a config.json.
func (m *fileShape) config(f *gguf.File, src *modelFile, embedding fileTensor) (json.RawMessage, error) {
	r := metadata{f: f, prefix: m.arch + "."}
	hidden := r.need("embedding_length")
	headDim := r.int("attention.key_length", 0)
	if headDim == 0 {
		headDim = hidden / m.heads
	}
	for _, key := range []string{"attention.value_length", "rope.dimension_count"} {
		if d := r.int(key, headDim); d != headDim && r.err == nil {
			r.err = layout.Unsupported("%s is %d, but heads are %d wide", r.prefix+key, d, headDim)
		}
	}
	theta := r.float("rope.freq_base", "10000")
	_, head := src.tensors[headName]
	prefix := blockPrefix(0)
	has := func(name string) bool { _, ok := src.tensors[prefix+name]; return ok }
	o := &layout.Object{}
	set := func(key string, v any) {
		data, err := json.Marshal(v)
		if err != nil && r.err == nil {
			r.err = fmt.Errorf("%s: %w", key, err)
		}
		o.Set(key, data)
	}
	set("architectures", []string{classes[m.arch]})
	set("model_type", m.arch)
	set("vocab_size", embedding.rows)
	set("hidden_size", hidden)
	set("intermediate_size", r.need("feed_forward_length"))
	set("num_hidden_layers", m.layers)
	set("num_attention_heads", m.heads)
	set("num_key_value_heads", m.kvHeads)
	set("head_dim", headDim)
	set("hidden_act", "silu")
	set("max_position_embeddings", r.need("context_length"))
	set("rms_norm_eps", r.float("attention.layer_norm_rms_epsilon", ""))
	set("rope_theta", theta)
	scaling, err := r.ropeScaling(headDim, theta)
	if err != nil && r.err == nil {
		r.err = err
	}
	set("rope_scaling", scaling)
	if m.arch != archQwen2 {
		set("attention_bias", has("self_attn.o_proj.bias") || has("self_attn.q_proj.bias"))
	}
	if m.arch == archLlama {
		set("mlp_bias", has("mlp.down_proj.bias") || has("mlp.up_proj.bias"))
	}
	set("tie_word_embeddings", !head)
	dtype := map[gguf.Type]string{gguf.F32: "float32", gguf.BF16: "bfloat16"}[embedding.info.Type]
	if dtype == "" {
		dtype = "float16"
	}
	set("torch_dtype", dtype)
	for _, role := range []string{"bos", "eos"} {
		if id := r.absolute("tokenizer.ggml."+role+"_token_id", -1); id >= 0 && id < embedding.rows {
			set(role+"_token_id", id)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return o.Bytes(), nil
}

// metadata reads metadata and keeps the first error.
type metadata struct {
	f      *gguf.File
	prefix string
	err    error
}

// ropeScaling gives rope_scaling of a config.json, nil if there is none.
func (r *metadata) ropeScaling(headDim int, theta json.Number) (map[string]any, error) {
	kind := ""
	if v, ok := r.f.Value(r.prefix + "rope.scaling.type"); ok {
		kind, _ = v.(string)
	}
	factor := r.float("rope.scaling.factor", r.float("rope.scale_linear", "1"))
	switch kind {
	case "", "none", "linear":
	default:
		return nil, layout.Unsupported("%srope.scaling.type %q is not read, only none and linear", r.prefix, kind)
	}
	t, ok := r.f.Tensor(nameRopeFreqs)
	if !ok {
		if kind == "none" || factor == "1" || factor == "0" {
			return nil, nil
		}
		return map[string]any{"rope_type": "linear", "factor": factor}, nil
	}
	if kind == "linear" && factor != "1" {
		return nil, layout.Unsupported("both %q and a linear scaling", nameRopeFreqs)
	}
	if t.Type != gguf.F32 || len(t.Dims) != 1 || t.Dims[0] != headDim/2 {
		return nil, fmt.Errorf("tensor %q: %v %v, want %d F32", t.Name, t.Type, t.Dims, headDim/2)
	}
	data := make([]byte, t.Bytes())
	if err := r.f.ReadAt(t.Name, data, 0); err != nil {
		return nil, err
	}
	factors := make([]float32, t.Dims[0])
	if err := t.Type.Decode(factors, data); err != nil {
		return nil, err
	}
	base, err := theta.Float64()
	if err != nil {
		return nil, err
	}
	s, ok := findLlama3(factors, base)
	if !ok {
		return nil, layout.Unsupported("the factors in %q are of no llama3 scaling", t.Name)
	}
	return map[string]any{
		"rope_type": s.kind, "factor": s.factor, "low_freq_factor": s.lowFreq,
		"high_freq_factor": s.highFreq, "original_max_position_embeddings": s.originalContext,
	}, nil
}

// maxCount bounds what the metadata may say: products of two such numbers fit
// an int of 64 bits, and no model comes near.
const maxCount = 1 << 30

func (r *metadata) need(key string) int {
	if _, ok := r.f.Value(r.prefix + key); !ok && r.err == nil {
		r.err = fmt.Errorf("no key %q", r.prefix+key)
	}
	n := r.int(key, 1)
	if n < 1 && r.err == nil {
		r.err = fmt.Errorf("key %q: %d, want at least 1", r.prefix+key, n)
	}
	return max(n, 1)
}

func (r *metadata) int(key string, missing int) int { return r.absolute(r.prefix+key, missing) }

// absolute reads an unsigned number, or an array with one entry for each
// layer if they are all the same.
func (r *metadata) absolute(key string, missing int) int {
	v, ok := r.f.Value(key)
	if !ok {
		return missing
	}
	n, ok := countOf(v)
	if !ok {
		if r.err == nil {
			r.err = fmt.Errorf("key %q: a %T, want one number from 0 to %d", key, v, maxCount)
		}
		return missing
	}
	return n
}

func countOf(v any) (int, bool) {
	fits := func(u uint64) (int, bool) {
		if u > maxCount {
			return 0, false // negative numbers too
		}
		return int(u), true
	}
	same := func(n int, at func(int) any) (int, bool) {
		if n == 0 {
			return 0, false
		}
		for i := range n {
			if at(i) != at(0) {
				return 0, false
			}
		}
		return countOf(at(0))
	}
	switch v := v.(type) {
	case uint8:
		return int(v), true
	case uint16:
		return int(v), true
	case uint32:
		return fits(uint64(v))
	case uint64:
		return fits(v)
	case int8:
		return fits(uint64(v))
	case int16:
		return fits(uint64(v))
	case int32:
		return fits(uint64(v))
	case int64:
		return fits(uint64(v))
	case []uint32:
		return same(len(v), func(i int) any { return v[i] })
	case []int32:
		return same(len(v), func(i int) any { return v[i] })
	}
	return 0, false
}

// float reads a number as the shortest decimal that gives it, so that 1e-05
// does not become 9.999999747378752e-06. An empty default is an error if the
// key is not there.
func (r *metadata) float(key string, missing json.Number) json.Number {
	v, ok := r.f.Value(r.prefix + key)
	var s string
	switch v := v.(type) {
	case float32:
		s = strconv.FormatFloat(float64(v), 'g', -1, 32)
	case float64:
		s = strconv.FormatFloat(v, 'g', -1, 64)
	}
	if !ok && missing != "" {
		return missing
	}
	if f, err := strconv.ParseFloat(s, 64); err != nil || f-f != 0 {
		if r.err == nil {
			r.err = fmt.Errorf("key %q: %q (%T), want a finite floating-point number", r.prefix+key, s, v)
		}
		return "1"
	}
	return json.Number(s)
}
