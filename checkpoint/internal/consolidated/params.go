package consolidated

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/safetensors"
)

// ParamsName is the file with the model's sizes.
const ParamsName = "params.json"

// ErrUnsupported is wrapped where the model is of a kind that is not read.
var ErrUnsupported = errors.New("model not supported")

const maxParams = 16 << 20 // bytes

// params is params.json.
type params struct {
	Dim       int             `json:"dim"`
	Layers    int             `json:"n_layers"`
	Heads     int             `json:"n_heads"`
	KVHeads   int             `json:"n_kv_heads"`
	HeadDim   int             `json:"head_dim"`
	HiddenDim int             `json:"hidden_dim"` // Mistral's have it, Meta's not
	NormEps   float64         `json:"norm_eps"`
	RopeTheta float64         `json:"rope_theta"`
	Tied      bool            `json:"tied_embeddings"`
	Window    json.RawMessage `json:"sliding_window"`
	MaxSeqLen int             `json:"max_seq_len"`
	Positions int             `json:"max_position_embeddings"`
	Scaled    bool            `json:"use_scaled_rope"`
	MoE       *struct {
		Experts int `json:"num_experts"`
		Active  int `json:"num_experts_per_tok"`
		Shared  int `json:"num_shared_experts"`
	} `json:"moe"`
}

// refusedKeys ask for what is not translated.
var refusedKeys = []string{
	"quantization", "vision_encoder", "multimodal", "yarn", "llama_4_scaling", "q_lora_rank", "qk_nope_head_dim", "use_biases",
}

func readParams(dir string) (*params, error) {
	path := filepath.Join(dir, ParamsName)
	data, err := disk.ReadText(path, maxParams)
	if err != nil {
		return nil, err
	}
	p, err := parseParams(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func parseParams(data []byte) (*params, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return nil, fmt.Errorf("not a model's parameters: %w", err)
	}
	if inner, ok := keys["model"]; ok { // Meta's later files
		return parseParams(inner)
	}
	for _, key := range refusedKeys {
		if v, ok := keys[key]; ok && !slices.Contains([]string{"null", "false", "{}", "0"}, string(v)) {
			return nil, fmt.Errorf("%w: %s is set; take the model's Hugging Face files (config.json, model*.safetensors)", ErrUnsupported, key)
		}
	}
	p := &params{NormEps: 1e-5, RopeTheta: 10000}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("not a model's parameters: %w", err)
	}
	if p.KVHeads == 0 {
		p.KVHeads = p.Heads
	}
	const most = 1 << 24
	for name, v := range map[string]int{"dim": p.Dim, "n_layers": p.Layers, "n_heads": p.Heads, "n_kv_heads": p.KVHeads} {
		if v < 1 || v > most {
			return nil, fmt.Errorf("%s is %d, want 1 to %d", name, v, most)
		}
	}
	if p.HeadDim == 0 {
		p.HeadDim = p.Dim / p.Heads
	}
	if p.HeadDim < 2 || p.HeadDim > most || p.HeadDim%2 != 0 {
		return nil, fmt.Errorf("head_dim is %d, want an even number", p.HeadDim)
	}
	if p.MoE != nil && p.MoE.Shared > 0 {
		return nil, fmt.Errorf("%w: shared experts (moe.num_shared_experts); take the model's Hugging Face files", ErrUnsupported)
	}
	if p.Scaled {
		return nil, fmt.Errorf("%w: use_scaled_rope, whose factor it does not say; put Hugging Face's config.json beside it", ErrUnsupported)
	}
	return p, nil
}

// config makes a config.json of Hugging Face. Sizes that the file does not say
// are taken from the tensors, which have the new names.
func (p *params) config(t weights.Tensors) (json.RawMessage, error) {
	size := func(name string, dim int) (int, error) {
		info, ok := t.Info(name)
		if !ok || len(info.Shape) != 2 {
			return 0, fmt.Errorf("%s: no matrix for %q", t.Path(""), name)
		}
		return info.Shape[dim], nil
	}
	vocab, err := size("model.embed_tokens.weight", 0)
	if err != nil {
		return nil, err
	}
	first := "model.layers.0.mlp.gate_proj.weight"
	c := map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama",
		"hidden_size": p.Dim, "num_hidden_layers": p.Layers, "num_attention_heads": p.Heads, "num_key_value_heads": p.KVHeads,
		"head_dim": p.HeadDim, "vocab_size": vocab, "rms_norm_eps": p.NormEps, "rope_theta": p.RopeTheta, "hidden_act": "silu",
		"tie_word_embeddings": p.Tied, "max_position_embeddings": p.positions(), "bos_token_id": 1, "eos_token_id": 2,
	}
	if p.HiddenDim > 0 {
		c["architectures"], c["model_type"] = []string{"MistralForCausalLM"}, "mistral"
		if c["sliding_window"], err = p.window(); err != nil {
			return nil, err
		}
	}
	if vocab == 128256 { // Llama 3's tokenizer
		c["bos_token_id"], c["eos_token_id"] = 128000, 128001
	}
	if p.MoE != nil {
		c["architectures"], c["model_type"] = []string{"MixtralForCausalLM"}, "mixtral"
		c["num_local_experts"], c["num_experts_per_tok"] = p.MoE.Experts, p.MoE.Active
		first = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
	}
	if c["intermediate_size"], err = size(first, 0); err != nil {
		return nil, err
	}
	info, _ := t.Info(first)
	c["torch_dtype"] = map[safetensors.DType]string{safetensors.F32: "float32", safetensors.BF16: "bfloat16"}[info.DType]
	if c["torch_dtype"] == "" {
		c["torch_dtype"] = "float16"
	}
	return json.MarshalIndent(c, "", "  ")
}

// positions is the longest text. Meta's files do not say it; it follows from
// the model's generation.
func (p *params) positions() int {
	switch {
	case p.Positions > 0:
		return p.Positions
	case p.MaxSeqLen > 0:
		return p.MaxSeqLen
	case p.HiddenDim > 0:
		return 32768 // what transformers' converter takes
	case p.RopeTheta >= 1e6:
		return 16384 // Code Llama
	case p.RopeTheta >= 5e5:
		return 8192 // Llama 3
	}
	return 4096 // Llama 2
}

// window is the sliding window of all layers: a number, a string, a list of
// equal numbers, or null.
func (p *params) window() (any, error) {
	if len(p.Window) == 0 || string(p.Window) == "null" {
		return nil, nil
	}
	var list []json.RawMessage
	if json.Unmarshal(p.Window, &list) == nil && len(list) > 0 {
		for _, w := range list[1:] {
			if !bytes.Equal(w, list[0]) {
				return nil, fmt.Errorf("%w: sliding_window %s differs from layer to layer; take the model's Hugging Face files", ErrUnsupported, p.Window)
			}
		}
		return (&params{Window: list[0]}).window()
	}
	var n int
	if json.Unmarshal(bytes.Trim(p.Window, `"`), &n) != nil || n < 1 {
		return nil, fmt.Errorf("sliding_window is %.40s, want a number", p.Window)
	}
	return n, nil
}
