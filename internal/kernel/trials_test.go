package kernel

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// The definition in float64, and that the sums say how the error changes with the
// scale and shift.
func TestTrials(t *testing.T) {
	levels := [16]float32{-12, -8, -6, -4, -3, -2, -1, 0, 0.5, 1, 2, 3, 4, 6, 8, 12}
	table := NewLevels(levels[:]...)
	eachLevel(t, func(t *testing.T) {
		x, w := randoms(32, 1), randoms(32, 2)
		var scale, shift [MaxTrials]float32
		for i := range scale {
			scale[i], shift[i] = 0.05+float32(i)/40, float32(i)/10
			if i > 12 {
				scale[i], shift[i] = -scale[i], 0
			}
		}
		for i := range w {
			w[i] *= w[i]
		}
		for _, uneven := range []bool{false, true} {
			var got TrialSums
			if uneven {
				TrialsLevels(&got, x, w, &scale, &shift, MaxTrials, table)
			} else {
				Trials(&got, x, w, &scale, &shift, MaxTrials, 0, 15)
			}
			for i, s := range scale {
				var e, dv, d, vv, v float64
				for j, f := range x {
					at := float64(f+shift[i]) / float64(s)
					u := min(max(math.RoundToEven(at), 0), 15)
					if uneven {
						u = math.Inf(1)
						for _, l := range levels {
							if math.Abs(float64(l)-at) < math.Abs(u-at) {
								u = float64(l)
							}
						}
					}
					diff, by := float64(s)*u-float64(f+shift[i]), float64(w[j])
					e, dv, d, vv, v = e+by*diff*diff, dv+by*diff*u, d+by*diff, vv+by*u*u, v+by*u
				}
				for k, pair := range [][2]float64{{e, float64(got.Err[i])}, {dv, float64(got.DV[i])}, {d, float64(got.D[i])}, {vv, float64(got.VV[i])}, {v, float64(got.V[i])}} {
					require.InDelta(t, pair[0], pair[1], 2e-5*(1+math.Abs(pair[0])), "sum %d of trial %d", k, i)
				}
			}
		}
	})
}

// Codes are those of the nearest levels, also where levels are not numbers that are whole.
func TestLevels(t *testing.T) {
	for _, levels := range [][]float32{
		{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113},
		{-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6},
		{-1, 2},
	} {
		l := NewLevels(levels[:]...)
		for i := -4000; i <= 4000; i++ {
			x := levels[len(levels)-1] * float32(i) / 3000
			u := l.Code(x)
			for _, other := range levels {
				require.LessOrEqual(t, math.Abs(float64(l.Level(u)-x)), math.Abs(float64(other-x)))
			}
		}
		for u, v := range levels {
			require.Equal(t, uint8(u), l.Code(v))
			if u > 0 {
				require.Equal(t, uint8(u), l.Code((levels[u-1]+v)/2), "a tie goes up")
			}
		}
		require.Equal(t, uint8(0), l.Code(float32(math.NaN())))
		require.Equal(t, uint8(len(levels)-1), l.Code(float32(math.Inf(1))))
		require.Equal(t, uint8(0), l.Code(float32(math.Inf(-1))))
	}
}

func BenchmarkTrials(b *testing.B) {
	x, w := randoms(32, 1), randoms(32, 2)
	var scale, shift [MaxTrials]float32
	for i := range scale {
		scale[i], shift[i] = 0.1+float32(i)/100, 1
	}
	var sums TrialSums
	benchLevels(b, "16", func(b *testing.B) {
		b.SetBytes(4 * 32)
		for b.Loop() {
			Trials(&sums, x, w, &scale, &shift, 16, 0, 15)
		}
	})
}
