package ggufmodel

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel/internal/about"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel/internal/ordering"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// plannedTensor is a tensor to be written.
type plannedTensor struct {
	decoder.GGUFTensor
	info gguf.Tensor
	// write appends the data.
	write func(w *gguf.Writer, t plannedTensor) error
}

// assembly is what the tensors of one file are made from.
type assembly struct {
	g      Format
	model  *decoder.Model
	src    layout.Origin
	layers map[string]layout.Layer
	weight func(name string) (*quant.Weight, error)
	large  map[string]int       // tensors that did not fit, and how many types of theirs
	types  map[string]gguf.Type // of g.Type, by the names in the file
}

func (g Format) assembly(m *decoder.Model, src layout.Origin, layers []layout.Layer, weight func(string) (*quant.Weight, error)) (*assembly, error) {
	a := &assembly{g: g, model: m, src: unstack(m, src), layers: map[string]layout.Layer{}, weight: weight, large: map[string]int{}}
	if g.Type != "" {
		a.types = g.types(m, a.src, true)
	}
	for _, l := range layers {
		if err := g.Check(l); err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.Name, err)
		}
		a.layers[l.Name] = l
	}
	return a, nil
}

// rangeError says that the values of a tensor do not fit its type.
type rangeError struct {
	tensor string
	err    error
}

func (e *rangeError) Error() string { return e.err.Error() }
func (e *rangeError) Unwrap() error { return e.err }

// Write makes the file: metadata, tokenizer and tensors.
func (g Format) Write(ctx context.Context, path string, src layout.Origin, layers []layout.Layer, weight func(name string) (*quant.Weight, error)) error {
	if err := g.CheckModel(src); err != nil {
		return fmt.Errorf("%s: %w", src.Path(), err)
	}
	m, err := modelOf(src)
	if err != nil {
		return fmt.Errorf("%s: %w", src.Path(), err)
	}
	a, err := g.assembly(m, src, layers, weight)
	if err != nil {
		return err
	}
	tokens, err := tokenizerKV(src, m.Vocab)
	if err != nil {
		return err
	}
	for {
		// What a tensor holds is known when it has been read: where it does not
		// fit, the file is begun anew with a larger type for it.
		err := a.write(ctx, path, tokens)
		var r *rangeError
		if !errors.As(err, &r) || a.large[r.tensor] == mostLarger {
			return err
		}
		a.large[r.tensor]++
	}
}

// mostLarger is how often the type of a tensor is made larger.
const mostLarger = 2

// write makes the file once.
func (a *assembly) write(ctx context.Context, path string, tokens []gguf.KV) error {
	tensors, infos, kv, err := a.layOut()
	if err != nil {
		return fmt.Errorf("%s: %w", a.src.Path(), err)
	}
	w, err := gguf.CreateOn(disk.From(ctx), path, append(kv, tokens...), infos)
	if err != nil {
		return err
	}
	err = parallel.For(ctx, 0, len(tensors), func(i int) error {
		err := tensors[i].write(w, tensors[i])
		if err != nil {
			err = fmt.Errorf("tensor %q: %w", tensors[i].Parts, err)
		}
		if errors.Is(err, gguf.ErrRange) {
			err = &rangeError{tensors[i].info.Name, err}
		}
		return err
	})
	if err != nil {
		return errors.Join(err, w.Abort())
	}
	return w.Close()
}

// layOut is the plan with what the file says of the model and its tensors.
func (a *assembly) layOut() ([]plannedTensor, []gguf.Tensor, []gguf.KV, error) {
	tensors, err := a.plan()
	if err != nil {
		return nil, nil, nil, err
	}
	infos := make([]gguf.Tensor, len(tensors))
	for i, t := range tensors {
		infos[i] = t.info
	}
	kv, err := a.metadata(infos)
	return tensors, infos, kv, err
}

