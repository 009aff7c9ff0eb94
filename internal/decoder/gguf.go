package decoder

import "fmt"

// GGUF is what llama.cpp calls an architecture, its metadata and its tensors,
// and in what its files differ from those of Hugging Face (llama.cpp's
// src/models and conversion).
type GGUF struct {
	Name string // general.architecture
	// Needs is a metadata key, without the architecture's name, that files of this
	// architecture have and those of another with the same Name have not.
	Needs string
	// LayerNorm says that the epsilon is that of LayerNorms.
	LayerNorm bool
	// OwnHead says that the engine wants an output matrix also where it is the
	// embedding; EmbeddingHead that it always takes the embedding.
	OwnHead, EmbeddingHead bool
	// RopeFreqs says that the engine reads divisors of the rotary frequencies,
	// LongRope that it reads a set of them each for short and long contexts.
	RopeFreqs, LongRope bool
	// Period says that of so many layers the engine has a window in all but the
	// last, if the metadata has no other number; with 0 it has no windows, and the
	// context is cut to them.
	Period int
	// Context is what an absent length of the context means.
	Context int
	// Unrotated says that there are no rotations.
	Unrotated bool
	// Images says that tensors of a vision part are left out, so that a file read
	// back is another architecture's.
	Images bool

	// HeadWidth is a key of config.json that the engine takes to be the width of a
	// head, and in the model of so many layers as Largest that of the stream over
	// the heads.
	HeadWidth string
	Largest   int

	Activation GGUFActivation
	Keys       []GGUFKey
	Flags      []GGUFFlag
	// Rename has the names in config.json of sizes that are not called as in
	// Llama's; "" leaves one out.
	Rename map[string]string
	// Constants are values in config.json that follow from the architecture.
	Constants map[string]any
	// Block are the tensors of a block, in the order of the file.
	Block []GGUFName
	// Check refuses what the engine does not run as Hugging Face does.
	Check func(m *Model) error
}

// GGUFActivation is the key of an activation and the values that the engine
// computes; the first is written where a file is read back. Without a key it
// is "hidden_act" and SiLU.
type GGUFActivation struct {
	Key    string
	Values []string
}

// GGUFKey is a metadata key, without the architecture's name, and the key of
// config.json whose value it holds. 0 is not written.
type GGUFKey struct{ Name, Config string }

// GGUFFlag is a key of config.json that is true if one of the tensors is in
// block 0; with Absent if none is.
type GGUFFlag struct {
	Config  string
	Tensors []string
	Absent  bool
}

// GGUFName is a tensor of a block, without ".weight" or ".bias". %d in the name
// stands for the number of an expert or head: their tensors are one there.
type GGUFName struct {
	HF, GGUF string
	Rows     GGUFRows // nil: as they are
	PlusOne  bool     // one more than Hugging Face has: gains of 1+w
	Flat     bool     // a vector there, a matrix of one row here
}

// GGUFRows gives for each row there which row it is here.
type GGUFRows func(c *Config) []int

// GGUFTensor is a tensor of llama.cpp's and what it is made of.
type GGUFTensor struct {
	Name  string
	Parts []string // Hugging Face's names; several are stacked
	// Stacked says that there may be more dimensions there than here, also if
	// there is one part.
	Stacked    bool
	From       []int // for each row there which row it is here; nil: as they are
	PlusOne    bool
	Flat       bool
	Transposed bool // dense, it is [in, out] here
	Dense      bool // no linear: neither quantized nor rounded
	Outer      bool // embedding or head
}

// GGUFTensors lists all tensors that the model may have, in the order of the file.
func (m *Model) GGUFTensors() []GGUFTensor {
	n, plusOne := &m.names, m.head.norm.plusOne
	var list []GGUFTensor
	one := func(t GGUFTensor, gguf, name string) {
		if name != "" {
			t.Name, t.Parts = gguf, []string{name}
			list = append(list, t)
		}
	}
	one(GGUFTensor{Outer: true}, "token_embd.weight", n.embedding)
	one(GGUFTensor{Dense: true}, "position_embd.weight", n.positions)
	if m.embed.norm != nil {
		one(GGUFTensor{Dense: true}, "token_embd_norm.weight", n.embedNorm)
		one(GGUFTensor{Dense: true}, "token_embd_norm.bias", biasOf(n.embedNorm))
	}
	for _, p := range m.Blocks {
		list = append(list, m.ggufBlock(p)...)
	}
	one(GGUFTensor{Dense: true, PlusOne: plusOne}, "output_norm.weight", n.finalNorm)
	one(GGUFTensor{Dense: true}, "output_norm.bias", biasOf(n.finalNorm))
	one(GGUFTensor{Outer: true}, "output.weight", n.head)
	one(GGUFTensor{Dense: true}, "output.bias", biasOf(n.head))
	return list
}

