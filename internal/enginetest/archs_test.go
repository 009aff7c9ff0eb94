package enginetest

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/decodertest"
	"github.com/golowbit/lowbit/safetensors"
)

// smallConfig is the config.json of a small model.
func smallConfig(modelType string) map[string]any {
	return map[string]any{
		"model_type": modelType, "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 96,
		"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
		"max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
		"hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "float32",
	}
}

// randomModel writes a model of random weights with the tokenizer of another
// folder. Gains are near 1 and biases large, so that each of them matters.
func randomModel(t testing.TB, tokenizer string, config map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	data, err := json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600))
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		data, err := os.ReadFile(filepath.Join(tokenizer, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	decodertest.WriteRandom(t, dir, safetensors.F32, 0.2)
	return dir
}

// Everything of an architecture that a file must say: names, biases, the
// order of the rows of q and k, norms of q and k, heads wider than their
// share, frequencies, an output head of its own.
func TestArchitecturesAgree(t *testing.T) {
	engine(t)
	with := func(modelType string, more map[string]any) map[string]any {
		c := smallConfig(modelType)
		maps.Copy(c, more)
		return c
	}
	cases := []archCase{
		{name: "llama", config: smallConfig("llama")},
		{name: "llama, untied, biases", config: with("llama", map[string]any{"tie_word_embeddings": false, "attention_bias": true, "mlp_bias": true})},
		{name: "llama, wide heads", config: with("llama", map[string]any{"head_dim": 32, "rope_theta": 500000.0})},
		{name: "llama, all heads", config: with("llama", map[string]any{"num_key_value_heads": 4})},
		{name: "llama, linear scaling", config: with("llama", map[string]any{"rope_scaling": map[string]any{"type": "linear", "factor": 4.0}})},
		{name: "llama, llama3 scaling", config: with("llama", map[string]any{"head_dim": 64, "rope_theta": 500000.0, "rope_scaling": map[string]any{
			"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})},
		{name: "llama, llama3 scaling, short context", config: with("llama", map[string]any{"head_dim": 64, "rope_scaling": map[string]any{
			"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}})},
		{name: "mistral", config: with("mistral", map[string]any{"sliding_window": 256, "tie_word_embeddings": false})},
		{name: "qwen2", config: with("qwen2", map[string]any{"rope_theta": 1e6})},
		{name: "qwen2, untied", config: with("qwen2", map[string]any{"tie_word_embeddings": false})},
		{name: "qwen3", config: with("qwen3", map[string]any{"head_dim": 32, "rms_norm_eps": 1e-6})},
		{name: "qwen3, untied", config: with("qwen3", map[string]any{"tie_word_embeddings": false})},
		{name: "llama, Q8_0", config: with("llama", map[string]any{"attention_bias": true}), scheme: scheme(8, 32, true)},
		{name: "qwen2, Q8_0", config: smallConfig("qwen2"), scheme: scheme(8, 32, true)},
		{name: "qwen3, Q8_0", config: smallConfig("qwen3"), scheme: scheme(8, 32, true)},
	}
	ids := sampleIDs(t, 100)
	cases = append(cases, otherArchitectures()...)
	jobs, dirs := make([]job, len(cases)), make([]string, len(cases))
	for i, c := range cases {
		dirs[i] = randomModel(t, embedded(), c.config)
		jobs[i] = job{
			Model:   writeGGUF(t, dirs[i], ggufmodel.Format{Dense: safetensors.F32}, c.scheme),
			Windows: [][]int32{ids},
		}
	}
	answers := run(t, jobs...)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m, src := load(t, jobs[i].Model)
			ours := m.Logits(t, ids)
			d := diverge(answers[i].logits, ours)
			t.Logf("KL: %v", d)
			bound := 1e-8
			if c.bound > 0 {
				bound = c.bound
			}
			if c.scheme.Bits > 0 {
				bound = 3e-2 // random logits are far apart, and 8-bit inputs with them
				if c.bound == deep {
					bound = 0.3
				}
				if c.eight > 0 {
					bound = c.eight
				}
			}
			require.Less(t, d.mean, bound)

			if c.other {
				again := diverge(source(t, dirs[i]).Logits(t, ids), ours)
				t.Logf("KL of what is read back from its source: %v", again)
				if c.scheme.Bits == 0 {
					require.Less(t, again.mean, returned, "the file read back and its source")
				} else if c.eight > 0 {
					require.Less(t, again.mean, c.eight, "weights of 8 bits and their source")
				}
				return
			}

			requireSameConfig(t, c.config, src.Config())
		})
	}
}

// requireSameConfig wants what is read from a file to be the model it was made from.
func requireSameConfig(t *testing.T, config map[string]any, read []byte) {
	t.Helper()
	data, err := json.Marshal(config)
	require.NoError(t, err)
	want, err := arch.ParseConfig(data)
	require.NoError(t, err)
	got, err := arch.ParseConfig(read)
	require.NoError(t, err)
	if config["sliding_window"] != nil {
		want.ModelType, want.MaxPosition, want.Windows = "llama", 256, nil
	}
	want.BOS, want.EOS = got.BOS, got.EOS // the tokenizer's
	want.DType = got.DType
	if got.Rope.Scaling.Type == "llama3" {
		got, want := &got.Rope.Scaling, &want.Rope.Scaling
		require.InDelta(t, float64(want.OriginalMaxPosition)/want.LowFreqFactor, float64(got.OriginalMaxPosition)/got.LowFreqFactor, 1e-2)
		require.InDelta(t, float64(want.OriginalMaxPosition)/want.HighFreqFactor, float64(got.OriginalMaxPosition)/got.HighFreqFactor, 1e-2)
		require.Equal(t, want.Factor, got.Factor)
		*want = *got
	}
	require.Equal(t, want.Config, got.Config)
}
