package fold

import (
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

// The exponents that are tried: of the mean absolute inputs, and of the root
// mean square of the rows of the linear before. What is folded is chosen for
// several layers at once, so 1 is among them, which makes all channels alike.
var (
	inputPowers = []float64{0.25, 0.5, 0.75, 1}
	rowPowers   = []float64{0.5, 1}
	// Of mean absolute inputs over the root mean square of the columns: ½ makes
	// both alike.
	balancePowers = []float64{0.25, 0.5}
)

// Candidate is what may be folded into a place.
type Candidate struct {
	Factors []float64 // by channel of the place
	Note    string    // where they come from, in words
}

// InputCandidates are powers of the mean absolute inputs, by channel, of the
// linears that read a stage.
func InputCandidates(into *program.Fold, meanAbs []float32) []Candidate {
	var stat []float64
	for _, v := range Mean(into, meanAbs) {
		stat = append(stat, float64(v))
	}
	return candidates(stat, inputPowers, "input scale into "+into.Into+", power %g")
}

// BalanceCandidates are powers of the mean absolute inputs, by channel, over the
// root of columns, the mean squares of the columns of the linears that read a
// stage. Power ½ is SmoothQuant's scale at α = ½ (arXiv 2211.10438 §4), with
// means in place of maxima: it finds a channel that is large for no reason but
// that its column is small, and no scale by the inputs alone can tell it from one
// that matters.
func BalanceCandidates(into *program.Fold, meanAbs, columns []float32) []Candidate {
	x, c := Mean(into, meanAbs), Mean(into, columns)
	stat := make([]float64, len(x))
	for i := range stat {
		stat[i] = float64(x[i]) / math.Sqrt(float64(c[i]))
	}
	return candidates(stat, balancePowers, "input over column scale into "+into.Into+", power %g")
}

// RowCandidates are powers of the root mean square of the rows of the linear
// before, whose weight is w [out, in].
func RowCandidates(into *program.Fold, w *tensor.Matrix) []Candidate {
	stat := make([]float64, into.Channels)
	for i := range stat {
		for _, v := range w.Row(into.Row0 + i) {
			stat[i] += float64(v) * float64(v)
		}
		stat[i] = math.Sqrt(stat[i] / float64(w.Cols))
	}
	return candidates(stat, rowPowers, "row scale of "+into.Into+", power %g")
}

func candidates(stat, powers []float64, note string) []Candidate {
	list := make([]Candidate, len(powers))
	for k, power := range powers {
		list[k] = Candidate{make([]float64, len(stat)), fmt.Sprintf(note, power)}
		for i, v := range stat {
			list[k].Factors[i] = math.Pow(v, -power)
		}
	}
	return list
}
