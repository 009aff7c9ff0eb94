package fitting

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/faults"
	"github.com/golowbit/lowbit/safetensors"
)

// ErrNothing is wrapped where no layer is left to quantize.
var ErrNothing = errors.New("nothing to quantize")

// Plan is what becomes of all linears of a model.
type Plan struct {
	Layers []*Layer // in the order in which they were added
	Folds  [][]bool // by block and place: whether scales are folded into it

	rules   *Rules
	names   []string // of all layers, those that were refused too
	byName  map[string]*Layer
	refused faults.ByReason

	outerRules []int // that count for the embedding or the head
	outerErr   error
}

// NewPlan returns a plan by the rules, without layers.
func (r *Rules) NewPlan() *Plan { return &Plan{rules: r, byName: map[string]*Layer{}} }

// AddBlock adds the linears of a block with so many places that scales may be folded
// into.
func (p *Plan) AddBlock(places int, linears []Linear) {
	folds, layers, errs := p.rules.block(places, linears)
	p.Folds = append(p.Folds, folds)
	for i, l := range layers {
		if errs[i] == nil {
			l.Folds = linears[i].Input >= 0 && folds[linears[i].Input] && !l.Dense
		}
		p.put(linears[i].Name, l, errs[i])
	}
}

// Add adds a linear outside of blocks. It reports whether the format holds it.
func (p *Plan) Add(l layout.Layer) bool {
	fitted, err := p.rules.layer(l, p.rules.Arms)
	p.put(l.Name, fitted, err)
	return err == nil
}

// AddOther adds what is no linear, and why.
func (p *Plan) AddOther(l layout.Layer, why string) {
	o := p.rules.asked(l)
	o.leaveDense(why)
	o.Other, o.Silent = true, true
	p.put(l.Name, o, nil)
}

func (p *Plan) put(name string, l *Layer, err error) {
	p.names = append(p.names, name)
	if err != nil {
		p.refused.Add(name, reason(err), err)
		return
	}
	p.Layers = append(p.Layers, l)
	p.byName[name] = l
}

// Layer returns the layer of the name, which must have been added and not refused.
func (p *Plan) Layer(name string) *Layer { return p.byName[name] }

// Err says which of the layers the format does not hold. It wraps the format's
// errors.
func (p *Plan) Err() error {
	return p.refused.Err("format " + p.rules.Format.Name() + " cannot hold this: %s (fit changes such layers to what fits)")
}

// MakesHalf reports whether engines would compute in half floats what the format
// makes of a bfloat16 model with this config.json.
func (p *Plan) MakesHalf(config json.RawMessage) bool {
	f, ok := p.rules.Format.(layout.Folder)
	if !ok || layout.ConfigDType(config) != safetensors.BF16 {
		return false
	}
	c, err := f.Config(layout.Contents{Layers: p.Quantized(), Config: config})
	return err == nil && (string(c.Set["torch_dtype"]) == `"float16"` || string(c.Set["dtype"]) == `"float16"`)
}

// CheckTogether reports whether the format holds the layers not only one by one.
func (p *Plan) CheckTogether() error {
	f, ok := p.rules.Format.(layout.Folder)
	if !ok {
		return nil
	}
	_, err := f.Config(layout.Contents{Layers: p.Quantized()})
	return err
}

// CheckSkip is an error where an expression of Rules.Skip matches neither a layer nor one
// of the names that stay dense anyway. There must be a layer.
func (p *Plan) CheckSkip(anyway []string) error {
	for _, r := range p.rules.Skip {
		layer := slices.ContainsFunc(p.Layers, func(l *Layer) bool { return r.MatchString(l.Name) })
		if !layer && !slices.ContainsFunc(anyway, r.MatchString) {
			return fmt.Errorf("nothing to skip: no layer's name matches %q (the first is %s)", r, p.Layers[0].Name)
		}
	}
	return nil
}

// CheckLeft is an error that wraps ErrNothing where no layer would be quantized
// although nobody has asked for that.
func (p *Plan) CheckLeft() error {
	var first *Layer
	for _, l := range p.Layers {
		if !l.Dense {
			return nil
		}
		if first == nil && p.rules.Skips(l.Name) == nil {
			first = l
		}
	}
	if first == nil {
		return nil
	}
	return fmt.Errorf("%w: every layer would stay dense; %s: %s", ErrNothing, first.Name, strings.Join(first.Notes, "; "))
}

// Quantized describes the layers that will be quantized.
func (p *Plan) Quantized() []layout.Layer {
	layers := make([]layout.Layer, 0, len(p.Layers))
	for _, l := range p.Layers {
		if !l.Dense {
			layers = append(layers, l.First())
		}
	}
	return layers
}

// Engines describes all layers, those that stay dense too, for engines.
func (p *Plan) Engines() []layout.Layer {
	layers := make([]layout.Layer, len(p.Layers))
	for i, l := range p.Layers {
		if layers[i] = (layout.Layer{Name: l.Name, Out: l.Out, In: l.In, DType: l.DType, Dense: true}); !l.Dense {
			layers[i] = l.First()
		}
	}
	return layers
}