// plan lists the tensors in file order.
func (a *assembly) plan() ([]plannedTensor, error) {
	tensors, err := a.ropePlan()
	if err != nil {
		return nil, err
	}
	used, err := checkRest(a.model, a.src)
	if err != nil {
		return nil, err
	}
	for name := range a.layers {
		if !used[name+layout.WeightSuffix] {
			return nil, fmt.Errorf("layer %q has no place in a model of %d layers", name, a.model.Layers)
		}
	}
	for _, t := range a.model.GGUFTensors() {
		if t.Name == nameHead && a.model.Tied {
			if a.model.GGUF.OwnHead {
				t.Parts = []string{a.model.EmbeddingName()}
			} else if _, packed := a.layerOf(t.Parts[0]); !packed {
				continue // the engine takes the embedding, as Hugging Face does
			}
		}
		p, ok, err := a.planOne(t)
		if err != nil {
			return nil, err
		}
		if ok {
			tensors = append(tensors, p)
			if l, packed := a.layerOf(t.Parts[0]); packed && tensorScaled(l.Scheme) {
				tensors = append(tensors, scalePlan(p))
			}
		}
	}
	return tensors, nil
}

func (a *assembly) ropePlan() ([]plannedTensor, error) {
	names, values, err := ropeTensors(a.model)
	if err != nil {
		return nil, err
	}
	var tensors []plannedTensor
	for i, name := range names {
		tensors = append(tensors, plannedTensor{
			info: gguf.Tensor{Name: name, Type: gguf.F32, Dims: []int{len(values[i])}}, GGUFTensor: decoder.GGUFTensor{Parts: []string{name}},
			write: func(w *gguf.Writer, t plannedTensor) error { return appendFloats(w, t, values[i]) },
		})
	}
	return tensors, nil
}

// planOne plans a tensor; ok is false if it is not there.
func (a *assembly) planOne(t decoder.GGUFTensor) (p plannedTensor, ok bool, err error) {
	shape, ok := a.src.Shape(t.Parts[0])
	if !ok {
		return p, false, nil
	}
	_, packed := a.layerOf(t.Parts[0])
	for _, part := range t.Parts[1:] {
		other, ok := a.src.Shape(part)
		if !ok || !slices.Equal(shape, other) {
			return p, false, fmt.Errorf("tensor %q: shape %v, want %v as %q", part, other, shape, t.Parts[0])
		}
		l, also := a.layerOf(part)
		if first, _ := a.layerOf(t.Parts[0]); also != packed || packed && (blockType(l.Scheme) != blockType(first.Scheme) || tensorScaled(l.Scheme) != tensorScaled(first.Scheme)) {
			return p, false, fmt.Errorf("tensors %q and %q: %w", t.Parts[0], part, layout.Unsupported("the engine has all experts of a block in one tensor of one type"))
		}
	}
	t.Transposed = t.Transposed && !packed
	if shape, err = a.part(t, shape, packed); err != nil {
		return p, false, err
	}
	p = plannedTensor{GGUFTensor: t, info: gguf.Tensor{Name: t.Name}}
	for i := len(shape) - 1; i >= 0; i-- {
		p.info.Dims = append(p.info.Dims, shape[i])
	}
	if t.Transposed {
		slices.Reverse(p.info.Dims)
	}
	if t.Dims != nil || t.NegExp {
		return a.planReshaped(p, shape)
	}
	if t.Flat {
		p.info.Dims = []int{shape[0] * shape[1]}
	}
	rows := 1
	if len(p.info.Dims) > 1 {
		rows = p.info.Dims[1]
	}
	if t.From != nil && len(t.From) != rows && len(p.info.Dims) > 1 {
		return p, false, fmt.Errorf("tensor %q: %d rows, want %d", t.Parts[0], rows, len(t.From))
	}
	p.info.Type, p.write = a.typeOf(p)
	if t.Stacked {
		p.info.Dims = append(p.info.Dims, len(t.Parts))
	}
	return p, true, nil
}

// part is the shape of what a tensor has of one of another shape.
func (a *assembly) part(t decoder.GGUFTensor, shape []int, packed bool) ([]int, error) {
	if n := len(t.Cols); n > 0 && len(shape) == 2 && packed {
		l, _ := a.layerOf(t.Parts[0])
		if block := blockType(l.Scheme).Block(); shape[1]/n%block != 0 {
			return nil, fmt.Errorf("tensor %q: %w", t.Parts[0], layout.Unsupported("the engine has heads of %d inputs in another order, no whole blocks of %d", shape[1]/n, block))
		}
	}
	switch shape = slices.Clone(shape); {
	case t.Total > 0 && shape[0] == t.Total:
		shape[0] = len(t.From)
	case t.Bands > 0 && (t.Total > 0 || shape[0]%t.Bands != 0):
		return nil, fmt.Errorf("tensor %q: %d rows, want a multiple of %d", t.Parts[0], shape[0], max(t.Bands, t.Total))
	case t.Bands > 0:
		shape[0] /= t.Bands
	}
	return shape, nil
}

