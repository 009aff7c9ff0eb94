package enginetest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/internal/decodertest"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/safetensors"
)

// Types of blocks of 256 where the engine has value heads of 128 in another order:
// out_proj is in blocks of 32, all others are as in other architectures, and the
// engine computes what is read back.
func TestDeltaNetTypes(t *testing.T) {
	engine(t)
	sizes := more{
		"hidden_size": 256, "intermediate_size": 256, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256, "num_hidden_layers": 2,
		"full_attention_interval": 2, "head_dim": 64, "rms_norm_eps": 1e-6, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
		"linear_key_head_dim": 128, "linear_value_head_dim": 128,
	}
	ids := sampleIDs(t, 40)
	types := map[string][2]gguf.Type{ // of attn_gate and ssm_out
		"qwen3_5_text": {gguf.Q4_K, gguf.Q5_0}, "qwen3_next": {gguf.Q5_K, gguf.Q4_K},
	}
	for modelType, want := range types {
		t.Run(modelType, func(t *testing.T) {
			config := with(smallConfig(modelType), sizes)
			if modelType == "qwen3_next" {
				config["num_experts"], config["num_experts_per_tok"] = 4, 2
			}
			dir := randomModel(t, embedded(), config)
			path := writeGGUF(t, dir, ggufmodel.Format{Type: "Q4_K_M"}, scheme(0, 0, false))
			f, err := gguf.Open(path)
			require.NoError(t, err)
			for i, name := range []string{"attn_gate", "ssm_out"} {
				tensor, ok := f.Tensor("blk.0." + name + ".weight")
				require.True(t, ok)
				require.Equal(t, want[i], tensor.Type, name)
			}
			require.NoError(t, f.Close())
			m, _ := load(t, path)
			answers := run(t, job{Model: path, Windows: [][]int32{ids}})
			ours := m.Logits(t, ids)
			d := diverge(answers[0].logits, ours)
			t.Logf("KL: %v; of what is read back from its source: %v", d, diverge(source(t, dir).Logits(t, ids), ours))
			require.Less(t, d.mean, float64(steered))
		})
	}
}

// Tensors that neither the engine nor the decoder runs are left out, and others are
// refused.
func TestLeftOut(t *testing.T) {
	text := with(smallConfig("qwen3_5_text"), more{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32})
	config := more{"model_type": "qwen3_5", "tie_word_embeddings": true, "text_config": with(text, more{"full_attention_interval": 2})}
	dir := randomModel(t, embedded(), config)
	shard := filepath.Join(dir, "model.safetensors")
	require.NoError(t, os.Remove(shard))
	decodertest.WriteRandom(t, dir, safetensors.F32, 0.2, "mtp.norm.weight", "model.visual.merger.norm.weight")
	_, src := load(t, writeGGUF(t, dir, ggufmodel.Format{}, scheme(0, 0, false)))
	require.NotContains(t, src.Names(), "mtp.norm.weight")

	require.NoError(t, os.Remove(shard))
	decodertest.WriteRandom(t, dir, safetensors.F32, 0.2, "model.other.weight")
	folder, err := checkpoint.Open(dir)
	require.NoError(t, err)
	defer folder.Close()
	require.ErrorContains(t, ggufmodel.Format{}.CheckModel(folder), "model.other.weight")
}

// A file of others has out_proj in blocks of 256, which lie across two heads: it is
// read as floats, and written again as it is.
func TestForeignOutProjection(t *testing.T) {
	engine(t)
	config := with(smallConfig("qwen3_5_text"), more{
		"hidden_size": 256, "full_attention_interval": 2, "head_dim": 64, "rms_norm_eps": 1e-6, "linear_num_key_heads": 2,
		"linear_num_value_heads": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
	})
	f, err := gguf.Open(writeGGUF(t, randomModel(t, embedded(), config), ggufmodel.Format{Dense: safetensors.F32}, scheme(0, 0, false)))
	require.NoError(t, err)
	defer f.Close()
	grid, ok := kquant.Of(gguf.Q4_K)
	require.True(t, ok)
	list := slices.Clone(f.Tensors())
	for i := range list {
		if list[i].Name == "blk.0.ssm_out.weight" {
			list[i].Type = gguf.Q4_K
		}
	}
	path := filepath.Join(t.TempDir(), "foreign.gguf")
	w, err := gguf.Create(path, f.KV(), list)
	require.NoError(t, err)
	for i, to := range list {
		from, _ := f.Tensor(to.Name)
		data := make([]byte, from.Bytes())
		require.NoError(t, f.ReadAt(to.Name, data, 0))
		if list[i].Type == gguf.Q4_K {
			values := make([]float32, len(data)/4)
			require.NoError(t, gguf.F32.Decode(values, data))
			data = data[:to.Bytes()]
			require.NoError(t, grid.Encode(data, values))
		}
		require.NoError(t, w.Append(to.Name, data))
	}
	require.NoError(t, w.Close())

	m, src := load(t, path)
	ids := sampleIDs(t, 40)
	ours := m.Logits(t, ids)
	d := diverge(run(t, job{Model: path, Windows: [][]int32{ids}})[0].logits, ours)
	t.Logf("KL: %v", d)
	require.Less(t, d.mean, 0.3) // inputs of 8 bits
	again, _ := load(t, writeGGUF(t, src.Path(), ggufmodel.Format{}, scheme(0, 0, false)))
	require.Less(t, diverge(again.Logits(t, ids), ours).mean, returned)
}
