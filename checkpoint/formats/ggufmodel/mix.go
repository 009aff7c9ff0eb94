package ggufmodel

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
)

// A file type, such as Q4_K_M, is a block type and a rule that gives some tensors
// another one. The rules are those of llama-quantize (src/llama-quant.cpp), by the
// names that the tensors have in the file. Its only rule for floats of 4 bits is one for
// experts; here all linears have them, and the embedding and the head Q8_0.

// fileTypes by name: the block type of most tensors and llama.cpp's number.
var fileTypes = map[string]struct {
	main   gguf.Type
	number uint32
}{
	"Q2_K": {gguf.Q2_K, 10}, "Q2_K_S": {gguf.Q2_K, 21},
	"Q3_K_S": {gguf.Q3_K, 11}, "Q3_K_M": {gguf.Q3_K, 12}, "Q3_K_L": {gguf.Q3_K, 13},
	"Q4_K_S": {gguf.Q4_K, 14}, "Q4_K_M": {gguf.Q4_K, 15},
	"Q5_K_S": {gguf.Q5_K, 16}, "Q5_K_M": {gguf.Q5_K, 17},
	"Q6_K": {gguf.Q6_K, 18}, "IQ4_NL": {gguf.IQ4_NL, 25}, "IQ4_XS": {gguf.IQ4_XS, 30},
	"MXFP4": {gguf.MXFP4, 38}, "NVFP4": {gguf.NVFP4, 39},
}

// Types lists the file types that Format.Type can be, from few bits to many.
func Types() []string {
	return slices.SortedFunc(maps.Keys(fileTypes), func(a, b string) int {
		bits := func(name string) int { t := fileTypes[name].main; return t.BlockBytes() * 256 / t.Block() }
		return cmp.Or(cmp.Compare(bits(a), bits(b)), cmp.Compare(a, b))
	})
}

// ParseType reads the name of a file type.
func ParseType(name string) (string, error) {
	if _, ok := fileTypes[strings.ToUpper(name)]; ok {
		return strings.ToUpper(name), nil
	}
	return "", fmt.Errorf("unknown type %q of a GGUF file, want %s", name, strings.Join(Types(), ", "))
}

// Main is the grid that most linears have in a file of type g.Type; ok is false
// without one.
func (g Format) Main() (s quant.Scheme, ok bool) {
	t, ok := fileTypes[g.Type]
	if !ok {
		return s, false
	}
	grid, ok := linearGrid(t.main)
	return grid.Scheme(), ok
}

// Mix implements layout.Mixer: with a Type, its choice for each linear; nil
// without. A linear whose inputs are no whole number of the smallest blocks stays
// dense. weighted says that errors are weighed by inputs.
func (g Format) Mix(src layout.Origin, weighted bool) (func(l layout.Layer) (quant.Scheme, string, error), error) {
	if g.Type == "" {
		return nil, nil
	}
	m, err := modelOf(src)
	if err != nil {
		return nil, err
	}
	types := g.types(m, src, weighted)
	of, segments := map[string]gguf.Type{}, map[string]int{}
	for _, t := range m.GGUFTensors() {
		for _, part := range t.Parts {
			base, ok := layout.CutWeight(part)
			if was, twice := of[base]; ok && (!twice || types[t.Name].BlockBytes()*was.Block() > was.BlockBytes()*types[t.Name].Block()) {
				of[base], segments[base] = types[t.Name], max(1, len(t.Cols))
			}
		}
	}
	return func(l layout.Layer) (quant.Scheme, string, error) {
		want, ok := of[l.Name]
		if !ok {
			return quant.Scheme{}, "", fmt.Errorf("layer %q has no place in the file", l.Name)
		}
		return typed(want, l.In/segments[l.Name]) // what changes places is whole blocks
	}, nil
}

// linearGrid is the grid of a linear of a type: of NVFP4 the one with a scale beside it.
func linearGrid(t gguf.Type) (g kquant.Grid, ok bool) {
	if t == gguf.NVFP4 {
		return kquant.TensorScaled(), true
	}
	return kquant.Of(t)
}

