package lowbit

import (
	"slices"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/program"
)

// folding says which stages of a block have scales that are folded.
type folding struct {
	program *program.Program
	stages  []bool
}

func newFolding(p *program.Program) folding { return folding{p, make([]bool, len(p.Stages))} }

func (k folding) any() bool { return slices.Contains(k.stages, true) }

// without takes away what cannot be folded if a linear stays as it is. It
// reports whether that was anything.
func (k folding) without(linear int) bool {
	changed := false
	for _, s := range []int{k.program.Linears[linear].Stage, k.program.After(linear)} {
		if s >= 0 && k.stages[s] {
			k.stages[s], changed = false, true
		}
	}
	return changed
}

// arms returns those that are left to choose from in a layer once the scales
// that are folded are chosen: the same without these scales.
func (k folding) arms(linear int, arms []adadim.Arm) []adadim.Arm {
	stage, after := k.program.Linears[linear].Stage, k.program.After(linear)
	var left []adadim.Arm
	for _, a := range arms {
		a.InputScale = a.InputScale && !k.stages[stage]
		a.RowScale = a.RowScale && !(after >= 0 && k.stages[after])
		if !slices.Contains(left, a) {
			left = append(left, a)
		}
	}
	return left
}

// folding finds the stages of a block whose scales will be folded: those with
// a scale among the arms, of whose layers none is to stay dense, and with
// FoldAuto only if the format cannot store the scale.
func (s *settings) folding(p *program.Program, layers []layout.Layer) folding {
	k := newFolding(p)
	if s.fold == FoldOff {
		return k
	}
	for i, l := range p.Linears {
		after := p.After(i)
		for _, a := range s.arms {
			store := s.fold != FoldOn && s.stores(layers[i], a)
			if a.InputScale && !store && p.Stages[l.Stage].Fold != nil {
				k.stages[l.Stage] = true
			}
			if a.RowScale && after >= 0 && !store {
				k.stages[after] = true
			}
		}
	}
	for i, l := range p.Linears {
		if s.skips(l.Name) != nil {
			k.without(i)
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
