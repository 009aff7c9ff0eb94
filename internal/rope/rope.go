// Package rope has rotary position embeddings: which frequencies a head turns at,
// with the ways to stretch them, and the turning itself.
package rope

import (
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
)

// maxDim is far above any model.
const maxDim = 1 << 24

// Rope is a rotary position embedding (Su et al., RoFormer, arXiv 2104.09864).
type Rope struct {
	Theta float64
	// Dim is how many leading elements of a head rotate. An odd number means one
	// more, at frequencies spaced over the odd number.
	Dim int
	// Interleaved pairs elements (0, 1), (2, 3)...; otherwise element j pairs
	// with j+Dim/2 (rotate_half).
	Interleaved bool
	Scaling     Scaling
}

// Scaling changes the rotary frequencies for contexts longer than the
// model was first trained on.
type Scaling struct {
	Type   string  // "" (none), "linear", "llama3", "dynamic", "yarn", "longrope"
	Factor float64 // at least 1; not of longrope

	// OriginalMaxPosition is the context before scaling, of llama3, yarn and
	// longrope; of dynamic it is the length up to which nothing changes.
	OriginalMaxPosition int

	// llama3 only: frequencies whose wavelength is below
	// OriginalMaxPosition/HighFreqFactor stay, those above
	// OriginalMaxPosition/LowFreqFactor are divided by Factor, between them
	// the two are blended.
	LowFreqFactor  float64
	HighFreqFactor float64

	// yarn only: frequencies that turn more than BetaFast times in the original
	// context stay, those that turn less than BetaSlow times are divided by
	// Factor, between them the two are blended; with Truncate between whole pairs.
	BetaFast, BetaSlow float64
	Truncate           bool

	// longrope only: divisors of the frequencies [pairs] for sequences up to the
	// original context and for longer ones.
	Short, Long []float64

	// Attention is a factor of cosines and sines (yarn, longrope); 0 means 1.
	// LongAttention takes its place beyond the original context (longrope); 0 means
	// the same.
	Attention, LongAttention float64
}

// Pairs is how many pairs of elements rotate.
func (r *Rope) Pairs() int { return (r.Dim + 1) / 2 }

// Frequencies returns radians per position, one for each pair of a head, and
// the factor of cosines and sines, for a sequence of a length.
func (r *Rope) Frequencies(seqLen int) (freq []float64, factor float64) {
	freq = make([]float64, r.Pairs())
	theta := r.Theta
	if s := &r.Scaling; s.Type == "dynamic" && seqLen > s.OriginalMaxPosition {
		theta *= s.stretch(seqLen, r.Dim)
	}
	for j := range freq {
		f := math.Pow(theta, -2*float64(j)/float64(r.Dim))
		freq[j] = r.Scaling.scale(f)
	}
	switch r.Scaling.Type {
	case "yarn":
		r.yarn(freq)
	case "longrope":
		divisors := r.Scaling.Short
		if seqLen > r.Scaling.OriginalMaxPosition {
			divisors = r.Scaling.Long
		}
		for j, d := range divisors {
			freq[j] /= d
		}
	}
	factor = r.Scaling.Attention
	if long := r.Scaling.LongAttention; long != 0 && seqLen > r.Scaling.OriginalMaxPosition {
		factor = long
	}
	if factor == 0 {
		factor = 1
	}
	return freq, factor
}

// stretch is the factor of the base for a sequence that is longer than the
// context: dynamic NTK scaling, as in transformers.
func (s *Scaling) stretch(seqLen, dim int) float64 {
	more := s.Factor*float64(seqLen)/float64(s.OriginalMaxPosition) - (s.Factor - 1)
	return math.Pow(more, float64(dim)/float64(dim-2))
}

// yarn blends frequencies with those of position interpolation (Peng et al.,
// YaRN, arXiv 2309.00071, section 3.2).
func (r *Rope) yarn(freq []float64) {
	s := &r.Scaling
	// pair returns which pair turns so many times in the original context.
	pair := func(turns float64) float64 {
		return float64(r.Dim) * math.Log(float64(s.OriginalMaxPosition)/(turns*2*math.Pi)) / (2 * math.Log(r.Theta))
	}
	low, high := pair(s.BetaFast), pair(s.BetaSlow)
	if s.Truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(r.Dim-1))
	if low == high {
		high += 0.001
	}
	for j, f := range freq {
		ramp := min(max((float64(j)-low)/(high-low), 0), 1)
		freq[j] = f/s.Factor*ramp + f*(1-ramp)
	}
}

// scale returns what becomes of a frequency: position interpolation for
// "linear" (arXiv 2306.15595), by wavelength for "llama3" (Llama 3.1).
func (s *Scaling) scale(freq float64) float64 {
	switch s.Type {
	case "linear":
		return freq / s.Factor
	case "llama3":
		old := float64(s.OriginalMaxPosition)
		turns := old * freq / (2 * math.Pi) // in the original context
		if turns > s.HighFreqFactor {
			return freq
		}
		if turns < s.LowFreqFactor {
			return freq / s.Factor
		}
		smooth := (turns - s.LowFreqFactor) / (s.HighFreqFactor - s.LowFreqFactor)
		return (1-smooth)*freq/s.Factor + smooth*freq
	}
	return freq
}

