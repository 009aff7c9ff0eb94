package decoder

import (
	"fmt"
	"strings"

	"github.com/golowbit/lowbit/internal/program"
)

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
	KeyHeads bool     // a number in the name is that of a head of keys, not of queries
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
	n, plusOne := &m.Names, m.Head.Norm.PlusOne
	var list []GGUFTensor
	one := func(t GGUFTensor, gguf, name string) {
		if name != "" {
			t.Name, t.Parts = gguf, []string{name}
			list = append(list, t)
		}
	}
	one(GGUFTensor{Outer: true}, "token_embd.weight", n.Embedding)
	one(GGUFTensor{Dense: true}, "position_embd.weight", n.Positions)
	if m.Embed.Norm != nil {
		one(GGUFTensor{Dense: true}, "token_embd_norm.weight", n.EmbedNorm)
		one(GGUFTensor{Dense: true}, "token_embd_norm.bias", biasOf(n.EmbedNorm))
	}
	for _, p := range m.Blocks {
		list = append(list, m.ggufBlock(p)...)
	}
	one(GGUFTensor{Dense: true, PlusOne: plusOne}, "output_norm.weight", n.FinalNorm)
	one(GGUFTensor{Dense: true}, "output_norm.bias", biasOf(n.FinalNorm))
	one(GGUFTensor{Outer: true}, "output.weight", n.Head)
	one(GGUFTensor{Dense: true}, "output.bias", biasOf(n.Head))
	return list
}

func (m *Model) ggufBlock(p *program.Program) []GGUFTensor {
	linears := map[string]*program.LinearInfo{}
	for i := range p.Linears {
		linears[p.Linears[i].Path] = &p.Linears[i]
	}
	var list []GGUFTensor
	for _, e := range m.GGUF.Block {
		paths := []string{e.HF}
		t := GGUFTensor{Flat: e.Flat}
		if first := fmt.Sprintf(e.HF, 0); strings.Contains(e.HF, "%d") {
			t.Stacked, paths = true, nil
			for i := range m.ggufParts(e) {
				paths = append(paths, fmt.Sprintf(e.HF, i))
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
				t.Parts = append(t.Parts, p.Prefix()+path+suffix)
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
func (m *Model) ggufParts(e GGUFName) int {
	switch {
	case m.Experts > 0:
		return m.Experts
	case e.KeyHeads:
		return m.KVHeads
	}
	return m.Heads
}

// Value is what a key of config.json came to, with the default of the
// architecture where it was absent; nil if the architecture does not read it.
func (m *Model) Value(key string) any { return m.Read[key] }

// Number is Value of a number.
func (m *Model) Number(key string) float64 {
	switch v := m.Read[key].(type) {
	case int:
		return float64(v)
	case float64:
		return v
	}
	return 0
}

// Refuse is an error about a value that the engine does not run.
func Refuse(key string, value any, engine string) error {
	return fmt.Errorf("%q: %v is not in llama.cpp's %s", key, value, engine)
}

// Require refuses all values of keys but one each.
func (m *Model) Require(values map[string]any) error {
	for key, want := range values {
		if got := m.Read[key]; got != nil && got != want {
			return Refuse(key, got, m.GGUF.Name)
		}
	}
	return nil
}

// WindowPeriod is the number of layers after which one has no window.
func (m *Model) WindowPeriod() (int, error) {
	for n := 1; n <= m.Layers+1; n++ {
		same := true
		for i := range m.Layers {
			same = same && (m.Window(i) > 0) == ((i+1)%n != 0)
		}
		if same {
			return n, nil
		}
	}
	return 0, Refuse("layer_types", "such a pattern", m.GGUF.Name)
}

// RequireScale refuses a HeadWidth that is not what the engine takes.
func (m *Model) RequireScale() error {
	g := m.GGUF
	if v := m.Number(g.HeadWidth); v != float64(g.ScaleWidth(m.Layers, m.Hidden, m.Heads, m.HeadDim)) {
		return Refuse(g.HeadWidth, v, g.Name)
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

// RequireHidden refuses heads that are not as wide together as the stream.
func (m *Model) RequireHidden() error {
	if m.QueryWidth() != m.Hidden {
		return Refuse("head_dim", m.HeadDim, m.GGUF.Name)
	}
	return nil
}
