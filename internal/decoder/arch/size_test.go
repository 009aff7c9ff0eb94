package arch_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder/arch"
)

// deepseekV3 is the configuration of DeepSeek-V3, as far as it matters.
const deepseekV3 = `{"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
	"intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
	"num_key_value_heads": 128, "vocab_size": 129280, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
	"qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
	"first_k_dense_replace": 3, "n_group": 8, "topk_group": 4, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
	"num_nextn_predict_layers": 1, "rope_theta": 10000, "rms_norm_eps": 1e-06, "max_position_embeddings": 163840}`

// TestLargeModel holds time and memory of describing a model of 61 blocks with 256
// experts each: 45,000 linear layers.
func TestLargeModel(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	m, err := arch.ParseConfig([]byte(deepseekV3))
	require.NoError(t, err)
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	kept := float64(after.HeapAlloc-before.HeapAlloc) / (1 << 20)
	linears := len(m.Linears())
	t.Logf("%d linears in %v, %.0f MB kept", linears, took, kept)
	require.Equal(t, 61*5+3*3+58*257*3, linears)
	require.Less(t, took, 3*time.Second)
	require.Less(t, kept, 100.0)
	runtime.KeepAlive(m)
}
