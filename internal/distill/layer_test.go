package distill

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/affine"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/internal/testkit"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// TestUnit: codes are tuned where they are evenly spaced.
func TestUnit(t *testing.T) {
	free, ok := affine.Of(4, quant.BF16)
	require.True(t, ok)
	for g, want := range map[quant.Grid]float32{quant.GridOf(quant.Scheme{Bits: 3}): 1, quant.GridOf(quant.Scheme{Bits: 8, Symmetric: true}): 1, free: 1} {
		require.Equal(t, want, unit(g))
	}
	for name, want := range map[string]float32{"Q2_K": 1, "Q3_K": 1, "Q4_K": 1, "Q5_K": 1, "Q6_K": 1, "IQ4_NL": 0, "IQ4_XS": 0, "MXFP4": 0} {
		g, ok := kquant.Named(name)
		require.True(t, ok, name)
		require.Equal(t, want, unit(g), name)
	}
}

// made is a weight [24, 32] rounded to nearest, with row and input scales; on axis IC
// with a bias of each group in place of a zero-point.
func made(t *testing.T, axis quant.Axis) (w *quant.Weight, original *tensor.Matrix) {
	rng := rand.New(rand.NewPCG(1, uint64(axis)))
	original = testkit.Normal(rng, 24, 32)
	s := quant.Scheme{Bits: 3, GroupSize: 8, Axis: axis}
	if axis == quant.IC {
		s.Grid, _ = affine.Of(3, quant.F16)
	}
	w, err := quant.RTN{}.Quantize(t.Context(), original, s, nil)
	require.NoError(t, err)
	for r := range w.Out {
		w.RowScale = append(w.RowScale, 1+float32(r%3)/2)
	}
	for j := range w.In {
		w.InputScale = append(w.InputScale, 1+float32(j%4)/4)
	}
	for r := range w.Out {
		for j := range w.In {
			original.Set(r, j, original.At(r, j)*w.RowScale[r]*w.InputScale[j])
		}
	}
	return w, original
}

// TestBegin: nothing has changed before the first step, and latents are where the
// original weight is.
func TestBegin(t *testing.T) {
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		w, original := made(t, axis)
		l := newLayer("", w, original, 2)
		require.Equal(t, w.Codes, l.stored().Codes)
		require.Equal(t, w.Scales, l.stored().Scales)
		require.Equal(t, w.Dequantize(), l.dense)
		codes, n, inside := make([]uint8, w.LineLen()), w.LineLen(), 0
		for i := range w.Lines() {
			w.Line(codes, i)
			for p, u := range l.latents[i*n : (i+1)*n] {
				require.InDelta(t, codes[p], u, border+1e-6)
				r, j := i, p
				if axis == quant.IC {
					r, j = p, i
				}
				k := i*w.Groups() + w.Group(p)
				value := l.dense.At(r, j) + w.Scales[k]*(u-float32(codes[p]))*w.RowScale[r]*w.InputScale[j]
				if math.Abs(float64(u)-float64(codes[p])) < border-1e-4 {
					inside++
					require.InDelta(t, original.At(r, j), value, 1e-4)
				}
			}
		}
		require.Greater(t, inside, w.Out*w.In/2)
	}
}

// TestUpdate: the first step of Adam goes by its rate down the gradient of each scale and
// each latent, which is that of <G, W>.
func TestUpdate(t *testing.T) {
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		t.Run(fmt.Sprint(axis), func(t *testing.T) {
			w, original := made(t, axis)
			g := testkit.Normal(rand.New(rand.NewPCG(9, 9)), w.Out, w.In)
			l := newLayer("", w, original, 2)
			before := append([]float32(nil), l.latents...)
			loss := func(k int, scale float32) (sum float64) {
				c := copied(w)
				c.Scales[k] = scale
				for i, v := range c.Dequantize().Data {
					sum += float64(v) * float64(g.Data[i])
				}
				return sum
			}
			l.grad = g
			l.update(rates{newPace(1e-3, 1), newPace(1e-2, 1)}, 3)
			require.Nil(t, l.grad)
			for k, s := range w.Scales {
				slope := loss(k, s*1.01) - loss(k, s*0.99)
				require.InDelta(t, -1e-3*math.Copysign(1, slope*float64(s)), float64(l.size[k]), 1e-5, "scale %d", k)
				require.InDelta(t, s*(1+l.size[k]), l.now.Scales[k], 1e-7)
			}
			n := w.LineLen()
			for i := range w.Lines() {
				for p := range n {
					r, j := i, p
					if axis == quant.IC {
						r, j = p, i
					}
					k := i*w.Groups() + w.Group(p)
					u := before[i*n+p] - float32(1e-2*math.Copysign(1, float64(g.At(r, j)*w.Scales[k])))
					require.InDelta(t, min(max(u, -0.49), 7.49), l.latents[i*n+p], 1e-4)
				}
			}
			require.Equal(t, l.now.Dequantize(), l.dense)
		})
	}
}
