// Package linears tells by names and shapes which tensors of a model are weights
// of linear layers, for models whose architecture is not known.
package linears

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Tensor describes a stored tensor.
type Tensor struct {
	Name  string
	Type  string // of its elements, for messages
	Float bool   // the type is one that a linear layer's weight may have
	Shape []int
}

const weightSuffix = ".weight"

// Found is a tensor of two dimensions or more and what it is taken for.
type Found struct {
	Tensor Tensor
	Name   string // without ".weight"
	// Dense says why it is not a linear layer; "" if it is one, or several.
	Dense string
	// Experts is how many layers a tensor of three dimensions has, 0 for others.
	// They are Transposed if the last two dimensions are [in, out].
	Experts    int
	Transposed bool
	// Own says that the layer is a tensor [out, in] under the name a layer has.
	Own bool
}

// Shape returns outputs and inputs of a layer, or of each.
func (f *Found) Shape() (out, in int) {
	n := len(f.Tensor.Shape)
	out, in = f.Tensor.Shape[n-2], f.Tensor.Shape[n-1]
	if f.Transposed {
		out, in = in, out
	}
	return out, in
}

// LayerName is the name of the layer of an expert, or of the one layer there is.
func (f *Found) LayerName(expert int) string {
	if f.Experts > 0 {
		return fmt.Sprintf("%s.%d", f.Name, expert)
	}
	return f.Name
}

// Find looks at all tensors in turn. What include matches is a linear whatever
// its name says, if its shape and type allow it.
func Find(tensors []Tensor, include []*regexp.Regexp) []Found {
	shapes := map[string][]int{}
	for _, s := range tensors {
		shapes[s.Name] = s.Shape
	}
	var all []Found
	for _, s := range tensors {
		if len(s.Shape) < 2 {
			continue
		}
		f := Found{Tensor: s, Name: strings.TrimSuffix(s.Name, weightSuffix)}
		f.Own = len(s.Shape) == 2 && f.Name != s.Name
		f.Dense = impossible(s)
		if f.Dense == "" && !slices.ContainsFunc(include, func(r *regexp.Regexp) bool { return r.MatchString(s.Name) }) {
			f.Dense = otherwise(s)
		}
		if len(s.Shape) == 3 {
			f.Experts = s.Shape[0]
			f.Transposed = inputsFirst(s, shapes)
		}
		all = append(all, f)
	}
	return all
}

// Bounds of what is worth a grid, and of what a file is believed.
const (
	leastDim    = 8
	mostExperts = 1 << 13
)

// impossible says why a tensor cannot be a linear layer at all.
func impossible(s Tensor) string {
	n := len(s.Shape)
	switch {
	case !s.Float:
		return "of type " + s.Type
	case n > 3:
		return fmt.Sprintf("%d dimensions", n)
	case min(s.Shape[n-1], s.Shape[n-2]) < 1:
		return "empty"
	case n == 3 && (s.Shape[0] < 1 || s.Shape[0] > mostExperts):
		return fmt.Sprintf("%d matrices", s.Shape[0])
	}
	return ""
}

// otherwise says what a tensor is if it is no linear layer.
func otherwise(s Tensor) string {
	name := strings.ToLower(s.Name)
	words := strings.Split(strings.TrimSuffix(name, weightSuffix), ".")
	for _, r := range rules() {
		if r.of(words) {
			return r.what
		}
	}
	n := len(s.Shape)
	out, in := s.Shape[n-2], s.Shape[n-1]
	weight := strings.HasSuffix(name, weightSuffix)
	experts := strings.Contains(name, "expert") || strings.Contains(name, "moe")
	switch last := words[len(words)-1]; {
	case strings.Contains(last, "conv"):
		return "a convolution, by its name"
	case strings.HasSuffix(last, "bias"):
		return "a bias, by its name"
	case n == 2 && !weight:
		return "no weight, by its name"
	case n == 3 && !experts:
		return "three dimensions, and no experts by its name"
	case n == 2 && last == "gate" && 2*out <= in:
		return "a router, by name and shape"
	case min(out, in) < leastDim:
		return fmt.Sprintf("small: [%d %d]", out, in)
	}
	return ""
}

// rule is how names tell what a tensor is: by one of the parts between dots.
type rule struct {
	what string
	// One of these is in a part, is a part, or is the last part.
	within, whole, last []string
}

func (r rule) of(words []string) bool {
	for _, w := range words {
		if slices.Contains(r.whole, w) || slices.ContainsFunc(r.within, func(s string) bool { return strings.Contains(w, s) }) {
			return true
		}
	}
	return slices.Contains(r.last, words[len(words)-1])
}

// rules are tried in this order.
func rules() []rule {
	return []rule{
		{
			what:   "of a vision or audio tower, by its name",
			within: []string{"vision", "visual", "audio", "image", "speech", "siglip"},
			whole:  []string{"vit", "clip", "sam_model", "resampler"},
		},
		{
			what:   "of a multimodal projector, by its name",
			within: []string{"mm_projector", "multi_modal", "multimodal"},
			whole:  []string{"projector", "connector", "merger", "aligner", "modality_projection"},
		},
		{
			what:   "a position table, by its name",
			within: []string{"position", "pos_emb", "rel_pos", "rotary", "relative_attention_bias", "inv_freq"},
			whole:  []string{"wpe"},
		},
		{
			what:   "an output head, by its name",
			within: []string{"lm_head", "embed_out", "classifier"},
			whole:  []string{"head", "score", "logits"},
		},
		{
			what:   "an embedding, by its name",
			within: []string{"embed"},
			whole:  []string{"wte", "shared"},
		},
		{
			what:   "a norm, by its name",
			within: []string{"norm"},
			last:   []string{"ln", "ln_1", "ln_2", "ln_f"},
		},
		{
			what:   "a router, by its name",
			within: []string{"router", "expert_gate", "experts_gate"},
			last:   []string{"wg", "gating"},
		},
		{
			what:   "a state parameter, by its name",
			within: []string{"a_log", "dt_bias", "dt_proj", "time_decay", "time_mix", "time_maa", "time_first", "time_faaaa"},
			last:   []string{"d", "a"},
		},
		{what: "of an adapter, by its name", within: []string{"lora_"}},
	}
}

// inputsFirst tells whether the matrices of an expert tensor are [in, out]: its
// bias, or the other tensor of the experts, has to fit.
func inputsFirst(s Tensor, shapes map[string][]int) bool {
	a, b := s.Shape[1], s.Shape[2]
	if bias := shapes[s.Name+"_bias"]; len(bias) == 2 && a != b {
		return bias[1] == b
	}
	const first, second = "gate_up_proj", "down_proj"
	up, down := s.Shape, s.Shape
	switch {
	case strings.Contains(s.Name, first):
		down = shapes[strings.Replace(s.Name, first, second, 1)]
	case strings.Contains(s.Name, second):
		up = shapes[strings.Replace(s.Name, second, first, 1)]
	default:
		return false
	}
	if len(up) != 3 || len(down) != 3 {
		return false
	}
	plain := up[2] == down[1] && up[1] == 2*down[2]
	return !plain && up[1] == down[2] && up[2] == 2*down[1]
}
