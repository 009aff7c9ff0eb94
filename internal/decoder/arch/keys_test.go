package arch_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/safetensors"
)

// withoutEffect are keys of config.json that change no logits: "" has those of
// all models, the others those of a model type or of one folder.
var withoutEffect = map[string][]string{
	"": {
		"transformers_version", "dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id", "eod_token_id",
		"use_cache", "initializer_range", "init_std", "pretraining_tp", "is_decoder",
		"attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "residual_dropout",
		"embedding_dropout", "dropout", "classifier_dropout", "layerdrop",
		"output_router_logits", "router_aux_loss_coef", "router_jitter_noise",
		// Only a scaled rotation depends on it.
		"max_position_embeddings",
		// A head that differs from the embedding is used either way.
		"tie_word_embeddings",
		// Whole pairs of few are the bounds of YaRN.
		"rope_parameters.original_max_position_embeddings", "rope_parameters.beta_fast",
		"rope_parameters.full_attention.original_max_position_embeddings",
		// "layer_types" is there.
		"use_sliding_window", "max_window_layers", "sliding_window_pattern", "_sliding_window_pattern",
	},
	"qwen3":            {"sliding_window"},
	"qwen3_moe":        {"sliding_window"},
	"phi3":             {"original_max_position_embeddings"},
	"smollm3":          {"no_rope_layer_interval"},
	"hunyuan_v1_dense": {"rope_parameters.factor"},
	"gemma3": {
		"boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image", "final_logit_softcapping",
	},
	"mistral3": {
		"image_token_index", "vision_feature_layer", "spatial_merge_size", "projector_hidden_act",
		"multimodal_projector_bias",
	},
	"gpt2": {
		"summary_use_proj", "summary_type", "summary_proj_to_labels", "summary_first_dropout", "summary_activation",
		"reorder_and_upcast_attn",
	},
	"bloom":           {"slow_but_exact"},
	"bamba":           {"z_loss_coefficient", "num_logits_to_keep", "mamba_chunk_size"},
	"gpt_bigcode":     {"scale_attention_softmax_in_fp32", "attention_softmax_in_fp32", "num_key_value_heads"},
	"gptj":            {"n_positions"},
	"hunyuan_v1_moe":  {"sep_token_id", "rope_parameters.factor"},
	"jamba":           {"use_mamba_kernels", "use_associative_scan", "use_mambapy"},
	"falcon-rw-alibi": {"rope_parameters.rope_theta", "rope_parameters.rope_type"},
	"granitemoehybrid-nope": {
		"num_experts_per_tok", "intermediate_size", "rope_parameters.rope_theta", "rope_parameters.rope_type",
	},
	"opt-postnorm-proj": {"_remove_final_layer_norm"},
	"opt-gated-mlp":     {"_remove_final_layer_norm"},
	"opt-gated":         {"attn_gate_init"}, // what training begins with
	// Positions of text are the same in all parts of the rotation.
	"qwen3_5_text":     {"rope_parameters.mrope_interleaved"},
	"qwen3_5_moe_text": {"rope_parameters.mrope_interleaved"},
	"qwen3_5": {
		"rope_parameters.mrope_interleaved", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id",
	},
	"mpt": {
		"max_seq_len", "embedding_fraction", "learned_pos_emb", "norm_type", "emb_pdrop", "expansion_ratio", "init_device",
		"attn_config._name_or_path", "attn_config.architectures", "attn_config.model_type", "attn_config.alibi_bias_max",
		"attn_config.attn_pdrop", "attn_config.label2id.LABEL_0", "attn_config.label2id.LABEL_1", "attn_config.dtype",
		"attn_config.output_attentions", "attn_config.problem_type", "attn_config.attn_uses_sequence_id",
		"attn_config.chunk_size_feed_forward", "attn_config.id2label.0", "attn_config.id2label.1",
		"attn_config.is_encoder_decoder", "attn_config.output_hidden_states", "attn_config.return_dict", "attn_config.attn_impl",
	},
	"mamba": {
		"intermediate_size", "rescale_prenorm_residual", "residual_in_fp32", "use_associative_scan", "use_mambapy",
		"time_step_init_scheme", "time_step_floor", "time_step_max", "time_step_min", "time_step_scale",
	},
	"falcon_mamba": {
		"intermediate_size", "rescale_prenorm_residual", "residual_in_fp32", "use_associative_scan", "use_mambapy",
		"time_step_init_scheme", "time_step_floor", "time_step_max", "time_step_min", "time_step_scale",
	},
	"mamba2": {
		"rescale_prenorm_residual", "residual_in_fp32", "chunk_size", "time_step_rank", "time_step_floor", "time_step_max",
		"time_step_min",
	},
	"falcon_h1":        {"num_logits_to_keep", "mamba_chunk_size", "mamba_expand"},
	"granitemoehybrid": {"mamba_chunk_size"},
	"lfm2":             {"full_attn_idxs"},
	"nemotron_h": {
		"rescale_prenorm_residual", "residual_in_fp32", "chunk_size", "time_step_floor", "time_step_max", "expand",
		"mamba_ssm_cache_dtype", "use_mamba_kernels", "num_logits_to_keep", "num_nextn_predict_layers",
		"moe_shared_expert_overlap", "n_shared_experts", "sliding_window", "attention_bias", "mamba_proj_bias",
	},
	"deepseek_v2": {"norm_topk_prob", "head_dim", "qk_head_dim"},
	"deepseek_v3": {"num_nextn_predict_layers", "head_dim", "qk_head_dim"},
	"glm4_moe":    {"num_nextn_predict_layers"},
	"gpt_oss":     {"hidden_act"},
	"phimoe":      {"input_jitter_noise", "num_experts_per_tok"}, // always two
	"qwen2_moe":   {"sliding_window"},
	// The last layer either way.
	"ernie4_5_moe": {"moe_layer_end_index"},
	"falcon": {
		// The new architecture and one key head each make some of these idle.
		"parallel_attn", "num_ln_in_parallel_attn", "num_kv_heads", "multi_query",
	},
}

