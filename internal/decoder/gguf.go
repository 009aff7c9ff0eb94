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
	// Needs is a metadata key, without the architecture's name, that is true or more
	// than 0 in files of this architecture and not in those of another with the same
	// Name.
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
	// Unrotated says that there are no rotations, Headless that there is no
	// attention.
	Unrotated, Headless bool
	// Sections says that there are those of rotations of images ("mrope_section"),
	// which all turn alike in text.
	Sections bool
	// Left are what names of tensors begin with that are of no block that is run.
	Left []string
	// Images says that tensors of a vision part are left out, so that a file read
	// back is another architecture's.
	Images bool
	// YarnLog says that the engine reads how much of YaRN's factor of cosines and
	// sines is taken back ("mscale_all_dim"), Grows that queries grow with the
	// position. YarnRounds says that YaRN's ramp may end between two frequencies
	// ("truncate" is false), which the engine rounds.
	YarnLog, Grows, YarnRounds bool
	// Latent says that attention is that of DeepSeek: keys of a part without and one
	// with rotation, values of another width.
	Latent bool
	// Derive gives values of config.json that follow from numbers of the metadata,
	// which it gets by their keys without the architecture's name.
	Derive func(number func(name string) int) map[string]any
	// Layers gives values of config.json that follow from which tensors the blocks of a
	// file have, by their names there without ".weight".
	Layers func(layers int, has func(block int, tensor string) bool) map[string]any
	// Other is the kind in "layer_types" of layers without attention, which have no
	// heads of keys in the metadata; "" if there are none.
	Other string
	// FinalNorm is what the last norm is called, "" for "output_norm".
	FinalNorm string
	// Scaled says that without "rope_scaling" in config.json there is some.
	Scaled bool
	// Inner are the architectures of files of a model for images and text, by the
	// "model_type" of its text model, where that is not the one of this.
	Inner map[string]*GGUF

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
	// Fixed are values of metadata that follow from the architecture.
	Fixed []GGUFFixed
	// Numbers are tensors of one element in each block whose values are in the
	// metadata.
	Numbers []GGUFNumber
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
// config.json whose value it holds.
type GGUFKey struct {
	Name, Config string
	Times        string // a key by whose value it is multiplied; such a product is not read
	Zero         bool   // 0 is written
	Above        int    // written where it is more than this
	Read         bool   // only read: what is written there is the same
	True         string // there it is this string where it is true here, absent otherwise
}

// GGUFFixed is a metadata key, without the architecture's name, and the value
// that files of an architecture have there.
type GGUFFixed struct {
	Name  string
	Value any
}

// GGUFNumber is a number of each block: a tensor of one element there, an entry
// of a list in the metadata here, whose key is without the architecture's name.
type GGUFNumber struct {
	HF, Name string
	// Constant is what the number always is, up to rounding; its tensor may be
	// missing and is not read back. 0: it is no constant.
	Constant float32
}

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
	Whole    bool     // the names end in what they end in, not in ".weight" or ".bias"
	// Of so many equal bands of rows there this one is the tensor here. With RowsOf the
	// bands are the rows that it gives, which are all of them together.
	Band, Bands int
	RowsOf      func(m *Model) []int // Rows, of a model
	// Cols gives for each of some segments of a row there, all of a length, which it is
	// here; nil: as they are.
	Cols func(m *Model) []int
	// Dims are the dimensions here, the innermost first, of a dense tensor that has
	// others there; nil: the same.
	Dims   func(m *Model) []int
	NegExp bool // minus the exponential of what Hugging Face has
	// If tells whether a model has it; nil: all have.
	If func(m *Model) bool
}

// GGUFRows gives for each row there which row it is here.
type GGUFRows func(c *Config) []int

// GGUFTensor is a tensor of llama.cpp's and what it is made of.
type GGUFTensor struct {
	Name  string
	Parts []string // Hugging Face's names; several are stacked
	// Stacked says that there may be more dimensions there than here, also if
	// there is one part.
	Stacked bool
	From    []int // for each row there which row it is here; nil: as they are
	PlusOne bool
	Flat    bool
	// Of so many equal bands of rows there this one is the tensor here; 0: all are.
	// Where Total is not 0 the band has From of so many rows, and First are in those
	// before.
	Band, Bands  int
	First, Total int
	Cols         []int // of so many segments of a row there, which it is here; nil: as they are
	// Dims, where they are not Shape, the dimensions there, in reverse.
	Dims, Shape []int
	NegExp      bool
	Transposed  bool // dense, it is [in, out] here
	Dense       bool // no linear: neither quantized nor rounded
	Outer       bool // embedding or head
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
	final := m.GGUF.FinalNorm
	if final == "" {
		final = "output_norm"
	}
	one(GGUFTensor{Dense: true, PlusOne: plusOne}, final+".weight", n.FinalNorm)
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
		if e.If != nil && !e.If(m) {
			continue
		}
		paths := []string{e.HF}
		t := GGUFTensor{Flat: e.Flat, Band: e.Band, Bands: e.Bands, NegExp: e.NegExp}
		if e.Dims != nil {
			t.Dims = e.Dims(m)
			t.Shape, _ = p.Shape(p.Prefix() + e.HF)
		}
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
		m.ggufOrder(e, &t)
		suffixes := []string{".weight", ".bias"}
		if e.Whole {
			suffixes = []string{""}
		}
		for _, suffix := range suffixes {
			t.Name = fmt.Sprintf("blk.%d.", p.Index) + e.GGUF + suffix
			t.Parts = nil
			for _, path := range paths {
				t.Parts = append(t.Parts, p.Prefix()+path+suffix)
			}
			t.PlusOne = e.PlusOne && suffix != ".bias"
			t.Transposed = t.Transposed && suffix != ".bias"
			list = append(list, t)
		}
	}
	return list
}

// ggufOrder sets which rows and columns a tensor has, and where.
func (m *Model) ggufOrder(e GGUFName, t *GGUFTensor) {
	if e.Rows != nil {
		t.From = e.Rows(&m.Config)
	}
	if e.RowsOf != nil {
		t.From = e.RowsOf(m)
	}
	if e.Cols != nil {
		t.Cols = e.Cols(m)
	}
	if e.Bands == 0 || e.RowsOf == nil {
		return
	}
	for _, other := range m.GGUF.Block {
		if other.HF != e.HF {
			continue
		}
		n := len(other.RowsOf(m))
		if t.Total += n; other.Band < e.Band {
			t.First += n
		}
	}
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

// Attends tells whether a block has attention.
func (m *Model) Attends(block int) bool {
	for _, l := range m.Blocks[block].Linears {
		if strings.HasPrefix(l.Path, "self_attn.") {
			return true
		}
	}
	return false
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
