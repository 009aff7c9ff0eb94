package picture

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// layer is a random layer with an outlier in input 7 and one in the weights of output 3.
func layer(t testing.TB, out, in int) (w *tensor.Matrix, cal *quant.Calibration, q *quant.Weight) {
	rng := rand.New(rand.NewPCG(1, 2))
	w = tensor.New(out, in)
	x := tensor.New(64, in)
	for _, m := range []*tensor.Matrix{w, x} {
		for i := range m.Data {
			m.Data[i] = float32(rng.NormFloat64())
		}
	}
	for i := range x.Rows {
		x.Row(i)[7] *= 50
	}
	w.Row(3)[5] = 100
	cal = quant.NewCalibration(x, 1)
	q, err := quant.RTN{}.Quantize(t.Context(), w, quant.Scheme{Bits: 3, GroupSize: 4}, nil)
	require.NoError(t, err)
	return w, cal, q
}

// TestOf compares with the definition, for any number of workers and more columns than are
// taken at a time.
func TestOf(t *testing.T) {
	const out, in = 40, 600
	w, cal, q := layer(t, out, in)
	c := Of(true, w, w, cal, q, 1)
	require.Equal(t, c, Of(true, w, w, cal, q, 3))
	approx := q.Dequantize()
	colMax, rowMax, colLoss, rowLoss := make([]float64, in), make([]float64, out), make([]float64, in), make([]float64, out)
	var all float64
	for r := range out {
		for j := range in {
			v := math.Abs(float64(w.At(r, j)))
			colMax[j], rowMax[r] = max(colMax[j], v), max(rowMax[r], v)
			e := float64(w.At(r, j)) - float64(approx.At(r, j))
			l := e * e * float64(cal.H.At(j, j))
			colLoss[j] += l
			rowLoss[r] += l
			all += l
		}
	}
	near := func(want []float64, by float64, got *Series) {
		t.Helper()
		n := len(got.Max)
		require.Len(t, got.Mean, n)
		require.Equal(t, min(Bins, len(want)), n)
		for k := range n {
			var most, sum float64
			lo, hi := k*len(want)/n, (k+1)*len(want)/n
			for _, v := range want[lo:hi] {
				most, sum = max(most, v/by), sum+v/by
			}
			require.InEpsilon(t, most, got.Max[k], 1e-3)
			require.InEpsilon(t, sum/float64(hi-lo), got.Mean[k], 1e-3)
		}
	}
	near(colMax, 1, c.Inputs.Weight)
	near(rowMax, 1, c.Outputs.Weight)
	near(colLoss, all, c.Inputs.Loss)
	near(rowLoss, all, c.Outputs.Loss)
	require.Equal(t, in, c.Inputs.Channels)
	require.Equal(t, out, c.Outputs.Channels)

	a := c.Inputs.Activation
	require.Equal(t, 1, a.Far)
	require.Equal(t, 7, a.Outliers[0].Channel)
	require.InEpsilon(t, math.Sqrt(float64(cal.H.At(7, 7))/64), a.Outliers[0].Value, 1e-3)
	require.Equal(t, 7, c.Inputs.Loss.Outliers[0].Channel)
	require.Equal(t, []Outlier{{5, 100}}, c.Inputs.Weight.Outliers)
	require.Equal(t, []Outlier{{3, 100}}, c.Outputs.Weight.Outliers)
	require.Nil(t, c.Outputs.Activation)

	text, err := json.Marshal(c)
	require.NoError(t, err)
	require.Less(t, len(text), 16<<10)
	back := &Channels{}
	require.NoError(t, json.Unmarshal(text, back))
	require.Equal(t, c, back)
}

// TestUnknown: what is not known is not there, and nothing is where it is not wanted.
func TestUnknown(t *testing.T) {
	w, cal, q := layer(t, 8, 16)
	require.Nil(t, Of(false, w, w, cal, q, 0))
	require.Nil(t, Of(true, nil, nil, nil, nil, 0))
	c := Of(true, w, w, nil, q, 0)
	require.NotNil(t, c.Inputs.Weight)
	require.Nil(t, c.Inputs.Activation)
	require.Nil(t, c.Inputs.Loss)
	c = Of(true, w, w, cal, nil, 0)
	require.NotNil(t, c.Inputs.Activation)
	require.Nil(t, c.Outputs.Loss)
}

// TestSeries: odd numbers become none, and few channels have a bin each.
func TestSeries(t *testing.T) {
	s := NewSeries([]float64{1, math.NaN(), math.Inf(1), 1.23456})
	require.Equal(t, []float64{1, 0, 0, 1.235}, s.Max)
	require.Equal(t, s.Max, s.Mean)
	x := make([]float64, 1000)
	for i := range x {
		x[i] = 1
	}
	for i := range 20 {
		x[50*i] = float64(100 + i)
	}
	s = NewSeries(x)
	require.Equal(t, 20, s.Far)
	require.Len(t, s.Outliers, 8)
	require.Equal(t, Outlier{950, 119}, s.Outliers[0])
	require.Zero(t, NewSeries(make([]float64, 10)).Far)
}

func BenchmarkOf(b *testing.B) {
	w, cal, q := layer(b, 2048, 2048)
	for b.Loop() {
		Of(true, w, w, cal, q, 0)
	}
}