// TestKeys changes one key of each config.json after the other: either the
// logits change, or there is an error, or the key is known to do nothing. So no
// option of these architectures is read over.
func TestKeys(t *testing.T) {
	dirs, err := filepath.Glob("../../../testdata/architectures/*")
	require.NoError(t, err)
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "config.json"))
		require.NoError(t, err)
		var config map[string]any
		require.NoError(t, json.Unmarshal(data, &config))
		t.Run(filepath.Base(dir), func(t *testing.T) {
			folder, err := safetensors.OpenFolder(dir)
			require.NoError(t, err)
			defer folder.Close()
			ids := [][]int32{make([]int32, 36)}
			for i := range ids[0] {
				ids[0][i] = int32(i * 7 % 90)
			}
			want, _, err := compute(fileWeights{folder}, data, ids, nil)
			require.NoError(t, err)
			model := config["model_type"].(string)
			eachKey(config, "", func(path string) {
				key := strings.TrimPrefix(path, "text_config.")
				if slices.Contains(withoutEffect[""], key) || slices.Contains(withoutEffect[model], key) ||
					slices.Contains(withoutEffect[filepath.Base(dir)], key) {
					return
				}
				data, err := json.Marshal(config)
				require.NoError(t, err)
				got, _, err := compute(fileWeights{folder}, data, ids, nil)
				if err == nil && slices.Equal(got.Data, want.Data) {
					t.Errorf("%s: %s has no effect", model, path)
				}
			})
		})
	}
}

// eachKey calls f with each key changed in turn, also in nested objects.
func eachKey(config map[string]any, prefix string, f func(path string)) {
	for key, old := range config {
		switch v := old.(type) {
		case map[string]any:
			if !strings.HasPrefix(key, "vision") {
				eachKey(v, prefix+key+".", f)
			}
			continue
		case float64:
			config[key] = 2*v + 1
		case bool:
			config[key] = !v
		case string:
			config[key] = v + "x"
		case nil:
			config[key] = 3
		default:
			continue
		}
		f(prefix + key)
		config[key] = old
	}
}

// TestWrongKeys puts values that make no sense into each key of each config.json
// in turn: what is accepted has blocks, what is not gives an error, nothing panics
// and nothing takes long.
func TestWrongKeys(t *testing.T) {
	odd := []any{
		nil, -1, 0, 1, 3, 1 << 19, int64(1) << 40, 0.5, -2.5, 1e300, "x", "auto", true,
		[]any{}, []any{1.0, "x"}, []any{"x"}, []any{-1, 7}, map[string]any{}, map[string]any{"full_attention": 1},
	}
	dirs, err := filepath.Glob("../../../testdata/architectures/*")
	require.NoError(t, err)
	for i, dir := range dirs {
		if testing.Short() && i%4 != 0 {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, "config.json"))
		require.NoError(t, err)
		var config map[string]any
		require.NoError(t, json.Unmarshal(data, &config))
		var try func(m map[string]any)
		try = func(m map[string]any) {
			for key, old := range m {
				if inner, ok := old.(map[string]any); ok {
					try(inner)
				}
				for _, wrong := range odd {
					m[key] = wrong
					data, err := json.Marshal(config)
					require.NoError(t, err)
					parsed, err := arch.ParseConfig(data)
					require.True(t, err != nil || parsed.Layers > 0 && len(parsed.Blocks) == parsed.Layers, "%s %s %v", dir, key, wrong)
				}
				delete(m, key)
				data, err := json.Marshal(config)
				require.NoError(t, err)
				_, _ = arch.ParseConfig(data)
				m[key] = old
			}
		}
		try(config)
	}
}
