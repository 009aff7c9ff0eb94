package spec

import "github.com/golowbit/lowbit/internal/decoder"

// LlamaGGUF is an architecture with the names of Llama's tensors.
func LlamaGGUF(name string, permute bool) *decoder.GGUF {
	return &decoder.GGUF{Name: name, PermuteRows: permute, Tensors: map[string]string{
		"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
		"self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
		"self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
		"mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
	}}
}
