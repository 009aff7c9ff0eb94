package llmint8_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// golden reads what bitsandbytes made; see testdata/generate.py.
func golden(t *testing.T) func(name string) *tensor.Matrix {
	f, err := safetensors.Open("testdata/bitsandbytes.safetensors")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return func(name string) *tensor.Matrix {
		info, ok := f.Info(name)
		require.True(t, ok, name)
		cols := 1
		if len(info.Shape) == 2 {
			cols = info.Shape[1]
		}
		if info.DType == safetensors.I8 {
			data, err := f.ReadBytes(name, nil)
			require.NoError(t, err)
			m := tensor.New(info.Shape[0], cols)
			for i, b := range data {
				m.Data[i] = float32(int8(b))
			}
			return m
		}
		v, err := f.ReadFloat32(name, nil)
		require.NoError(t, err)
		return tensor.FromSlice(info.Shape[0], cols, v)
	}
}

// codes are those of a weight, from -127 to 127.
func codes(w *quant.Weight) []float32 {
	var all []float32
	line := make([]uint8, w.In)
	for r := range w.Out {
		w.Line(line, r)
		for _, u := range line {
			all = append(all, float32(u)-128)
		}
	}
	return all
}

// Codes, scales and values are those of bitsandbytes, bit for bit; products too but for
// the rounding of sums, once its constant 6.200124e-05 is taken for 1/127² (6.200012e-05).
func TestBitsAndBytes(t *testing.T) {
	read := golden(t)
	for n := range 3 {
		of := func(name string) *tensor.Matrix { return read(fmt.Sprintf("%s.%d", name, n)) }
		w := of("weight")
		q, err := llmint8.Quantizer{}.Quantize(t.Context(), w, llmint8.Quantizer{}.Scheme(), nil)
		require.NoError(t, err)
		require.NoError(t, q.Validate())
		require.Equal(t, of("codes").Data, codes(q))
		require.Equal(t, of("scb").Data, q.Scales)
		require.Equal(t, of("values").Data, q.Dequantize().Data)
		require.Nil(t, q.Columns)
		for _, threshold := range []float32{6, 0} {
			l, err := llmint8.NewLinear(q, threshold)
			require.NoError(t, err)
			want, got, x, values := of(fmt.Sprintf("y%g", threshold)), tensor.New(11, w.Rows), of("x"), of("values")
			l.Times(got, x, false, 2)
			apart := outliers(x, threshold)
			for i := range want.Rows {
				var size float64
				for r, v := range want.Row(i) {
					eight := float64(got.At(i, r))
					for _, j := range apart {
						eight -= float64(x.At(i, j)) * float64(values.At(r, j))
					}
					size = max(size, math.Abs(float64(v)))
					got.Row(i)[r] += float32((6.200124e-05*127*127 - 1) * eight)
				}
				require.InDeltaSlice(t, want.Row(i), got.Row(i), 2e-6*size, "threshold %g, token %d", threshold, i)
			}
		}
	}
}

// outliers are the features in which any token reaches the threshold.
func outliers(x *tensor.Matrix, threshold float32) []int {
	var all []int
	for j := range x.Cols {
		for i := range x.Rows {
			if v := x.At(i, j); threshold > 0 && (v >= threshold || v <= -threshold) {
				all = append(all, j)
				break
			}
		}
	}
	return all
}

// twin is section 3 of the paper in float64, apart from what is a half float: vector-wise
// codes of W, whose scale is the absolute maximum of a row, and X W (eq. 8).
type twin struct {
	codes  [][]float64
	scales []float64
}

func newTwin(w *tensor.Matrix) *twin {
	var q twin
	for r := range w.Rows {
		var top float64
		for _, v := range w.Row(r) {
			top = max(top, math.Abs(float64(tensor.RoundF16(v))))
		}
		var row []float64
		for _, v := range w.Row(r) {
			row = append(row, math.RoundToEven(float64(tensor.RoundF16(v)*(127/float32(top)))))
		}
		q.codes, q.scales = append(q.codes, row), append(q.scales, top)
	}
	return &q
}

// times is eq. 8 for the outliers O of x from threshold on and the columns kept.
func (q *twin) times(x, w *tensor.Matrix, threshold float64, kept map[int]bool) [][]float64 {
	o := map[int]bool{}
	for j := range x.Cols {
		o[j] = kept[j]
		for i := range x.Rows {
			o[j] = o[j] || math.Abs(float64(x.At(i, j))) >= threshold
		}
	}
	var y [][]float64
	for i := range x.Rows {
		var top float64
		for j, v := range x.Row(i) {
			if a := math.Abs(float64(v)); a < threshold && !kept[j] {
				top = max(top, a)
			}
		}
		row := make([]float64, w.Rows)
		for r := range row {
			var sixteen, eight float64
			for j, v := range x.Row(i) {
				switch {
				case kept[j]:
					sixteen += float64(v) * float64(tensor.RoundF16(w.At(r, j)))
				case o[j]:
					sixteen += float64(v) * q.codes[r][j] * q.scales[r] / 127
				default:
					eight += math.RoundToEven(float64(v*(127/float32(top)))) * q.codes[r][j]
				}
			}
			row[r] = sixteen + eight*top*q.scales[r]/(127*127)
		}
		y = append(y, row)
	}
	return y
}

