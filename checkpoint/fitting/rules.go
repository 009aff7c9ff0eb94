// Package fitting decides what becomes of the linear layers of a model whose
// format does not hold everything that is asked for: which arms are left to
// choose from, whether groups are smaller, which scales are folded into what
// computes the inputs, which layers stay dense, and why. It knows names, shapes
// and formats, and looks at no weight.
package fitting

import (
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// Rules say what is asked for every layer, and what gives way where the format
// does not hold it.
type Rules struct {
	Format layout.Format
	Scheme quant.Scheme // its axis is that of the arm
	// Method is what quantizes layers of which no rule says otherwise, and tells of grids of its own.
	Method quant.Quantizer
	Arms   []adadim.Arm // what is chosen from

	// Drop leaves out arms that the format does not hold, as long as one is left.
	Drop bool
	// Shrink does that too; a layer that the format holds in no arm gets smaller
	// groups, and stays dense if that does not help.
	Shrink bool
	// Fold says which scales of the arms are folded.
	Fold Folding

	// Skip leaves layers dense whose name one of the expressions matches.
	Skip []*regexp.Regexp
	// Include names layers that are quantized though they would stay dense by their role.
	Include []*regexp.Regexp
	// Change says what is asked for of single layers, and Given of those by name that
	// none of Change matches.
	Change []Rule
	Given  map[string]Rule
	// Mix gives the grid of a layer where the format chooses it; nil if it does not.
	// See layout.Mixer.
	Mix func(l layout.Layer) (s quant.Scheme, remark string, err error)
	// TooLarge leaves layers dense because of their weights, and says why. Where
	// there are any, arms are left out as with Drop: beside a layer that stays
	// dense, scales cannot be folded.
	TooLarge map[string]error
}

// Folding says which scales are folded.
type Folding uint8

const (
	// FoldNone stores all scales.
	FoldNone Folding = iota
	// FoldUnstored folds those that the format does not store.
	FoldUnstored
	// FoldAll folds wherever it is possible.
	FoldAll
)

// SmallestGroup is the smallest group that Shrink makes.
const SmallestGroup = 16

// SmallerGroups are the group sizes worth trying after size, the largest first:
// powers of two down to SmallestGroup. in is the width that quant.WholeLine
// stands for.
func SmallerGroups(size, in int) iter.Seq[int] {
	if size == quant.WholeLine {
		size = in
	}
	largest := 1
	for largest*2 < size {
		largest *= 2
	}
	return func(yield func(int) bool) {
		for g := largest; g >= SmallestGroup && yield(g); g /= 2 {
		}
	}
}

// Skips returns the expression because of which a layer is to stay dense, or nil.
func (r *Rules) Skips(name string) *regexp.Regexp {
	if i := slices.IndexFunc(r.Skip, func(e *regexp.Regexp) bool { return e.MatchString(name) }); i >= 0 {
		return r.Skip[i]
	}
	return nil
}

// layer decides about a layer that has these arms to choose from. It fails where
// the format does not hold it and nothing may give way.
func (r *Rules) layer(l layout.Layer, arms []adadim.Arm) (*Layer, error) {
	p, rule := r.asked(l), r.rule(l.Name)
	if e := r.Skips(l.Name); e != nil {
		p.leaveDense(fmt.Sprintf("skip %q", e))
		p.Silent = true
		return p, nil
	}
	if rule != nil && rule.Dense {
		p.leaveDense(fmt.Sprintf("rule %q", rule))
		p.Silent = true
		return p, nil
	}
	if why := r.staysDense(l.Name); why != "" && rule == nil {
		p.leaveDense(why)
		p.Silent = true
		return p, nil
	}
	if err := r.TooLarge[l.Name]; err != nil {
		p.leaveDense(err.Error())
		return p, nil
	}
	if p.unfit != nil {
		p.leaveDense(reason(p.unfit))
		return p, nil
	}
	if p.refused != nil {
		return nil, p.refused
	}
	if arms = rule.only(arms); len(arms) == 0 {
		return nil, fmt.Errorf("rule %q: there are no arms of axis %s", rule, *rule.Axis)
	}
	asked := p.Scheme
	err := p.admit(r.Format, arms, r.Drop || r.Shrink || len(r.TooLarge) > 0)
	if p.remark != "" {
		p.note("%s", p.remark)
		return p, err
	}
	if err == nil || !r.Shrink || r.Mix != nil || rule != nil && rule.Type != "" {
		p.Silent = !r.Shrink
		return p, err
	}
	for g := range SmallerGroups(asked.GroupSize, l.In) {
		p.Scheme.GroupSize = g
		if p.admit(r.Format, arms, true) == nil {
			p.note("group size %d: %s", g, reason(err))
			return p, nil
		}
	}
	p.Scheme = asked
	p.leaveDense(reason(err))
	return p, nil
}

// asked is a layer as it is asked for.
func (r *Rules) asked(l layout.Layer) *Layer {
	l.Scheme = r.Scheme
	c := r.rule(l.Name)
	if c != nil {
		l.Scheme = c.scheme(l.Scheme)
	}
	if g, ok := r.Format.(layout.Gridder); ok && l.Scheme.Grid == nil {
		l.Scheme = g.Own(l.Scheme)
	}
	p := &Layer{Layer: l}
	grid := r.Mix
	if c != nil {
		p.Method = c.Method
		if t, ok := r.Format.(layout.Typer); ok && c.Type != "" {
			grid = func(layout.Layer) (quant.Scheme, string, error) { return t.Typed(c.Type, l.In) }
		}
	}
	if grid != nil {
		var own quant.Scheme
		if own, p.remark, p.unfit = grid(l); p.unfit == nil {
			p.Scheme.Bits, p.Scheme.GroupSize, p.Scheme.Symmetric, p.Scheme.Grid = own.Bits, own.GroupSize, own.Symmetric, own.Grid
		}
	}
	if p.Method == "" && p.unfit == nil {
		p.Summands = quant.Summands(r.Method)
		if p.Scheme, p.refused = quant.SchemeOf(r.Method, p.Scheme); p.refused != nil {
			p.Scheme = l.Scheme
		}
	}
	return p
}

// stores reports whether the format holds an arm's scale. Where it does not even
// hold the layer without the scale, in any group size that may be chosen, the
// answer is yes: folding would not help.
func (r *Rules) stores(l layout.Layer, a adadim.Arm) bool {
	first := r.asked(l).Scheme
	sizes := []int{first.GroupSize}
	if r.Shrink && first.Grid == nil {
		sizes = slices.AppendSeq(sizes, SmallerGroups(first.GroupSize, l.In))
	}
	for _, g := range sizes {
		p := r.asked(l)
		if first.Grid == nil {
			p.Scheme.GroupSize = g
		}
		if p.admit(r.Format, []adadim.Arm{{Axis: a.Axis}}, false) == nil {
			return p.admit(r.Format, []adadim.Arm{a}, false) == nil
		}
	}
	return true
}

// reason is the text of a refusal without what goes without saying.
func reason(err error) string {
	return strings.Replace(err.Error(), layout.ErrUnsupported.Error()+": ", "", 1)
}
