package decoder

import (
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
)

// Rope is a rotary position embedding (Su et al., RoFormer, arXiv 2104.09864).
type Rope struct {
	Theta float64
	Dim   int // how many leading elements of a head rotate; even
	// Interleaved pairs elements (0, 1), (2, 3)...; otherwise element j pairs
	// with j+Dim/2 (rotate_half).
	Interleaved bool
	Scaling     RopeScaling
}

// RopeScaling changes the rotary frequencies for contexts longer than the
// model was first trained on.
type RopeScaling struct {
	Type   string  // "" (none), "linear", "llama3"
	Factor float64 // at least 1

	// llama3 only: frequencies whose wavelength is below
	// OriginalMaxPosition/HighFreqFactor stay, those above
	// OriginalMaxPosition/LowFreqFactor are divided by Factor, between them
	// the two are blended.
	LowFreqFactor       float64
	HighFreqFactor      float64
	OriginalMaxPosition int
}

// frequencies returns radians per position, one for each pair of a head, and
// the factor of cosines and sines, for a sequence of a length.
func (r *Rope) frequencies(seqLen int) (freq []float64, factor float64) {
	freq = make([]float64, r.Dim/2)
	for j := range freq {
		f := math.Pow(r.Theta, -2*float64(j)/float64(r.Dim))
		freq[j] = r.Scaling.scale(f)
	}
	return freq, 1
}

// scale returns what becomes of a frequency: position interpolation for
// "linear" (arXiv 2306.15595), by wavelength for "llama3" (Llama 3.1).
func (s *RopeScaling) scale(freq float64) float64 {
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
func (r *Rope) lengthDependent() bool { return false }

func (r *Rope) validate() error {
	if !(r.Theta > 0) || math.IsInf(r.Theta, 0) {
		return fmt.Errorf(`"rope_theta": %g, want a positive number`, r.Theta)
	}
	if r.Dim < 2 || r.Dim%2 != 0 || r.Dim > maxWidth {
		return fmt.Errorf("rotary width of %d, want an even number", r.Dim)
	}
	return r.Scaling.validate()
}

func (s *RopeScaling) validate() error {
	if s.Type == "" {
		return nil
	}
	if !(s.Factor >= 1) || math.IsInf(s.Factor, 0) {
		return fmt.Errorf(`rope scaling "factor": %g, want at least 1`, s.Factor)
	}
	if s.Type == "linear" {
		return nil
	}
	if !(s.LowFreqFactor > 0) || !(s.HighFreqFactor > s.LowFreqFactor) || math.IsInf(s.HighFreqFactor, 0) {
		return fmt.Errorf(`rope scaling "low_freq_factor" %g, "high_freq_factor" %g: want 0 < low < high`, s.LowFreqFactor, s.HighFreqFactor)
	}
	if s.OriginalMaxPosition < 1 {
		return fmt.Errorf(`rope scaling "original_max_position_embeddings": %d, want a positive number`, s.OriginalMaxPosition)
	}
	return nil
}

// ropeTable holds cosines and sines for the positions seen so far.
type ropeTable struct {
	rope     *Rope
	seqLen   int // the length it is for, if that matters
	freq     []float64
	factor   float64
	cos, sin []float32 // [positions, Dim/2]
}

// table returns the table of a rotation for sequences of a length.
func (r *Runner) table(rope *Rope, seqLen int) *ropeTable {
	t := r.tables[rope]
	if t == nil || rope.lengthDependent() && t.seqLen != seqLen {
		t = &ropeTable{rope: rope, seqLen: seqLen}
		t.freq, t.factor = rope.frequencies(seqLen)
		r.tables[rope] = t
	}
	t.grow(seqLen)
	return t
}

// grow makes the tables hold n positions.
func (t *ropeTable) grow(n int) {
	half := len(t.freq)
	for p := len(t.cos) / half; p < n; p++ {
		for _, f := range t.freq {
			sin, cos := math.Sincos(float64(p) * f)
			t.cos = append(t.cos, float32(cos*t.factor))
			t.sin = append(t.sin, float32(sin*t.factor))
		}
	}
}

// rotate rotates one head in place.
func (t *ropeTable) rotate(head []float32, pos int) {
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
