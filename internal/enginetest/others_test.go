package enginetest

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/internal/decodertest"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/testkit"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// archCase is a model whose file the engine must run as it is run here.
type archCase struct {
	name   string
	config map[string]any
	scheme quant.Scheme
	bound  float64 // of the mean KL; 0: 1e-8
	eight  float64 // of the mean KL where scheme is Q8_0; 0: 3e-2
	other  bool    // the file read back is compared by its logits, not by its configuration
}

// source loads a folder.
func source(t testing.TB, dir string) *decodertest.Model {
	t.Helper()
	src, err := checkpoint.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, src.Close()) })
	return decodertest.Load(t, src.Config(), src)
}

// tabled is for architectures with GELU: llama.cpp looks its values up in a table
// of half floats.
const tabled = 3e-6

// returned is how far a file read back is from its source: logarithms of negated
// exponentials and gains of 1+w are rounded there and back.
const returned = 5e-11

// steered is for Q8_0 where inputs of 8 bits steer states and choose experts, of random
// weights: more than the rounding of a layer comes of them, and less than of weights in
// wrong places.
const steered = 1

// deep is for such a model of 7 random layers, in which differences grow.
const deep = 3e-5

// rounded is for YaRN whose ramp ends between two frequencies: the engine rounds
// the ends.
const rounded = 1e-3

type more = map[string]any

// caseList collects cases.
type caseList []archCase

// add adds a case: the small configuration with more, without what is nil there.
func (l *caseList) add(name, class, modelType string, bound float64, m more) {
	c := smallConfig(modelType)
	c["architectures"], c["tie_word_embeddings"] = []string{class}, false
	delete(c, "rms_norm_eps")
	maps.Copy(c, m)
	for key, v := range c {
		if v == nil {
			delete(c, key)
		}
	}
	*l = append(*l, archCase{name: name, config: c, bound: bound, other: true})
}

func with(base, m more) more {
	c := maps.Clone(base)
	maps.Copy(c, m)
	return c
}

