package divergence

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSummary: figures of numpy (percentile, std with ddof=1 over sqrt(n)).
func TestSummary(t *testing.T) {
	var tally Tally
	tally.Reserve(6)
	tally.Add([]float64{0.5, 0.25, 0, 2}, []float64{1, 2, 3, 4}, []float64{1.5, 1, 3, 4.5}, 3)
	tally.Add([]float64{0.125, 1}, []float64{2, 2}, []float64{2, 1}, 1)
	s := tally.Summary()
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"mean", s.Mean, 0.6458333333333334}, {"error", s.Error, 0.30689416380533824}, {"median", s.Median, 0.375}, {"95 %", s.P95, 1.75},
		{"99 %", s.P99, 1.95}, {"99.9 %", s.P999, 1.995}, {"max", s.Maximum, 2},
		{"same", s.SameTop, 4. / 6}, {"same error", s.SameTopError, 0.21081851067789195},
		{"ratio", s.Ratio, 1.1813604128656459}, {"ratio error", s.RatioError, 0.3294656781248259},
	} {
		require.InDelta(t, c.want, c.got, 1e-12, c.name)
	}
	var one Tally
	one.Add([]float64{0.5}, []float64{1}, []float64{1}, 1)
	s = one.Summary()
	require.Equal(t, Summary{Mean: 0.5, Median: 0.5, P95: 0.5, P99: 0.5, P999: 0.5, Maximum: 0.5, SameTop: 1, Ratio: 1}, s)

	var l Likelihood
	l.Add([]float64{1, 2})
	l.Add([]float64{4})
	require.Equal(t, 3, l.Tokens())
	p, e := l.Perplexity()
	require.InDelta(t, 10.312258501325767, p, 1e-12)
	require.InDelta(t, 9.094557149973205, e, 1e-12)
}
