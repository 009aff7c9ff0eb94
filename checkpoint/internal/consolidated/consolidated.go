package consolidated

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/torchfile"
	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/safetensors"
)

const (
	singleName = "consolidated.safetensors"
	indexName  = "consolidated.safetensors.index.json"
)

// Found says whether the folder holds such weights.
func Found(dir string) bool {
	for _, name := range []string{singleName, indexName} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return len(parts(dir)) > 0
}

func parts(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var paths []string
	for _, e := range entries {
		number, ok1 := strings.CutPrefix(e.Name(), "consolidated.")
		number, ok2 := strings.CutSuffix(number, ".pth")
		if ok1 && ok2 && len(number) >= 2 && isNumber(number) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(paths)
	return paths
}

// Open opens the weights of a folder under Hugging Face's names. config is its
// config.json or nil; where it is nil, one is made of params.json and returned.
func Open(dir string, config json.RawMessage) (weights.Tensors, json.RawMessage, error) {
	var p *params
	var err error
	if config != nil {
		p, err = fromConfig(config)
	} else if p, err = readParams(dir); errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s: consolidated weights with neither %s nor config.json: %w", dir, ParamsName, fs.ErrNotExist)
	}
	if err != nil {
		return nil, nil, err
	}
	src, err := openWeights(dir)
	if err != nil {
		return nil, nil, err
	}
	t, err := p.rename(src)
	if err == nil && config == nil {
		config, err = p.config(t)
	}
	if err != nil {
		return nil, nil, errors.Join(err, src.Close())
	}
	return t, config, nil
}

// fromConfig takes the sizes that reordering needs from a config.json.
func fromConfig(config json.RawMessage) (*params, error) {
	var c struct {
		Hidden  int `json:"hidden_size"`
		Heads   int `json:"num_attention_heads"`
		KVHeads int `json:"num_key_value_heads"`
		HeadDim int `json:"head_dim"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	data, err := json.Marshal(map[string]int{"dim": c.Hidden, "n_layers": 1, "n_heads": c.Heads, "n_kv_heads": c.KVHeads, "head_dim": c.HeadDim})
	if err != nil {
		return nil, err
	}
	p, err := parseParams(data)
	if err != nil {
		return nil, fmt.Errorf("config.json, read as %s: %w", ParamsName, err)
	}
	return p, nil
}

func openWeights(dir string) (weights.Tensors, error) {
	r, err := safetensors.Open(filepath.Join(dir, singleName))
	if err == nil {
		return weights.Safetensors(r, dir), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if index := filepath.Join(dir, indexName); len(parts(dir)) == 0 {
		r, err := safetensors.OpenIndex(index)
		if err == nil {
			return weights.Safetensors(r, dir), nil
		}
		if _, gone := os.Stat(index); gone == nil {
			return nil, err
		}
	}
	var open []weights.Tensors
	for _, path := range parts(dir) {
		f, err := torchfile.Open(path)
		if err != nil {
			return nil, errors.Join(err, closeAll(open))
		}
		open = append(open, f)
	}
	if len(open) == 0 {
		return nil, fmt.Errorf("%s: neither %s, %s nor consolidated.00.pth: %w", dir, singleName, indexName, fs.ErrNotExist)
	}
	t, err := weights.Join(open, func(name string) int { return cut(open, name) })
	if err != nil {
		return nil, errors.Join(err, closeAll(open))
	}
	return t, nil
}

func closeAll(open []weights.Tensors) error {
	var errs []error
	for _, t := range open {
		errs = append(errs, t.Close())
	}
	return errors.Join(errs...)
}

// cut is the dimension along which a tensor was cut into parts.
func cut(parts []weights.Tensors, name string) int {
	t, _ := parts[0].Info(name)
	switch {
	case len(t.Shape) != 2:
		return weights.Whole
	case strings.HasSuffix(name, ".wo.weight"), strings.HasSuffix(name, ".w2.weight"):
		return 1
	case name == "tok_embeddings.weight":
		// Llama 1 and 2 cut its columns, Llama 3 its rows: the width tells.
		if norm, ok := parts[0].Info("norm.weight"); ok && len(norm.Shape) == 1 && t.Shape[1] == norm.Shape[0] {
			return 0
		}
		return 1
	}
	return 0
}

// outer are the names outside the blocks, inner those after "layers.N.".
var (
	outer = map[string]string{
		"tok_embeddings.weight": "model.embed_tokens.weight",
		"norm.weight":           "model.norm.weight",
		"output.weight":         "lm_head.weight",
	}
	inner = map[string]string{
		"attention_norm.weight":    "input_layernorm.weight",
		"ffn_norm.weight":          "post_attention_layernorm.weight",
		"attention.wq.weight":      "self_attn.q_proj.weight",
		"attention.wk.weight":      "self_attn.k_proj.weight",
		"attention.wv.weight":      "self_attn.v_proj.weight",
		"attention.wo.weight":      "self_attn.o_proj.weight",
		"feed_forward.w1.weight":   "mlp.gate_proj.weight",
		"feed_forward.w2.weight":   "mlp.down_proj.weight",
		"feed_forward.w3.weight":   "mlp.up_proj.weight",
		"feed_forward.gate.weight": "block_sparse_moe.gate.weight",
	}
)

// newName is Hugging Face's name of a tensor, "" if there is none.
func newName(old string) string {
	if n, ok := outer[old]; ok {
		return n
	}
	p := strings.SplitN(old, ".", 3)
	if len(p) < 3 || p[0] != "layers" || !isNumber(p[1]) {
		return ""
	}
	block := "model.layers." + p[1] + "."
	if n, ok := inner[p[2]]; ok {
		return block + n
	}
	if rest, ok := strings.CutPrefix(p[2], "feed_forward.experts."); ok {
		e := strings.SplitN(rest, ".", 2)
		if len(e) == 2 && isNumber(e[0]) && slices.Contains([]string{"w1.weight", "w2.weight", "w3.weight"}, e[1]) {
			return block + "block_sparse_moe.experts." + rest
		}
	}
	return ""
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// rename shows the tensors under Hugging Face's names and in its order of rows.
func (p *params) rename(src weights.Tensors) (weights.Tensors, error) {
	var entries []weights.Entry
	for _, name := range src.Names() {
		if name == "rope.freqs" { // follows from rope_theta
			continue
		}
		e := weights.Entry{Name: newName(name), From: name}
		if e.Name == "" {
			return nil, fmt.Errorf("%s: tensor %q: %w: no tensor of Mistral's or Llama's decoder has this name", src.Path(name), name, ErrUnsupported)
		}
		heads := 0
		switch {
		case strings.HasSuffix(name, ".attention.wq.weight"):
			heads = p.Heads
		case strings.HasSuffix(name, ".attention.wk.weight"):
			heads = p.KVHeads
		}
		if heads > 0 {
			t, _ := src.Info(name)
			if len(t.Shape) != 2 || t.Shape[0] != heads*p.HeadDim {
				return nil, fmt.Errorf("%s: tensor %q: shape %v, want %d rows (%d heads of %d)", src.Path(name), name, t.Shape, heads*p.HeadDim, heads, p.HeadDim)
			}
			e.Row = interleaved(p.HeadDim)
		}
		entries = append(entries, e)
	}
	return weights.View(src, entries)
}

// interleaved gives for row t·d/2+j of a head the row 2j+t.
func interleaved(d int) func(int) int {
	return func(i int) int {
		head, k := i/d, i%d
		return head*d + 2*(k%(d/2)) + k/(d/2)
	}
}
