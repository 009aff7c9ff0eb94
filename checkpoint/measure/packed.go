package measure

import (
	"errors"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/program/product"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Packed has quantized linears multiplied from their codes when the model runs: none is in memory as floats. What
// comes out differs by rounding. Layers of formats without a packed form stay as they are.
func (m *Model) Packed() {
	p := PackedOf(m.src)
	m.Weights, m.Sizes = p, p.Bytes
}

// PackedWeights are a model's weights, of which quantized layers are multiplied packed.
type PackedWeights struct{ *checkpoint.Model }

// PackedOf are the weights of a model, with quantized layers multiplied packed.
func PackedOf(src *checkpoint.Model) PackedWeights { return PackedWeights{src} }

// Product implements product.Source.
func (p PackedWeights) Product(layer string) (product.Product, error) {
	if _, ok := p.Layer(layer); !ok {
		return nil, nil
	}
	w, err := p.Weight(layer)
	if errors.Is(err, layout.ErrNotWeight) {
		return nil, nil
	}
	return times{w}, err
}

// Bytes is about how many bytes a layer takes in memory, 0 if it is not quantized.
func (p PackedWeights) Bytes(layer string) int64 {
	l, ok := p.Layer(layer)
	if !ok {
		return 0
	}
	lines, n := l.Scheme.Lines(l.Out, l.In)
	params := 4 + 1 // scale and zero-point
	if l.Scheme.Grid != nil {
		params = 4 + 4 // or shift
	}
	return int64(lines) * (int64(n*l.Scheme.Bits)/8 + int64(params*l.Scheme.Groups(n)))
}

// times is a packed weight as a product.
type times struct{ w *quant.Weight }

func (t times) Times(dst, x *tensor.Matrix, add bool, workers int) {
	if !add {
		t.w.Mul(dst, x, workers)
		return
	}
	y := tensor.New(dst.Rows, dst.Cols)
	t.w.Mul(y, x, workers)
	for i := range y.Rows {
		kernel.Axpy(1, y.Row(i), dst.Row(i))
	}
}
