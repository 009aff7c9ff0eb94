package fitting

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// Rule changes what is asked of the layers whose name it matches. The first rule of
// several that matches counts, alone; what it leaves open is as without it.
type Rule struct {
	Match     *regexp.Regexp
	Dense     bool
	Type      string // of the format, such as Q6_K of gguf; see layout.Typer
	Bits      int
	GroupSize int
	Symmetric *bool
	Axis      *quant.Axis
	Method    string // "rtn" or "gptq"
}

// ruleKeys are the keys of a rule's text, in order.
var ruleKeys = []string{"dense", "type", "bits", "group", "sym", "axis", "method"}

// ruleMethods are what Rule.Method may be.
var ruleMethods = []string{"rtn", "gptq"}

// ParseRule reads a rule in one line, such as
//
//	layers\.(0|31)\.: bits=8,group=32
//	down_proj$: type=Q6_K
//	mlp\.experts: dense
//
// that is, a regular expression, a colon, and what it changes. The keys are dense,
// type, bits, group, sym, axis and method; dense and sym without a value mean true.
func ParseRule(text string) (Rule, error) {
	colon := strings.LastIndex(text, ":")
	if colon < 0 {
		return Rule{}, fmt.Errorf("rule %q: want EXPRESSION: KEY=VALUE,…", text)
	}
	values := map[string]string{}
	for pair := range strings.SplitSeq(text[colon+1:], ",") {
		key, value, given := strings.Cut(strings.TrimSpace(pair), "=")
		if !given && (key == "dense" || key == "sym") {
			value = "true"
		}
		if _, twice := values[key]; twice {
			return Rule{}, fmt.Errorf("rule %q: %s is given twice", text, key)
		}
		values[key] = value
	}
	return NewRule(strings.TrimSpace(text[:colon]), values)
}

// GivenRule makes a rule for Rules.Given: what is the part of a rule's text behind the
// colon.
func GivenRule(what string) (Rule, error) {
	r, err := ParseRule("^: " + what)
	r.Match = nil
	return r, err
}

// NewRule makes a rule of an expression and the values of its keys, as ParseRule has
// them.
func NewRule(match string, values map[string]string) (Rule, error) {
	fail := func(format string, args ...any) (Rule, error) {
		return Rule{}, fmt.Errorf("rule %q: %w", match, fmt.Errorf(format, args...))
	}
	if match == "" {
		return fail("no expression that names match")
	}
	r := Rule{}
	var err error
	if r.Match, err = regexp.Compile(match); err != nil {
		return fail("%w", err)
	}
	for key := range values {
		if !slices.Contains(ruleKeys, key) {
			return fail("unknown key %q, want one of %s", key, strings.Join(ruleKeys, ", "))
		}
	}
	for _, key := range ruleKeys {
		if value, there := values[key]; there {
			if err := r.set(key, value); err != nil {
				return fail("%s: %w", key, err)
			}
		}
	}
	switch others := r; {
	case len(values) == 0:
		return fail("it changes nothing: want one of %s", strings.Join(ruleKeys, ", "))
	case r.Dense:
		others.Match, others.Dense = nil, false
		if others != (Rule{}) {
			return fail("dense goes with nothing else")
		}
	case r.Type != "" && (r.Bits != 0 || r.GroupSize != 0 || r.Symmetric != nil):
		return fail("a type says bits, group and symmetry itself")
	}
	return r, nil
}

// set sets the value of a key.
func (r *Rule) set(key, value string) error {
	var err error
	number := func(least, most int) (n int) {
		if n, err = strconv.Atoi(value); err != nil || n < least || n > most {
			err = fmt.Errorf("%q, want a number from %d to %d", value, least, most)
		}
		return n
	}
	switch key {
	case "dense":
		r.Dense, err = strconv.ParseBool(value)
		if err == nil && !r.Dense {
			err = fmt.Errorf("only true changes anything")
		}
	case "sym":
		var sym bool
		sym, err = strconv.ParseBool(value)
		r.Symmetric = &sym
	case "bits":
		r.Bits = number(2, 8)
	case "group":
		if r.GroupSize = quant.WholeLine; value != strconv.Itoa(quant.WholeLine) {
			r.GroupSize = number(1, 1<<30)
		}
	case "axis":
		var axis quant.Axis
		err = axis.UnmarshalText([]byte(value))
		r.Axis = &axis
	case "type":
		r.Type = value
	case "method":
		if r.Method = value; !slices.Contains(ruleMethods, value) {
			err = fmt.Errorf("%q, want one of %s", value, strings.Join(ruleMethods, ", "))
		}
	}
	return err
}

