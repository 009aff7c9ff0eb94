package checkpoint

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/internal/llama"
)

// Tensor names of a block: Hugging Face's and llama.cpp's
// (gguf-py/gguf/tensor_mapping.py).
var ggufBlockNames = [][2]string{
	{"input_layernorm.weight", "attn_norm.weight"},
	{"self_attn.q_proj.weight", "attn_q.weight"},
	{"self_attn.q_proj.bias", "attn_q.bias"},
	{"self_attn.k_proj.weight", "attn_k.weight"},
	{"self_attn.k_proj.bias", "attn_k.bias"},
	{"self_attn.v_proj.weight", "attn_v.weight"},
	{"self_attn.v_proj.bias", "attn_v.bias"},
	{"self_attn.q_norm.weight", "attn_q_norm.weight"},
	{"self_attn.k_norm.weight", "attn_k_norm.weight"},
	{"self_attn.o_proj.weight", "attn_output.weight"},
	{"self_attn.o_proj.bias", "attn_output.bias"},
	{"post_attention_layernorm.weight", "ffn_norm.weight"},
	{"mlp.gate_proj.weight", "ffn_gate.weight"},
	{"mlp.gate_proj.bias", "ffn_gate.bias"},
	{"mlp.up_proj.weight", "ffn_up.weight"},
	{"mlp.up_proj.bias", "ffn_up.bias"},
	{"mlp.down_proj.weight", "ffn_down.weight"},
	{"mlp.down_proj.bias", "ffn_down.bias"},
}

const (
	ggufEmbedding = "token_embd.weight"
	ggufFinalNorm = "output_norm.weight"
	ggufHead      = "output.weight"
	ggufRopeFreqs = "rope_freqs.weight"
)

// ggufTensorNames lists a model's possible tensors in the order of the file, as
// pairs of the Hugging Face name and the name in GGUF.
func ggufTensorNames(layers int) [][2]string {
	names := [][2]string{{llama.EmbeddingName, ggufEmbedding}}
	for i := range layers {
		for _, n := range ggufBlockNames {
			names = append(names, [2]string{llama.BlockPrefix(i) + n[0], fmt.Sprintf("blk.%d.%s", i, n[1])})
		}
	}
	return append(names, [2]string{llama.FinalNormName, ggufFinalNorm}, [2]string{llama.HeadName, ggufHead})
}

// huggingFaceName translates a name of a GGUF file; ok is false if there is
// no such tensor in the models that are read.
func huggingFaceName(name string, layers int) (string, bool) {
	switch name {
	case ggufEmbedding:
		return llama.EmbeddingName, true
	case ggufFinalNorm:
		return llama.FinalNormName, true
	case ggufHead:
		return llama.HeadName, true
	}
	rest, ok := strings.CutPrefix(name, "blk.")
	number, rest, found := strings.Cut(rest, ".")
	i, err := strconv.Atoi(number)
	if !ok || !found || err != nil || i < 0 || i >= layers || number != strconv.Itoa(i) {
		return "", false
	}
	for _, n := range ggufBlockNames {
		if n[1] == rest {
			return llama.BlockPrefix(i) + n[0], true
		}
	}
	return "", false
}

// rotaryRows says how many heads the rows of a tensor make whose order
// differs between Hugging Face and the architecture "llama", else 0.
//
// Hugging Face rotates pairs (j, j+d/2) of a head of d rows, llama.cpp pairs
// (2j, 2j+1), so that row t*(d/2)+j becomes row 2j+t; t is 0 or 1
// (conversion/llama.py, permute). Groups run along the inputs, so rows move
// whole. qwen2 and qwen3 keep Hugging Face's order.
func rotaryRows(architecture, name string, heads, kvHeads int) int {
	if architecture != ggufLlama {
		return 0
	}
	switch {
	case strings.HasSuffix(name, ".self_attn.q_proj.weight"), strings.HasSuffix(name, ".self_attn.q_proj.bias"):
		return heads
	case strings.HasSuffix(name, ".self_attn.k_proj.weight"), strings.HasSuffix(name, ".self_attn.k_proj.bias"):
		return kvHeads
	}
	return 0
}

// interleaved returns the place of Hugging Face's row r among rows in llama.cpp's
// order, dim rows a head.
func interleaved(r, dim int) int {
	head, i := r/dim, r%dim
	return head*dim + 2*(i%(dim/2)) + i/(dim/2)
}

// halved is the inverse of interleaved.
func halved(r, dim int) int {
	head, i := r/dim, r%dim
	return head*dim + i%2*(dim/2) + i/2
}
