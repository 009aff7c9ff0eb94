package lowbit

import (
	"errors"
	"fmt"
	"strings"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/llama"
	"github.com/golowbit/lowbit/quant"
)

// layerPlan is what will be done with one linear.
type layerPlan struct {
	name    string // without ".weight"
	out, in int
	dense   bool
	scheme  quant.Scheme
	arms    []adadim.Arm
	notes   []string
	folded  string // the scale of its input that is folded, once it is chosen
}

// smallestGroup is the smallest that Fit changes a group size to.
const smallestGroup = 16

// planBlock plans the linears of a block and which of their scales are
// folded; errs are by linear.
func (o *Options) planBlock(f layout.Format, infos []llama.LinearInfo, layers []layout.Layer) (folding, []*layerPlan, []error) {
	k := o.folding(f, infos, layers)
	for {
		plans, errs := make([]*layerPlan, len(infos)), make([]error, len(infos))
		again := false
		for i, l := range infos {
			plans[i], errs[i] = o.planLayer(f, layers[i], k.arms(l, o.arms()))
			if errs[i] == nil && plans[i].dense {
				again = k.without(l) || again
			}
		}
		if !again {
			return k, plans, errs
		}
	}
}

// planLayer decides what becomes of a linear before any work is done, and
// fails where the format cannot hold it, unless o.Fit allows a change.
func (o *Options) planLayer(f layout.Format, l layout.Layer, arms []adadim.Arm) (*layerPlan, error) {
	p := &layerPlan{name: l.Name, out: l.Out, in: l.In, scheme: o.Scheme}
	if o.skips(l.Name) {
		p.dense = true
		return p, nil
	}
	err := p.admit(f, l, arms, o.Fit || o.FitArms)
	if err == nil || !o.Fit {
		return p, err
	}
	for g := halved(o.Scheme.GroupSize, l.In); g >= smallestGroup; g /= 2 {
		p.scheme.GroupSize = g
		if p.admit(f, l, arms, true) == nil {
			p.notes = append(p.notes, fmt.Sprintf("group size %d: %v", g, err))
			return p, nil
		}
	}
	p.dense, p.scheme = true, o.Scheme
	p.notes = append(p.notes, fmt.Sprintf("left dense: %v", err))
	return p, nil
}

// halved is the next group size worth trying: the largest power of two below g.
func halved(g, in int) int {
	if g == quant.WholeLine {
		g = in
	}
	h := 1
	for h*2 < g {
		h *= 2
	}
	return h
}

// admit sets the arms that the format holds for the layer. If some allows
// that, arms the format cannot hold are dropped; otherwise one is an error.
func (p *layerPlan) admit(f layout.Format, l layout.Layer, arms []adadim.Arm, some bool) error {
	p.arms = nil
	var first error
	strided := false
	for _, a := range arms {
		s := p.scheme
		s.Axis = a.Axis
		s.Strided = false
		l.Scheme, l.RowScale, l.InputScale = s, a.RowScale, a.InputScale
		err := s.CheckShape(l.Out, l.In)
		if err == nil {
			err = f.Check(l)
		}
		if err != nil && a.Axis == quant.IC {
			// Some containers hold groups of an input channel only strided.
			l.Scheme.Strided = true
			if l.Scheme.CheckShape(l.Out, l.In) == nil && f.Check(l) == nil {
				strided, err = true, nil
			}
		}
		if err != nil {
			if first == nil {
				first = fmt.Errorf("arm %v: %w", a, err)
			}
			continue
		}
		p.arms = append(p.arms, a)
	}
	p.scheme.Strided = strided
	if first != nil && (!some || len(p.arms) == 0) {
		return first
	}
	if first != nil {
		p.notes = append(p.notes, first.Error())
	}
	return nil
}

// planErrors collects what is wrong with layers, one line for every reason.
type planErrors struct {
	reasons []string
	layers  map[string][]string
	errs    map[string]error
}

func (e *planErrors) add(layer string, err error) {
	if e.layers == nil {
		e.layers, e.errs = map[string][]string{}, map[string]error{}
	}
	reason := err.Error()
	if e.layers[reason] == nil {
		e.reasons = append(e.reasons, reason)
		e.errs[reason] = err
	}
	e.layers[reason] = append(e.layers[reason], layer)
}

// err is nil or one error that lists layers and reasons.
func (e *planErrors) err(format string) error {
	if len(e.reasons) == 0 {
		return nil
	}
	var b strings.Builder
	wrapped := make([]error, 0, len(e.reasons))
	for i, r := range e.reasons {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %s", names(e.layers[r]), r)
		wrapped = append(wrapped, e.errs[r])
	}
	return &planError{fmt.Sprintf("format %s cannot hold this: %s (fit changes such layers to what fits)", format, b.String()), errors.Join(wrapped...)}
}

type planError struct {
	text string
	errs error
}

func (e *planError) Error() string { return e.text }
func (e *planError) Unwrap() error { return e.errs }

// names lists the first few of many names.
func names(all []string) string {
	const most = 4
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}
