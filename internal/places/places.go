// Package places says where layers lie in stored tensors that hold several of
// them, or hold them transposed.
package places

import (
	"strings"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
)

// Part is a place, with the fields of checkpoint.Part, where they are described.
type Part struct {
	Layer                  string
	Out, In                int
	Weight, Bias           string
	Transposed             bool
	Experts, Expert        int
	Outputs, Output0, Step int
}

// Source knows what is stored.
type Source interface {
	Has(tensor string) bool
	QuantizedWeight(tensor string) bool
}

// Of is where a layer lies in stored tensors; ok is false if it is a tensor
// of its own.
func Of(src Source, l program.LinearInfo) (p Part, ok bool) {
	s := l.Slice
	if s == nil || src.QuantizedWeight(l.WeightName()) || s.Weight != l.WeightName() && src.Has(l.WeightName()) || s.Optional && !src.Has(s.Weight) {
		return p, false
	}
	return partOf(src, l), true
}

// partOf puts a slice as the checkpoint has it. A bias under the layer's own
// name is none of it.
func partOf(src Source, l program.LinearInfo) Part {
	s := l.Slice
	p := Part{
		Layer: l.Name, Out: l.Out, In: l.In, Weight: s.Weight, Transposed: s.Transposed,
		Experts: s.Experts, Expert: s.Expert, Outputs: s.Outputs, Output0: s.Output0, Step: s.Step,
	}
	if s.Bias != l.BiasName() && src.Has(s.Bias) {
		p.Bias = s.Bias
	}
	return p
}

// Elsewhere are the places of layers that a model holds under their own names
// and its architecture stores elsewhere: stored is the architecture as
// config.json has it, fitted the same with the names of the files.
func Elsewhere(src Source, stored, fitted *decoder.Model) []Part {
	var parts []Part
	for i, b := range stored.Blocks {
		old, prefix := stored.BlockPrefix(i), fitted.BlockPrefix(i)
		renamed := func(name string) string { return prefix + strings.TrimPrefix(name, old) }
		for k, l := range b.Linears {
			if l.Slice == nil || l.Slice.Optional {
				continue
			}
			s := *l.Slice
			l.Name, s.Weight, s.Bias = fitted.Blocks[i].Linears[k].Name, renamed(s.Weight), renamed(s.Bias)
			l.Slice = &s
			if _, elsewhere := Of(src, l); elsewhere {
				continue
			}
			p := partOf(src, l)
			if p.Bias = ""; l.Bias && s.Bias != l.BiasName() && src.Has(l.BiasName()) {
				p.Bias = s.Bias
			}
			parts = append(parts, p)
		}
	}
	return parts
}
