package ggufmodel

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/program"
)

// ropeScaling are the parameters of "llama3" scaling.
type ropeScaling struct {
	kind              string
	factor            float64
	lowFreq, highFreq float64 // turns in the original context
	originalContext   int
}

// ropeTensors are the divisors of the rotary frequencies that the engine reads.
// Scaling that it does not have is refused.
func ropeTensors(m *decoder.Model) (names []string, values [][]float32, err error) {
	if m.Rope == nil {
		return nil, nil, nil
	}
	g, s := m.GGUF, &m.Rope.Scaling
	switch {
	case m.Rope.Dim%2 != 0:
		return nil, nil, layout.Unsupported("an odd number of rotated elements, %d", m.Rope.Dim)
	case s.Type == "", s.Type == "linear":
		return nil, nil, nil
	case s.Type == "yarn":
		if s.Truncate == g.YarnRounds {
			return nil, nil, layout.Unsupported("yarn with truncate %t", s.Truncate)
		}
		if g.Latent {
			if s.Factor > 1 && (m.Number("mscale_all_dim") == 0 || math.Abs(s.Attention-1) > 1e-6) {
				return nil, nil, layout.Unsupported("yarn with an mscale that is not mscale_all_dim")
			}
			return nil, nil, nil
		}
		if a := 0.1*math.Log(s.Factor) + 1; s.Factor > 1 && math.Abs(s.Attention-a) > 1e-6*a && !(g.YarnLog && s.Attention < a) {
			return nil, nil, layout.Unsupported("yarn with an attention factor of its own")
		}
		return nil, nil, nil
	case s.Type == "llama3" && g.RopeFreqs:
		f := llama3Factors(ropeScaling{s.Type, s.Factor, s.LowFreqFactor, s.HighFreqFactor, s.OriginalMaxPosition}, m.Rope.Theta, m.Rope.Dim)
		return []string{nameRopeFreqs}, [][]float32{f}, nil
	case s.Type == "longrope" && s.LongAttention != 0:
	case s.Type == "longrope" && g.RopeFreqs && (s.Attention == 0 || s.Attention == 1) && slices.Equal(s.Short, s.Long):
		return []string{nameRopeFreqs}, [][]float32{float32s(s.Short)}, nil
	case s.Type == "longrope" && g.LongRope:
		return []string{nameRopeLong, nameRopeShort}, [][]float32{float32s(s.Long), float32s(s.Short)}, nil
	}
	return nil, nil, layout.Unsupported("%s scaling of rotations is not written to GGUF for %s", s.Type, m.ModelType)
}

func float32s(v []float64) []float32 {
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32(x)
	}
	return out
}

// rope says how rotations are scaled.
func (w *metadataWriter) rope(m *decoder.Model) {
	if m.Rope == nil {
		return
	}
	s := &m.Rope.Scaling
	switch s.Type {
	case "linear":
		w.add("rope.scaling.type", "linear")
		w.float("rope.scaling.factor", s.Factor)
	case "yarn":
		w.add("rope.scaling.type", "yarn")
		w.float("rope.scaling.factor", s.Factor)
		w.int("rope.scaling.original_context_length", s.OriginalMaxPosition)
		w.float("rope.scaling.yarn_beta_fast", s.BetaFast)
		w.float("rope.scaling.yarn_beta_slow", s.BetaSlow)
		if all := m.Number("mscale_all_dim"); m.GGUF.Latent {
			w.float(keyYarnLog, 0.1*all)
		} else if log := yarnLog(s); log != 0 && m.GGUF.YarnLog {
			w.float(keyYarnLog, log)
		}
	case "longrope":
		if !m.GGUF.LongRope {
			return
		}
		attention := s.Attention
		if attention == 0 {
			attention = 1
		}
		w.int("rope.scaling.original_context_length", s.OriginalMaxPosition)
		w.float("rope.scaling.attn_factor", attention)
	}
}

const keySections = "rope.dimension_sections"

const keyYarnLog = "rope.scaling.yarn_log_multiplier"

// yarnLog is "mscale_all_dim" where "mscale" is 1: the factor of cosines and sines
// is 0.1 log(factor) + 1 over 0.1 mscale_all_dim log(factor) + 1.
func yarnLog(s *program.RopeScaling) float64 {
	if s.Factor <= 1 {
		return 0
	}
	log := 0.1 * math.Log(s.Factor)
	if v := ((log+1)/s.Attention - 1) / log; math.Abs(v) > 1e-6 {
		return v
	}
	return 0
}

// readFactors reads divisors of the rotary frequencies.
func readFactors(f *gguf.File, name string, n int) ([]float32, error) {
	t, _ := f.Tensor(name)
	if t.Type != gguf.F32 || len(t.Dims) != 1 || t.Dims[0] != n {
		return nil, fmt.Errorf("tensor %q: %v %v, want %d F32", t.Name, t.Type, t.Dims, n)
	}
	factors, err := f.Floats(t.Name)
	if err != nil {
		return nil, err
	}
	for _, v := range factors {
		if !(v > 0) || v-v != 0 {
			return nil, fmt.Errorf("tensor %q: %g, want positive numbers", name, v)
		}
	}
	return factors, nil
}