// planReshaped plans a tensor of float32 that has other dimensions, or values.
func (a *assembly) planReshaped(p plannedTensor, shape []int) (plannedTensor, bool, error) {
	p.info.Type = gguf.F32
	if p.Dims != nil {
		p.info.Dims = p.Dims
	}
	if n := product(shape); n != product(p.info.Dims) {
		return p, false, fmt.Errorf("tensor %q: shape %v, want %d elements", p.Parts[0], shape, product(p.info.Dims))
	}
	p.write = func(w *gguf.Writer, t plannedTensor) error {
		if f, ok := a.src.Source().(*modelFile); ok && t.NegExp {
			return copyBlocks(w, t, f, f.tensors[t.Parts[0]]) // there and back is not exact
		}
		read := func() ([]float32, error) { return a.src.Rows(t.Parts[0], 0, shape[0], nil) }
		if len(shape) == 1 {
			read = func() ([]float32, error) { return a.src.Vector(t.Parts[0]) }
		}
		v, err := read()
		if err != nil {
			return err
		}
		if t.From != nil {
			v = ordering.Gather(v, len(v), t.From)
		}
		if t.NegExp {
			v = slices.Clone(v)
			for i, x := range v {
				v[i] = float32(-math.Exp(float64(x)))
			}
		}
		data := make([]byte, 4*len(v))
		if err := gguf.F32.Encode(data, v); err != nil {
			return err
		}
		return w.Append(t.info.Name, data)
	}
	return p, true, nil
}

func product(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}

func (a *assembly) layerOf(tensor string) (layout.Layer, bool) {
	base, ok := layout.CutWeight(tensor)
	if !ok {
		return layout.Layer{}, false
	}
	l, ok := a.layers[base]
	return l, ok
}

// typeOf chooses the type of a tensor and how it is written.
func (a *assembly) typeOf(t plannedTensor) (gguf.Type, func(*gguf.Writer, plannedTensor) error) {
	name, dims := t.Parts[0], t.info.Dims
	if l, ok := a.layerOf(name); ok {
		t, large := blockType(l.Scheme), a.large[t.info.Name]
		if t == gguf.Q4_1 && large > 0 && l.Scheme.Grid == nil {
			t = gguf.Q5_0
		}
		return t, a.writePacked
	}
	if len(dims) == 1 {
		return gguf.F32, a.writeVectors
	}
	write := a.writeMatrices
	if t.Transposed {
		write = a.writeTransposed
	}
	if f, ok := a.src.Source().(*modelFile); ok && a.g == (Format{}) {
		// What is read from a GGUF keeps its type, so that rewriting changes nothing.
		if e := f.tensors[name]; e.decoded && e.bands == nil {
			return e.info.Type, func(w *gguf.Writer, t plannedTensor) error { return copyBlocks(w, t, f, e) }
		} else if e.info.Type.Writable() {
			return a.larger(e.info.Type, t), write
		}
	}
	return a.larger(a.g.denseType(t.GGUFTensor, a.types[t.info.Name], dims[0]), t), write
}

// larger is the type of a dense tensor whose values did not fit in others.
func (a *assembly) larger(of gguf.Type, t plannedTensor) gguf.Type {
	for range a.large[t.info.Name] {
		switch {
		case of.CodeBits() > 0:
			of = gguf.F16
		case of == gguf.F16:
			of = gguf.BF16
			for _, s := range a.src.Dense() {
				if slices.Contains(t.Parts, s.Name) && s.DType != safetensors.BF16 {
					of = gguf.F32
				}
			}
		default:
			of = gguf.F32
		}
	}
	return of
}