func random(t *rapid.T, rows, cols int) *tensor.Matrix {
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = tensor.RoundF16(float32(rng.NormFloat64()))
	}
	return m
}

func TestTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in, tokens := rapid.IntRange(1, 20).Draw(t, "out"), rapid.IntRange(2, 40).Draw(t, "in"), rapid.IntRange(1, 9).Draw(t, "tokens")
		w, text, x := random(t, out, in), random(t, 6, in), random(t, tokens, in)
		outlier := rapid.IntRange(0, in-1).Draw(t, "outlier")
		text.Set(3, outlier, -7)
		x.Set(0, rapid.IntRange(0, in-1).Draw(t, "another"), 11)
		cal := quant.NewCalibration(text, 1)
		q, err := llmint8.Quantizer{Workers: 1}.Quantize(t.Context(), w, llmint8.Quantizer{}.Scheme(), cal)
		require.NoError(t, err)
		require.NoError(t, q.Validate())
		require.Equal(t, []int32{int32(outlier)}, q.Columns)

		want := newTwin(w)
		got := codes(q)
		kept := map[int]bool{outlier: true}
		d := q.Dequantize()
		for r := range out {
			require.InDelta(t, want.scales[r], q.Scales[r], 0)
			for j := range in {
				require.InDelta(t, want.codes[r][j], got[r*in+j], 0)
				value := want.codes[r][j] * want.scales[r] / 127
				if kept[j] {
					value = float64(tensor.RoundF16(w.At(r, j)))
				}
				require.InDelta(t, value, d.At(r, j), 1e-6*want.scales[r])
			}
		}
		l, err := llmint8.NewLinear(q, 6)
		require.NoError(t, err)
		y := tensor.New(tokens, out)
		y.Data[0] = 5 // is overwritten
		l.Times(y, x, false, 1)
		twice := y.Clone()
		l.Times(twice, x, true, 3)
		for i, row := range want.times(x, w, 6, kept) {
			for r, v := range row {
				require.InDelta(t, v, y.At(i, r), 1e-4)
				require.InDelta(t, 2*y.At(i, r), twice.At(i, r), 1e-5*(1+math.Abs(v)))
			}
		}
	})
}

// Sums of integers are exact whatever the width: a weight and tokens of largest codes.
func TestExactSums(t *testing.T) {
	const in = 5000
	w, x := tensor.New(1, in), tensor.New(1, in)
	for j := range in {
		w.Data[j], x.Data[j] = 1, 1
	}
	w.Data[in-1], x.Data[in-1] = 1.0/127, 1
	q, err := llmint8.Quantizer{}.Quantize(t.Context(), w, llmint8.Quantizer{}.Scheme(), nil)
	require.NoError(t, err)
	l, err := llmint8.NewLinear(q, 0)
	require.NoError(t, err)
	y := tensor.New(1, 1)
	l.Times(y, x, false, 2)
	require.InDelta(t, float64(127*127*(in-1)+127)/(127*127), y.Data[0], 1e-3)
}

// A symmetric weight of round-to-nearest is multiplied too, with its code -128.
func TestUniform(t *testing.T) {
	w := tensor.FromSlice(2, 3, []float32{-1, 0.5, 0.25, 2, -2, 0})
	q, err := quant.RTN{}.Quantize(t.Context(), w, quant.Scheme{Bits: 8, GroupSize: quant.WholeLine, Symmetric: true}, nil)
	require.NoError(t, err)
	l, err := llmint8.NewLinear(q, 0)
	require.NoError(t, err)
	y := tensor.New(1, 2)
	l.Times(y, tensor.FromSlice(1, 3, []float32{1, 1, 0}), false, 1)
	d := q.Dequantize()
	require.InDelta(t, d.At(0, 0)+d.At(0, 1), y.Data[0], 1e-5)
	require.InDelta(t, d.At(1, 0)+d.At(1, 1), y.Data[1], 1e-5)
}

