package olive

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// sample are normal weights of which some are larger by far.
func sample(seed uint64, rows, cols int, outliers float64) *tensor.Matrix {
	rng := rand.New(rand.NewPCG(seed, 1))
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64() * 0.05)
		if rng.Float64() < outliers {
			m.Data[i] *= 10
		}
	}
	return m
}

// twin is OliVe in float64, from the paper: values of sections 3.2 and 3.3, pairs of section 3.1.
type twin struct{ normal, outliers []float64 }

func newTwin(bits int, flint bool) (w twin) {
	mantissa, bias := 1, 2
	switch {
	case bits == 8:
		mantissa, bias = 3, 4
		for v := -127; v <= 127; v++ {
			w.normal = append(w.normal, float64(v))
		}
	case flint:
		bias = 3
		w.normal = []float64{-16, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 16}
	default:
		w.normal = []float64{-7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}
	}
	for exponent := range 1 << (bits - 1 - mantissa) {
		for m := range 1 << mantissa {
			v := float64(1<<mantissa+m) * math.Pow(2, float64(exponent+bias))
			if exponent+m > 0 && v <= 32768 {
				w.outliers = append(w.outliers, v, -v)
			}
		}
	}
	return w
}

func nearest(list []float64, x float64) (best float64) {
	best = math.Inf(1)
	for _, v := range list {
		if math.Abs(v-x) < math.Abs(best-x) {
			best = v
		}
	}
	return best
}

func (w twin) outlier(x float64) bool {
	return math.Abs(nearest(w.outliers, x)-x) <= math.Abs(nearest(w.normal, x)-x)
}

func (w twin) pair(a, b float64) (float64, float64) {
	oa, ob := w.outlier(a), w.outlier(b)
	switch {
	case oa && (!ob || math.Abs(a) >= math.Abs(b)):
		return nearest(w.outliers, a), 0
	case ob:
		return 0, nearest(w.outliers, b)
	}
	return nearest(w.normal, a), nearest(w.normal, b)
}

// row is a group of even length under a scale, and its squared error.
func (w twin) row(x []float32, scale float64) (values []float64, loss float64) {
	values = make([]float64, len(x))
	for i := 0; i < len(x); i += 2 {
		values[i], values[i+1] = w.pair(float64(x[i])/scale, float64(x[i+1])/scale)
	}
	for i := range values {
		values[i] *= scale
		loss += (values[i] - float64(x[i])) * (values[i] - float64(x[i]))
	}
	return values, loss
}

// search is the least error over thresholds about three standard deviations.
func (w twin) search(x []float32) (least float64) {
	var mean, variance float64
	for _, v := range x {
		mean += float64(v) / float64(len(x))
	}
	for _, v := range x {
		variance += (float64(v) - mean) * (float64(v) - mean) / float64(len(x)-1)
	}
	threshold := max(math.Abs(mean+3*math.Sqrt(variance)), math.Abs(mean-3*math.Sqrt(variance)))
	least = math.Inf(1)
	for f := 25; f < 250; f += 2 {
		_, loss := w.row(x, threshold*float64(f)/100/w.normal[len(w.normal)-1])
		least = min(least, loss)
	}
	return least
}

// The weight is what the twin makes of it under the same scales, and the scales are about as good.
func TestTwin(t *testing.T) {
	for _, c := range []struct {
		bits  int
		n     Normal
		twins []twin // by shift
	}{
		{4, Int, []twin{newTwin(4, false)}},
		{4, Flint, []twin{{}, newTwin(4, true)}},
		{4, Adaptive, []twin{newTwin(4, false), newTwin(4, true)}},
		{8, Adaptive, []twin{newTwin(8, false)}},
	} {
		w := sample(3, 24, 128, 0.03)
		q, err := Quantizer{Normal: c.n}.Quantize(t.Context(), w, quant.Scheme{Bits: c.bits, GroupSize: 32}, nil)
		require.NoError(t, err)
		require.NoError(t, q.Validate())
		got := q.Dequantize()
		types := map[float32]int{}
		var sum, want float64
		for r := range w.Rows {
			for g := range q.Groups() {
				x, shift := w.Row(r)[32*g:32*g+32], q.Shifts[r*4+g]
				values, loss := c.twins[int(shift)].row(x, float64(q.Scales[r*4+g]))
				for i, v := range values {
					require.InDelta(t, v, got.At(r, 32*g+i), 1e-5*math.Abs(v), "%d bits %s, row %d, group %d", c.bits, c.n, r, g)
				}
				sum += loss
				types[shift]++
				least := math.Inf(1)
				for _, w := range c.twins {
					if w.normal != nil {
						least = min(least, w.search(x))
					}
				}
				want += least
			}
		}
		require.InEpsilon(t, want, sum, 0.01, "scales are half floats, or it is the same")
		if c.n == Adaptive && c.bits == 4 {
			require.Len(t, types, 2)
		}
	}
}

