package quant_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
)

// anyWeight draws a weight with codes, scales and zero-points of all kinds,
// with or without the optional parts.
func anyWeight(t *rapid.T) *quant.Weight {
	out, in := shape(t)
	w := quant.NewWeight(out, in, schemes(t, out, in))
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
	line := make([]uint8, w.LineLen())
	for l := range w.Lines() {
		for p := range line {
			line[p] = uint8(rng.IntN(w.Scheme.MaxCode() + 1))
		}
		w.SetLine(l, line)
	}
	for i := range w.Scales {
		w.Scales[i] = float32(rng.NormFloat64())
		w.Zeros[i] = uint8(rng.IntN(w.Scheme.MaxCode() + 1))
	}
	if rapid.Bool().Draw(t, "row scale") {
		w.RowScale = normal(rng, 1, out).Data
	}
	if rapid.Bool().Draw(t, "input scale") {
		w.InputScale = normal(rng, 1, in).Data
	}
	if rapid.Bool().Draw(t, "group index") {
		w.GroupIndex = make([]int32, w.LineLen())
		for p := range w.GroupIndex {
			w.GroupIndex[p] = int32(rng.IntN(w.Groups()))
		}
	}
	return w
}

// Dequantize is what the documentation of Weight says, element by element.
func TestDequantizeIsTheDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := anyWeight(t)
		require.NoError(t, w.Validate())
		s := w.Scheme
		got := w.Dequantize()
		u := codes(w)
		for r := range w.Out {
			for j := range w.In {
				line, p := r, j
				if s.Axis == quant.IC {
					line, p = j, r
				}
				_, length := s.Lines(w.Out, w.In)
				k := p
				switch {
				case w.GroupIndex != nil:
					k = int(w.GroupIndex[p])
				case s.GroupSize == quant.WholeLine || s.GroupSize >= length:
					k = 0
				case s.Strided:
					k = p % (length / s.GroupSize)
				default:
					k = p / s.GroupSize
				}
				require.Equal(t, k, w.Group(p))
				i := line*w.Groups() + k
				want := w.Scales[i] * (float32(u[r*w.In+j]) - float32(w.Zeros[i]))
				if w.RowScale != nil {
					want *= w.RowScale[r]
				}
				if w.InputScale != nil {
					want *= w.InputScale[j]
				}
				require.Equal(t, want, got.At(r, j))
			}
		}
	})
}

func TestLinesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := shape(t)
		s := schemes(t, out, in)
		w := quant.NewWeight(out, in, s)
		want := make([][]uint8, w.Lines())
		for l := range want {
			want[l] = rapid.SliceOfN(rapid.Uint8Range(0, uint8(s.MaxCode())), w.LineLen(), w.LineLen()).Draw(t, "line")
		}
		for l := range want { // written twice: a line replaces what was there
			w.SetLine(l, want[len(want)-1-l])
			w.SetLine(l, want[l])
		}
		for l := range want {
			got := make([]uint8, w.LineLen())
			w.Line(got, l)
			require.Equal(t, want[l], got)
			for p, u := range got { // the bit stream as documented
				var v uint32
				for b := range s.Bits {
					at := p*s.Bits + b
					v |= w.Codes[l*w.WordsPerLine()+at/32] >> (at % 32) & 1 << b
				}
				require.Equal(t, uint32(u), v)
			}
		}
	})
}

func TestStorageBits(t *testing.T) {
	s := quant.Scheme{Bits: 3, GroupSize: 4}
	w := quant.NewWeight(5, 10, s) // 3 groups in each of 5 rows
	require.EqualValues(t, 5*10*3+15*(16+3), w.StorageBits())
	w.RowScale, w.InputScale = make([]float32, 5), make([]float32, 10)
	require.EqualValues(t, 5*10*3+15*(16+3)+16*15, w.StorageBits())
	w.GroupIndex = make([]int32, 10)
	require.EqualValues(t, 5*10*3+15*(16+3)+16*15+32*10, w.StorageBits())
	s.Symmetric, s.ScaleType, s.Axis = true, quant.F32, quant.IC // 2 groups in each of 10 columns
	require.EqualValues(t, 5*10*3+20*32, quant.NewWeight(5, 10, s).StorageBits())
	s.ScaleType = quant.F16Short
	require.EqualValues(t, 5*10*3+20*16, quant.NewWeight(5, 10, s).StorageBits())
}

func TestWeightValidate(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for name, c := range map[string]struct {
		change func(*quant.Weight)
		want   string
	}{
		"scheme":           {func(w *quant.Weight) { w.Scheme.Bits = 1 }, "bits 1"},
		"shape":            {func(w *quant.Weight) { w.Out = 0 }, "shape [0 10]"},
		"few codes":        {func(w *quant.Weight) { w.Codes = w.Codes[1:] }, "4 words of codes, want 5"},
		"many codes":       {func(w *quant.Weight) { w.Codes = append(w.Codes, 0) }, "6 words of codes, want 5"},
		"few scales":       {func(w *quant.Weight) { w.Scales = w.Scales[1:] }, "14 scales and 15 zero-points, want 15"},
		"many zero-points": {func(w *quant.Weight) { w.Zeros = append(w.Zeros, 0) }, "15 scales and 16 zero-points, want 15"},
		"zero-point":       {func(w *quant.Weight) { w.Zeros[7] = 8 }, "zero-point 8 of line 2, want at most 7"},
		"NaN scale":        {func(w *quant.Weight) { w.Scales[14] = nan }, "scale NaN of line 4 is not finite"},
		"infinite scale":   {func(w *quant.Weight) { w.Scales[0] = -inf }, "scale -Inf of line 0 is not finite"},
		"short index":      {func(w *quant.Weight) { w.GroupIndex = make([]int32, 9) }, "9 entries in the group index, want 10"},
		"index too large":  {func(w *quant.Weight) { w.GroupIndex = []int32{0, 0, 0, 0, 0, 0, 0, 0, 0, 3} }, "group 3 of position 9, want 0 to 2"},
		"index negative":   {func(w *quant.Weight) { w.GroupIndex = []int32{0, -1, 0, 0, 0, 0, 0, 0, 0, 0} }, "group -1 of position 1, want 0 to 2"},
		"row scales":       {func(w *quant.Weight) { w.RowScale = make([]float32, 10) }, "10 row scales, want 5"},
		"input scales":     {func(w *quant.Weight) { w.InputScale = make([]float32, 5) }, "5 input scales, want 10"},
		"row scale":        {func(w *quant.Weight) { w.RowScale = []float32{1, 1, nan, 1, 1} }, "row or input scale NaN of channel 2"},
		"input scale":      {func(w *quant.Weight) { w.InputScale = []float32{1, 1, 1, 1, 1, 1, 1, 1, 1, inf} }, "row or input scale +Inf of channel 9"},
	} {
		t.Run(name, func(t *testing.T) {
			w := quant.NewWeight(5, 10, quant.Scheme{Bits: 3, GroupSize: 4})
			require.NoError(t, w.Validate())
			c.change(w)
			require.ErrorContains(t, w.Validate(), c.want)
		})
	}
	w := quant.NewWeight(5, 10, quant.Scheme{Bits: 3, GroupSize: 4})
	w.GroupIndex = []int32{2, 1, 0, 0, 1, 2, 0, 1, 2, 0}
	w.RowScale, w.InputScale = make([]float32, 5), make([]float32, 10)
	require.NoError(t, w.Validate())
	require.False(t, w.Contiguous())
	require.Equal(t, 2, w.Group(5))
}
