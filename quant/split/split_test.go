package split

import (
	"context"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/gptq"
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
			m.Data[i] *= 12
		}
	}
	return m
}

// inertia is what k-means minimizes, of given clusters.
func inertia(x []float32, cluster func(float32) int) (sum float64) {
	var n, mean [Clusters]float64
	for _, v := range x {
		n[cluster(v)]++
	}
	for _, v := range x {
		mean[cluster(v)] += float64(v) / n[cluster(v)]
	}
	for _, v := range x {
		sum += math.Pow(float64(v)-mean[cluster(v)], 2)
	}
	return sum
}

// No other two places to cut have less inertia, of all that there are.
func TestClustersAreTheBest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := tensor.New(1, rapid.IntRange(1, 24).Draw(t, "n"))
		for i := range w.Data {
			w.Data[i] = float32(rapid.IntRange(-20, 20).Draw(t, "v")) / 8
		}
		b, err := Bounds(w)
		require.NoError(t, err)
		got := inertia(w.Data, b.cluster)
		for _, low := range w.Data {
			for _, high := range w.Data {
				if low <= high {
					other := inertia(w.Data, Boundaries{low, high}.cluster)
					require.LessOrEqual(t, got, other+1e-9, "%v: %v, and at %g and %g it is less", w.Data, b, low, high)
				}
			}
		}
	})
}

// The public implementation's k-means, from a random beginning, ends at clusters that are worse.
func TestPublic(t *testing.T) {
	data, err := os.ReadFile("testdata/public.json")
	require.NoError(t, err)
	var cases []struct{ Lower, Middle, Upper []float32 }
	require.NoError(t, json.Unmarshal(data, &cases))
	require.Len(t, cases, 4)
	for i, c := range cases {
		w := tensor.New(16, 24)
		theirs := map[float32]int{}
		for j := range w.Data {
			for k, part := range [][]float32{c.Lower, c.Middle, c.Upper} {
				if part[j] != 0 {
					w.Data[j] = part[j]
					theirs[part[j]] = k
				}
			}
		}
		b, err := Bounds(w)
		require.NoError(t, err)
		ours, their := inertia(w.Data, b.cluster), inertia(w.Data, func(v float32) int { return theirs[v] })
		require.LessOrEqual(t, ours, their*(1+1e-9))
		other := 0
		for v, k := range theirs {
			if b.cluster(v) != k {
				other++
			}
		}
		t.Logf("case %d: inertia %.6g, theirs %.6g, %d of %d weights in another cluster", i, ours, their, other, len(theirs))
		// Cut where they cut, the summands are theirs.
		same := Boundaries{slices.Max(c.Lower), float32(math.Inf(1))}
		for _, v := range c.Upper {
			if v != 0 {
				same.High = min(same.High, v)
			}
		}
		if same.Low == 0 { // all of the lower cluster is below 0, which others have there
			same.Low = float32(math.Inf(-1))
			for _, v := range c.Lower {
				if v != 0 {
					same.Low = max(same.Low, v)
				}
			}
		}
		for k, part := range [][]float32{c.Lower, c.Middle, c.Upper} {
			masked := slices.Clone(w.Data)
			same.mask(masked, k)
			require.Equal(t, part, masked, "case %d, cluster %d", i, k)
		}
	}
}

// twin is SplitQuant over round-to-nearest in float64 from the paper: clusters, each on the asymmetric
// grid of its range with 0, summed up.
func twin(x []float32, b Boundaries, bits int) []float64 {
	sum := make([]float64, len(x))
	for k := range 3 {
		low, high := 0.0, 0.0
		in := func(v float32) bool {
			return k == 0 && v <= b.Low || k == 2 && v >= b.High || k == 1 && v > b.Low && v < b.High
		}
		for _, v := range x {
			if in(v) {
				low, high = math.Min(low, float64(v)), math.Max(high, float64(v))
			}
		}
		levels := math.Pow(2, float64(bits)) - 1
		scale := (high - low) / levels
		zero := math.Round(-low / scale)
		for i, v := range x {
			if in(v) {
				sum[i] += scale * (math.Min(math.Max(math.Round(float64(v)/scale)+zero, 0), levels) - zero)
			}
		}
	}
	return sum
}

func TestTwin(t *testing.T) {
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		for _, bits := range []int{2, 3, 4, 8} {
			w := sample(5, 32, 32, 0.02)
			b, err := Bounds(w)
			require.NoError(t, err)
			q, err := Quantizer{}.Quantize(t.Context(), w, quant.Scheme{Bits: bits, GroupSize: 16, Axis: axis, ScaleType: quant.F32}, nil)
			require.NoError(t, err)
			require.NoError(t, q.Validate())
			got, of := q.Dequantize(), w
			if axis == quant.IC {
				got, of = got.T(), w.T()
			}
			off := 0
			for r := range of.Rows {
				for g := range 2 {
					x := of.Row(r)[16*g : 16*g+16]
					for i, v := range twin(x, b, bits) {
						if math.Abs(v-float64(got.At(r, 16*g+i))) > 1e-6 {
							off++ // a tie, which float32 sees elsewhere
						}
					}
				}
			}
			require.LessOrEqual(t, off, 3, "%d bits, axis %s", bits, axis)
		}
	}
}