func (m *Model) ggufBlock(p *Program) []GGUFTensor {
	linears := map[string]*LinearInfo{}
	for i := range p.Linears {
		linears[p.Linears[i].Path] = &p.Linears[i]
	}
	var list []GGUFTensor
	for _, e := range m.Arch.GGUF.Block {
		paths := []string{e.HF}
		t := GGUFTensor{Flat: e.Flat}
		if first := sprintf(e.HF, 0); containsNumber(e.HF) {
			t.Stacked, paths = true, nil
			for i := range m.ggufParts(e.HF) {
				paths = append(paths, sprintf(e.HF, i))
			}
			t.Dense = linears[first] == nil
		} else if l := linears[e.HF]; l != nil {
			t.Transposed = l.Stored().Transposed
		} else {
			t.Dense = true
		}
		if e.Rows != nil {
			t.From = e.Rows(&m.Config)
		}
		for _, suffix := range []string{".weight", ".bias"} {
			t.Name = fmt.Sprintf("blk.%d.", p.Index) + e.GGUF + suffix
			t.Parts = nil
			for _, path := range paths {
				t.Parts = append(t.Parts, p.prefix+path+suffix)
			}
			t.PlusOne = e.PlusOne && suffix == ".weight"
			t.Transposed = t.Transposed && suffix == ".weight"
			list = append(list, t)
		}
	}
	return list
}

// ggufParts is how many tensors of a block have a name with a number in it:
// experts, or heads of queries or of keys.
func (m *Model) ggufParts(path string) int {
	switch {
	case m.Experts > 0:
		return m.Experts
	case path == stablelmKeyNorm:
		return m.KVHeads
	}
	return m.Heads
}

func containsNumber(path string) bool {
	for i := 1; i < len(path); i++ {
		if path[i-1] == '%' && path[i] == 'd' {
			return true
		}
	}
	return false
}

// Value is what a key of config.json came to, with the default of the
// architecture where it was absent; nil if the architecture does not read it.
func (m *Model) Value(key string) any { return m.read[key] }

// number is Value of a number.
func (m *Model) number(key string) float64 {
	switch v := m.read[key].(type) {
	case int:
		return float64(v)
	case float64:
		return v
	}
	return 0
}

// GGUFArchitectures lists the architectures that llama.cpp has.
func GGUFArchitectures() []*Architecture {
	var all []*Architecture
	for _, a := range architectures() {
		if a.GGUF != nil {
			all = append(all, a)
		}
	}
	return all
}

// pairedQueries and pairedKeys have the pairs of a rotation side by side: the
// engine rotates rows 2j and 2j+1 of a head, Hugging Face j and j+d/2.
func pairedQueries(c *Config) []int { return pairedRows(c.Heads, c.HeadDim) }
func pairedKeys(c *Config) []int    { return pairedRows(c.KVHeads, c.HeadDim) }

func pairedRows(n, dim int) []int {
	from := make([]int, n*dim)
	for r := range from {
		head, i := r/dim, r%dim
		from[r] = head*dim + i%2*(dim/2) + i/2
	}
	return from
}

// splitHeads has all queries, then all keys, then all values, where Hugging Face
// has those of each head side by side.
func splitHeads(c *Config) []int { return splitGroups(c, c.Heads) }

// splitKeyHeads is splitHeads for groups of several queries, a key and a value.
func splitKeyHeads(c *Config) []int { return splitGroups(c, c.KVHeads) }