// otherArchitectures are those beside Llama's, each in float32 and as Q8_0.
func otherArchitectures() []archCase {
	var l caseList
	l.gemmas()
	l.gated()
	l.ungated()
	l.small()
	l.newer()
	l.mixtures()
	l.recurrent()
	for _, c := range l {
		if c.config["model_type"] == "gpt2" {
			continue // its matrices are stored transposed, which writers of layers do not know
		}
		c.name, c.scheme = c.name+", Q8_0", scheme(8, 32, true)
		l = append(l, c)
	}
	yarn := more{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
	l.add("llama, yarn", "LlamaForCausalLM", "llama", 0, more{"rope_scaling": yarn, "head_dim": 64, "rms_norm_eps": 1e-5})
	l.add("qwen2, yarn", "Qwen2ForCausalLM", "qwen2", 0, more{"rope_scaling": yarn, "rms_norm_eps": 1e-6})
	l.add("llama, llama3 scaling of few frequencies", "LlamaForCausalLM", "llama", 0, more{"rms_norm_eps": 1e-5, "rope_scaling": more{
		"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}})
	return l
}

func (l *caseList) gemmas() {
	gemma := more{"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 32, "tie_word_embeddings": true, "rms_norm_eps": 1e-6}
	l.add("gemma", "GemmaForCausalLM", "gemma", tabled, gemma)
	l.add("gemma2", "Gemma2ForCausalLM", "gemma2", tabled, with(gemma, more{
		"query_pre_attn_scalar": 32, "sliding_window": 24, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 15.0, "num_hidden_layers": 3,
	}))
	gemma3 := with(gemma, more{
		"query_pre_attn_scalar": 32, "sliding_window": 24, "num_hidden_layers": 7, "rope_theta": 1e6, "rope_local_base_freq": 8000.0,
		"rope_scaling": more{"rope_type": "linear", "factor": 8.0},
	})
	l.add("gemma3", "Gemma3ForCausalLM", "gemma3_text", deep, gemma3)
	l.add("gemma3, other windows", "Gemma3ForCausalLM", "gemma3_text", deep, with(gemma3, more{"sliding_window_pattern": 2, "num_hidden_layers": 4}))
	l.add("gemma2, windows only", "Gemma2ForCausalLM", "gemma2", tabled, with(gemma, more{
		"query_pre_attn_scalar": 32, "sliding_window": 24, "layer_types": []string{"sliding_attention", "sliding_attention"},
	}))
	l.add("gemma3, images", "Gemma3ForConditionalGeneration", "gemma3", deep, more{
		"text_config": with(with(smallConfig("gemma3_text"), gemma3), more{"model_type": "gemma3_text"}), "tie_word_embeddings": true,
	})
}

func (l *caseList) gated() {
	longrope := more{"type": "longrope", "short_factor": []float64{1, 1.1, 1.2, 1.3, 1.5, 1.7}, "long_factor": []float64{1, 1.5, 2, 3, 4, 5}}
	l.add("phi3", "Phi3ForCausalLM", "phi3", 0, more{"rms_norm_eps": 1e-5})
	l.add("phi3, part rotated, longrope", "Phi3ForCausalLM", "phi3", 0, more{
		"partial_rotary_factor": 0.75, "rope_scaling": longrope, "max_position_embeddings": 1024, "original_max_position_embeddings": 512,
	})
	l.add("mixtral", "MixtralForCausalLM", "mixtral", 0, more{"num_local_experts": 4, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5})
	moe := more{"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "rms_norm_eps": 1e-5}
	l.add("qwen2moe", "Qwen2MoeForCausalLM", "qwen2_moe", 0, with(moe, more{"shared_expert_intermediate_size": 64}))
	l.add("qwen3moe", "Qwen3MoeForCausalLM", "qwen3_moe", 0, with(moe, more{"norm_topk_prob": true, "head_dim": 32, "tie_word_embeddings": true}))
	l.add("olmoe", "OlmoeForCausalLM", "olmoe", 0, with(moe, more{"intermediate_size": 64, "num_key_value_heads": 4}))
	l.add("starcoder2", "Starcoder2ForCausalLM", "starcoder2", tabled, more{
		"hidden_act": "gelu_pytorch_tanh", "use_bias": true, "norm_epsilon": 1e-4, "sliding_window": 256, "tie_word_embeddings": true,
	})
	l.add("granite", "GraniteForCausalLM", "granite", 0, more{
		"embedding_multiplier": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.4, "logits_scaling": 2.0, "attention_bias": true, "mlp_bias": true,
	})
	l.add("olmo2", "Olmo2ForCausalLM", "olmo2", 0, more{"rms_norm_eps": 1e-5})
	l.add("olmo2, tied", "Olmo2ForCausalLM", "olmo2", 0, more{"tie_word_embeddings": true})
	l.add("olmo3", "Olmo3ForCausalLM", "olmo3", 0, more{"sliding_window": 24, "num_hidden_layers": 5})
	l.add("stablelm", "StableLmForCausalLM", "stablelm", 0, more{"partial_rotary_factor": 0.25, "use_qkv_bias": true})
	l.add("stablelm, parallel, norms of heads", "StableLmForCausalLM", "stablelm", 0, more{
		"partial_rotary_factor": 0.5, "qk_layernorm": true, "use_parallel_residual": true, "layer_norm_eps": 1e-4,
	})
	l.add("olmo3, other windows", "Olmo3ForCausalLM", "olmo3", 0, more{
		"sliding_window": 24, "num_hidden_layers": 3, "layer_types": []string{"sliding_attention", "full_attention", "sliding_attention"},
	})
	cohere := more{"layer_norm_eps": 1e-5, "logit_scale": 0.25, "tie_word_embeddings": true}
	l.add("cohere", "CohereForCausalLM", "cohere", 0, cohere)
	l.add("cohere, norms of heads", "CohereForCausalLM", "cohere", 0, with(cohere, more{"use_qk_norm": true, "num_hidden_layers": 64}))
	l.add("cohere2", "Cohere2ForCausalLM", "cohere2", 0, with(cohere, more{"sliding_window": 24, "num_hidden_layers": 5}))
	l.add("glm4", "Glm4ForCausalLM", "glm4", 0, more{"attention_bias": true, "partial_rotary_factor": 0.5, "head_dim": 32, "rms_norm_eps": 1e-5})
	l.add("glm", "GlmForCausalLM", "glm", 0, more{"attention_bias": true, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5})
}

func (l *caseList) ungated() {
	l.add("gpt2", "GPT2LMHeadModel", "gpt2", tabled, more{
		"activation_function": "gelu_new", "n_embd": 64, "n_head": 4, "n_layer": 2, "n_inner": 96, "n_positions": 512, "layer_norm_epsilon": 1e-5,
		"hidden_size": nil, "num_attention_heads": nil, "num_hidden_layers": nil, "num_key_value_heads": nil, "intermediate_size": nil, "head_dim": nil,
		"tie_word_embeddings": true, "max_position_embeddings": nil,
	})
	neox := more{"hidden_act": "gelu", "num_key_value_heads": nil, "head_dim": nil, "rotary_pct": 0.25, "layer_norm_eps": 1e-5}
	l.add("gptneox", "GPTNeoXForCausalLM", "gpt_neox", 1e-4, neox)
	l.add("gptneox, one after the other", "GPTNeoXForCausalLM", "gpt_neox", 1e-4, with(neox, more{"use_parallel_residual": false}))
	falcon := more{"activation": "gelu", "head_dim": nil, "num_key_value_heads": nil, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true}
	l.add("falcon, one key head", "FalconForCausalLM", "falcon", 1e-4, falcon)
	l.add("falcon, groups", "FalconForCausalLM", "falcon", 1e-4, with(falcon, more{"new_decoder_architecture": true, "num_kv_heads": 2}))
	l.add("bloom", "BloomForCausalLM", "bloom", tabled, more{
		"n_layer": 2, "n_head": 4, "layer_norm_epsilon": 1e-5, "intermediate_size": nil, "num_key_value_heads": nil, "head_dim": nil,
		"num_hidden_layers": nil, "num_attention_heads": nil, "max_position_embeddings": nil, "tie_word_embeddings": true,
	})
	l.add("phi2", "PhiForCausalLM", "phi", tabled, more{"hidden_act": "gelu_new", "partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5})
}

func (l *caseList) small() {
	l.add("smollm3", "SmolLM3ForCausalLM", "smollm3", 0, more{"num_hidden_layers": 5, "tie_word_embeddings": true})
	l.add("nemotron", "NemotronForCausalLM", "nemotron", 0, more{"hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5})
	l.add("exaone4", "Exaone4ForCausalLM", "exaone4", 0, more{"sliding_window": 0, "rms_norm_eps": 1e-5})
	l.add("ernie4_5", "Ernie4_5ForCausalLM", "ernie4_5", 0, more{"head_dim": 32})
	l.add("seed_oss", "SeedOssForCausalLM", "seed_oss", 0, more{"attention_bias": true, "head_dim": 32})
	l.add("hunyuan-dense", "HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", 0, more{"rope_scaling": more{"type": "dynamic", "alpha": 1000.0, "factor": 1.0}})
	l.add("olmo", "OlmoForCausalLM", "olmo", 0, more{"clip_qkv": 4.0})
	l.add("ministral", "MinistralForCausalLM", "ministral", 0, more{"rms_norm_eps": 1e-5, "sliding_window": 256, "num_hidden_layers": 4})
	small := smallConfig("mistral")
	small["sliding_window"] = nil
	l.add("mistral3, images", "Mistral3ForConditionalGeneration", "mistral3", 0, more{"text_config": small})
	l.add("arcee", "ArceeForCausalLM", "arcee", 0, more{"hidden_act": "relu2"})
}

func (l *caseList) newer() {
	growing := more{
		"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 32, "beta_fast": 32.0, "beta_slow": 1.0,
		"mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1,
	}
	l.add("ministral3", "Ministral3ForCausalLM", "ministral3", 0, more{"rope_parameters": growing, "head_dim": 32})
	l.add("ministral3, another factor", "Ministral3ForCausalLM", "ministral3", 0, more{"rope_parameters": with(growing, more{"mscale_all_dim": 0.5})})
	l.add("ministral3, unscaled", "Ministral3ForCausalLM", "ministral3", 0, more{"rope_parameters": more{"rope_type": "default"}})
	small := with(smallConfig("ministral3"), more{"rope_parameters": growing})
	l.add("ministral3, images", "Mistral3ForConditionalGeneration", "mistral3", 0, more{"text_config": small})
	l.add("apertus", "ApertusForCausalLM", "apertus", 0, more{"hidden_act": "xielu", "rms_norm_eps": 1e-5, "rope_scaling": more{
		"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}})
	gpt := more{
		"n_embd": 64, "n_head": 4, "n_layer": 2, "n_inner": 96, "n_positions": 512, "layer_norm_epsilon": 1e-5, "hidden_size": nil, "num_attention_heads": nil,
		"num_hidden_layers": nil, "num_key_value_heads": nil, "intermediate_size": nil, "head_dim": nil, "tie_word_embeddings": true, "max_position_embeddings": nil,
	}
	l.add("starcoder", "GPTBigCodeForCausalLM", "gpt_bigcode", tabled, with(gpt, more{"activation_function": "gelu_pytorch_tanh"}))
	mpt := more{
		"d_model": 96, "n_heads": 6, "n_layers": 2, "max_seq_len": 512, "hidden_size": nil, "num_attention_heads": nil, "num_hidden_layers": nil,
		"num_key_value_heads": nil, "head_dim": nil, "max_position_embeddings": nil, "tie_word_embeddings": true,
	}
	l.add("mpt", "MptForCausalLM", "mpt", 1e-4, mpt)
	l.add("mpt, clipped", "MptForCausalLM", "mpt", 1e-4, with(mpt, more{"attn_config": more{"clip_qkv": 1.0}}))
}

func (l *caseList) mixtures() {
	moe := more{"rms_norm_eps": 1e-5, "moe_intermediate_size": 32, "num_experts_per_tok": 3, "n_routed_experts": 8}
	deepseek := with(moe, more{"n_shared_experts": 2, "first_k_dense_replace": 1, "routed_scaling_factor": 0.75, "num_hidden_layers": 3})
	l.add("dots1", "Dots1ForCausalLM", "dots1", 0, with(deepseek, more{"norm_topk_prob": true, "sliding_window": nil, "head_dim": 32, "num_key_value_heads": 4}))
	l.add("dots1, groups", "Dots1ForCausalLM", "dots1", 0, with(deepseek, more{
		"n_group": 4, "topk_group": 2, "first_k_dense_replace": 0, "num_key_value_heads": 4,
	}))
	l.add("glm4moe", "Glm4MoeForCausalLM", "glm4_moe", 0, with(deepseek, more{
		"attention_bias": true, "use_qk_norm": true, "partial_rotary_factor": 0.5, "norm_topk_prob": true, "num_nextn_predict_layers": 1,
	}))
	l.add("glm4moe, plain heads", "Glm4MoeForCausalLM", "glm4_moe", 0, deepseek)
	l.add("hunyuan-moe", "HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe", 0, more{"num_experts": 6, "moe_topk": 2, "rms_norm_eps": 1e-5, "head_dim": 32})
	l.add("ernie4_5-moe", "Ernie4_5_MoeForCausalLM", "ernie4_5_moe", 0, with(moe, more{
		"moe_num_experts": 6, "moe_k": 3, "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "num_hidden_layers": 3,
	}))
	l.add("ernie4_5-moe, none shared", "Ernie4_5_MoeForCausalLM", "ernie4_5_moe", 0, with(moe, more{
		"moe_num_experts": 6, "moe_k": 3, "moe_num_shared_experts": 0, "moe_layer_start_index": 0,
	}))
	l.add("minimax-m2", "MiniMaxM2ForCausalLM", "minimax_m2", 0, more{
		"num_local_experts": 6, "num_experts_per_tok": 3, "rms_norm_eps": 1e-5, "head_dim": 32, "rotary_dim": 16, "tie_word_embeddings": true,
	})
	granite := more{
		"num_local_experts": 6, "num_experts_per_tok": 3, "embedding_multiplier": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.4,
		"logits_scaling": 2.0, "rms_norm_eps": 1e-5,
	}
	l.add("granitemoe", "GraniteMoeForCausalLM", "granitemoe", 0, granite)
	l.add("granitemoe, biases", "GraniteMoeForCausalLM", "granitemoe", 0, with(granite, more{"attention_bias": true, "tie_word_embeddings": true}))
	l.add("granitemoe, shared", "GraniteMoeSharedForCausalLM", "granitemoeshared", 0, with(granite, more{"shared_intermediate_size": 32}))
	latent := with(deepseek, more{
		"kv_lora_rank": 32, "q_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 24, "head_dim": nil,
		"num_key_value_heads": 4, "rms_norm_eps": 1e-6,
	})
	yarn := more{"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
	l.add("deepseek3", "DeepseekV3ForCausalLM", "deepseek_v3", 0, with(latent, more{"n_group": 4, "topk_group": 2, "rope_scaling": yarn}))
	l.add("deepseek3, direct queries", "DeepseekV3ForCausalLM", "deepseek_v3", 0, with(latent, more{
		"n_group": 1, "topk_group": 1, "q_lora_rank": 0, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
	}))
	l.add("deepseek2", "DeepseekV2ForCausalLM", "deepseek_v2", 0, with(latent, more{"topk_method": "greedy", "rope_scaling": more{
		"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
	}}))
	oss := more{
		"num_local_experts": 6, "num_experts_per_tok": 3, "rms_norm_eps": 1e-5, "sliding_window": 24, "num_hidden_layers": 3, "head_dim": 64,
	}
	l.add("gpt-oss", "GptOssForCausalLM", "gpt_oss", 0, with(oss, more{"rope_parameters": more{"rope_type": "default"}}))
	l.add("gpt-oss, yarn", "GptOssForCausalLM", "gpt_oss", rounded, with(oss, more{"rope_theta": 150000.0}))
}

func (l *caseList) recurrent() {
	plain := more{
		"num_attention_heads": nil, "num_key_value_heads": nil, "head_dim": nil, "intermediate_size": nil, "rope_theta": nil,
		"max_position_embeddings": nil, "state_size": 16, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true,
	}
	l.add("mamba", "MambaForCausalLM", "mamba", 0, plain)
	l.add("falcon-mamba", "FalconMambaForCausalLM", "falcon_mamba", 0, with(plain, more{"mixer_rms_eps": 1e-5, "time_step_rank": 8}))
	l.add("mamba2", "Mamba2ForCausalLM", "mamba2", 0, with(plain, more{
		"num_heads": 8, "head_dim": 16, "n_groups": 2, "tie_word_embeddings": false,
	}))
	granite := more{
		"num_local_experts": 6, "num_experts_per_tok": 3, "embedding_multiplier": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.4,
		"logits_scaling": 2.0, "rms_norm_eps": 1e-5, "shared_intermediate_size": 32, "mamba_n_heads": 8, "mamba_n_groups": 2, "mamba_d_state": 16,
		"num_hidden_layers": 3, "layer_types": []string{"mamba", "attention", "mamba"}, "position_embedding_type": "rope",
	}
	l.add("granitehybrid", "GraniteMoeHybridForCausalLM", "granitemoehybrid", 0, granite)
	l.add("granitehybrid, no experts, no rotations", "GraniteMoeHybridForCausalLM", "granitemoehybrid", 0, with(granite, more{
		"num_local_experts": 0, "shared_intermediate_size": 96, "position_embedding_type": "nope", "tie_word_embeddings": true,
	}))
	short := more{
		"norm_eps": 1e-5, "conv_L_cache": 3, "block_auto_adjust_ff_dim": false, "num_hidden_layers": 4, "tie_word_embeddings": true,
		"layer_types": []string{"conv", "full_attention", "conv", "full_attention"},
	}
	l.add("lfm2", "Lfm2ForCausalLM", "lfm2", 0, short)
	l.add("lfm2moe", "Lfm2MoeForCausalLM", "lfm2_moe", 0, with(short, more{
		"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "num_dense_layers": 1,
	}))
	l.addJamba()
	l.addQwenHybrids()
}

// addQwenHybrids adds gated delta nets with two value heads for a key head and with one.
func (l *caseList) addQwenHybrids() {
	delta := more{
		"rms_norm_eps": 1e-6, "num_hidden_layers": 4, "head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
		"linear_key_head_dim": 32, "linear_value_head_dim": 32, "layer_types": nil,
	}
	experts := with(delta, more{
		"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "intermediate_size": 32,
	})
	l.add("qwen3next", "Qwen3NextForCausalLM", "qwen3_next", 0, experts)
	l.add("qwen3next, more attention", "Qwen3NextForCausalLM", "qwen3_next", 0, with(experts, more{
		"linear_num_value_heads": 2, "full_attention_interval": 2, "tie_word_embeddings": true, "partial_rotary_factor": 1.0,
	}))
	l.add("qwen35", "Qwen3_5ForCausalLM", "qwen3_5_text", 0, with(delta, more{"linear_num_value_heads": 6}))
	l.add("qwen35, a value head for each key head", "Qwen3_5ForCausalLM", "qwen3_5_text", 0, with(delta, more{
		"linear_num_key_heads": 4, "tie_word_embeddings": true, "rope_theta": nil,
		"rope_parameters": more{"rope_theta": 5000.0, "rope_type": "default", "mrope_section": []int{2, 1, 1}, "partial_rotary_factor": 0.25},
	}))
	l.add("qwen35moe", "Qwen3_5MoeForCausalLM", "qwen3_5_moe_text", 0, with(experts, more{"linear_num_value_heads": 6}))
	text := with(smallConfig("qwen3_5_text"), with(delta, more{"linear_num_value_heads": 6}))
	delete(text, "layer_types")
	l.add("qwen35, of images", "Qwen3_5ForConditionalGeneration", "qwen3_5", 0, more{"text_config": text})
	for i := range 6 {
		(*l)[len(*l)-1-i].eight = steered
	}
}

func (l *caseList) addJamba() {
	jamba := more{
		"rms_norm_eps": 1e-5, "num_hidden_layers": 5, "attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
		"num_experts": 6, "num_experts_per_tok": 3, "mamba_d_state": 16, "mamba_dt_rank": 4, "head_dim": nil, "rope_theta": nil,
	}
	l.add("jamba", "JambaForCausalLM", "jamba", 0, jamba)
	l.add("jamba, one expert", "JambaForCausalLM", "jamba", 0, with(jamba, more{"num_experts": 1, "tie_word_embeddings": true}))
}

// Without the engine: what is read back from a file computes what its source does.
func TestReadBack(t *testing.T) {
	ids := sampleIDs(t, 60)
	for _, c := range otherArchitectures() {
		if c.scheme.Bits > 0 {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			dir := randomModel(t, embedded(), c.config)
			m, src := load(t, writeGGUF(t, dir, ggufmodel.Format{Dense: safetensors.F32}, c.scheme))
			require.Less(t, diverge(source(t, dir).Logits(t, ids), m.Logits(t, ids)).mean, returned)
			// And again, from the file itself.
			second := writeGGUF(t, src.Path(), ggufmodel.Format{}, c.scheme)
			again, _ := load(t, second)
			require.Equal(t, m.Logits(t, ids).Data, again.Logits(t, ids).Data)
		})
	}
}

// What cannot be read from files of these architectures is said, not run.
func TestReadRefuses(t *testing.T) {
	var l caseList
	l.newer()
	l.mixtures()
	l.recurrent()
	file := func(name string) *gguf.File {
		i := slices.IndexFunc(l, func(c archCase) bool { return c.name == name })
		require.GreaterOrEqual(t, i, 0, name)
		f, err := gguf.Open(writeGGUF(t, randomModel(t, embedded(), l[i].config), ggufmodel.Format{Dense: safetensors.F32}, quant.Scheme{}))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		return f
	}
	for _, c := range []struct {
		name, key string
		value     any
		without   string // a tensor
		want      string
	}{
		{name: "deepseek3", key: "deepseek2.attention.key_length_mla", value: uint32(48), want: "kv_b_proj"},
		{name: "deepseek3", key: "deepseek2.rope.scaling.yarn_log_multiplier", value: float32(0), want: "yarn_log_multiplier"},
		{name: "dots1", key: "dots1.expert_gating_func", value: uint32(1), want: "expert_gating_func is 1, want 2"},
		{name: "apertus", key: "xielu.alpha_p", value: []float32{1}, want: "xielu.alpha_p"},
		{name: "apertus", key: "xielu.beta", value: []float32{0.5, 0.7}, want: "xielu.beta"},
		{name: "granitemoe, shared", without: "blk.1.ffn_up_shexp.weight", want: "model.layers.1.shared_mlp.input_linear.weight"},
		{name: "lfm2", key: "lfm2.attention.head_count_kv", value: []uint32{0, 2, 0}, want: "head_count_kv"},
		{name: "lfm2", key: "lfm2.attention.head_count_kv", value: []uint32{0, 2, 0, 1}, want: "head_count_kv"},
		{name: "lfm2", key: "lfm2.attention.head_count_kv", value: []uint32{0, 2, 2, 2}, want: "shortconv"},
		{name: "mamba2", key: "mamba2.ssm.group_count", value: uint32(4), want: "ssm_conv1d"},
	} {
		t.Run(c.name+" "+c.want, func(t *testing.T) {
			_, err := checkpoint.Open(edited(t, file(c.name), c.key, c.value, c.without))
			require.ErrorContains(t, err, c.want)
		})
	}
	// As it is it is read, and a number for all blocks too.
	m, src := load(t, edited(t, file("apertus"), "xielu.beta", float32(0.5), ""))
	require.Len(t, m.Blocks, 2)
	require.True(t, src.Has("model.layers.1.mlp.act_fn.alpha_n"))
	require.False(t, src.Has("model.layers.1.mlp.act_fn.beta"))
}

// edited copies a file with another value of a key, or without a tensor.
func edited(t testing.TB, f *gguf.File, key string, value any, without string) string {
	t.Helper()
	var kv []gguf.KV
	for _, x := range f.KV() {
		if x.Key != key {
			kv = append(kv, x)
		}
	}
	if key != "" {
		kv = append(kv, gguf.KV{Key: key, Value: value})
	}
	list := slices.DeleteFunc(slices.Clone(f.Tensors()), func(x gguf.Tensor) bool { return x.Name == without })
	path := filepath.Join(t.TempDir(), "edited.gguf")
	testkit.CopyGGUF(t, f, path, kv, list)
	return path
}
