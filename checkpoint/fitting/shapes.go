package fitting

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/linears"
	"github.com/golowbit/lowbit/safetensors"
)

// Shaped is a layer that is found by its tensor's name and shape.
type Shaped struct {
	layout.Layer
	Why  string           // it stays dense; "" if it does not
	Part *checkpoint.Part // where it lies, nil if it is a tensor of its own
}

// Shapes finds layers by names and shapes: all of a model that no decoder knows (known is nil), or beside
// the linears of the decoder what is included. unused is an expression that no matrix is named like, if there is one.
func Shapes(src *checkpoint.Model, known *decoder.Model, include []*regexp.Regexp) (all []Shaped, unused *regexp.Regexp) {
	taken := map[string]bool{}
	if known != nil {
		for _, l := range known.Linears() {
			taken[l.Stored().Weight], taken[l.WeightName()] = true, true
		}
	}
	var tensors []linears.Tensor
	types := map[string]safetensors.DType{}
	for _, s := range src.Dense() {
		float := slices.Contains(layout.FloatTypes(), s.DType)
		tensors = append(tensors, linears.Tensor{Name: s.Name, Type: fmt.Sprint(s.DType), Float: float, Shape: s.Shape})
		types[s.Name] = s.DType
	}
	found := linears.Find(tensors, include)
	for i := range found {
		f := &found[i]
		included := slices.ContainsFunc(include, func(r *regexp.Regexp) bool { return r.MatchString(f.Tensor.Name) })
		if known != nil && (taken[f.Tensor.Name] || !included) {
			continue
		}
		out, in := f.Shape()
		l := layout.Layer{Name: f.Name, Out: out, In: in, DType: types[f.Tensor.Name], Bias: src.Has(f.Name + ".bias")}
		if f.Dense != "" {
			all = append(all, Shaped{Layer: l, Why: f.Dense})
			continue
		}
		for e := range max(1, f.Experts) {
			l.Name = f.LayerName(e)
			s := Shaped{Layer: l}
			if !f.Own {
				s.Part = &checkpoint.Part{
					Layer: l.Name, Out: out, In: in, Weight: f.Tensor.Name, Transposed: f.Transposed,
					Experts: f.Experts, Expert: e, Outputs: out, Step: 1,
				}
			}
			all = append(all, s)
		}
	}
	for _, r := range include {
		if !slices.ContainsFunc(found, func(f linears.Found) bool { return r.MatchString(f.Tensor.Name) }) {
			return all, r
		}
	}
	return all, nil
}
