package checkpoint

import (
	"fmt"

	"github.com/golowbit/lowbit/checkpoint/internal/parts"
)

// Part is the place of a linear layer in stored tensors that are transposed or
// hold several layers: the [in, out] matrices of GPT-2, all experts of a block,
// gate and up.
type Part struct {
	Layer   string // its own name, without ".weight"
	Out, In int
	// Weight and Bias name the stored tensors. Bias is "" where there is none or
	// it is stored under the layer's own name.
	Weight, Bias string
	Transposed   bool // the last two dimensions of Weight are [in, out]
	// Experts is the first of three dimensions of the weight, and of two of the
	// bias; Expert the index there. With Experts 0 they have two and one.
	Experts, Expert int
	// The stored tensors have this many outputs; the i-th of the layer is
	// Output0 + i*Step of them.
	Outputs, Output0, Step int
}

func storedParts(list []Part) []parts.Part {
	stored := make([]parts.Part, len(list))
	for i, p := range list {
		stored[i] = parts.Part(p)
	}
	return stored
}

// Split shows the model with layers as tensors of their own, "LAYER.weight"
// [Out, In] and "LAYER.bias" [Out], in place of the stored tensors that they lie
// in. list must have all layers of each of these. It shares the model's files;
// closing either closes both.
func (m *Model) Split(list []Part) (*Model, error) {
	if len(list) == 0 {
		return m, nil
	}
	if m.dec != nil {
		return nil, fmt.Errorf("%s: layers of a quantized model are not split", m.path)
	}
	s, err := parts.Split(m.src, storedParts(list))
	if err != nil {
		return nil, err
	}
	return (&Model{path: m.path, base: m.base, config: m.config, noConfig: m.noConfig, src: s, format: m.format, files: m.files}).indexed()
}
