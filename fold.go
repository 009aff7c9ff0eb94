package lowbit

import (
	"slices"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/program"
)

// armsLeft returns those that are left to choose from in a layer once the scales
// that are folded are chosen: the same without these scales.
func armsLeft(k fold.Stages, linear int, arms []adadim.Arm) []adadim.Arm {
	input, row := k.Linear(linear)
	var left []adadim.Arm
	for _, a := range arms {
		a.InputScale = a.InputScale && !input
		a.RowScale = a.RowScale && !row
		if !slices.Contains(left, a) {
			left = append(left, a)
		}
	}
	return left
}

// folding finds the stages of a block whose scales will be folded: those with
// a scale among the arms, of whose layers none is to stay dense, and with
// FoldAuto only if the format cannot store the scale.
func (s *settings) folding(p *program.Program, layers []layout.Layer) fold.Stages {
	k := fold.NewStages(p)
	if s.fold == FoldOff {
		return k
	}
	for i, l := range p.Linears {
		after := p.After(i)
		for _, a := range s.arms {
			store := s.fold != FoldOn && s.stores(layers[i], a)
			if a.InputScale && !store && p.Stages[l.Stage].Fold != nil {
				k.Of[l.Stage] = true
			}
			if a.RowScale && after >= 0 && !store {
				k.Of[after] = true
			}
		}
	}
	for i, l := range p.Linears {
		if s.skips(l.Name) != nil {
			k.Without(i)
		}
	}
	return k
}

// stores reports whether a format holds an arm's scale. Where it does not
// even hold the layer without the scale, in any group size that Fit may
// choose, the answer is yes: folding would not help.
func (s *settings) stores(l layout.Layer, a adadim.Arm) bool {
	sizes := []int{s.scheme.GroupSize}
	if s.fit == FitOn {
		for g := halved(s.scheme.GroupSize, l.In); g >= smallestGroup; g /= 2 {
			sizes = append(sizes, g)
		}
	}
	for _, g := range sizes {
		p := s.newLayerPlan(l)
		p.scheme.GroupSize = g
		if p.admit(s.format, []adadim.Arm{{Axis: a.Axis}}, false) == nil {
			return p.admit(s.format, []adadim.Arm{a}, false) == nil
		}
	}
	return true
}
