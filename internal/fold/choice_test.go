package fold

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
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
