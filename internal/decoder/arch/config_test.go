package arch

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
)

// with returns the JSON of a small sound config, some keys changed; a nil
// value removes a key.
func with(changes map[string]any) []byte {
	m := map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama",
		"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 8,
		"num_key_value_heads": 2, "vocab_size": 100, "rms_norm_eps": 1e-5, "hidden_act": "silu",
		"max_position_embeddings": 512, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
		"bos_token_id": 1, "eos_token_id": 2,
	}
	for k, v := range changes {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return data
}

func arch(name, modelType string, more map[string]any) map[string]any {
	m := map[string]any{"architectures": []string{name}, "model_type": modelType}
	for k, v := range more {
		m[k] = v
	}
	return m
}

func TestParseConfig(t *testing.T) {
	plain := decoder.Config{
		ModelType: "llama", Hidden: 64, Intermediate: 96, Layers: 3, Heads: 8, KVHeads: 2, HeadDim: 8, Vocab: 100,
		MaxPosition: 512, NormEps: 1e-5, DType: "bfloat16", BOS: 1, EOS: []int{2}, Names: decoder.PlainNames(),
	}
	null := json.RawMessage("null")
	for _, tt := range []struct {
		name    string
		changes map[string]any
		want    func(c *decoder.Config)
	}{
		{"llama", nil, func(c *decoder.Config) {}},
		{"no kv heads", map[string]any{"num_key_value_heads": nil}, func(c *decoder.Config) { c.KVHeads = 8 }},
		{"kv heads null", map[string]any{"num_key_value_heads": null}, func(c *decoder.Config) { c.KVHeads = 8 }},
		{"head_dim", map[string]any{"head_dim": 24}, func(c *decoder.Config) { c.HeadDim = 24 }},
		{"head_dim, hidden not a multiple", map[string]any{"head_dim": 24, "hidden_size": 63}, func(c *decoder.Config) { c.HeadDim, c.Hidden = 24, 63 }},
		{"model_type only", map[string]any{"architectures": nil}, func(c *decoder.Config) {}},
		{"architectures only", map[string]any{"model_type": nil}, func(c *decoder.Config) {}},
		{"dtype as of transformers 5", map[string]any{"torch_dtype": nil, "dtype": "float16"}, func(c *decoder.Config) { c.DType = "float16" }},
		{"several eos, no bos", map[string]any{"eos_token_id": []int{5, 6}, "bos_token_id": null}, func(c *decoder.Config) { c.EOS, c.BOS = []int{5, 6}, -1 }},
		{"tied, with biases", map[string]any{"tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true},
			func(c *decoder.Config) { c.Tied, c.QKVBias, c.OBias, c.MLPBias = true, true, true, true }},
		{"rope default", map[string]any{"rope_scaling": map[string]any{"type": "default"}}, func(c *decoder.Config) {}},
		{"rope linear", map[string]any{"rope_scaling": map[string]any{"type": "linear", "factor": 2}},
			func(c *decoder.Config) { c.Rope.Scaling = program.RopeScaling{Type: "linear", Factor: 2} }},
		{"rope llama3", map[string]any{"rope_scaling": map[string]any{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}},
			func(c *decoder.Config) {
				c.Rope.Scaling = program.RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPosition: 8192}
			}},
		{"rope_parameters", map[string]any{"rope_theta": nil, "rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 5e5}},
			func(c *decoder.Config) { c.Rope.Theta = 5e5 }},
		{"rope_parameters linear", map[string]any{"rope_theta": nil, "rope_parameters": map[string]any{"rope_type": "linear", "factor": 3, "rope_theta": 7}},
			func(c *decoder.Config) {
				c.Rope.Theta, c.Rope.Scaling = 7, program.RopeScaling{Type: "linear", Factor: 3}
			}},
		{"llama ignores a window", map[string]any{"sliding_window": 77}, func(c *decoder.Config) {}},
		{"mistral", arch("MistralForCausalLM", "mistral", map[string]any{"sliding_window": 77}),
			func(c *decoder.Config) { c.ModelType, c.Windows = "mistral", []int{77, 77, 77} }},
		{"mistral without", arch("MistralForCausalLM", "mistral", map[string]any{"sliding_window": null}),
			func(c *decoder.Config) { c.ModelType = "mistral" }},
		{"mistral default", arch("MistralForCausalLM", "mistral", map[string]any{"num_key_value_heads": nil}),
			func(c *decoder.Config) { c.ModelType, c.KVHeads, c.Windows = "mistral", 8, []int{4096, 4096, 4096} }},
		{"qwen2", arch("Qwen2ForCausalLM", "qwen2", map[string]any{"sliding_window": 77, "use_sliding_window": false}),
			func(c *decoder.Config) { c.ModelType, c.QKVBias = "qwen2", true }},
		{"qwen2 sliding", arch("Qwen2ForCausalLM", "qwen2", map[string]any{"sliding_window": 77, "use_sliding_window": true, "max_window_layers": 2}),
			func(c *decoder.Config) { c.ModelType, c.QKVBias, c.Windows = "qwen2", true, []int{0, 0, 77} }},
		{"qwen2 sliding from far layers", arch("Qwen2ForCausalLM", "qwen2", map[string]any{"sliding_window": 77, "use_sliding_window": true}),
			func(c *decoder.Config) { c.ModelType, c.QKVBias = "qwen2", true }},
		{"qwen2 layer types", arch("Qwen2ForCausalLM", "qwen2", map[string]any{"sliding_window": 77, "use_sliding_window": true,
			"layer_types": []string{"full_attention", "sliding_attention", "full_attention"}}),
			func(c *decoder.Config) { c.ModelType, c.QKVBias, c.Windows = "qwen2", true, []int{0, 77, 0} }},
		{"qwen3", arch("Qwen3ForCausalLM", "qwen3", nil), func(c *decoder.Config) { c.ModelType, c.QKNorm, c.HeadDim = "qwen3", true, 128 }},
		{"qwen3 biased", arch("Qwen3ForCausalLM", "qwen3", map[string]any{"attention_bias": true, "head_dim": 16}),
			func(c *decoder.Config) {
				c.ModelType, c.QKNorm, c.HeadDim, c.QKVBias, c.OBias = "qwen3", true, 16, true, true
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := plain
			want.Rope = &program.Rope{Theta: 10000}
			tt.want(&want)
			want.Rope.Dim = want.HeadDim
			got, err := ParseConfig(with(tt.changes))
			require.NoError(t, err)
			require.Equal(t, want, got.Config)
		})
	}
}

func TestParseConfigErrors(t *testing.T) {
	scaling := func(s map[string]any) map[string]any { return map[string]any{"rope_scaling": s} }
	for _, tt := range []struct {
		changes     map[string]any
		want        string
		unsupported bool
	}{
		{map[string]any{"architectures": []string{"T5ForConditionalGeneration"}, "model_type": "t5"}, `"architectures": "T5ForConditionalGeneration" is not supported (supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM`, true},
		{map[string]any{"architectures": nil, "model_type": "t5"}, `"model_type": "t5" is not supported (supported: llama, mistral, qwen2, qwen3`, true},
		{map[string]any{"architectures": nil, "model_type": nil}, `neither "model_type" nor "architectures" is given`, false},
		{map[string]any{"model_type": "mistral"}, `"model_type" "mistral" contradicts "architectures" "LlamaForCausalLM"`, false},
		{map[string]any{"architectures": []string{"LlamaForCausalLM", "X"}}, `"architectures": 2 entries, want one`, false},
		{map[string]any{"hidden_size": nil}, `"hidden_size": missing`, false},
		{map[string]any{"hidden_size": 0}, `"hidden_size": 0, want 1 to`, false},
		{map[string]any{"hidden_size": "64"}, `"hidden_size": "64", want an integer`, false},
		{map[string]any{"intermediate_size": -4}, `"intermediate_size": -4, want`, false},
		{map[string]any{"num_hidden_layers": 1.5}, `"num_hidden_layers": 1.5, want an integer`, false},
		{map[string]any{"num_hidden_layers": 1 << 40}, `"num_hidden_layers": 1099511627776, want`, false},
		{map[string]any{"vocab_size": 0}, `"vocab_size": 0`, false},
		{map[string]any{"num_attention_heads": 0}, `"num_attention_heads": 0`, false},
		{map[string]any{"num_attention_heads": 7}, `"num_attention_heads": 7 does not divide hidden_size 64 and there is no head_dim`, false},
		{map[string]any{"num_key_value_heads": 3}, `"num_key_value_heads": 3 does not divide num_attention_heads 8`, false},
		{map[string]any{"num_key_value_heads": 0}, `"num_key_value_heads": 0`, false},
		{map[string]any{"head_dim": 7}, `"head_dim": 7, want an even number`, false},
		{map[string]any{"head_dim": 0}, `"head_dim": 0`, false},
		{map[string]any{"head_dim": 1 << 23}, `"head_dim": 8388608 times 8 heads`, false},
		{map[string]any{"rms_norm_eps": 0}, `"rms_norm_eps": 0, want a small positive number`, false},
		{map[string]any{"rms_norm_eps": -1e-5}, `"rms_norm_eps"`, false},
		{map[string]any{"rope_theta": 0}, `"rope_theta": 0, want a positive number`, false},
		{map[string]any{"max_position_embeddings": -1}, `"max_position_embeddings"`, false},
		{map[string]any{"eos_token_id": "x"}, `"eos_token_id"`, false},
		{map[string]any{"hidden_act": "snake"}, `"hidden_act": "snake" is not supported (supported: silu, gelu`, true},
		{map[string]any{"tie_word_embeddings": 1}, `"tie_word_embeddings": 1, want true or false`, false},
		{map[string]any{"partial_rotary_factor": 1.5}, `"partial_rotary_factor": 1.5, want`, false},
		{scaling(map[string]any{"rope_type": "spiral", "factor": 4}), `"rope_scaling.rope_type": "spiral" is not supported (supported: default, linear`, true},
		{scaling(map[string]any{"type": "linear"}), `"rope_scaling.factor": missing`, false},
		{scaling(map[string]any{"type": "linear", "factor": 0.5}), `"factor": 0.5, want at least 1`, false},
		{scaling(map[string]any{"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1, "original_max_position_embeddings": 10}), `want 0 < low < high`, false},
		{scaling(map[string]any{"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}), `"rope_scaling.original_max_position_embeddings": missing`, false},
		{map[string]any{"rope_scaling": "linear"}, `"rope_scaling": not a JSON object`, false},
		{map[string]any{"rope_parameters": map[string]any{"rope_theta": 5}}, `"rope_parameters.rope_theta": 5 contradicts rope_theta 10000`, false},
		{map[string]any{"rope_scaling": map[string]any{"type": "linear", "factor": 2}, "rope_parameters": map[string]any{"rope_type": "default"}}, `"rope_parameters": contradicts rope_scaling`, false},
		{map[string]any{"layer_types": []string{"full_attention"}}, `"layer_types": 1 entries, want num_hidden_layers 3`, false},
		{map[string]any{"layer_types": []string{"full_attention", "full_attention", "sliding_attention"}}, `"layer_types": layer 2 is sliding_attention, but no sliding window`, false},
		{map[string]any{"layer_types": []string{"linear_attention", "full_attention", "full_attention"}}, `"layer_types": "linear_attention" is not supported`, true},
		{arch("MistralForCausalLM", "mistral", map[string]any{"sliding_window": -3}), `"sliding_window": -3`, false},
	} {
		t.Run(tt.want, func(t *testing.T) {
			_, err := ParseConfig(with(tt.changes))
			require.ErrorContains(t, err, tt.want)
			require.Equal(t, tt.unsupported, errors.Is(err, decoder.ErrUnsupported))
		})
	}
	for text, want := range map[string]string{
		"":                              "EOF",
		"[]":                            "not a JSON object",
		"null":                          "not a JSON object",
		"{} {}":                         "something follows",
		"{\n\"rms_norm_eps\": NaN\n}":   "line 2: invalid character 'N'",
		"{\"hidden_size\": 64":          "unexpected EOF",
		"{\"model_type\": [\"llama\"]}": `"model_type": ["llama"], want a string`,
	} {
		_, err := ParseConfig([]byte(text))
		require.ErrorContains(t, err, want)
	}
}

// FuzzParseConfig: whatever is accepted is sound enough to plan a model with.
func FuzzParseConfig(f *testing.F) {
	f.Add(with(nil))
	f.Add(with(map[string]any{"rope_scaling": map[string]any{"type": "linear", "factor": 2}}))
	f.Add(with(map[string]any{"rope_theta": nil, "rope_parameters": map[string]any{"rope_type": "llama3", "rope_theta": 1e4, "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 99}}))
	f.Add(with(arch("MistralForCausalLM", "mistral", nil)))
	f.Add(with(arch("Qwen2ForCausalLM", "qwen2", map[string]any{"use_sliding_window": true, "max_window_layers": 1, "layer_types": []string{"full_attention", "sliding_attention", "full_attention"}})))
	f.Add(with(arch("Qwen3ForCausalLM", "qwen3", map[string]any{"head_dim": 1 << 23, "eos_token_id": []int{1}})))
	files, err := filepath.Glob("../../../testdata/architectures/*/config.json")
	require.NoError(f, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err != nil {
			require.Nil(t, c)
			return
		}
		for _, p := range []*program.Program{c.Blocks[0], c.Blocks[c.Layers-1]} {
			require.GreaterOrEqual(t, c.Window(p.Index), 0)
			for _, l := range p.Linears {
				require.Positive(t, l.In)
				require.Positive(t, l.Out)
			}
		}
		if c.Rope == nil || c.Rope.Dim > 4096 {
			return
		}
		freq, factor := c.Rope.Frequencies(8)
		require.True(t, factor > 0 && factor < 1e6)
		for _, f := range freq {
			require.True(t, f >= 0 && f <= 1e300, "frequency %g", f)
		}
	})
}
