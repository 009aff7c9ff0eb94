package recurrent

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/mixture"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
)

// Keys of config.json with the sizes of gated delta nets.
const (
	deltaKeys, deltaValues      = "linear_num_key_heads", "linear_num_value_heads"
	deltaKeyDim, deltaValueDim  = "linear_key_head_dim", "linear_value_head_dim"
	deltaConv, deltaPeriod      = "linear_conv_kernel_dim", "full_attention_interval"
	rotaryPart, rotarySections  = "partial_rotary_factor", "mrope_section"
	qwenShared, qwenVisionParts = "shared_expert_intermediate_size", "model.visual."
)

// deltaSizes are the sizes of the gated delta nets of a model.
func deltaSizes(m *decoder.Model) deltaNet {
	size := func(key string) int { return int(m.Number(key)) }
	return deltaNet{
		keys: size(deltaKeys), values: size(deltaValues), keyDim: size(deltaKeyDim), valueDim: size(deltaValueDim), conv: size(deltaConv),
	}
}

// qwenHybridGGUF is what the files of Qwen3-Next and Qwen3.5 share; net are the inputs
// and vectors of the delta rule, mlp the rest of a block.
func qwenHybridGGUF(name string, net, mlp []decoder.GGUFName) *decoder.GGUF {
	g := &decoder.GGUF{
		Name: name, Left: []string{"mtp."},
		Keys: []decoder.GGUFKey{
			{Name: "ssm.conv_kernel", Config: deltaConv}, {Name: "ssm.state_size", Config: deltaKeyDim}, {Name: "ssm.group_count", Config: deltaKeys},
			{Name: "ssm.time_step_rank", Config: deltaValues}, {Name: "ssm.inner_size", Config: deltaValueDim, Times: deltaValues},
			{Name: deltaPeriod, Config: deltaPeriod},
		},
		Derive: func(number func(string) int) map[string]any {
			values := map[string]any{deltaValueDim: number("ssm.inner_size") / number("ssm.time_step_rank")}
			if number("rope.dimension_count") == number("attention.key_length") {
				values[rotaryPart] = 1.0
			}
			return values
		},
		Block: spec.Joined(spec.GGUFGain("input_layernorm", "attn_norm"), spec.GGUFQKV(false),
			spec.GGUFGain("self_attn.q_norm", "attn_q_norm"), spec.GGUFGain("self_attn.k_norm", "attn_k_norm"), []decoder.GGUFName{spec.GGUFOutput},
			net, spec.GGUFNorm("linear_attn.norm", "ssm_norm"), spec.GGUFGain("post_attention_layernorm", "post_attention_norm"), mlp),
	}
	g.Check = func(m *decoder.Model) error {
		d := deltaSizes(m)
		if d.keyDim != d.valueDim {
			return decoder.Refuse(deltaValueDim, d.valueDim, name)
		}
		if n := int(m.Number(deltaPeriod)); n < 2 {
			return decoder.Refuse("layer_types", "such a pattern", name)
		}
		return m.Require(map[string]any{"attention_bias": false})
	}
	return g
}

// attentionPeriod is the number of layers after which one has attention, 0 if it is
// not so.
func attentionPeriod(types []string) int {
	for n := 1; n <= len(types); n++ {
		same := true
		for i, t := range types {
			same = same && (t == spec.FullAttention) == ((i+1)%n == 0)
		}
		if same {
			return n
		}
	}
	return 0
}

// deltaNames are the tensors of a delta net but for its inputs. tiled gives the order
// of elements that belong to value heads, so many to each, behind the first; nil: that
// of Hugging Face.
func deltaNames(tiled func(first func(deltaNet) int, each func(deltaNet) int) func(*decoder.Model) []int) []decoder.GGUFName {
	one := func(deltaNet) int { return 1 }
	none := func(deltaNet) int { return 0 }
	heads := func(m *decoder.Model) []int { return []int{deltaSizes(m).values} }
	conv := func(m *decoder.Model) []int {
		d := deltaSizes(m)
		return []int{d.conv, 2*d.keys*d.keyDim + d.values*d.valueDim}
	}
	names := []decoder.GGUFName{
		{HF: "linear_attn.conv1d.weight", GGUF: "ssm_conv1d.weight", Whole: true, Dims: conv},
		{HF: "linear_attn.dt_bias", GGUF: "ssm_dt.bias", Whole: true},
		{HF: "linear_attn.A_log", GGUF: "ssm_a", Whole: true, NegExp: true, Dims: heads},
		{HF: "linear_attn.out_proj", GGUF: "ssm_out"},
	}
	if tiled != nil {
		names[0].RowsOf = tiled(keyRows, valueWidth)
		names[1].RowsOf, names[2].RowsOf, names[3].Cols = tiled(none, one), tiled(none, one), tiled(none, one)
	}
	return names
}

