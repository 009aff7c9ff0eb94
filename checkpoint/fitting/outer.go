package fitting

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// everything matches every name.
var everything = regexp.MustCompile("")

// outerFormats are those that hold an embedding and a head that are quantized.
var outerFormats = []string{"gguf", "mlx"}

// Tensors tells of a model's tensors.
type Tensors interface {
	// Shape returns a tensor's shape; ok is false if there is none of the name.
	Shape(name string) (shape []int, ok bool)
	// DType returns the type of a tensor's elements.
	DType(name string) (t safetensors.DType, ok bool)
}

// AddOuter adds the embedding and the output head, tensors of these names and shape
// [vocabulary, hidden], where a rule of Change names them; without one they are no part of
// the plan. They are rounded to nearest: calibration is about linears of blocks. A rule
// names a tensor if it matches its name and either has the last word of that in its
// expression or matches no layer added before. The first that does counts. If tied, both
// are the tensor of the embedding, and a rule for either name is for it. What cannot be
// done is an error of CheckRules.
func (p *Plan) AddOuter(src Tensors, embedding, head string, tied bool) {
	inner := slices.Clone(p.names)
	var rules []int // by name, -1 for none
	names := []string{strings.TrimSuffix(embedding, layout.WeightSuffix), strings.TrimSuffix(head, layout.WeightSuffix)}
	for _, name := range names {
		rules = append(rules, slices.IndexFunc(p.rules.Change, func(c Rule) bool { return c.names(name, inner) }))
	}
	if tied {
		a, b := rules[0], rules[1]
		if a >= 0 && b >= 0 && !p.rules.Change[a].alike(&p.rules.Change[b]) {
			p.outerErr = fmt.Errorf("rules %q and %q: %s and %s are one tensor in this model, want one rule for it",
				&p.rules.Change[a], &p.rules.Change[b], names[0], names[1])
			return
		}
		p.count(a, b)
		rules, names = []int{max(a, b)}, names[:1]
	}
	for i, name := range names {
		included := func(e *regexp.Regexp) bool { return e.MatchString(name + layout.WeightSuffix) }
		if rules[i] < 0 || slices.ContainsFunc(p.rules.Include, included) {
			continue // what is included is a layer as others, by its rule
		}
		shape, ok := src.Shape(name + layout.WeightSuffix)
		if !ok || len(shape) != 2 {
			continue // no such tensor, so the rule does not count for it
		}
		t, _ := src.DType(name + layout.WeightSuffix)
		p.count(rules[i])
		if err := p.addOuter(layout.Layer{Name: name, Out: shape[0], In: shape[1], DType: t}, p.rules.Change[rules[i]]); err != nil {
			p.outerErr = err
			return
		}
	}
}

// addOuter adds one tensor by its rule.
func (p *Plan) addOuter(l layout.Layer, c Rule) error {
	f := p.rules.Format
	if !c.Dense && p.rules.Skips(l.Name) == nil {
		switch {
		case !slices.Contains(outerFormats, f.Name()):
			return fmt.Errorf("rule %q: format %s does not hold %s quantized; formats %s do", &c, f.Name(), l.Name, strings.Join(outerFormats, " and "))
		case c.Method == "gptq":
			return fmt.Errorf("rule %q: %s is rounded to nearest, GPTQ sees linears of blocks only", &c, l.Name)
		}
	}
	if err := c.check(f, p.rules.Mix != nil); err != nil {
		return err
	}
	alone := *p.rules
	alone.Change, alone.Given, alone.Shrink = []Rule{c}, nil, false
	alone.Change[0].Match = everything // that of a rule for the tied head is another name
	o, err := alone.layer(l, []adadim.Arm{{Axis: quant.OC}})
	if err != nil {
		return fmt.Errorf("rule %q: %s: %w", &c, l.Name, err)
	}
	if g, ok := o.Scheme.Grid.(kquant.Grid); ok && !o.Dense && g.Type() == gguf.NVFP4 && f.Name() == outerFormats[0] {
		return fmt.Errorf("rule %q: NVFP4 in format %s has a scale beside a linear, which engines do not look for at %s", &c, f.Name(), l.Name)
	}
	o.Method, o.Outer = "rtn", true
	if o.Dense {
		o.Notes = []string{fmt.Sprintf("left dense: rule %q", &c)}
	} else {
		o.note("rounded to nearest: rule %q", &c)
	}
	o.Silent = true
	p.put(l.Name, o, nil)
	return nil
}

// Outer are the embedding and the head, as far as rules name them.
func (p *Plan) Outer() []*Layer {
	return slices.DeleteFunc(slices.Clone(p.Layers), func(l *Layer) bool { return !l.Outer })
}

// OuterBytes is what one of them takes while it is quantized, the largest.
func (p *Plan) OuterBytes() (n int64) {
	for _, l := range p.Outer() {
		if !l.Dense {
			n = max(n, 4*int64(l.Out)*int64(l.In)+quant.Memory(quant.RTN{}, l.Out, l.In))
		}
	}
	return n
}

// count notes that rules count, -1 for none.
func (p *Plan) count(rules ...int) { p.outerRules = append(p.outerRules, rules...) }

// names reports whether the rule is about a tensor outside of blocks; inner are the names
// of the layers in them.
func (r *Rule) names(name string, inner []string) bool {
	if !r.Match.MatchString(name) {
		return false
	}
	word := name[strings.LastIndex(name, ".")+1:]
	return strings.Contains(r.Match.String(), word) || !slices.ContainsFunc(inner, r.Match.MatchString)
}

// alike reports whether two rules change the same.
func (r *Rule) alike(other *Rule) bool {
	a, b := *r, *other
	a.Match, b.Match = nil, nil
	return a.String() == b.String()
}
