package fold

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/program"
)

// TestChoice: factors come back bit by bit, also those that no JSON number is.
func TestChoice(t *testing.T) {
	want := []Choice{{2, Candidate{[]float64{0.1, math.Inf(1), math.Copysign(0, -1), math.SmallestNonzeroFloat64}, "row scale"}}, {}}
	data, err := json.Marshal(want)
	require.NoError(t, err)
	var got []Choice
	require.NoError(t, json.Unmarshal(data, &got))
	require.Equal(t, want[0], got[0])
	require.True(t, math.Signbit(got[0].Factors[2]))
	require.Error(t, json.Unmarshal([]byte(`[{"bits": ["x"]}]`), &got))
}

// TestBalance: inputs over columns at ½ take a planted scale out of a channel exactly.
func TestBalance(t *testing.T) {
	into := &program.Fold{Into: "norm", Channels: 3}
	meanAbs, columns := []float32{2, 3, 5}, []float32{4, 1, 9}
	clean := BalanceCandidates(into, meanAbs, columns)
	// Channel 1 of the inputs 32 times as large, its column that much smaller.
	meanAbs[1] *= 32
	columns[1] /= 32 * 32
	planted := BalanceCandidates(into, meanAbs, columns)
	require.Len(t, planted, 2)
	require.InDelta(t, 1./32, planted[1].Factors[1]/clean[1].Factors[1], 1e-9)
	require.InDelta(t, 1/math.Sqrt(2./math.Sqrt(4)), planted[1].Factors[0], 1e-9)
	require.Equal(t, clean[1].Factors[2], planted[1].Factors[2])
}
