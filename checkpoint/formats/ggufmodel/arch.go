package ggufmodel

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/tensor"
)

const (
	nameRopeFreqs = "rope_freqs.weight"
	nameRopeLong  = "rope_factors_long.weight"
	nameRopeShort = "rope_factors_short.weight"
	nameHead      = "output.weight"
	nameEmbedding = "token_embd.weight"
)

// namedLinear matches the linears that have a name in GGUF in some architecture, and
// the embedding.
var namedLinear = sync.OnceValue(func() *regexp.Regexp {
	var paths []string
	for _, a := range arch.WithGGUF() {
		for _, n := range a.GGUF.Block {
			p := strings.ReplaceAll(regexp.QuoteMeta(n.HF), "%d", "[0-9]+")
			if !slices.Contains(paths, p) {
				paths = append(paths, p)
			}
		}
	}
	return regexp.MustCompile(`^(.+\.(0|[1-9][0-9]{0,4})\.(` + strings.Join(paths, "|") + `)|(.+\.)?(lm_head|embed_out|embed_tokens))$`)
})

// written lists what GGUF is written for.
func written() string {
	var types []string
	for _, a := range arch.WithGGUF() {
		types = append(types, a.Type)
	}
	return "GGUF is written for " + strings.Join(types, ", ") + "; use format lowbit or dense"
}

// modelOf reads config.json and finds the tensors that it speaks of.
func modelOf(src layout.Origin) (*decoder.Model, error) {
	m, err := parseModel(src.Config())
	if err != nil {
		return nil, err
	}
	w := weights{src}
	if err := m.Fit(w); err != nil {
		return nil, err
	}
	if err := m.CheckShapes(w); err != nil {
		return nil, err
	}
	if m.GGUF.EmbeddingHead && !m.Tied {
		return nil, layout.Unsupported("llama.cpp's %s has no output matrix of its own", m.GGUF.Name)
	}
	return m, nil
}

// parseModel reads a config.json and refuses what llama.cpp does not run the way
// Hugging Face does.
func parseModel(config json.RawMessage) (*decoder.Model, error) {
	m, err := arch.ParseConfig(config)
	if errors.Is(err, decoder.ErrUnsupported) {
		return nil, fmt.Errorf("%s: %w", layout.ConfigFile, errors.Join(err, layout.Unsupported("%s", written())))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", layout.ConfigFile, err)
	}
	if m.GGUF == nil {
		return nil, fmt.Errorf("%s: %w", layout.ConfigFile, layout.Unsupported("%s: %s", m.ModelType, written()))
	}
	if m.MaxPosition == 0 {
		m.MaxPosition = m.GGUF.Context
	}
	if m.MaxPosition == 0 {
		return nil, fmt.Errorf(`%s: no "max_position_embeddings", which GGUF needs`, layout.ConfigFile)
	}
	if err := checkArch(m); err != nil {
		return nil, fmt.Errorf("%s: %w", layout.ConfigFile, err)
	}
	return m, nil
}

// checkArch refuses configurations.
func checkArch(m *decoder.Model) error {
	g := m.GGUF
	key, values := g.Activation.Key, g.Activation.Values
	if key == "" {
		key, values = "hidden_act", []string{"silu", "swish"}
	}
	if act, ok := m.Value(key).(string); ok && !slices.Contains(values, act) {
		return layout.Unsupported("llama.cpp's %s has no %s activation", g.Name, act)
	}
	if err := checkPairs(m); err != nil {
		return err
	}
	if g.Check != nil {
		if err := g.Check(m); err != nil {
			return layout.Unsupported("%v", err)
		}
	}
	if g.Period > 0 {
		if _, err := m.WindowPeriod(); err != nil {
			return layout.Unsupported("%v", err)
		}
	}
	_, _, err := ropeTensors(m)
	return err
}

// checkPairs refuses rotations of a part of each head where rows change places
// so that the engine has all pairs of a head side by side.
func checkPairs(m *decoder.Model) error {
	paired := slices.ContainsFunc(m.GGUF.Block, func(n decoder.GGUFName) bool {
		return n.HF == "self_attn.q_proj" && n.Rows != nil
	})
	if paired && m.Rope != nil && m.Rope.Dim != m.HeadDim {
		return layout.Unsupported("rotations of a part of each head, %d of %d, for %s", m.Rope.Dim, m.HeadDim, m.GGUF.Name)
	}
	return nil
}

// contextOf is the length up to which the engine computes what Hugging Face does:
// where it has no windows, up to their length both attentions are the same.
func contextOf(m *decoder.Model) int {
	n := m.MaxPosition
	for _, w := range m.Windows {
		if w > 0 && m.GGUF.Period == 0 {
			n = min(n, w)
		}
	}
	return n
}

// weights is an Origin as the decoder sees it.
type weights struct{ layout.Origin }

func (w weights) Has(name string) bool { _, ok := w.Shape(name); return ok }

func (w weights) Matrix(string) (*tensor.Matrix, error) {
	return nil, errors.New("only shapes are checked")
}

func (w weights) QuantizedWeight(name string) bool {
	return w.Has(name) && !slices.ContainsFunc(w.Dense(), func(s layout.Spec) bool { return s.Name == name })
}

func (w weights) Names() []string {
	var all []string
	for _, s := range w.Dense() {
		all = append(all, s.Name)
	}
	return all
}

// checkRest refuses tensors that would be lost. It returns those that are used.
func checkRest(m *decoder.Model, src layout.Origin) (map[string]bool, error) {
	used := map[string]bool{}
	for _, n := range m.GGUF.Numbers {
		for i := range m.Layers {
			used[numberName(m, n, i)] = true
		}
	}
	for _, t := range m.GGUFTensors() {
		for _, name := range t.Parts {
			if _, ok := src.Shape(name); ok {
				used[name] = true
			}
		}
	}
	for _, s := range src.Dense() {
		switch {
		case used[s.Name]:
			if !slices.Contains(layout.FloatTypes(), s.DType) {
				return nil, fmt.Errorf("tensor %q: %w", s.Name, layout.Unsupported("dtype %s, want one of %v", s.DType, layout.FloatTypes()))
			}
		case strings.HasSuffix(s.Name, ".rotary_emb.inv_freq"): // follows from the config
		case beyond(m, s.Name): // neither the engine nor the decoder runs them
		case slices.ContainsFunc(m.GGUF.Left, func(prefix string) bool { return strings.HasPrefix(s.Name, prefix) }):
		case m.GGUF.Images && (strings.Contains(s.Name, "vision_tower.") || strings.Contains(s.Name, "multi_modal_projector.")):
		default:
			return nil, fmt.Errorf("tensor %q: %w", s.Name, layout.Unsupported("GGUF has no name for it in a %s of %d layers", m.ModelType, m.Layers))
		}
	}
	return used, nil
}

// beyond tells whether a tensor is of a block after the last that is run.
func beyond(m *decoder.Model, name string) bool {
	for i := range m.Beyond {
		if strings.HasPrefix(name, m.BlockPrefix(m.Layers+i)) {
			return true
		}
	}
	return false
}

// inverted turns "which row is here" into "where is the row".
func inverted(from []int) []int {
	to := make([]int, len(from))
	for i, r := range from {
		to[r] = i
	}
	return to
}
