package distill

import (
	"maps"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Student is the quantized model: the unquantized one's tensors with those of quantized
// layers, and the vectors that scales were folded into, in their place.
type Student struct {
	program.Weights
	vectors map[string][]float32
	layers  map[string]*layer // by name of the weight
	workers int
}

// NewStudent begins a quantized model of what is read from source.
func NewStudent(source program.Weights, workers int) *Student {
	return &Student{Weights: source, vectors: map[string][]float32{}, layers: map[string]*layer{}, workers: workers}
}

// Put adds a layer. original [out, in] is its weight before it was quantized, with all
// that is folded into it; if it is nil, or the codes of the grid are not evenly spaced, they
// stay.
func (s *Student) Put(l program.LinearInfo, w *quant.Weight, original *tensor.Matrix) {
	s.layers[l.WeightName()] = newLayer(l.Name, w, original, s.workers)
}

// PutVectors adds gains and biases that scales were folded into.
func (s *Student) PutVectors(all map[string][]float32) {
	maps.Copy(s.vectors, all)
}

// Matrix implements program.Weights.
func (s *Student) Matrix(name string) (*tensor.Matrix, error) {
	if l := s.layers[name]; l != nil {
		return l.dense, nil
	}
	return s.Weights.Matrix(name)
}

// Vector implements program.Weights.
func (s *Student) Vector(name string) ([]float32, error) {
	if v, ok := s.vectors[name]; ok {
		return v, nil
	}
	return s.Weights.Vector(name)
}

// QuantizedWeight implements program.Quantized.
func (s *Student) QuantizedWeight(name string) bool {
	if s.layers[name] != nil {
		return true
	}
	q, ok := s.Weights.(program.Quantized)
	return ok && q.QuantizedWeight(name)
}

// of is the layer of a linear, nil if it is not quantized.
func (s *Student) of(l program.LinearInfo) *layer { return s.layers[l.WeightName()] }

// stored is every layer as a file holds it.
func (s *Student) stored() map[string]*quant.Weight {
	all := map[string]*quant.Weight{}
	for _, l := range s.layers {
		all[l.name] = l.stored()
	}
	return all
}

// compute has the model compute with these weights, or with nil as tuned so far.
func (s *Student) compute(stored map[string]*quant.Weight) {
	for _, l := range s.layers {
		w := l.now
		if stored != nil {
			w = stored[l.name]
		}
		l.dense = w.Dequantize()
	}
}

// scales is how many there are.
func (s *Student) scales() int {
	n := 0
	for _, l := range s.layers {
		n += len(l.base)
	}
	return n
}

// coded reports whether codes are tuned.
func (s *Student) coded() bool {
	for _, l := range s.layers {
		if l.latents != nil {
			return true
		}
	}
	return false
}

// bits is the least of a code.
func (s *Student) bits() int {
	least := 8
	for _, l := range s.layers {
		least = min(least, l.now.Scheme.Bits)
	}
	return least
}

// Memory is about how many bytes tuning takes for a model with so many quantized
// weights, with text of so many tokens.
func Memory(m *decoder.Model, weights int64, tokens int, codes bool) int64 {
	each := int64(5) // as floats and packed
	if codes {
		each += 12 // a latent and its moments
	}
	var block, width int64
	for _, b := range m.Blocks {
		block, width = max(block, b.Bytes()), max(width, int64(b.BackwardWidth(true)))
	}
	return each*weights + 3*block + 4*BatchTokens*(width+int64(m.Hidden)*int64(m.Layers+2)) + 8*int64(tokens)*int64(m.Hidden)
}