// lengthDependent tells whether frequencies depend on the sequence's length.
func (r *Rope) lengthDependent() bool {
	return r.Scaling.Type == "dynamic" || r.Scaling.Type == "longrope"
}

// Validate checks that the values fit each other.
func (r *Rope) Validate() error {
	if !(r.Theta > 0) || math.IsInf(r.Theta, 0) {
		return fmt.Errorf(`"rope_theta": %g, want a positive number`, r.Theta)
	}
	if r.Dim < 1 || r.Dim > maxDim {
		return fmt.Errorf("rotary width of %d, want a positive number", r.Dim)
	}
	return r.Scaling.validate(r)
}

func (s *Scaling) validate(r *Rope) error {
	if s.Type == "" {
		return nil
	}
	if s.Type != "longrope" && !(s.Factor >= 1) || math.IsInf(s.Factor, 0) {
		return fmt.Errorf(`rope scaling "factor": %g, want at least 1`, s.Factor)
	}
	if s.Type != "linear" && s.OriginalMaxPosition < 1 {
		return fmt.Errorf(`rope scaling "original_max_position_embeddings": %d, want a positive number`, s.OriginalMaxPosition)
	}
	if s.Attention < 0 || math.IsNaN(s.Attention) || math.IsInf(s.Attention, 0) {
		return fmt.Errorf(`rope scaling "attention_factor": %g, want a positive number`, s.Attention)
	}
	switch s.Type {
	case "llama3":
		if !(s.LowFreqFactor > 0) || !(s.HighFreqFactor > s.LowFreqFactor) || math.IsInf(s.HighFreqFactor, 0) {
			return fmt.Errorf(`rope scaling "low_freq_factor" %g, "high_freq_factor" %g: want 0 < low < high`, s.LowFreqFactor, s.HighFreqFactor)
		}
	case "dynamic":
		if r.Dim < 3 {
			return fmt.Errorf("rotary width of %d, want more than 2 with dynamic scaling", r.Dim)
		}
	case "yarn":
		if !(s.BetaSlow > 0) || !(s.BetaFast >= s.BetaSlow) || math.IsInf(s.BetaFast, 0) {
			return fmt.Errorf(`rope scaling "beta_slow" %g, "beta_fast" %g: want 0 < slow <= fast`, s.BetaSlow, s.BetaFast)
		}
		if r.Theta == 1 {
			return fmt.Errorf(`"rope_theta": 1, want another number with yarn scaling`)
		}
	case "longrope":
		for key, list := range map[string][]float64{"short_factor": s.Short, "long_factor": s.Long} {
			if len(list) != r.Pairs() {
				return fmt.Errorf("rope scaling %q: %d entries, want %d, half the rotary width", key, len(list), r.Pairs())
			}
			for _, v := range list {
				if !(v > 0) || math.IsInf(v, 0) {
					return fmt.Errorf("rope scaling %q: %g, want positive numbers", key, v)
				}
			}
		}
	}
	return nil
}

// Table holds cosines and sines of a rotation for the positions seen so far.
type Table struct {
	rope     *Rope
	seqLen   int // the length it is for, if that matters
	freq     []float64
	factor   float64
	cos, sin []float32 // [positions, Dim/2]
}

// For returns a table for sequences of a length: t, grown, where it will do.
func (r *Rope) For(seqLen int, t *Table) *Table {
	if t == nil || r.lengthDependent() && t.seqLen != seqLen {
		t = &Table{rope: r, seqLen: seqLen}
		t.freq, t.factor = r.Frequencies(seqLen)
	}
	t.grow(seqLen)
	return t
}

// grow makes the tables hold n positions.
func (t *Table) grow(n int) {
	half := len(t.freq)
	for p := len(t.cos) / half; p < n; p++ {
		for _, f := range t.freq {
			sin, cos := math.Sincos(float64(p) * f)
			t.cos = append(t.cos, float32(cos*t.factor))
			t.sin = append(t.sin, float32(sin*t.factor))
		}
	}
}

// Rotate rotates one head, of the token at a position, in place.
func (t *Table) Rotate(head []float32, pos int) {
	half := len(t.freq)
	cos, sin := t.cos[pos*half:][:half], t.sin[pos*half:][:half]
	if !t.rope.Interleaved {
		kernel.Rope(head[:2*half], cos, sin)
		return
	}
	for j := range half {
		a, b := head[2*j], head[2*j+1]
		head[2*j] = float32(a*cos[j]) - float32(b*sin[j])
		head[2*j+1] = float32(b*cos[j]) + float32(a*sin[j])
	}
}

// RotateBack rotates one head in place by the transposed matrix.
func (t *Table) RotateBack(head []float32, pos int) {
	half := len(t.freq)
	cos, sin := t.cos[pos*half:][:half], t.sin[pos*half:][:half]
	for j := range half {
		i0, i1 := j, j+half
		if t.rope.Interleaved {
			i0, i1 = 2*j, 2*j+1
		}
		a, b := head[i0], head[i1]
		head[i0] = float32(a*cos[j]) + float32(b*sin[j])
		head[i1] = float32(b*cos[j]) - float32(a*sin[j])
	}
}