// String returns the rule as ParseRule reads it.
func (r Rule) String() string {
	var parts []string
	add := func(there bool, format string, value any) {
		if there {
			parts = append(parts, fmt.Sprintf(format, value))
		}
	}
	if r.Dense {
		parts = append(parts, "dense")
	}
	add(r.Type != "", "type=%s", r.Type)
	add(r.Bits != 0, "bits=%d", r.Bits)
	add(r.GroupSize != 0, "group=%d", r.GroupSize)
	if r.Symmetric != nil {
		add(true, "sym=%t", *r.Symmetric)
	}
	if r.Axis != nil {
		add(true, "axis=%s", *r.Axis)
	}
	add(r.Method != "", "method=%s", r.Method)
	text := strings.Join(parts, ",")
	if r.Match == nil { // of Rules.Given
		return text
	}
	return fmt.Sprintf("%v: %s", r.Match, text)
}

// MarshalText implements encoding.TextMarshaler.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// rule is the one that counts for a layer, or nil.
func (r *Rules) rule(name string) *Rule {
	if i := r.matching(name); i >= 0 {
		return &r.Change[i]
	}
	if c, ok := r.Given[name]; ok {
		return &c
	}
	return nil
}

// matching is the first rule of Change that matches a layer's name, or -1.
func (r *Rules) matching(name string) int {
	return slices.IndexFunc(r.Change, func(c Rule) bool { return c.Match.MatchString(name) })
}

// scheme is a uniform one as the rule changes it.
func (c *Rule) scheme(s quant.Scheme) quant.Scheme {
	if c.Bits != 0 {
		s.Bits = c.Bits
	}
	if c.GroupSize != 0 {
		s.GroupSize = c.GroupSize
	}
	if c.Symmetric != nil {
		s.Symmetric = *c.Symmetric
	}
	return s
}

// check reports whether a format has what the rule changes; mixed says that the format
// chooses the grids itself.
func (c *Rule) check(f layout.Format, mixed bool) error {
	t, typed := f.(layout.Typer)
	switch {
	case mixed && (c.Bits != 0 || c.GroupSize != 0 || c.Symmetric != nil):
		return fmt.Errorf("rule %q: format %s chooses grids by their types here: want type=NAME", c.Match, f.Name())
	case c.Type != "" && !typed:
		return fmt.Errorf("rule %q: format %s has no types of its own: want bits, group or sym", c.Match, f.Name())
	case c.Type != "":
		if _, _, err := t.Typed(c.Type, 0); err != nil {
			return fmt.Errorf("rule %q: %w", c.Match, err)
		}
	}
	return nil
}

// Ruled reports whether a rule counts for the layer.
func (p *Plan) Ruled(name string) bool {
	return p.rules.rule(name) != nil || p.byName[name] != nil && p.byName[name].Outer
}

// only leaves the arms that the rule allows.
func (c *Rule) only(arms []adadim.Arm) []adadim.Arm {
	if c == nil || c.Axis == nil {
		return arms
	}
	return slices.DeleteFunc(slices.Clone(arms), func(a adadim.Arm) bool { return a.Axis != *c.Axis })
}

// CheckRules is an error where a rule counts for no layer, or says what the format has no
// place for.
func (p *Plan) CheckRules() error {
	if p.outerErr != nil {
		return p.outerErr
	}
	counts := make([]bool, len(p.rules.Change))
	for _, i := range p.outerRules {
		if i >= 0 {
			counts[i] = true
		}
	}
	for _, name := range p.names {
		if l := p.byName[name]; l != nil && l.Outer {
			continue // its rule is counted
		}
		if i := p.rules.matching(name); i >= 0 {
			counts[i] = true
		}
	}
	for k := range p.rules.Change {
		c := &p.rules.Change[k]
		if err := c.check(p.rules.Format, p.rules.Mix != nil); err != nil {
			return err
		}
		if counts[k] || len(p.names) == 0 {
			continue
		}
		if i := slices.IndexFunc(p.names, c.Match.MatchString); i >= 0 {
			return fmt.Errorf("rule %q never counts: for %s it is %q, which comes before", c.Match, p.names[i], p.rules.rule(p.names[i]).Match)
		}
		return fmt.Errorf("rule %q matches no layer's name (the first is %s)", c.Match, p.names[0])
	}
	return nil
}
