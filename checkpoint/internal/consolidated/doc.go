// Package consolidated reads models as Mistral and Meta publish them, beside or
// instead of Hugging Face's files, and shows them under Hugging Face's names:
//
//	params.json                          dim, n_layers, n_heads, n_kv_heads, …
//	consolidated.safetensors             or shards with consolidated.safetensors.index.json
//	consolidated.00.pth, .01.pth, …      each a slice of every tensor
//
//	tok_embeddings                       model.embed_tokens
//	layers.N.attention.wq                model.layers.N.self_attn.q_proj   (wk, wv, wo alike)
//	layers.N.feed_forward.w1, w2, w3     model.layers.N.mlp.gate_proj, down_proj, up_proj
//	layers.N.attention_norm, ffn_norm    model.layers.N.input_layernorm, post_attention_layernorm
//	norm, output                         model.norm, lm_head
//
// Their rotary embedding turns neighbouring outputs of a head (2j, 2j+1),
// Hugging Face's those half a head apart (j, j+d/2): the rows of wq and wk
// change places accordingly.
//
// Sources: convert_mistral_weights_to_hf.py and convert_llama_weights_to_hf.py
// of transformers.
package consolidated