// typed is the scheme of a linear with so many inputs that is to be of a type, and a
// remark if it becomes another.
func typed(want gguf.Type, in int) (s quant.Scheme, remark string, err error) {
	t := fitting(want, in)
	grid, ok := linearGrid(t)
	if !ok {
		return s, "", layout.Unsupported("%d inputs are not a whole number of blocks of %d", in, gguf.BlockLen)
	}
	if t != want {
		remark = fmt.Sprintf("%v: %d inputs are not a whole number of blocks of %v", t, in, want)
	}
	return grid.Scheme(), remark, nil
}

// Typed implements layout.Typer: name is a block type, such as Q6_K.
func (Format) Typed(name string, in int) (s quant.Scheme, remark string, err error) {
	grid, ok := kquant.Named(strings.ToUpper(name))
	if !ok {
		return s, "", fmt.Errorf("unknown type %q, want one of %s", name, strings.Join(kquant.Names(), ", "))
	}
	return typed(grid.Type(), in)
}

// fitting is the type that takes the place of another where rows of n values are
// not whole blocks.
func fitting(t gguf.Type, n int) gguf.Type {
	if n%t.Block() == 0 {
		return t
	}
	switch t {
	case gguf.Q2_K, gguf.Q3_K:
		t = gguf.Q4_0
	case gguf.Q4_K:
		t = gguf.Q5_0
	case gguf.Q5_K:
		t = gguf.Q5_1
	case gguf.Q6_K:
		t = gguf.Q8_0
	default:
		t = gguf.IQ4_NL
	}
	if n%t.Block() == 0 {
		return t
	}
	return gguf.F16
}

