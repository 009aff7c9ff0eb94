package llama

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
)

// rope holds cosines and sines of the rotary embedding (Su et al., RoFormer,
// arXiv 2104.09864) for the positions seen so far.
type rope struct {
	freq     []float64 // radians per position, one for each pair of a head
	cos, sin []float32 // [positions, HeadDim/2]
}

func newRope(c *Config) *rope {
	half := c.HeadDim / 2
	r := &rope{freq: make([]float64, half)}
	for j := range r.freq {
		f := math.Pow(c.RopeTheta, -2*float64(j)/float64(c.HeadDim))
		r.freq[j] = c.Rope.scale(f)
	}
	return r
}

// scale returns what becomes of a frequency: position interpolation for
// "linear" (arXiv 2306.15595), by wavelength for "llama3" (Llama 3.1).
func (s RopeScaling) scale(freq float64) float64 {
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

// grow makes the tables hold n positions.
func (r *rope) grow(n int) {
	half := len(r.freq)
	for p := len(r.cos) / half; p < n; p++ {
		for _, f := range r.freq {
			sin, cos := math.Sincos(float64(p) * f)
			r.cos = append(r.cos, float32(cos))
			r.sin = append(r.sin, float32(sin))
		}
	}
}

// apply rotates one head in place. Element j pairs with j+HeadDim/2
// (rotate_half, as in Hugging Face).
func (r *rope) apply(head []float32, pos int) {
	half := len(r.freq)
	kernel.Rope(head, r.cos[pos*half:][:half], r.sin[pos*half:][:half])
}
