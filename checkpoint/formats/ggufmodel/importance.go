package ggufmodel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/imatrix"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
)

// Importance is an importance matrix of llama.cpp's as it is about the linears of one
// model: the sums of the squares of their inputs over a text. Without any it is nil:
// Squares, Calibration, Note and Digest then know nothing.
type Importance struct {
	model   string
	tensors map[string][]linear // by the names in a GGUF file: what is stacked there
	layers  map[string]squares
}

// linear is a linear layer, without ".weight", and the number of its inputs.
type linear struct {
	name string
	in   int
}

type squares struct {
	sums  []float32
	count float32
}

// NewImportance returns an importance matrix of a model, without entries. Models of an
// architecture for which llama.cpp's names are not known here are refused, with an error
// that wraps layout.ErrUnsupported.
func NewImportance(src layout.Origin) (*Importance, error) {
	m, err := arch.ParseConfig(src.Config())
	if err != nil {
		return nil, fmt.Errorf("%s: importance matrix: %s: %w", src.Path(), layout.ConfigFile, err)
	}
	if m.GGUF == nil {
		return nil, fmt.Errorf("%s: importance matrix: %w", src.Path(), layout.Unsupported("llama.cpp's names for the matrices of a %s are not known", m.ModelType))
	}
	if err := m.Fit(weights{src}); err != nil {
		return nil, fmt.Errorf("%s: importance matrix: %w", src.Path(), err)
	}
	p := &Importance{model: src.Path(), tensors: map[string][]linear{}, layers: map[string]squares{}}
	inputs := map[string]int{}
	for _, l := range m.Linears() {
		inputs[l.Name] = l.In
	}
	for _, t := range m.GGUFTensors() {
		var stack []linear
		for _, part := range t.Parts {
			name, ok := layout.CutWeight(part)
			in := inputs[name]
			if shape, there := src.Shape(part); t.Outer && there && len(shape) == 2 {
				in = shape[1]
			}
			if ok && in > 0 {
				stack = append(stack, linear{name, in})
			}
		}
		if _, twice := p.tensors[t.Name]; !twice && len(stack) == len(t.Parts) {
			p.tensors[t.Name] = stack
		}
	}
	return p, nil
}

// ReadImportance reads a file of either of llama.cpp's forms: the GGUF one
// (general.type "imatrix") or the older one without a header. Entries for other tensors
// than linears of the model do not matter, but one must be for such; one of another width
// is an error, and so are values that are no sums of squares. Errors name the file.
func ReadImportance(path string, src layout.Origin) (*Importance, error) {
	p, err := NewImportance(src)
	if err != nil {
		return nil, err
	}
	f, err := imatrix.Read(path)
	if err != nil {
		return nil, err
	}
	for _, e := range f.Entries {
		stack, ok := p.tensors[e.Name]
		if !ok {
			continue
		}
		in := stack[0].in
		if len(e.Sums) != in*len(stack) || len(e.Counts) != 1 && len(e.Counts) != len(stack) {
			return nil, fmt.Errorf("%s: entry %q: %d values in %d parts, want %d of %d matrices with %d inputs in %s: the importance matrix is of another model",
				path, e.Name, len(e.Sums), len(e.Counts), in*len(stack), len(stack), in, p.model)
		}
		for i, l := range stack {
			p.layers[l.name] = squares{e.Sums[i*in : (i+1)*in], e.Counts[i%len(e.Counts)]}
		}
	}
	if len(p.layers) == 0 {
		return nil, fmt.Errorf("%s: none of its %d entries (%q is the first) is of a matrix of %s: the importance matrix is of another model", path, len(f.Entries), f.Entries[0].Name, p.model)
	}
	return p, nil
}

// Set sets the entry of a layer, named without ".weight": the sums of the squares of its
// inputs, [in], and over how many inputs they are.
func (p *Importance) Set(layer string, sums []float32, count int) {
	p.layers[layer] = squares{sums, float32(count)}
}

// Write writes the GGUF form. The text had the names in datasets and was cut into chunks
// of chunkSize tokens. Of experts without an entry the counts are 0.
func (p *Importance) Write(path string, datasets []string, chunks, chunkSize int) error {
	f := &imatrix.File{Datasets: datasets, Chunks: chunks, ChunkSize: chunkSize}
	for name, stack := range p.tensors {
		e, any := imatrix.Entry{Name: name}, false
		for _, l := range stack {
			s, ok := p.layers[l.name]
			if any = any || ok; !ok {
				s.sums = make([]float32, l.in)
			}
			e.Sums, e.Counts = append(e.Sums, s.sums...), append(e.Counts, s.count)
		}
		if any {
			f.Entries = append(f.Entries, e)
		}
	}
	return f.Write(path)
}

// Squares are the means of the squares of a layer's inputs, [in]; nil where they are not
// known.
func (p *Importance) Squares(layer string) []float32 {
	if p == nil || p.layers[layer].count == 0 {
		return nil
	}
	s := p.layers[layer]
	mean := make([]float32, len(s.sums))
	for i, v := range s.sums {
		mean[i] = v / s.count
	}
	return mean
}

// Calibration is what quantizers are shown of the layer's inputs: second moments that are
// 0 beside the diagonal. It is nil where Squares is.
func (p *Importance) Calibration(layer string) *quant.Calibration {
	mean := p.Squares(layer)
	if mean == nil {
		return nil
	}
	return quant.NewDiagonalCalibration(mean, max(1, int(p.layers[layer].count)))
}

// Note says why nothing is known of a layer's inputs; "" if something is, or p is nil.
func (p *Importance) Note(layer string) string {
	if p == nil {
		return ""
	}
	switch s, ok := p.layers[layer]; {
	case !ok:
		return "the importance matrix has no entry for it: rounded to nearest, all its inputs count alike"
	case s.count == 0:
		return "no token of the importance matrix's text reached it: rounded to nearest, all its inputs count alike"
	}
	return ""
}

// Digest identifies what is known of all layers; "" for nil.
func (p *Importance) Digest() string {
	if p == nil {
		return ""
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(p.layers)) {
		s := p.layers[name]
		values := append([]float32{s.count}, s.sums...)
		data := make([]byte, 4*len(values))
		wire.Encode(data, wire.F32, values)
		h.Write(append([]byte(name), 0))
		h.Write(data)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
