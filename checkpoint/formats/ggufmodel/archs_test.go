package ggufmodel

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
)

// What the engine computes otherwise than Hugging Face is refused, by the key that
// says so.
func TestArchitecturesRefuse(t *testing.T) {
	type more = map[string]any
	yarn := func(m more) more {
		c := more{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
		maps.Copy(c, m)
		return c
	}
	plain := more{"rope_parameters": more{"rope_type": "default"}}
	moe := more{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_key_value_heads": 4, "rms_norm_eps": 1e-6}
	latent := more{"kv_lora_rank": 32, "q_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16, "n_group": 1, "topk_group": 1}
	maps.Copy(latent, moe)
	mamba := more{"state_size": 8}
	mamba2 := more{"state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 2}
	hybrid := more{
		"num_local_experts": 4, "mamba_n_heads": 8, "mamba_d_state": 8, "layer_types": []string{"mamba", "attention"},
		"position_embedding_type": "rope", "shared_intermediate_size": 32,
	}
	lfm2 := more{"layer_types": []string{"conv", "full_attention"}, "block_auto_adjust_ff_dim": false}
	lfm2moe := more{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_dense_layers": 1}
	maps.Copy(lfm2moe, lfm2)
	for _, c := range []struct {
		modelType  string
		base, edit more
		want       string
	}{
		{"ministral3", plain, more{"rope_parameters": yarn(more{"truncate": false})}, "truncate"},
		{"ministral3", plain, more{"rope_parameters": yarn(more{"attention_factor": 3.0})}, "attention factor"},
		{"ministral3", plain, more{"rope_parameters": more{
			"rope_type": "default", "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 64,
		}}, "llama_4_scaling_beta"},
		{"apertus", more{"hidden_act": "xielu", "rope_parameters": plain["rope_parameters"]}, more{"attention_bias": true}, "attention_bias"},
		{"gpt_bigcode", more{"multi_query": true}, more{"multi_query": false}, "multi_query"},
		{"mpt", nil, more{"attn_config": more{"softmax_scale": 0.3}}, "softmax_scale"},
		{"dots1", moe, more{"num_key_value_heads": 2}, "num_key_value_heads"},
		{"dots1", moe, more{"attention_bias": true}, "attention_bias"},
		{"dots1", moe, more{"n_shared_experts": 0}, "n_shared_experts"},
		{"glm4_moe", moe, more{"n_shared_experts": 0}, "n_shared_experts"},
		{"hunyuan_v1_moe", more{"num_experts": 4}, more{"attention_bias": true}, "attention_bias"},
		{"ernie4_5_moe", more{"moe_num_experts": 4, "moe_k": 2}, more{"moe_layer_end_index": 0}, "moe_layer_end_index"},
		{"ernie4_5_moe", more{"moe_num_experts": 4, "moe_k": 2}, more{"moe_layer_interval": 2}, "moe_layer_interval"},
		{"ernie4_5_moe", more{"moe_num_experts": 4, "moe_k": 2}, more{"use_bias": true}, "use_bias"},
		{"gpt_oss", more{"num_local_experts": 4, "sliding_window": 32}, more{"swiglu_limit": 6.0}, "swiglu_limit"},
		{"gpt_oss", more{"num_local_experts": 4, "sliding_window": 32}, more{"attention_bias": false}, "attention_bias"},
		{"gpt_oss", more{"num_local_experts": 4, "sliding_window": 32}, more{"rope_scaling": yarn(nil)}, "truncate"},
		{"deepseek_v3", latent, more{"rms_norm_eps": 1e-5}, "rms_norm_eps"},
		{"deepseek_v3", latent, more{"rope_interleave": false}, "rope_interleave"},
		{"deepseek_v3", latent, more{"attention_bias": true}, "attention_bias"},
		{"deepseek_v3", latent, more{"rope_scaling": yarn(nil)}, "mscale"},
		{"deepseek_v3", latent, more{"rope_scaling": yarn(more{"mscale": 0.7, "mscale_all_dim": 1.0})}, "mscale"},
		{"deepseek_v2", latent, more{"topk_method": "group_limited_greedy", "n_group": 2}, "topk_method"},
		{"deepseek_v2", latent, more{"mlp_bias": true}, "mlp_bias"},
		{"mamba", mamba, more{"use_bias": true}, "use_bias"},
		{"mamba", mamba, more{"use_conv_bias": false}, "use_conv_bias"},
		{"mamba", mamba, more{"expand": 3}, "expand"},
		{"falcon_mamba", more{"state_size": 8, "layer_norm_epsilon": 1e-5, "mixer_rms_eps": 1e-5}, more{"mixer_rms_eps": 1e-6}, "mixer_rms_eps"},
		{"mamba2", mamba2, more{"time_step_limit": []float64{0, 1.5}}, "time_step_limit"},
		{"lfm2", lfm2, more{"conv_bias": true}, "conv_bias"},
		{"lfm2_moe", lfm2moe, more{"norm_topk_prob": false}, "norm_topk_prob"},
		{"lfm2_moe", lfm2moe, more{"routed_scaling_factor": 2.0}, "routed_scaling_factor"},
		{"granitemoehybrid", hybrid, more{"mamba_proj_bias": true}, "mamba_proj_bias"},
		{"granitemoehybrid", hybrid, more{"num_local_experts": 0}, "shared_intermediate_size"},
		{"granitemoehybrid", hybrid, more{"time_step_limit": []float64{0.1, 1.5}}, "time_step_limit"},
	} {
		refused(t, c.modelType, c.base, c.edit, c.want)
	}
}

// The same of hybrids with states.
func TestHybridsRefuse(t *testing.T) {
	type more = map[string]any
	jamba := more{"num_key_value_heads": 4, "attn_layer_period": 2, "attn_layer_offset": 1}
	delta := more{"num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32}
	deltaMoE := more{"num_experts": 4, "num_experts_per_tok": 2}
	maps.Copy(deltaMoE, delta)
	for _, c := range []struct {
		modelType  string
		base, edit more
		want       string
	}{
		{"jamba", jamba, more{"mamba_expand": 1}, "mamba_expand"},
		{"qwen3_next", deltaMoE, more{"norm_topk_prob": false}, "norm_topk_prob"},
		{"qwen3_next", deltaMoE, more{"mlp_only_layers": []int{1}}, "mlp_only_layers"},
		{"qwen3_next", deltaMoE, more{"attention_bias": true}, "attention_bias"},
		{"qwen3_next", deltaMoE, more{"linear_value_head_dim": 16}, "linear_value_head_dim"},
		{"qwen3_next", deltaMoE, more{"full_attention_interval": 5}, "layer_types"},
		{"qwen3_5_text", delta, more{"attention_bias": true}, "attention_bias"},
		{"qwen3_5_text", delta, more{"linear_value_head_dim": 16}, "linear_value_head_dim"},
		{"qwen3_5_text", delta, more{"layer_types": []string{
			"linear_attention", "full_attention", "full_attention", "linear_attention",
		}}, "layer_types"},
		{"qwen3_5_moe_text", deltaMoE, more{"num_experts": 0}, "mlp_only_layers"},
		{"jamba", jamba, more{"mamba_proj_bias": true}, "mamba_proj_bias"},
		{"jamba", jamba, more{"mamba_conv_bias": false}, "mamba_conv_bias"},
		{"jamba", jamba, more{"head_dim": 32}, "head_dim"},
	} {
		refused(t, c.modelType, c.base, c.edit, c.want)
	}
}

// refused wants a small configuration with base to be taken, and with edit refused by
// a key.
func refused(t *testing.T, modelType string, base, edit map[string]any, want string) {
	t.Helper()
	t.Run(modelType+" "+want, func(t *testing.T) {
		parse := func(edit map[string]any) error {
			config := SmallConfig(modelType, nil)
			maps.Copy(config, base)
			maps.Copy(config, edit)
			data, err := json.Marshal(config)
			require.NoError(t, err)
			_, err = parseModel(data)
			return err
		}
		require.NoError(t, parse(nil))
		err := parse(edit)
		require.ErrorIs(t, err, layout.ErrUnsupported)
		require.ErrorContains(t, err, want)
	})
}

// A constant of an activation may be rounded to bfloat16, but is no other number.
func TestConstantNumbers(t *testing.T) {
	n := decoder.GGUFNumber{Constant: -1e-6}
	require.True(t, isConstant(n, -1e-6))
	require.True(t, isConstant(n, -9.9838e-7))
	require.False(t, isConstant(n, 1e-6))
	require.False(t, isConstant(n, -2e-6))
	require.True(t, isConstant(decoder.GGUFNumber{}, 17))
}
