// Package methods makes a quantizer of --method and of the flags that single methods have.
package methods

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/quant/olive"
	"github.com/golowbit/lowbit/quant/split"
)

// Names are what --method takes, and Inner what --split-method does.
var (
	Names = []string{"gptq", "rtn", "int8", "olive", "splitquant"}
	Inner = Names[:2]
)

// Flags are what the flags say.
type Flags struct {
	Name  string // "" if --method is not given
	Int8  llmint8.Quantizer
	Olive olive.Quantizer
	Split string // what SplitQuant quantizes with
}

// Apply sets the method and what goes with it, and refuses flags that are for another.
func (f *Flags) Apply(o *lowbit.Options, s *pflag.FlagSet) error {
	switch f.Name {
	case "rtn":
		o.Method = quant.RTN{}
	case "int8":
		o.Method = f.Int8
	case "olive":
		if o.Method = f.Olive; f.Olive.PerTensor && o.GroupSize == 0 {
			o.GroupSize = quant.WholeLine
		}
	case "splitquant":
		q := split.Quantizer{Joint: f.Split == "gptq"}
		if q.Joint {
			q.Inner = gptq.Quantizer{}
		}
		o.Method = q
	case "gptq":
		if o.Preset == lowbit.PresetDefault {
			o.Preset = lowbit.Plain
		}
	}
	if _, own := o.Method.(quant.Schemer); own && o.Search == nil {
		o.Search = new(adadim.SearchMethod) // rounding to nearest says little of them
	}
	for _, of := range []struct {
		method string
		flags  []string
	}{
		{"gptq", []string{"act-order", "order", "damp", "refine"}},
		{"int8", []string{"int8-outliers", "int8-threshold"}},
		{"olive", []string{"olive-values", "olive-tensor"}},
		{"splitquant", []string{"split-method"}},
	} {
		for _, name := range of.flags {
			if s.Changed(name) && f.Name != of.method && (f.Name != "" || of.method != "gptq") {
				return fmt.Errorf("--%s is for --method %s", name, of.method)
			}
		}
	}
	return nil
}