// The summands are an exact sum before anything is rounded; a place has at most one that is not 0
// after; workers change nothing; the error is no more than without a split where there are outliers.
func TestSplit(t *testing.T) {
	inners := map[string]Quantizer{
		"rtn": {}, "gptq": {Inner: gptq.Quantizer{}, Joint: true}, "gptq in order": {Inner: gptq.Quantizer{Order: gptq.OrderNatural, Groups: gptq.GroupsStatic}, Joint: true}, "rtn joint": {Inner: quant.RTN{}, Joint: true},
	}
	for name, q := range inners {
		for _, axis := range []quant.Axis{quant.OC, quant.IC} {
			for _, symmetric := range []bool{false, true} {
				for _, bits := range []int{2, 4} {
					w := sample(11, 48, 64, 0.02)
					s := quant.Scheme{Bits: bits, GroupSize: 32, Axis: axis, Symmetric: symmetric, Strided: axis == quant.IC && symmetric, Clip: symmetric}
					if s.Strided {
						s.GroupSize = 16
					}
					cal := quant.NewCalibration(sample(77, 3*64, 64, 0), 1)
					out, err := q.Quantize(t.Context(), w, s, cal)
					require.NoError(t, err, name)
					require.NoError(t, out.Validate())
					require.Len(t, out.Summands, 2)
					again, err := q.WithWorkers(3).Quantize(t.Context(), w, s, cal)
					require.NoError(t, err)
					require.Equal(t, out, again, name)

					own := *out
					own.Summands = nil
					parts := []*tensor.Matrix{own.Dequantize(), out.Summands[0].Dequantize(), out.Summands[1].Dequantize()}
					sum, used := out.Dequantize(), [Clusters]int{}
					for i := range sum.Data {
						var total float32
						set := 0
						for k, p := range parts {
							if total += p.Data[i]; p.Data[i] != 0 {
								set++
								used[k]++
							}
						}
						require.LessOrEqual(t, set, 1)
						require.Equal(t, total, sum.Data[i])
					}
					require.NotZero(t, used[0])
					require.NotZero(t, used[2])
					require.Equal(t, 3*(own.StorageBits()), out.StorageBits())
					require.Equal(t, out.StorageBits()-int64(48*64*(2*bits-2)), SmallestBits(out))

					plain, err := q.inner().Quantize(t.Context(), w, s, cal)
					require.NoError(t, err)
					require.Less(t, quant.Loss(w, sum, cal.H, 1), quant.Loss(w, plain.Dequantize(), cal.H, 1), "%s, %+v", name, s)
				}
			}
		}
	}
}

// Before rounding: W = L + M + U, exactly, and two of them are 0 in each place.
func TestExactSum(t *testing.T) {
	w := sample(4, 20, 30, 0.1)
	b, err := Bounds(w)
	require.NoError(t, err)
	sum := tensor.New(20, 30)
	for k := range Clusters {
		part := w.Clone()
		b.mask(part.Data, k)
		for i, v := range part.Data {
			require.True(t, v == 0 || sum.Data[i] == 0)
			sum.Data[i] += v
		}
	}
	require.Equal(t, w, sum)
}

// moving does what a method must not: it moves zeros.
type moving struct{}

func (moving) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	w = w.Clone()
	w.Data[0] += 1
	return quant.RTN{}.Quantize(ctx, w, s, cal)
}

func TestRefuses(t *testing.T) {
	w := sample(1, 4, 8, 0)
	s := quant.Scheme{Bits: 4, GroupSize: 8}
	_, err := Quantizer{Inner: moving{}}.Quantize(t.Context(), w, s, nil)
	require.ErrorIs(t, err, ErrZeros)
	_, err = Quantizer{}.Quantize(t.Context(), w, quant.Scheme{Bits: 4, GroupSize: 8, Range: quant.RangePaper}, nil)
	require.ErrorIs(t, err, quant.ErrScheme)
	_, err = Quantizer{Inner: gptq.Quantizer{}, Joint: true}.Quantize(t.Context(), w, quant.Scheme{Bits: 8, GroupSize: 8}, nil)
	require.ErrorIs(t, err, quant.ErrScheme)
	require.ErrorContains(t, err, "at most 6 bits, not 8")
	require.Error(t, Quantizer{Inner: gptq.Quantizer{Damping: -1}}.Validate())
	w.Data[3] = float32(math.Inf(1))
	_, err = Quantizer{}.Quantize(t.Context(), w, s, nil)
	require.ErrorIs(t, err, quant.ErrNotFinite)
	require.ErrorContains(t, err, "output 0, input 3")
}

// Few values make few clusters.
func TestFewValues(t *testing.T) {
	for _, values := range [][]float32{{0}, {0.5}, {-1, 1}, {0, 0, 2}} {
		w := tensor.FromSlice(1, len(values), values)
		q, err := Quantizer{}.Quantize(t.Context(), w, quant.Scheme{Bits: 4, GroupSize: quant.WholeLine}, nil)
		require.NoError(t, err)
		for i, v := range q.Dequantize().Data {
			require.InDelta(t, values[i], v, 1e-3)
		}
	}
}

func TestParameters(t *testing.T) {
	a, err := quant.Parameters(Quantizer{})
	require.NoError(t, err)
	b, err := quant.Parameters(Quantizer{Inner: quant.RTN{}, Workers: 3})
	require.NoError(t, err)
	require.Equal(t, a, b)
	c, err := quant.Parameters(Quantizer{Inner: gptq.Quantizer{}, Joint: true})
	require.NoError(t, err)
	require.NotEqual(t, a, c)
	require.False(t, quant.NeedsCalibration(Quantizer{}))
	require.True(t, quant.NeedsCalibration(Quantizer{Inner: gptq.Quantizer{}, Joint: true}))
	require.Equal(t, 2, quant.Summands(Quantizer{}))
}
