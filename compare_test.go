package lowbit

import (
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// TestDivergence: what is said of a variant is what follows from the logits of both
// models, summed up as plainly as can be; a comparison of several says of each what one of two says.
func TestDivergence(t *testing.T) {
	var outs []string
	for _, bits := range []int{3, 5} {
		o := quick(t)
		o.Method, o.Bits, o.Calibration = quant.RTN{}, bits, Calibration{}
		o.Axis, o.Preset = AxisOC, Plain
		o.Output = filepath.Join(t.TempDir(), "out")
		_, err := Quantize(t.Context(), o)
		require.NoError(t, err)
		outs = append(outs, o.Output)
	}
	ids := [][]int32{{1, 15, 7, 300, 2, 2, 900}, {5, 4, 3}, {77, 8, 1000, 21, 63, 12, 500, 400, 300, 200, 100}}
	logits := func(model string) (rows [][]float32, next []int32) {
		at := map[int][][]float32{}
		_, err := Evaluate(t.Context(), EvalOptions{Model: model, Text: Text{IDs: ids}, Sequences: true, Logits: func(w, _ int, l *tensor.Matrix) error {
			for i := range l.Rows {
				at[w] = append(at[w], slices.Clone(l.Row(i)))
			}
			return nil
		}})
		require.NoError(t, err)
		for w, seq := range ids {
			rows = append(rows, at[w][:len(seq)-1]...)
			next = append(next, seq[1:]...)
		}
		return rows, next
	}
	logs := func(row []float32) []float64 {
		sum := 0.0
		for _, v := range row {
			sum += math.Exp(float64(v))
		}
		out := make([]float64, len(row))
		for i, v := range row {
			out[i] = float64(v) - math.Log(sum)
		}
		return out
	}
	theirs, next := logits(embedded)
	all, err := Compare(t.Context(), CompareOptions{Source: embedded, Variants: outs, EvalOptions: EvalOptions{Text: Text{IDs: ids}, Sequences: true}})
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Nil(t, all[0].Divergence)
	require.Equal(t, "dense", all[0].Format)
	for k, out := range outs {
		e, err := Evaluate(t.Context(), EvalOptions{Model: out, Against: embedded, Text: Text{IDs: ids}, Sequences: true})
		require.NoError(t, err)
		require.Equal(t, *e, all[k+1].Evaluation)
		require.Equal(t, out, all[k+1].Path)
		require.Equal(t, *e.Against, all[0].Perplexity)
		require.Less(t, all[k+1].Bytes, all[0].Bytes)
		ours, _ := logits(out)
		var kls, diffs []float64
		same := 0
		for i := range ours {
			p, q := logs(theirs[i]), logs(ours[i])
			kl := 0.0
			for j := range p {
				kl += math.Exp(p[j]) * (p[j] - q[j])
			}
			kls = append(kls, kl)
			diffs = append(diffs, p[next[i]]-q[next[i]])
			if slices.Index(p, slices.Max(p)) == slices.Index(q, slices.Max(q)) {
				same++
			}
		}
		n := float64(len(kls))
		mean, diff := 0.0, 0.0
		for i := range kls {
			mean, diff = mean+kls[i]/n, diff+diffs[i]/n
		}
		slices.Sort(kls)
		require.InDelta(t, mean, e.Divergence.Mean, 1e-6)
		require.InDelta(t, kls[len(kls)-1], e.Divergence.Maximum, 1e-6)
		require.InDelta(t, (kls[len(kls)/2]+kls[(len(kls)-1)/2])/2, e.Divergence.Median, 1e-6)
		require.InDelta(t, float64(same)/n, e.Divergence.SameTop, 1e-12)
		require.InDelta(t, math.Exp(diff), e.Divergence.Ratio, 1e-6)
		require.InDelta(t, e.Perplexity / *e.Against, e.Divergence.Ratio, 1e-6)
	}
	require.Greater(t, all[1].Divergence.Mean, all[2].Divergence.Mean)
	_, err = Compare(t.Context(), CompareOptions{Source: embedded, EvalOptions: EvalOptions{Text: Text{IDs: ids}, Sequences: true}})
	require.ErrorIs(t, err, ErrOptions)
}