func (a *assembly) writePacked(w *gguf.Writer, t plannedTensor) error {
	for _, part := range t.Parts {
		l, _ := a.layerOf(part)
		q, err := a.weight(l.Name)
		if err != nil {
			return err
		}
		rows, n := t.info.Dims[1], t.info.Type.RowBytes(q.In)
		out := rows * max(1, t.Bands)
		if t.Total > 0 {
			out = t.Total
		}
		if q.Out != out || q.In != t.info.Dims[0] {
			return fmt.Errorf("weight of shape [%d %d], want [%d %d]", q.Out, q.In, out, t.info.Dims[0])
		}
		var row func(int) int
		if t.From != nil {
			to := ordering.Placed(t.From, out)
			row = func(r int) int { return to[r] }
		}
		data, err := packRows(q, t.info.Type, row)
		if err != nil {
			return err
		}
		if t.Total > 0 {
			data = data[:rows*n]
		} else if t.Bands > 0 {
			data = data[t.Band*rows*n:][:rows*n]
		}
		if t.Cols != nil {
			data = ordering.Gather(data, n, t.Cols)
		}
		if err := w.Append(t.info.Name, data); err != nil {
			return err
		}
	}
	return nil
}

func (a *assembly) writeVectors(w *gguf.Writer, t plannedTensor) error {
	for _, part := range t.Parts {
		v, err := a.vector(part, t.Flat)
		if err != nil {
			return err
		}
		if t.From != nil || t.PlusOne {
			v = slices.Clone(v)
		}
		if t.From != nil {
			whole := slices.Clone(v)
			for r, from := range t.From {
				v[r] = whole[from]
			}
		}
		if t.PlusOne {
			for i := range v {
				v[i]++
			}
		}
		if err := appendFloats(w, t, v); err != nil {
			return err
		}
	}
	return nil
}

// vector reads a vector, or a matrix of one row.
func (a *assembly) vector(name string, flat bool) ([]float32, error) {
	if flat {
		return a.src.Rows(name, 0, 1, nil)
	}
	return a.src.Vector(name)
}

