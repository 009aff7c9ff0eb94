package fitting

import (
	"slices"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// Linear is a linear of a block. Its scales may be folded into the places of the
// block: what computes the input of several linears.
type Linear struct {
	layout.Layer
	Input int // the place that takes a scale of its input, or -1
	Rows  int // the place whose factors a scale of its rows is, or -1
}

// block fits the linears of a block, and says by place which scales are folded;
// errs are by linear. A layer that stays dense keeps the scales beside it from
// being folded, which may leave other layers with other arms.
func (r *Rules) block(places int, linears []Linear) (folds []bool, layers []*Layer, errs []error) {
	folds = r.folding(places, linears)
	layers, errs = make([]*Layer, len(linears)), make([]error, len(linears))
	for {
		again := false
		for i, l := range linears {
			layers[i], errs[i] = r.layer(l.Layer, l.left(folds, r.Arms))
			if errs[i] == nil && layers[i].Dense {
				again = l.unfold(folds) || again
			}
		}
		if !again {
			return folds, layers, errs
		}
	}
}

// folding finds the places whose scales will be folded, of whose layers none is to
// stay dense: with FoldAll those whose scales help an axis of the arms, with
// FoldUnstored those with a scale among the arms that the format does not store.
func (r *Rules) folding(places int, linears []Linear) []bool {
	folds := make([]bool, places)
	if r.Fold == FoldNone {
		return folds
	}
	for _, l := range linears {
		for _, a := range r.Arms {
			if r.Fold == FoldUnstored && r.stores(l.Layer, a) {
				continue
			}
			input, rows := a.InputScale, a.RowScale
			if r.Fold == FoldAll { // what is folded stores nothing, and so needs no arm
				input, rows = a.Axis == quant.OC, a.Axis == quant.IC
			}
			if input && l.Input >= 0 {
				folds[l.Input] = true
			}
			if rows && l.Rows >= 0 {
				folds[l.Rows] = true
			}
		}
	}
	for _, l := range linears {
		if r.Skips(l.Name) != nil {
			l.unfold(folds)
		}
	}
	return folds
}

// unfold takes away what cannot be folded if the linear stays as it is. It
// reports whether that was anything.
func (l *Linear) unfold(folds []bool) bool {
	changed := false
	for _, place := range []int{l.Input, l.Rows} {
		if place >= 0 && folds[place] {
			folds[place], changed = false, true
		}
	}
	return changed
}

// left are the arms to choose from once the scales that are folded are chosen:
// the same without these scales.
func (l *Linear) left(folds []bool, arms []adadim.Arm) []adadim.Arm {
	input, rows := l.Input >= 0 && folds[l.Input], l.Rows >= 0 && folds[l.Rows]
	var left []adadim.Arm
	for _, a := range arms {
		a.InputScale = a.InputScale && !input
		a.RowScale = a.RowScale && !rows
		if !slices.Contains(left, a) {
			left = append(left, a)
		}
	}
	return left
}