// The codes that a paper's reader expects, one by one.
func TestCodes(t *testing.T) {
	require.Equal(t, []int{2, 3, 4}, []int{int4.bias(), flint4.bias(), int8s.bias()})
	require.Equal(t, []float32{0, 12, 16, 24, 32, 48, 64, 96}, int4.outliers[:8])
	require.Equal(t, []float32{0, 24, 32, 48, 64, 96, 128, 192}, flint4.outliers[:8])
	require.EqualValues(t, 144, int8s.large.values[0])
	require.EqualValues(t, 1<<15, int8s.large.values[len(int8s.large.values)-1])
	require.EqualValues(t, 0b1000, int4.identifier())
	require.EqualValues(t, 0b10000000, int8s.identifier())
	for _, c := range []struct {
		k     *kind
		x     [2]float32
		codes [2]uint8
	}{
		{int4, [2]float32{-7, 3}, [2]uint8{0b1001, 0b0011}},
		{int4, [2]float32{7, 9.4}, [2]uint8{7, 7}},
		{int4, [2]float32{5, -60}, [2]uint8{0b1000, 0b1110}},   // -64 is E 3, M 0
		{int4, [2]float32{20.5, 16}, [2]uint8{0b0011, 0b1000}}, // 24 is E 1, M 1
		{int4, [2]float32{16, -20.5}, [2]uint8{0b1000, 0b1011}},
		{flint4, [2]float32{-16, 5.1}, [2]uint8{0b1100, 0b0111}},
		{flint4, [2]float32{-0.2, 1000}, [2]uint8{0b1000, 0b0111}},
		{int8s, [2]float32{-127, 100}, [2]uint8{0x81, 100}},
		{int8s, [2]float32{-150, 100}, [2]uint8{0x81, 0x80}},
	} {
		codes, values := c.k.pair(c.x[0], c.x[1])
		require.Equal(t, c.codes, codes, "%v", c.x)
		var back [2]float32
		c.k.decode(back[:], codes[:])
		require.Equal(t, values, back)
	}
}

// Of a pair one at most is an outlier, whose victim is 0; what is packed comes back as
// it was, and values that are on the grid stay.
func TestPairs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.SampledFrom([]int{4, 8}).Draw(t, "bits")
		s := quant.Scheme{Bits: bits, GroupSize: rapid.SampledFrom([]int{quant.WholeLine, 8, 16}).Draw(t, "group"), Axis: quant.Axis(rapid.IntRange(0, 1).Draw(t, "axis"))}
		w := sample(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 9).Draw(t, "out"), rapid.IntRange(1, 33).Draw(t, "in"), 0.1)
		p := Quantizer{PerTensor: s.GroupSize == quant.WholeLine && rapid.Bool().Draw(t, "tensor")}
		q, err := p.Quantize(t.Context(), w, s, nil)
		require.NoError(t, err)
		require.NoError(t, q.Validate())
		n, codes, line := q.LineLen(), make([]uint8, q.LineLen()), make([]float32, q.LineLen())
		g := q.Scheme.Grid.(Grid)
		for l := range q.Lines() {
			q.Line(codes, l)
			q.DequantizeLine(line, codes, l)
			scale, shift := q.Scales[l*q.Groups():(l+1)*q.Groups()], q.Shifts[l*q.Groups():(l+1)*q.Groups()]
			size := q.Scheme.GroupLen(n)
			for i := 0; i < n; i += 2 {
				k := i / size
				beyond := g.kind(shift[k]).top * scale[k] * 1.0001
				a := math.Abs(float64(line[i])) > float64(beyond)
				if i+1 == n {
					require.False(t, a, "an outlier without a victim")
					continue
				}
				b := math.Abs(float64(line[i+1])) > float64(beyond)
				require.False(t, a && b)
				require.Equal(t, a, codes[i+1] == g.kind(shift[k]).identifier())
				if a {
					require.Zero(t, line[i+1])
				}
				if b {
					require.Zero(t, line[i])
				}
			}
			again, values := make([]uint8, n), make([]float32, n)
			g.Round(again, values, line, scale, shift, size)
			require.Equal(t, line, values)
			require.Equal(t, codes, again)
		}
	})
}

