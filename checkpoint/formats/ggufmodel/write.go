package ggufmodel

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
)

// plannedTensor is a tensor to be written.
type plannedTensor struct {
	info gguf.Tensor
	name string // in Hugging Face's spelling
	// write appends the data.
	write func(w *gguf.Writer, t plannedTensor) error
}

// assembly is what the tensors of one file are made from.
type assembly struct {
	g      Format
	shape  *modelShape
	src    layout.Origin
	layers map[string]layout.Layer
	weight func(name string) (*quant.Weight, error)
}

// Write makes the file: metadata, tokenizer and tensors.
func (g Format) Write(ctx context.Context, path string, src layout.Origin, layers []layout.Layer, weight func(name string) (*quant.Weight, error)) error {
	if err := g.CheckModel(src.Config()); err != nil {
		return fmt.Errorf("%s: %w", src.Path(), err)
	}
	shape, err := readShape(src.Config())
	if err != nil {
		return fmt.Errorf("%s: %w", src.Path(), err)
	}
	if err := checkTensors(src); err != nil {
		return fmt.Errorf("%s: %w", src.Path(), err)
	}
	a := &assembly{g: g, shape: shape, src: src, layers: map[string]layout.Layer{}, weight: weight}
	for _, l := range layers {
		if err := g.Check(l); err != nil {
			return fmt.Errorf("layer %s: %w", l.Name, err)
		}
		a.layers[l.Name] = l
	}
	tensors, err := a.plan()
	if err != nil {
		return fmt.Errorf("%s: %w", src.Path(), err)
	}
	tokens, err := tokenizerKV(src, shape.vocab)
	if err != nil {
		return err
	}
	infos := make([]gguf.Tensor, len(tensors))
	for i, t := range tensors {
		infos[i] = t.info
	}
	w, err := gguf.CreateOn(disk.From(ctx), path, append(a.metadata(infos), tokens...), infos)
	if err != nil {
		return err
	}
	err = parallel.For(ctx, 0, len(tensors), func(i int) error {
		if err := tensors[i].write(w, tensors[i]); err != nil {
			return fmt.Errorf("tensor %q: %w", tensors[i].name, err)
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, w.Abort())
	}
	return w.Close()
}

// plan lists the tensors in file order.
func (a *assembly) plan() ([]plannedTensor, error) {
	var tensors []plannedTensor
	if f := ropeFactors(a.shape); f != nil {
		tensors = append(tensors, plannedTensor{
			info: gguf.Tensor{Name: nameRopeFreqs, Type: gguf.F32, Dims: []int{len(f)}}, name: nameRopeFreqs,
			write: func(w *gguf.Writer, t plannedTensor) error { return appendFloats(w, t, f) },
		})
	}
	used := map[string]bool{}
	for _, n := range tensorNames(a.shape.layers) {
		shape, ok := a.src.Shape(n[0])
		if !ok {
			continue
		}
		used[n[0]] = true
		if _, packed := a.layerOf(n[0]); n[0] == headName && a.shape.tied && !packed {
			continue // the engine takes the embedding, as Hugging Face does
		}
		t := plannedTensor{info: gguf.Tensor{Name: n[1]}, name: n[0]}
		for i := len(shape) - 1; i >= 0; i-- {
			t.info.Dims = append(t.info.Dims, shape[i])
		}
		t.info.Type, t.write = a.typeOf(n[0], shape)
		tensors = append(tensors, t)
	}
	return tensors, a.checkRest(used)
}

// checkRest refuses tensors that would be lost.
func (a *assembly) checkRest(used map[string]bool) error {
	for name := range a.layers {
		if !used[name+layout.WeightSuffix] {
			return fmt.Errorf("layer %q has no place in a model of %d layers", name, a.shape.layers)
		}
	}
	for _, s := range a.src.Dense() {
		// Older checkpoints store the frequencies that follow from the config.
		if !used[s.Name] && !strings.HasSuffix(s.Name, ".rotary_emb.inv_freq") {
			return fmt.Errorf("tensor %q: %w", s.Name, layout.Unsupported("GGUF has no name for it in a model of %d layers", a.shape.layers))
		}
	}
	return nil
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
func (a *assembly) typeOf(name string, shape []int) (gguf.Type, func(*gguf.Writer, plannedTensor) error) {
	if l, ok := a.layerOf(name); ok {
		return blockType(l.Scheme), func(w *gguf.Writer, t plannedTensor) error { return a.writePacked(w, t, l) }
	}
	if len(shape) == 1 {
		return gguf.F32, a.writeVector
	}
	if f, ok := a.src.Source().(*modelFile); ok && a.g == (Format{}) {
		// What is read from a GGUF keeps its type, so that rewriting changes nothing.
		if e := f.tensors[name]; e.decoded {
			return e.info.Type, func(w *gguf.Writer, t plannedTensor) error { return copyBlocks(w, t, f, e) }
		} else if e.info.Type.Writable() {
			return e.info.Type, a.writeMatrix
		}
	}
	return a.g.denseType(name, shape[len(shape)-1]), a.writeMatrix
}

func (a *assembly) writePacked(w *gguf.Writer, t plannedTensor, l layout.Layer) error {
	q, err := a.weight(l.Name)
	if err != nil {
		return err
	}
	if q.Out != t.info.Dims[1] || q.In != t.info.Dims[0] {
		return fmt.Errorf("weight of shape [%d %d], want [%d %d]", q.Out, q.In, t.info.Dims[1], t.info.Dims[0])
	}
	var row func(int) int
	if dim := a.headDim(t.name, q.Out); dim > 0 {
		row = func(r int) int { return interleaved(r, dim) }
	}
	data, err := packRows(q, t.info.Type, row)
	if err != nil {
		return err
	}
	return w.Append(t.info.Name, data)
}

// headDim is the number of rows of a head where rows change places, else 0.
func (a *assembly) headDim(name string, rows int) int {
	heads := rotaryRows(a.shape.arch, name, a.shape.heads, a.shape.kvHeads)
	if heads == 0 {
		return 0
	}
	return rows / heads
}

func (a *assembly) writeVector(w *gguf.Writer, t plannedTensor) error {
	v, err := a.src.Vector(t.name)
	if err != nil {
		return err
	}
	if dim := a.headDim(t.name, len(v)); dim > 0 {
		moved := make([]float32, len(v))
		for r, x := range v {
			moved[interleaved(r, dim)] = x
		}
		v = moved
	}
	return appendFloats(w, t, v)
}

// writeMatrix writes a dense matrix some rows at a time, so that a large
// embedding is never in memory as a whole.
func (a *assembly) writeMatrix(w *gguf.Writer, t plannedTensor) error {
	rows, cols := t.info.Dims[1], t.info.Dims[0]
	dim := a.headDim(t.name, rows)
	step := max(1, (1<<20)/cols)
	if dim > 0 {
		step = 1 // neighbours in the file are none in the source
	}
	values := make([]float32, step*cols)
	data := make([]byte, step*t.info.Type.RowBytes(cols))
	for r := 0; r < rows; r += step {
		n := min(step, rows-r)
		from := r
		if dim > 0 {
			from = deinterleaved(r, dim)
		}
		v, err := a.src.Rows(t.name, from, from+n, values)
		if err != nil {
			return err
		}
		b := data[:n*t.info.Type.RowBytes(cols)]
		if err := t.info.Type.Encode(b, v); err != nil {
			return fmt.Errorf("%w: store dense tensors as BF16 or F32", err)
		}
		if err := w.Append(t.info.Name, b); err != nil {
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

// metadata describes the model (ggml's docs/gguf.md, llama-arch.cpp).
func (a *assembly) metadata(tensors []gguf.Tensor) []gguf.KV {
	m, p := a.shape, a.shape.arch+"."
	kv := []gguf.KV{
		{Key: "general.architecture", Value: m.arch},
		{Key: "general.type", Value: "model"},
		{Key: "general.name", Value: modelName(a.src.Path())},
		{Key: "general.file_type", Value: fileType(tensors)},
		{Key: "general.quantization_version", Value: uint32(2)},
		{Key: p + "vocab_size", Value: uint32(m.vocab)},
		{Key: p + "context_length", Value: uint32(m.context)},
		{Key: p + "embedding_length", Value: uint32(m.hidden)},
		{Key: p + "block_count", Value: uint32(m.layers)},
		{Key: p + "feed_forward_length", Value: uint32(m.intermediate)},
		{Key: p + "attention.head_count", Value: uint32(m.heads)},
		{Key: p + "attention.head_count_kv", Value: uint32(m.kvHeads)},
		{Key: p + "attention.layer_norm_rms_epsilon", Value: float32(m.normEps)},
		{Key: p + "rope.dimension_count", Value: uint32(m.headDim)},
		{Key: p + "rope.freq_base", Value: float32(m.ropeTheta)},
	}
	if m.headDim*m.heads != m.hidden || m.arch == archQwen3 {
		kv = append(kv,
			gguf.KV{Key: p + "attention.key_length", Value: uint32(m.headDim)},
			gguf.KV{Key: p + "attention.value_length", Value: uint32(m.headDim)})
	}
	if m.scaling.kind == "linear" {
		kv = append(kv,
			gguf.KV{Key: p + "rope.scaling.type", Value: "linear"},
			gguf.KV{Key: p + "rope.scaling.factor", Value: float32(m.scaling.factor)})
	}
	return kv
}

func modelName(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return filepath.Base(path)
}

// fileType is llama.cpp's llama_ftype: the type that most weights have.
func fileType(tensors []gguf.Tensor) uint32 {
	numbers := []struct {
		t gguf.Type
		n uint32
	}{
		{gguf.F32, 0}, {gguf.F16, 1}, {gguf.Q4_0, 2}, {gguf.Q4_1, 3},
		{gguf.Q8_0, 7}, {gguf.Q5_0, 8}, {gguf.Q5_1, 9}, {gguf.BF16, 32},
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