func splitGroups(c *Config, groups int) []int {
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

// refuse is an error about a value that the engine does not run.
func refuse(key string, value any, engine string) error {
	return fmt.Errorf("%q: %v is not in llama.cpp's %s", key, value, engine)
}

// require refuses all values of keys but one each.
func (m *Model) require(values map[string]any) error {
	for key, want := range values {
		if got := m.read[key]; got != nil && got != want {
			return refuse(key, got, m.Arch.GGUF.Name)
		}
	}
	return nil
}

// WindowPeriod is the number of layers after which one has no window.
func (m *Model) WindowPeriod() (int, error) {
	for n := 1; n <= m.Layers+1; n++ {
		pattern, same := slidingBut(n), true
		for i := range m.Layers {
			same = same && (m.Window(i) > 0) == (pattern(i) == slidingAttention)
		}
		if same {
			return n, nil
		}
	}
	return 0, refuse("layer_types", "such a pattern", m.Arch.GGUF.Name)
}

// LayerTypes is "layer_types" for a period.
func LayerTypes(layers, period int) []string {
	types := make([]string, layers)
	for i := range types {
		types[i] = slidingBut(period)(i)
	}
	return types
}

// requireScale refuses a HeadWidth that is not what the engine takes.
func (m *Model) requireScale() error {
	g := m.Arch.GGUF
	if v := m.number(g.HeadWidth); v != float64(g.ScaleWidth(m.Layers, m.Hidden, m.Heads, m.HeadDim)) {
		return refuse(g.HeadWidth, v, g.Name)
	}
	return nil
}

// ScaleWidth is what the engine takes for HeadWidth in a model of these sizes.
func (g *GGUF) ScaleWidth(layers, hidden, heads, headDim int) int {
	if layers == g.Largest {
		return hidden / heads
	}
	return headDim
}

// requireHidden refuses heads that are not as wide together as the stream.
func (m *Model) requireHidden() error {
	if m.QueryWidth() != m.Hidden {
		return refuse("head_dim", m.HeadDim, m.Arch.GGUF.Name)
	}
	return nil
}

// geluActivation is the approximation of GELU by tanh, under all its names.
func geluActivation(key string) GGUFActivation {
	return GGUFActivation{Key: key, Values: []string{"gelu_pytorch_tanh", "gelu_new", "gelu_fast"}}
}

// exactGELU is an activation for which the engine takes the approximation.
func exactGELU(key string) GGUFActivation { return GGUFActivation{Key: key, Values: []string{"gelu"}} }

// Names that many architectures share.
var (
	ggufOutput = GGUFName{HF: "self_attn.o_proj", GGUF: "attn_output"}
	ggufGated  = []GGUFName{
		{HF: "mlp.gate_proj", GGUF: "ffn_gate"}, {HF: "mlp.up_proj", GGUF: "ffn_up"}, {HF: "mlp.down_proj", GGUF: "ffn_down"},
	}
	ggufQKNorms = []GGUFName{{HF: "self_attn.q_norm", GGUF: "attn_q_norm"}, {HF: "self_attn.k_norm", GGUF: "attn_k_norm"}}
)

// ggufNorm is a norm of a block.
func ggufNorm(hf, gguf string) []GGUFName { return []GGUFName{{HF: hf, GGUF: gguf}} }

// ggufGain is a norm whose gain is 1+w.
func ggufGain(hf, gguf string) []GGUFName { return []GGUFName{{HF: hf, GGUF: gguf, PlusOne: true}} }

// ggufQKV are the names of separate queries, keys and values; paired says that
// the engine wants the pairs of a rotation side by side.
func ggufQKV(paired bool) []GGUFName {
	q, k := GGUFName{HF: "self_attn.q_proj", GGUF: "attn_q"}, GGUFName{HF: "self_attn.k_proj", GGUF: "attn_k"}
	if paired {
		q.Rows, k.Rows = pairedQueries, pairedKeys
	}
	return []GGUFName{q, k, {HF: "self_attn.v_proj", GGUF: "attn_v"}}
}

// ggufExperts are the names of experts and their router.
func ggufExperts(router string, e expertNames) []GGUFName {
	return []GGUFName{
		{HF: router, GGUF: "ffn_gate_inp"}, {HF: e.gate, GGUF: "ffn_gate_exps"},
		{HF: e.up, GGUF: "ffn_up_exps"}, {HF: e.down, GGUF: "ffn_down_exps"},
	}
}

func joined(parts ...[]GGUFName) []GGUFName {
	var all []GGUFName
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// llamaGGUF is an architecture with Llama's block.
func llamaGGUF(name string, paired bool, flags ...GGUFFlag) *GGUF {
	return &GGUF{
		Name: name, RopeFreqs: true, Flags: flags,
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(paired), ggufQKNorms, []GGUFName{ggufOutput},
			ggufNorm("post_attention_layernorm", "ffn_norm"), ggufGated),
	}
}

// Flags of biases.
var (
	attentionBias = GGUFFlag{Config: "attention_bias", Tensors: []string{"attn_output.bias", "attn_q.bias"}}
	mlpBias       = GGUFFlag{Config: "mlp_bias", Tensors: []string{"ffn_down.bias", "ffn_up.bias"}}
)
