package consolidated

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/safetensors"
)

// TestAgainstTransformers: the tensors are those of a model of transformers
// whose logits are the published form's (testdata/generate.py).
func TestAgainstTransformers(t *testing.T) {
	for name, want := range map[string]string{
		"mistral": `{"architectures":["MistralForCausalLM"],"model_type":"mistral","hidden_size":16,"num_hidden_layers":1,"num_attention_heads":4,
			"num_key_value_heads":2,"head_dim":6,"vocab_size":20,"rms_norm_eps":1e-5,"rope_theta":10000,"hidden_act":"silu","tie_word_embeddings":false,
			"max_position_embeddings":32768,"bos_token_id":1,"eos_token_id":2,"intermediate_size":24,"sliding_window":null,"torch_dtype":"float32"}`,
		"llama": `{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":16,"num_hidden_layers":1,"num_attention_heads":4,
			"num_key_value_heads":2,"head_dim":4,"vocab_size":20,"rms_norm_eps":1e-6,"rope_theta":10000,"hidden_act":"silu","tie_word_embeddings":false,
			"max_position_embeddings":4096,"bos_token_id":1,"eos_token_id":2,"intermediate_size":48,"torch_dtype":"float32"}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", name)
			require.True(t, Found(dir))
			w, config, err := Open(dir, nil)
			require.NoError(t, err)
			defer w.Close()
			require.JSONEq(t, want, string(config))
			same(t, dir, w)
			// With the config.json that was made, params.json is not needed.
			again, kept, err := Open(dir, config)
			require.NoError(t, err)
			defer again.Close()
			require.Equal(t, config, kept)
			same(t, dir, again)
		})
	}
}

// TestShards: the same weights in two files and an index.
func TestShards(t *testing.T) {
	from, dir := filepath.Join("testdata", "mistral"), t.TempDir()
	for _, name := range []string{ParamsName, "hf.safetensors"} {
		data, err := os.ReadFile(filepath.Join(from, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o666))
	}
	src, err := safetensors.Open(filepath.Join(from, singleName))
	require.NoError(t, err)
	defer src.Close()
	index := map[string]string{}
	for k, shard := range []string{"consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"} {
		var plan []safetensors.TensorInfo
		for i, name := range src.Names() {
			if i%2 == k {
				info, _ := src.Info(name)
				plan = append(plan, safetensors.TensorInfo{Name: name, DType: info.DType, Shape: info.Shape})
				index[name] = shard
			}
		}
		part := t.TempDir()
		w, err := safetensors.NewWriter(part, plan, safetensors.Options{})
		require.NoError(t, err)
		for _, info := range plan {
			data, err := src.ReadBytes(info.Name, nil)
			require.NoError(t, err)
			require.NoError(t, w.WriteTensor(info.Name, data))
		}
		require.NoError(t, w.Close())
		require.NoError(t, os.Rename(filepath.Join(part, safetensors.SingleName), filepath.Join(dir, shard)))
	}
	data, err := json.Marshal(map[string]any{"weight_map": index})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, indexName), data, 0o666))
	require.True(t, Found(dir))
	w, _, err := Open(dir, nil)
	require.NoError(t, err)
	same(t, dir, w)
	require.NoError(t, w.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "consolidated-00002-of-00002.safetensors")))
	_, _, err = Open(dir, nil)
	require.ErrorContains(t, err, `shard "consolidated-00002-of-00002.safetensors" is missing`)
}

func same(t *testing.T, dir string, w weights.Tensors) {
	hf, err := safetensors.Open(filepath.Join(dir, "hf.safetensors"))
	require.NoError(t, err)
	defer hf.Close()
	require.ElementsMatch(t, hf.Names(), w.Names())
	for _, n := range hf.Names() {
		want, err := hf.ReadBytes(n, nil)
		require.NoError(t, err)
		info, _ := hf.Info(n)
		mine, ok := w.Info(n)
		require.True(t, ok)
		require.Equal(t, info.Shape, mine.Shape, n)
		require.Equal(t, info.DType, mine.DType, n)
		got := make([]byte, len(want))
		require.NoError(t, w.ReadAt(n, got, 0))
		require.Equal(t, want, got, n)
	}
}

func TestParams(t *testing.T) {
	const good = `"dim":16,"n_layers":1,"n_heads":4,"hidden_dim":24`
	for text, want := range map[string]string{
		`{`:                                    "not a model's parameters",
		`{}`:                                   "want 1 to",
		`{"dim":-4}`:                           "want 1 to",
		`{"dim":16,"n_layers":1,"n_heads":16}`: "head_dim is 1",
		`{` + good + `,"quantization":{"qformat_weight":"fp8_e4m3"}}`:   "quantization is set",
		`{` + good + `,"moe":{"num_experts":4,"num_shared_experts":1}}`: "shared experts",
		`{"dim":16,"n_layers":1,"n_heads":4,"use_scaled_rope":true}`:    "use_scaled_rope",
	} {
		_, err := parseParams([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
	for text, want := range map[string]any{`4096`: 4096, `"4096"`: 4096, `null`: nil, ``: nil, `[64,64]`: 64, `[]`: "error", `[1,null]`: "error", `-1`: "error", `{}`: "error"} {
		p := &params{Window: json.RawMessage(text)}
		got, err := p.window()
		if want == "error" {
			require.Error(t, err, text)
			continue
		}
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
}

func TestNames(t *testing.T) {
	for old, want := range map[string]string{
		"layers.31.attention.wo.weight":             "model.layers.31.self_attn.o_proj.weight",
		"layers.2.feed_forward.experts.7.w2.weight": "model.layers.2.block_sparse_moe.experts.7.w2.weight",
		"layers.2.feed_forward.gate.weight":         "model.layers.2.block_sparse_moe.gate.weight",
		"layers.x.ffn_norm.weight":                  "",
		"layers.1.feed_forward.experts.7.w4.weight": "",
		"layers.1": "",
		"vision.x": "",
	} {
		require.Equal(t, want, newName(old), old)
	}
}

func TestRefused(t *testing.T) {
	_, _, err := Open(t.TempDir(), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, ParamsName)
	config := func(heads int) json.RawMessage {
		return json.RawMessage(`{"hidden_size":16,"num_attention_heads":` + string(rune('0'+heads)) + `,"num_key_value_heads":2,"head_dim":6}`)
	}
	_, _, err = Open(filepath.Join("testdata", "mistral"), config(8))
	require.ErrorContains(t, err, `wq.weight": shape [24 16], want 48 rows (8 heads of 6)`)
	_, _, err = Open(t.TempDir(), config(4))
	require.ErrorIs(t, err, os.ErrNotExist)
}