// What the search sums up is the error of what is encoded, also where a weight has no partner.
func TestLoss(t *testing.T) {
	for _, k := range []*kind{int4, flint4, int8s} {
		for _, n := range []int{1, 2, 31, 64, 129} {
			w := sample(uint64(n), 2, n, 0.1)
			x, importance := w.Row(0), w.Row(1)
			absolute(importance, importance)
			values, magnitudes := make([]float32, n), make([]float32, n)
			absolute(magnitudes, x)
			for _, scale := range []float32{0.0004, 0.003, 0.02, 0.3} {
				k.encode(nil, values, x, 1/scale)
				var plain, weighed float64
				for i, v := range values {
					e := math.Pow(float64(v*scale-x[i]), 2)
					plain, weighed = plain+e, weighed+e*float64(importance[i])
				}
				require.InDelta(t, plain, k.loss(magnitudes, nil, scale, math.Inf(1)), 1e-3*plain+1e-10)
				require.InDelta(t, weighed, k.loss(magnitudes, importance, scale, math.Inf(1)), 1e-3*weighed+1e-10)
				require.LessOrEqual(t, k.loss(magnitudes, nil, scale, plain/2), plain*1.001+1e-10)
			}
		}
	}
}

// The public implementation under its thresholds gives the same values, but of two outliers in a
// pair it keeps the left one; and its thresholds are no better than those found here.
func TestPublic(t *testing.T) {
	data, err := os.ReadFile("testdata/public.json")
	require.NoError(t, err)
	var public struct {
		X     [][]float32
		Cases []struct {
			Normal    Normal
			Tensor    bool
			Threshold []float32
			Values    [][]float32
		}
	}
	require.NoError(t, json.Unmarshal(data, &public))
	require.Len(t, public.Cases, 4)
	w := tensor.New(len(public.X), len(public.X[0]))
	for r, x := range public.X {
		copy(w.Row(r), x)
	}
	all := 0
	for _, c := range public.Cases {
		k := map[Normal]*kind{Int: int4, Flint: flint4}[c.Normal]
		var left, same, outliers int
		var theirs float64
		for r, x := range public.X {
			scale := c.Threshold[min(r, len(c.Threshold)-1)] / k.top
			values := make([]float32, len(x))
			k.encode(nil, values, x, 1/scale)
			for i := 0; i < len(x); i += 2 {
				if a, b := x[i]/scale, x[i+1]/scale; k.isOutlier(a) && k.isOutlier(b) && math.Abs(float64(a)) < math.Abs(float64(b)) {
					require.Zero(t, c.Values[r][i+1])
					require.NotZero(t, c.Values[r][i])
					left++
					continue
				}
				for j := i; j < i+2; j++ {
					require.InDelta(t, c.Values[r][j], values[j]*scale, 1e-5*math.Abs(float64(c.Values[r][j])), "%s, row %d, %d", c.Normal, r, j)
					if math.Abs(float64(values[j])) > float64(k.top) {
						outliers++
					}
					same++
				}
			}
			for i, v := range c.Values[r] {
				theirs += math.Pow(float64(v-x[i]), 2)
			}
		}
		require.Greater(t, same, 700)
		all += outliers
		t.Logf("%s, per tensor %v: %d the same, %d of them outliers, %d pairs of two outliers where the left one was kept", c.Normal, c.Tensor, same, outliers, left)

		q, err := Quantizer{Normal: c.Normal, PerTensor: c.Tensor}.Quantize(t.Context(), w, quant.Scheme{Bits: 4, GroupSize: quant.WholeLine}, nil)
		require.NoError(t, err)
		var ours float64
		for i, v := range q.Dequantize().Data {
			ours += math.Pow(float64(v-w.Data[i]), 2)
		}
		require.LessOrEqual(t, ours, theirs*1.002, "scales here are half floats")
	}
	require.Greater(t, all, 30)
}