func TestFeatures(t *testing.T) {
	// Four blocks, 100 tokens each: 24 tokens of 400 are 6 %.
	above := [][]int{{24, 12, 0, 30, 100}, {0, 11, 0, 0, 0}, {0, 0, 23, 0, 0}, {0, 1, 0, 0, 0}}
	var seen []quant.InputSurvey
	for b, a := range above {
		seen = append(seen, quant.InputSurvey{Block: b, Tokens: 100, Above: a}, quant.InputSurvey{Block: b, Tokens: 100, Above: []int{100}})
	}
	require.Equal(t, []int32{0, 1, 3, 4}, llmint8.Features(5, seen))
	// In a model of eight blocks one is too few.
	for b := 4; b < 8; b++ {
		seen = append(seen, quant.InputSurvey{Block: b, Above: make([]int, 5)})
	}
	require.Equal(t, []int32{1}, llmint8.Features(5, seen))

	q := llmint8.Quantizer{Outliers: llmint8.OutliersModel, Threshold: 3}
	from, ok := q.Survey()
	require.True(t, ok)
	require.InDelta(t, 3, from, 0)
	known := q.Surveyed(5, seen)
	x := tensor.New(2, 5)
	x.Set(1, 2, 50) // by the rule of layers
	for in, want := range map[int][]int32{5: {1}, 3: nil} {
		w, err := known.Quantize(t.Context(), tensor.FromSlice(1, in, []float32{1, 2, 3, 4, 5}[:in]), q.Scheme(), quant.NewCalibration(x.View(0, 2, 0, in), 1))
		require.NoError(t, err)
		require.Equal(t, want, w.Columns)
		require.NoError(t, w.Validate())
	}
	_, ok = llmint8.Quantizer{}.Survey()
	require.False(t, ok)
}

func TestRefusals(t *testing.T) {
	s := llmint8.Quantizer{}.Scheme()
	w := tensor.FromSlice(1, 2, []float32{1, 70000})
	_, err := llmint8.Quantizer{}.Quantize(t.Context(), w, s, nil)
	require.ErrorIs(t, err, quant.ErrScaleRange)
	require.ErrorContains(t, err, "output channel 0, group 0")
	w.Data[1] = float32(math.Inf(-1))
	_, err = llmint8.Quantizer{}.Quantize(t.Context(), w, s, nil)
	require.ErrorIs(t, err, quant.ErrNotFinite)
	w.Data[1] = float32(math.NaN())
	_, err = llmint8.Quantizer{}.Quantize(t.Context(), w, s, nil)
	require.ErrorIs(t, err, quant.ErrNotFinite)
	w.Data[1] = 2
	for _, bad := range []quant.Scheme{{Bits: 8, GroupSize: quant.WholeLine, Symmetric: true}, {Bits: 8, GroupSize: 2, Grid: llmint8.Grid{}}} {
		_, err = llmint8.Quantizer{}.Quantize(t.Context(), w, bad, nil)
		require.ErrorIs(t, err, quant.ErrScheme)
	}
	for _, q := range []llmint8.Quantizer{{Outliers: 3}, {Threshold: -1}, {Threshold: float32(math.NaN())}, {Threshold: float32(math.Inf(1))}} {
		require.ErrorIs(t, quant.Validate(q), quant.ErrScheme)
	}
	q, err := quant.RTN{}.Quantize(t.Context(), w, quant.Scheme{Bits: 4, GroupSize: quant.WholeLine, Symmetric: true}, nil)
	require.NoError(t, err)
	_, err = llmint8.NewLinear(q, 6)
	require.ErrorIs(t, err, quant.ErrScheme)
}

// The grid is one that other methods can work on: clipping lowers what it minimizes.
func TestClip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	w := tensor.New(1, 4000)
	for j := range w.Data {
		w.Data[j] = float32(rng.NormFloat64())
	}
	w.Data[7] = 8
	s := llmint8.Grid{}.Scheme()
	plain, err := quant.RTN{}.Quantize(t.Context(), w, s, nil)
	require.NoError(t, err)
	s.Clip = true
	clipped, err := quant.RTN{}.Quantize(t.Context(), w, s, nil)
	require.NoError(t, err)
	require.Less(t, clipped.Scales[0], plain.Scales[0])
	require.Less(t, quant.ClipError(quant.ClipPower, w.Data, clipped.Dequantize().Data, nil), quant.ClipError(quant.ClipPower, w.Data, plain.Dequantize().Data, nil))
}

func TestParameters(t *testing.T) {
	for want, q := range map[string]llmint8.Quantizer{
		`{"outliers":"layer","threshold":6}`:  {Workers: 3},
		`{"outliers":"model","threshold":20}`: {Outliers: llmint8.OutliersModel, Threshold: 20},
		`{"outliers":"none"}`:                 {Outliers: llmint8.OutliersNone},
	} {
		m, err := quant.Parameters(q)
		require.NoError(t, err)
		require.JSONEq(t, want, string(m.Parameters))
		require.Equal(t, "llmint8.Quantizer", m.Type)
	}
}

// Bits count what is kept beside codes and scales.
func TestStorageBits(t *testing.T) {
	x := tensor.New(1, 10)
	x.Set(0, 3, 6)
	q, err := llmint8.Quantizer{}.Quantize(t.Context(), tensor.New(4, 10), llmint8.Quantizer{}.Scheme(), quant.NewCalibration(x, 1))
	require.NoError(t, err)
	require.EqualValues(t, 4*10*8+4*32+4*16+32, q.StorageBits())
	q.Columns[0] = 10
	require.ErrorContains(t, q.Validate(), "column 10")
	q.Columns[0], q.ColumnValues[2] = 3, 0.1
	require.ErrorContains(t, q.Validate(), "half float")
	q.ColumnValues = q.ColumnValues[1:]
	require.ErrorContains(t, q.Validate(), "3 weights of 1 columns")
}
