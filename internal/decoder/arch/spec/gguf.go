package spec

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
)

// pairedQueries and pairedKeys have the pairs of a rotation side by side: the
// engine rotates rows 2j and 2j+1 of a head, Hugging Face j and j+d/2.
func pairedQueries(c *decoder.Config) []int { return pairedRows(c.Heads, c.HeadDim) }
func pairedKeys(c *decoder.Config) []int    { return pairedRows(c.KVHeads, c.HeadDim) }

func pairedRows(n, dim int) []int {
	from := make([]int, n*dim)
	for r := range from {
		head, i := r/dim, r%dim
		from[r] = head*dim + i%2*(dim/2) + i/2
	}
	return from
}

// SplitHeads has all queries, then all keys, then all values, where Hugging Face
// has those of each head side by side.
func SplitHeads(c *decoder.Config) []int { return splitGroups(c, c.Heads) }

// SplitKeyHeads is SplitHeads for groups of several queries, a key and a value.
func SplitKeyHeads(c *decoder.Config) []int { return splitGroups(c, c.KVHeads) }

func splitGroups(c *decoder.Config, groups int) []int {
	queries := c.Heads / groups
	var from []int
	for _, part := range [][2]int{{0, queries}, {queries, 1}, {queries + 1, 1}} {
		for g := range groups {
			for i := range part[1] * c.HeadDim {
				from = append(from, (g*(queries+2)+part[0])*c.HeadDim+i)
			}
		}
	}
	return from
}

// GELU is the approximation of GELU by tanh, under all its names.
func GELU(key string) decoder.GGUFActivation {
	return decoder.GGUFActivation{Key: key, Values: []string{"gelu_pytorch_tanh", "gelu_new", "gelu_fast"}}
}

// ExactGELU is an activation for which the engine takes the approximation.
func ExactGELU(key string) decoder.GGUFActivation {
	return decoder.GGUFActivation{Key: key, Values: []string{"gelu"}}
}

// Names that many architectures share.
var (
	GGUFOutput = decoder.GGUFName{HF: "self_attn.o_proj", GGUF: "attn_output"}
	GGUFGated  = []decoder.GGUFName{
		{HF: "mlp.gate_proj", GGUF: "ffn_gate"}, {HF: "mlp.up_proj", GGUF: "ffn_up"}, {HF: "mlp.down_proj", GGUF: "ffn_down"},
	}
	GGUFQKNorms = []decoder.GGUFName{{HF: "self_attn.q_norm", GGUF: "attn_q_norm"}, {HF: "self_attn.k_norm", GGUF: "attn_k_norm"}}
)

// GGUFNorm is a norm of a block.
func GGUFNorm(hf, gguf string) []decoder.GGUFName { return []decoder.GGUFName{{HF: hf, GGUF: gguf}} }

// GGUFGain is a norm whose gain is 1+w.
func GGUFGain(hf, gguf string) []decoder.GGUFName {
	return []decoder.GGUFName{{HF: hf, GGUF: gguf, PlusOne: true}}
}

// GGUFQKV are the names of separate queries, keys and values; paired says that
// the engine wants the pairs of a rotation side by side.
func GGUFQKV(paired bool) []decoder.GGUFName {
	q, k := decoder.GGUFName{HF: "self_attn.q_proj", GGUF: "attn_q"}, decoder.GGUFName{HF: "self_attn.k_proj", GGUF: "attn_k"}
	if paired {
		q.Rows, k.Rows = pairedQueries, pairedKeys
	}
	return []decoder.GGUFName{q, k, {HF: "self_attn.v_proj", GGUF: "attn_v"}}
}

// GGUFExperts are the names of experts and their router.
func GGUFExperts(router string, e program.ExpertNames) []decoder.GGUFName {
	return []decoder.GGUFName{
		{HF: router, GGUF: "ffn_gate_inp"}, {HF: e.Gate, GGUF: "ffn_gate_exps"},
		{HF: e.Up, GGUF: "ffn_up_exps"}, {HF: e.Down, GGUF: "ffn_down_exps"},
	}
}

// Joined puts lists together.
func Joined(parts ...[]decoder.GGUFName) []decoder.GGUFName {
	var all []decoder.GGUFName
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// LlamaGGUF is an architecture with Llama's block.
func LlamaGGUF(name string, paired bool, flags ...decoder.GGUFFlag) *decoder.GGUF {
	return &decoder.GGUF{
		Name: name, RopeFreqs: true, Flags: flags,
		Block: Joined(GGUFNorm("input_layernorm", "attn_norm"), GGUFQKV(paired), GGUFQKNorms, []decoder.GGUFName{GGUFOutput},
			GGUFNorm("post_attention_layernorm", "ffn_norm"), GGUFGated),
	}
}

// Sequence is "layer_types" for a number of layers after which one has no window.
func Sequence(layers, period int) []string {
	types := make([]string, layers)
	for i := range types {
		types[i] = SlidingBut(period)(i)
	}
	return types
}

// Flags of biases.
var (
	AttentionBias = decoder.GGUFFlag{Config: "attention_bias", Tensors: []string{"attn_output.bias", "attn_q.bias"}}
	MLPBias       = decoder.GGUFFlag{Config: "mlp_bias", Tensors: []string{"ffn_down.bias", "ffn_up.bias"}}
)