// writeMatrices writes dense matrices some rows at a time, so that a large
// embedding is never in memory as a whole.
func (a *assembly) writeMatrices(w *gguf.Writer, t plannedTensor) error {
	rows, cols := t.info.Dims[1], t.info.Dims[0]
	step := max(1, (1<<20)/cols)
	if t.From != nil {
		step = 1 // neighbours in the file are none in the source
	}
	values := make([]float32, step*cols)
	data := make([]byte, step*t.info.Type.RowBytes(cols))
	for _, part := range t.Parts {
		for r := 0; r < rows; r += step {
			n := min(step, rows-r)
			from := t.Band*rows + r
			if t.From != nil {
				from = t.From[r]
			}
			v, err := a.src.Rows(part, from, from+n, values)
			if err != nil {
				return err
			}
			if t.Cols != nil {
				v = ordering.Gather(v, cols, t.Cols)
			}
			b := data[:n*t.info.Type.RowBytes(cols)]
			if err := encode(t.info.Type, b, v, cols); err != nil {
				return err
			}
			if err := w.Append(t.info.Name, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// encode rounds rows to a type.
func encode(t gguf.Type, dst []byte, rows []float32, cols int) error {
	grid, ok := kquant.Of(t)
	if t.Writable() || !ok {
		return t.Encode(dst, rows)
	}
	n := len(rows) / cols
	tasks := min(n, 64)
	err := parallel.For(context.Background(), 0, tasks, func(i int) error {
		a, b := i*n/tasks, (i+1)*n/tasks
		return grid.Encode(dst[t.RowBytes(a*cols):t.RowBytes(b*cols)], rows[a*cols:b*cols])
	})
	if errors.Is(err, quant.ErrScaleRange) {
		return fmt.Errorf("%w: a value %w %v", err, gguf.ErrRange, t)
	}
	return err
}

// writeTransposed writes a dense matrix that is stored as [in, out].
func (a *assembly) writeTransposed(w *gguf.Writer, t plannedTensor) error {
	out, in := t.info.Dims[1], t.info.Dims[0]
	v, err := a.src.Rows(t.Parts[0], 0, in, nil)
	if err != nil {
		return err
	}
	row := make([]float32, in)
	data := make([]byte, t.info.Type.RowBytes(in))
	for r := range out {
		from := r
		if t.From != nil {
			from = t.From[r]
		}
		for i := range row {
			row[i] = v[i*out+from]
		}
		if err := encode(t.info.Type, data, row, in); err != nil {
			return err
		}
		if err := w.Append(t.info.Name, data); err != nil {
			return err
		}
	}
	return nil
}

// copyBlocks copies a matrix whose rows stay where they are.
func copyBlocks(w *gguf.Writer, t plannedTensor, f *modelFile, e fileTensor) error {
	const piece = 1 << 20
	buf := make([]byte, min(piece, e.info.Bytes()))
	for off := int64(0); off < e.info.Bytes(); off += piece {
		p := buf[:min(piece, e.info.Bytes()-off)]
		if err := f.readFile(e, p, off); err != nil {
			return err
		}
		if err := w.Append(t.info.Name, p); err != nil {
			return err
		}
	}
	return nil
}

func appendFloats(w *gguf.Writer, t plannedTensor, v []float32) error {
	data := make([]byte, t.info.Type.RowBytes(len(v)))
	if err := t.info.Type.Encode(data, v); err != nil {
		return err
	}
	return w.Append(t.info.Name, data)
}

// metadata describes the model (ggml's docs/gguf.md, llama-arch.cpp). What the
// numbers of the header cannot say is an error.
func (a *assembly) metadata(tensors []gguf.Tensor) ([]gguf.KV, error) {
	m, g := a.model, a.model.GGUF
	w := &metadataWriter{prefix: g.Name + ".", kv: []gguf.KV{
		{Key: "general.architecture", Value: g.Name},
		{Key: "general.type", Value: "model"},
		{Key: "general.file_type", Value: a.fileType(tensors)},
		{Key: "general.quantization_version", Value: uint32(2)},
	}}
	said, err := a.about(tensors)
	if err != nil {
		return nil, err
	}
	w.kv = append(w.kv, said...)
	w.int("vocab_size", m.Vocab)
	w.int("context_length", contextOf(m))
	w.int("embedding_length", m.Hidden)
	w.int("block_count", m.Layers)
	w.heads(m)
	w.rope(m)
	if n, _ := m.WindowPeriod(); g.Period > 0 && !slices.Equal(spec.Sequence(m.Layers, n), spec.Sequence(m.Layers, g.Period)) {
		w.int(keyPeriod, n)
	}
	w.keys(m)
	numbers, err := a.numberLists()
	if err == nil {
		err = w.err
	}
	return append(w.kv, numbers...), err
}

// about says what is known beside the weights. A model with experts is not named by its
// size: a token meets a part of it.
func (a *assembly) about(tensors []gguf.Tensor) ([]gguf.KV, error) {
	if f, ok := a.src.Source().(*modelFile); ok {
		return about.OfFile(f.f, a.src.Path()), nil
	}
	var n int64
	for _, t := range tensors {
		if len(t.Dims) > 2 {
			n = 0
			break
		}
		n += int64(t.Elements())
	}
	return about.OfFolder(a.src.Files(), a.src.Path(), n)
}

// keyValues is the width of a head's values in config.json.
const keyValues = "v_head_dim"

// keyPeriod is the number of layers after which one has no window.
const keyPeriod = "attention.sliding_window_pattern"

func epsilonKey(g *decoder.GGUF) string {
	if g.LayerNorm {
		return "attention.layer_norm_epsilon"
	}
	return "attention.layer_norm_rms_epsilon"
}

// fileType is llama.cpp's llama_ftype: that of the type asked for, or of the one
// that most weights have.
func (a *assembly) fileType(tensors []gguf.Tensor) uint32 {
	if t, ok := fileTypes[a.g.Type]; ok && !a.g.Pure {
		return t.number
	}
	numbers := []struct {
		t gguf.Type
		n uint32
	}{
		{gguf.F32, 0}, {gguf.F16, 1}, {gguf.Q4_0, 2}, {gguf.Q4_1, 3},
		{gguf.Q8_0, 7}, {gguf.Q5_0, 8}, {gguf.Q5_1, 9}, {gguf.BF16, 32},
		{gguf.Q2_K, 10}, {gguf.Q3_K, 11}, {gguf.Q4_K, 14}, {gguf.Q5_K, 16}, {gguf.Q6_K, 18},
		{gguf.IQ4_NL, 25}, {gguf.IQ4_XS, 30}, {gguf.MXFP4, 38}, {gguf.NVFP4, 39},
	}
	size := map[gguf.Type]int64{}
	for _, t := range tensors {
		if len(t.Dims) > 1 {
			size[t.Type] += int64(t.Elements())
		}
	}
	var most int64
	var best uint32
	for _, x := range numbers {
		if size[x.t] > most {
			most, best = size[x.t], x.n
		}
	}
	return best
}
