package measure

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/program/product"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/tensor"
)

// naive is eq. 8 of arXiv 2208.07339 in float64 and integers, element by element.
type naive struct {
	w         *quant.Weight
	values    *tensor.Matrix
	threshold float32
}

func (n naive) Times(dst, x *tensor.Matrix, add bool, _ int) {
	if !add {
		clear(dst.Data)
	}
	kept := map[int]bool{}
	for _, c := range n.w.Columns {
		kept[int(c)] = true
	}
	large := func(v float32) bool { return n.threshold > 0 && math.Abs(float64(v)) >= float64(n.threshold) }
	apart := map[int]bool{}
	for j := range x.Cols {
		apart[j] = kept[j]
		for i := range x.Rows {
			apart[j] = apart[j] || large(tensor.RoundF16(x.At(i, j)))
		}
	}
	line := make([]uint8, x.Cols)
	codes := make([]int, x.Cols)
	for r := range n.w.Out {
		n.w.Line(line, r)
		for i := range x.Rows {
			var top float32
			for j, v := range x.Row(i) {
				if h := tensor.RoundF16(v); !kept[j] && !large(h) {
					top = max(top, h, -h)
				}
			}
			sum, sixteen := 0, 0.0
			for j, v := range x.Row(i) {
				h := tensor.RoundF16(v)
				if apart[j] {
					sixteen += float64(h) * float64(n.values.At(r, j))
				} else if top > 0 {
					codes[j] = int(math.RoundToEven(float64(h * (127 / top))))
					sum += codes[j] * (int(line[j]) - 128)
				}
			}
			dst.Row(i)[r] += float32(sixteen + float64(sum)*float64(top)*float64(n.w.Scales[r])/(127*127))
		}
	}
}

// held are weights whose layers are multiplied by llmint8.Linear, and held to the twin on
// the same inputs: what a model makes of a code that is rounded the other way is another matter.
type held struct {
	*checkpoint.Model
	t         *testing.T
	threshold float32
	products  *int
}

func (h held) Product(layer string) (product.Product, error) {
	w, err := h.Weight(layer)
	if err != nil {
		return nil, err
	}
	l, err := llmint8.NewLinear(w, h.threshold)
	return both{h, l, naive{w, w.Dequantize(), h.threshold}}, err
}

type both struct {
	held
	linear *llmint8.Linear
	twin   naive
}

func (b both) Times(dst, x *tensor.Matrix, add bool, workers int) {
	want := dst.Clone()
	b.twin.Times(want, x, add, workers)
	b.linear.Times(dst, x, add, workers)
	var size float64
	for _, v := range want.Data {
		size = max(size, math.Abs(float64(v)))
	}
	require.InDeltaSlice(b.t, want.Data, dst.Data, 1e-6*size)
	*b.products++
}

// TestInt8Inputs holds a model with inputs in 8 bits to the twin: with outliers
// found in the inputs, with columns that the weight keeps, and with neither.
func TestInt8Inputs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "int8")
	src := open(t).Source()
	var layers []layout.Layer
	for _, l := range open(t).Model.Linears() {
		layers = append(layers, layout.Layer{Name: l.Name})
	}
	w, err := checkpoint.Create(checkpoint.WriterOptions{Out: path, Source: src, Format: native.Format{}, Layers: layers})
	require.NoError(t, err)
	for i, l := range layers {
		m, err := src.Matrix(l.Name + ".weight")
		require.NoError(t, err)
		var cal *quant.Calibration
		if i%3 == 0 {
			x := tensor.New(1, m.Cols)
			x.Set(0, 5*i%m.Cols, 9)
			cal = quant.NewCalibration(x, 1)
		}
		q, err := llmint8.Quantizer{}.Quantize(t.Context(), m, llmint8.Grid{}.Scheme(), cal)
		require.NoError(t, err)
		require.NoError(t, w.Put(l.Name, q, nil))
	}
	require.NoError(t, w.Finish(t.Context()))

	ids := [][]int32{{1, 17, 300, 5, 9, 44, 1000, 2, 2, 71, 8, 15}}
	logits := func(set func(m *Model)) *tensor.Matrix {
		src, err := checkpoint.Open(path)
		require.NoError(t, err)
		m, err := Open(src, false, 2)
		require.NoError(t, err)
		defer m.Close()
		set(m)
		all := tensor.New(len(ids[0]), m.Model.Vocab)
		_, err = (&Job{Models: []*Model{m}, Windows: ids, Logits: func(_, first int, l *tensor.Matrix) error {
			for i := range l.Rows {
				copy(all.Row(first+i), l.Row(i))
			}
			return nil
		}}).Run(t.Context())
		require.NoError(t, err)
		return all
	}
	plain := logits(func(*Model) {})
	for _, threshold := range []float32{0, 1.5, 6} {
		products := 0
		want := logits(func(m *Model) { m.Weights = held{m.Source(), t, threshold, &products} })
		require.Equal(t, len(layers), products)
		got := logits(func(m *Model) { require.NoError(t, m.Int8Inputs(threshold)) })
		require.Equal(t, want.Data, got.Data)
		effect := 0.0
		for i, v := range want.Data {
			effect = max(effect, math.Abs(float64(v-plain.Data[i])))
		}
		require.Greater(t, effect, 0.01, "threshold %g: inputs are not rounded", threshold)
	}
}