// types gives the wanted type of each matrix of a model by its name in the file.
func (g Format) types(m *decoder.Model, src layout.Origin, weighted bool) map[string]gguf.Type {
	x := mixer{file: g.Type, main: fileTypes[g.Type].main, model: m, weighted: weighted, gqa: 1}
	if m.KVHeads > 0 {
		x.gqa = m.Heads / m.KVHeads
	}
	list := slices.DeleteFunc(m.GGUFTensors(), func(t decoder.GGUFTensor) bool {
		shape, ok := src.Shape(t.Parts[0])
		return !(ok && len(shape) == 2 && strings.HasSuffix(t.Name, layout.WeightSuffix)) && t.Name != nameHead
	})
	output := false
	for _, t := range list {
		if strings.Contains(t.Name, "attn_v.weight") || strings.Contains(t.Name, "attn_qkv.weight") || strings.Contains(t.Name, "attn_kv_b.weight") {
			x.values++
		}
		output = output || t.Name == nameHead && (!m.Tied || m.GGUF.OwnHead)
	}
	// The engine's tool goes through the tensors block by block, and in a block by name.
	slices.SortStableFunc(list, func(a, b decoder.GGUFTensor) int {
		return cmp.Or(cmp.Compare(blockOf(a.Name), blockOf(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	types := map[string]gguf.Type{}
	for _, t := range list {
		switch {
		case g.Pure:
			types[t.Name] = x.main
		case t.Name == nameHead || t.Name == nameEmbedding && !output:
			types[t.Name] = x.output()
		default:
			types[t.Name] = x.of(t.Name)
		}
	}
	return types
}

// blockOf is the number of a tensor's block, -1 outside blocks.
func blockOf(name string) int {
	rest, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return -1
	}
	number, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(number)
	if err != nil {
		return -1
	}
	return n
}

// mixer chooses types in the order of the tensors.
type mixer struct {
	file     string
	main     gguf.Type
	model    *decoder.Model
	weighted bool
	gqa      int // heads of queries for one of keys
	values   int // tensors of values in the model

	value, down int // which one comes next
}

// output is the type of the output matrix.
func (x *mixer) output() gguf.Type {
	if x.floats() || x.falcon() || x.model.Hidden%x.main.Block() != 0 {
		return gguf.Q8_0
	}
	return gguf.Q6_K
}

// more tells whether layer i of n is one of those that are given more bits: the
// first and last eighth, and every third between.
func more(i, n int) bool { return i < n/8 || i >= 7*n/8 || (i-n/8)%3 == 2 }

// of is the wanted type of a tensor.
func (x *mixer) of(name string) gguf.Type {
	eight := x.model.Experts == 8
	switch {
	case x.floats() && name == nameEmbedding:
		return gguf.Q8_0
	case x.floats():
		return x.main
	case strings.Contains(name, "attn_v.weight"):
		t := x.valueType()
		x.value++
		if eight {
			return gguf.Q8_0
		}
		return t
	case strings.Contains(name, "attn_k.weight") && eight:
		return gguf.Q8_0
	case strings.Contains(name, "ffn_down"):
		i := x.down
		if x.model.Experts > 1 {
			i = blockOf(name)
		}
		x.down++
		return x.downType(i)
	case strings.Contains(name, "attn_output.weight"):
		return x.attentionOutput(eight)
	case strings.Contains(name, "attn_qkv.weight"):
		switch x.file {
		case "Q3_K_M", "Q3_K_L":
			return gguf.Q4_K
		case "Q4_K_M":
			return gguf.Q5_K
		case "Q5_K_M":
			return gguf.Q6_K
		}
	}
	return x.main
}

func (x *mixer) valueType() gguf.Type {
	t := x.main
	switch x.file {
	case "Q2_K":
		t = gguf.Q3_K
		if x.gqa >= 4 {
			t = gguf.Q4_K
		}
	case "Q2_K_S":
		if x.gqa >= 4 {
			t = gguf.Q4_K
		}
	case "Q3_K_M":
		t = gguf.Q4_K
		if x.value < 2 {
			t = gguf.Q5_K
		}
	case "Q3_K_L":
		t = gguf.Q5_K
	case "IQ4_NL", "IQ4_XS":
		if x.gqa >= 4 {
			t = gguf.Q5_K
		}
	case "Q4_K_M", "Q5_K_M":
		if more(x.value, x.values) {
			t = gguf.Q6_K
		}
	case "Q4_K_S":
		if x.value < 4 {
			t = gguf.Q5_K
		}
	}
	// The tool calls a model of 80 layers "70B" where keys have fewer heads, and
	// spends bits on its small matrices of values.
	if x.model.Layers == 80 && x.gqa > 1 && (t == gguf.Q3_K || t == gguf.Q4_K) {
		t = gguf.Q5_K
	}
	return t
}

func (x *mixer) floats() bool { return x.main == gguf.MXFP4 || x.main == gguf.NVFP4 }

func (x *mixer) falcon() bool { return x.model.GGUF.Name == "falcon" }

// downType is the type of the down projection of layer i.
func (x *mixer) downType(i int) gguf.Type {
	n, falcon := x.model.Layers, x.falcon()
	choose := func(yes bool, t gguf.Type) gguf.Type {
		if yes {
			return t
		}
		return x.main
	}
	switch x.file {
	case "Q2_K":
		return gguf.Q3_K
	case "Q2_K_S":
		return choose(i < n/8, gguf.Q4_K)
	case "Q3_K_M":
		if i < n/16 {
			return gguf.Q5_K
		}
		return choose(!falcon || more(i, n), gguf.Q4_K)
	case "Q3_K_L":
		if falcon {
			return gguf.Q4_K
		}
		return gguf.Q5_K
	case "Q4_K_M":
		if !falcon || i < n/16 {
			return choose(more(i, n), gguf.Q6_K)
		}
		return choose(more(i, n), gguf.Q5_K)
	case "IQ4_NL", "IQ4_XS":
		return choose(i < n/8 && !x.weighted, gguf.Q5_K)
	case "Q5_K_M":
		return choose(more(i, n), gguf.Q6_K)
	case "Q4_K_S":
		return choose(i < n/8 && !falcon, gguf.Q5_K)
	}
	return x.main
}

// attentionOutput is the type of the attention's output; eight says that there are
// eight experts.
func (x *mixer) attentionOutput(eight bool) gguf.Type {
	falcon := x.falcon()
	switch {
	case falcon && x.file == "Q3_K_L":
		return gguf.Q4_K
	case falcon:
		return x.main
	case eight && slices.Contains([]string{"Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ4_XS"}, x.file):
		return gguf.Q5_K
	case eight:
		return x.main
	}
	switch x.file {
	case "Q2_K":
		return gguf.Q3_K
	case "Q3_K_M":
		return gguf.Q4_K
	case "Q3_K_L":
		return gguf.Q5_K
	}
	return x.main
}
