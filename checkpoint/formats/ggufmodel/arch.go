package ggufmodel

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/tensor"
)

// What GGUF needs to know of the architectures, all of it in this file.

// Architectures as general.architecture names them.
const (
	archLlama = "llama"
	archQwen2 = "qwen2"
	archQwen3 = "qwen3"
)

// Hugging Face's names of the tensors outside the blocks.
const (
	embeddingName = "model.embed_tokens.weight"
	finalNormName = "model.norm.weight"
	headName      = "lm_head.weight"
)

// classes are Hugging Face's classes of the architectures that are read.
var classes = map[string]string{archLlama: "LlamaForCausalLM", archQwen2: "Qwen2ForCausalLM", archQwen3: "Qwen3ForCausalLM"}

// namedLinear matches the linears that have a name in GGUF.
var namedLinear = regexp.MustCompile(`^(model\.layers\.(0|[1-9][0-9]{0,4})\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)|lm_head)$`)

// modelShape is what a config.json says of a model.
type modelShape struct {
	arch                                string
	layers, vocab, hidden, intermediate int
	heads, kvHeads, headDim             int
	context                             int // the engine has no sliding window: up to its length both attentions are the same
	normEps, ropeTheta                  float64
	scaling                             ropeScaling
	tied                                bool
}

// ropeScaling stretches the rotary frequencies: kind is "", "linear" or "llama3".
type ropeScaling struct {
	kind              string
	factor            float64
	lowFreq, highFreq float64 // turns in the original context
	originalContext   int
}

// readShape reads a config.json and refuses what llama.cpp does not run the
// way Hugging Face does.
func readShape(config json.RawMessage) (*modelShape, error) {
	const written = "GGUF is written for llama, mistral, qwen2 and qwen3; use format lowbit or dense"
	c, err := arch.ParseConfig(config)
	if errors.Is(err, decoder.ErrUnsupported) {
		return nil, fmt.Errorf("%s: %w", layout.ConfigFile, errors.Join(err, layout.Unsupported(written)))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", layout.ConfigFile, err)
	}
	if c.GGUF == nil {
		return nil, fmt.Errorf("%s: %w", layout.ConfigFile, layout.Unsupported("%s: "+written, c.ModelType))
	}
	switch {
	case c.MaxPosition == 0:
		return nil, fmt.Errorf(`%s: no "max_position_embeddings", which GGUF needs`, layout.ConfigFile)
	case c.ModelType == "qwen3" && c.OBias:
		return nil, layout.Unsupported("llama.cpp's qwen3 has no bias in o_proj")
	case c.Activation != "" && c.Activation != "silu" && c.Activation != "swish":
		return nil, layout.Unsupported("llama.cpp's %s has no %s activation", c.GGUF.Name, c.Activation)
	case c.Rope.Dim != c.HeadDim:
		return nil, layout.Unsupported("rotations of a part of each head are not written to GGUF")
	case !slices.Contains([]string{"", "linear", "llama3"}, c.Rope.Scaling.Type):
		return nil, layout.Unsupported("%s scaling of rotations is not written to GGUF", c.Rope.Scaling.Type)
	}
	r := c.Rope.Scaling
	m := &modelShape{
		arch: c.GGUF.Name, layers: c.Layers, vocab: c.Vocab, hidden: c.Hidden, intermediate: c.Intermediate,
		heads: c.Heads, kvHeads: c.KVHeads, headDim: c.HeadDim, context: c.MaxPosition,
		normEps: c.NormEps, ropeTheta: c.Rope.Theta, tied: c.Tied,
		scaling: ropeScaling{r.Type, r.Factor, r.LowFreqFactor, r.HighFreqFactor, r.OriginalMaxPosition},
	}
	for _, w := range c.Windows {
		if w > 0 {
			m.context = min(m.context, w)
		}
	}
	return m, nil
}

// checkTensors holds the tensors of a model to its config.json.
func checkTensors(o layout.Origin) error {
	m, err := arch.ParseConfig(o.Config())
	if err != nil {
		return err
	}
	return m.CheckShapes(shapesOnly{o})
}

// checkConfig reports whether a config.json made from metadata is a model's.
func checkConfig(config json.RawMessage) error {
	_, err := arch.ParseConfig(config)
	return err
}

// shapesOnly is an Origin whose matrices nobody reads.
type shapesOnly struct{ layout.Origin }

func (s shapesOnly) Has(name string) bool { _, ok := s.Shape(name); return ok }

func (s shapesOnly) Matrix(string) (*tensor.Matrix, error) {
	return nil, errors.New("only shapes are checked")
}

// Tensor names of a block: Hugging Face's and llama.cpp's
// (gguf-py/gguf/tensor_mapping.py).
var blockNames = [][2]string{
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
	nameEmbedding = "token_embd.weight"
	nameFinalNorm = "output_norm.weight"
	nameHead      = "output.weight"
	nameRopeFreqs = "rope_freqs.weight"
)

// blockPrefix begins the names of the tensors of block i.
func blockPrefix(i int) string { return fmt.Sprintf("model.layers.%d.", i) }

// tensorNames lists a model's possible tensors in the order of the file, as
// pairs of the Hugging Face name and the name in GGUF.
func tensorNames(layers int) [][2]string {
	names := [][2]string{{embeddingName, nameEmbedding}}
	for i := range layers {
		for _, n := range blockNames {
			names = append(names, [2]string{blockPrefix(i) + n[0], fmt.Sprintf("blk.%d.%s", i, n[1])})
		}
	}
	return append(names, [2]string{finalNormName, nameFinalNorm}, [2]string{headName, nameHead})
}

// huggingFaceName translates a name of a GGUF file; ok is false if there is
// no such tensor in the models that are read.
func huggingFaceName(name string, layers int) (string, bool) {
	switch name {
	case nameEmbedding:
		return embeddingName, true
	case nameFinalNorm:
		return finalNormName, true
	case nameHead:
		return headName, true
	}
	rest, ok := strings.CutPrefix(name, "blk.")
	number, rest, found := strings.Cut(rest, ".")
	i, err := strconv.Atoi(number)
	if !ok || !found || err != nil || i < 0 || i >= layers || number != strconv.Itoa(i) {
		return "", false
	}
	for _, n := range blockNames {
		if n[1] == rest {
			return blockPrefix(i) + n[0], true
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
	if architecture != archLlama {
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
func deinterleaved(r, dim int) int {
	head, i := r/dim, r%dim
	return head*dim + i%2*(dim/2) + i/2
}