// ropeScaling gives rope_scaling of a config.json, nil if there is none.
func (r *metadata) ropeScaling(g *decoder.GGUF, dim int, theta float64) (map[string]any, error) {
	kind := ""
	if v, ok := r.f.Value(r.prefix + "rope.scaling.type"); ok {
		kind, _ = v.(string)
	}
	factor := r.float("rope.scaling.factor", r.float("rope.scale_linear", "1"))
	_, freqs := r.f.Tensor(nameRopeFreqs)
	_, long := r.f.Tensor(nameRopeLong)
	switch {
	case long && (kind == "" || kind == "none" || kind == "longrope"):
		return r.longRope(dim)
	case kind == "yarn" && !freqs && !long:
		return r.yarn(g, factor), nil
	case kind != "" && kind != "none" && kind != "linear":
		return nil, layout.Unsupported("%srope.scaling.type %q is not read here, only none, linear and yarn", r.prefix, kind)
	case !freqs && (kind == "none" || factor == "1" || factor == "0"):
		return nil, nil
	case !freqs:
		return map[string]any{"rope_type": "linear", "factor": factor}, nil
	case kind == "linear" && factor != "1":
		return nil, layout.Unsupported("both %q and a linear scaling", nameRopeFreqs)
	}
	factors, err := readFactors(r.f, nameRopeFreqs, dim/2)
	if err != nil {
		return nil, err
	}
	s, ok := findLlama3(factors, theta)
	if !ok { // the divisors as they are
		return map[string]any{
			"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1,
			"original_max_position_embeddings": r.need("context_length"),
		}, nil
	}
	return map[string]any{
		"rope_type": s.kind, "factor": s.factor, "low_freq_factor": s.lowFreq,
		"high_freq_factor": s.highFreq, "original_max_position_embeddings": s.originalContext,
	}, nil
}

func (r *metadata) yarn(g *decoder.GGUF, factor json.Number) map[string]any {
	o := map[string]any{
		"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": r.need("rope.scaling.original_context_length"),
		"beta_fast": r.float("rope.scaling.yarn_beta_fast", "32"), "beta_slow": r.float("rope.scaling.yarn_beta_slow", "1"),
	}
	switch all := r.float(keyYarnLog, "0"); {
	case g.Latent: // a tenth of it
		v, _ := all.Float64()
		if v == 0 && r.err == nil {
			r.err = fmt.Errorf("no key %q", r.prefix+keyYarnLog)
		}
		o["mscale"], o["mscale_all_dim"] = 10*v, 10*v
	case all != "0" && g.YarnLog:
		o["mscale"], o["mscale_all_dim"] = 1, all
	}
	if g.YarnRounds {
		o["truncate"] = false
	}
	if g.Grows {
		o["llama_4_scaling_beta"] = r.float("attention.temperature_scale", "0")
	}
	return o
}

func (r *metadata) longRope(dim int) (map[string]any, error) {
	long, err := readFactors(r.f, nameRopeLong, dim/2)
	if err != nil {
		return nil, err
	}
	short, err := readFactors(r.f, nameRopeShort, dim/2)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"rope_type": "longrope", "short_factor": short, "long_factor": long,
		"attention_factor":                 r.float("rope.scaling.attn_factor", "1"),
		"original_max_position_embeddings": r.need("rope.scaling.original_context_length"),
	}, nil
}

func llama3Factors(s ropeScaling, theta float64, headDim int) []float32 {
	f := make([]float32, headDim/2)
	for i := range f {
		turns := float64(s.originalContext) * ropeTurns(theta, headDim, i)
		smooth := (turns - s.lowFreq) / (s.highFreq - s.lowFreq)
		switch {
		case turns > s.highFreq:
			f[i] = 1
		case turns < s.lowFreq:
			f[i] = float32(s.factor)
		default:
			f[i] = float32(1 / ((1-smooth)/s.factor + smooth))
		}
	}
	return f
}

// ropeTurns is the number of turns pair i of a head makes per position.
func ropeTurns(theta float64, headDim, i int) float64 {
	return math.Pow(theta, -2*float64(i)/float64(headDim)) / (2 * math.Pi)
}

// findLlama3 returns the scaling that gives the factors. Between the
// frequencies that stay and those divided by the factor, the blend is a line in
// the turns per position; its slope and intercept give the thresholds up to
// the original context, which only sets their unit and is taken to be 8192 as
// in the models that use this.
func findLlama3(factors []float32, theta float64) (ropeScaling, bool) {
	const original = 8192
	s := ropeScaling{"llama3", 1, 1, 4, original}
	for _, f := range factors {
		s.factor = max(s.factor, float64(f))
	}
	headDim := 2 * len(factors)
	// The two blended frequencies that are farthest apart fix the line best.
	var turns, smooth []float64
	for i, f := range factors {
		if f > 1 && float64(f) < s.factor {
			turns = append(turns, original*ropeTurns(theta, headDim, i))
			smooth = append(smooth, (1/float64(f)-1/s.factor)/(1-1/s.factor))
		}
	}
	candidates := []ropeScaling{s}
	if n := len(turns) - 1; n >= 1 && turns[0] != turns[n] {
		slope := (smooth[0] - smooth[n]) / (turns[0] - turns[n])
		fitted := s
		fitted.lowFreq = turns[0] - smooth[0]/slope
		fitted.highFreq = fitted.lowFreq + 1/slope
		candidates = append(candidates, fitted)
	}
	for _, c := range candidates {
		if c.lowFreq > 0 && c.highFreq > c.lowFreq && closeTo(llama3Factors(c, theta, headDim), factors) {
			return c, true
		}
	}
	return s, false
}

func closeTo(a, b []float32) bool {
	for i := range a {
		if !(math.Abs(float64(a[i]-b[i])) <= 1e-5*math.Abs(float64(b[i]))) {
			return false
		}
	}
	return true
}
