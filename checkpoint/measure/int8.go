package measure

import (
	"fmt"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/program/product"
	"github.com/golowbit/lowbit/quant/llmint8"
)

// Int8Inputs has the inputs of quantized linears rounded to 8 bits a token when the model
// runs, but for outliers from threshold on, of which 0 is none: see llmint8.Linear. All
// quantized linears must have 8 bits with a scale a row; the others stay as they are. An error
// wraps layout.ErrUnsupported.
func (m *Model) Int8Inputs(threshold float32) error {
	layers := m.src.Layers()
	if len(layers) == 0 {
		return fmt.Errorf("%s: %w: activations in 8 bits are for linears in 8 bits, and nothing in the model is quantized", m.Name, layout.ErrUnsupported)
	}
	for _, l := range layers {
		if !llmint8.Fits(l.Scheme) || l.RowScale || l.InputScale || l.GroupIndex {
			return fmt.Errorf("%s: %s: %w: activations in 8 bits are for linears in 8 bits with a scale for each output and nothing else, not %d bits in groups of %d",
				m.Name, l.Name, layout.ErrUnsupported, l.Scheme.Bits, l.Scheme.GroupSize)
		}
	}
	m.Weights = int8Inputs{m.src, threshold}
	return nil
}

// int8Inputs are the weights of a model whose activations are in 8 bits.
type int8Inputs struct {
	*checkpoint.Model
	threshold float32
}

// Product implements product.Source.
func (w int8Inputs) Product(layer string) (product.Product, error) {
	if _, ok := w.Layer(layer); !ok {
		return nil, nil
	}
	q, err := w.Weight(layer)
	if err != nil {
		return nil, err
	}
	return llmint8.NewLinear(q, w.threshold)
}