// Outliers are what it is for: with some it has less error than integers of the same size, and the
// number of workers changes nothing.
func TestAgainstIntegers(t *testing.T) {
	loss := func(w *tensor.Matrix, m quant.Quantizer, s quant.Scheme) (sum float64) {
		q, err := m.Quantize(t.Context(), w, s, nil)
		require.NoError(t, err)
		again, err := quant.WithWorkers(m, 3).Quantize(t.Context(), w, s, nil)
		require.NoError(t, err)
		require.Equal(t, q, again)
		for i, v := range q.Dequantize().Data {
			sum += math.Pow(float64(v-w.Data[i]), 2)
		}
		return sum
	}
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		s := quant.Scheme{Bits: 4, GroupSize: quant.WholeLine, Axis: axis}
		w := sample(9, 64, 256, 0.01)
		integers := loss(w, quant.RTN{}, quant.Scheme{Bits: 4, GroupSize: quant.WholeLine, Axis: axis, Symmetric: true})
		require.Less(t, loss(w, Quantizer{}, s), integers/2)
		require.Less(t, loss(w, Quantizer{PerTensor: true}, s), integers/2)
	}
}

func TestRefuses(t *testing.T) {
	w := sample(1, 4, 8, 0)
	for text, c := range map[string]struct {
		q Quantizer
		s quant.Scheme
	}{
		"3 bits with normal values adaptive, want 4":       {Quantizer{}, quant.Scheme{Bits: 3, GroupSize: 4}},
		"8 bits with normal values flint":                  {Quantizer{Normal: Flint}, quant.Scheme{Bits: 8, GroupSize: 4}},
		"groups of 3 hold no whole pairs":                  {Quantizer{}, quant.Scheme{Bits: 4, GroupSize: 3}},
		"groups are strided":                               {Quantizer{}, quant.Scheme{Bits: 4, GroupSize: 2, Axis: quant.IC, Strided: true}},
		"one scale for the whole weight, and groups of 4":  {Quantizer{PerTensor: true}, quant.Scheme{Bits: 4, GroupSize: 4}},
		"range, scale type and least zero-point do not go": {Quantizer{}, quant.Scheme{Bits: 4, GroupSize: 4, ScaleType: quant.F32}},
		"4 bits with normal values Normal(7)":              {Quantizer{Normal: 7}, quant.Scheme{Bits: 4, GroupSize: 4}},
	} {
		_, err := c.q.Quantize(t.Context(), w, c.s, nil)
		require.ErrorIs(t, err, quant.ErrScheme, text)
		require.ErrorContains(t, err, text)
	}
	w.Data[5] = float32(math.NaN())
	for _, q := range []Quantizer{{}, {PerTensor: true}} {
		_, err := q.Quantize(t.Context(), w, quant.Scheme{Bits: 4, GroupSize: quant.WholeLine}, nil)
		require.ErrorIs(t, err, quant.ErrNotFinite)
	}
	w = tensor.New(2, 4)
	q, err := Quantizer{}.Quantize(t.Context(), w, quant.Scheme{Bits: 4, GroupSize: 4}, nil)
	require.NoError(t, err)
	require.Equal(t, w, q.Dequantize())
}

func TestNames(t *testing.T) {
	for _, text := range []string{"olive4 adaptive", "olive4 int", "olive4 flint", "olive8 int"} {
		g, ok := Named(text)
		require.True(t, ok, text)
		require.Equal(t, text, g.String())
		s, err := Quantizer{}.SchemeFor(quant.Scheme{Bits: g.Bits(), GroupSize: 8, Grid: g})
		require.NoError(t, err)
		again, err := Quantizer{}.SchemeFor(s)
		require.NoError(t, err)
		require.Equal(t, s, again)
	}
	_, ok := Named("olive8 flint")
	require.False(t, ok)
}