func keyRows(d deltaNet) int    { return 2 * d.keys * d.keyDim }
func valueWidth(d deltaNet) int { return d.valueDim }

// tiledHeads: the engine gives value head i the key head i modulo their number, where
// Hugging Face has those of a key head side by side.
func tiledHeads(first, each func(deltaNet) int) func(*decoder.Model) []int {
	return func(m *decoder.Model) []int {
		d := deltaSizes(m)
		if d.keys == d.values {
			return nil
		}
		var from []int
		for i := range first(d) {
			from = append(from, i)
		}
		for i := range d.values {
			head := i%d.keys*(d.values/d.keys) + i/d.keys
			for j := range each(d) {
				from = append(from, first(d)+head*each(d)+j)
			}
		}
		return from
	}
}

// qwen3NextGGUF: in_proj_qkvz is two tensors, one of the queries, keys and values of
// all heads, one of their gates.
func qwen3NextGGUF() *decoder.GGUF {
	parts := func(gates bool) func(*decoder.Model) []int {
		return func(m *decoder.Model) []int {
			d := deltaSizes(m)
			values := d.values / d.keys * d.valueDim // of a key head
			step := 2*d.keyDim + 2*values
			var from []int
			add := func(at, n int) {
				for k := range d.keys {
					for i := range n {
						from = append(from, k*step+at+i)
					}
				}
			}
			if gates {
				add(2*d.keyDim+values, values)
				return from
			}
			add(0, d.keyDim)
			add(d.keyDim, d.keyDim)
			add(2*d.keyDim, values)
			return from
		}
	}
	g := qwenHybridGGUF("qwen3next", append([]decoder.GGUFName{
		{HF: "linear_attn.in_proj_qkvz", GGUF: "attn_qkv", RowsOf: parts(false), Band: 0, Bands: 2},
		{HF: "linear_attn.in_proj_qkvz", GGUF: "attn_gate", RowsOf: parts(true), Band: 1, Bands: 2},
		{HF: "linear_attn.in_proj_ba", GGUF: "ssm_ba"},
	}, deltaNames(nil)...), mixture.QwenExpertNames())
	return withQwenExperts(g)
}

// qwen35GGUF are Qwen3.5's files, of images too and of experts.
func qwen35GGUF(experts, images bool) *decoder.GGUF {
	name, mlp := "qwen35", spec.GGUFGated
	if experts {
		name, mlp = "qwen35moe", mixture.QwenExpertNames()
	}
	none := func(deltaNet) int { return 0 }
	one := func(deltaNet) int { return 1 }
	g := qwenHybridGGUF(name, append([]decoder.GGUFName{
		{HF: "linear_attn.in_proj_qkv", GGUF: "attn_qkv", RowsOf: tiledHeads(keyRows, valueWidth)},
		{HF: "linear_attn.in_proj_z", GGUF: "attn_gate", RowsOf: tiledHeads(none, valueWidth)},
		{HF: "linear_attn.in_proj_b", GGUF: "ssm_beta", RowsOf: tiledHeads(none, one)},
		{HF: "linear_attn.in_proj_a", GGUF: "ssm_alpha", RowsOf: tiledHeads(none, one)},
	}, deltaNames(tiledHeads)...), mlp)
	g.Sections = true
	if g.Images = images; images {
		g.Left = append(g.Left, qwenVisionParts, "visual.")
	}
	if experts {
		return withQwenExperts(g)
	}
	return g
}

// withQwenExperts adds experts, in every layer.
func withQwenExperts(g *decoder.GGUF) *decoder.GGUF {
	g.Keys = append(g.Keys, mixture.QwenExpertKeys(qwenShared)...)
	check := g.Check
	g.Check = func(m *decoder.Model) error {
		if err := mixture.RequireExperts(m, true); err != nil {
			return err
		}
		return check(m)
	}
	return g
}
