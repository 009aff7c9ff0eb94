package fitting_test

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

func TestParseRule(t *testing.T) {
	for text, want := range map[string]fitting.Rule{
		`layers\.(0|31)\.: bits=8,group=32`: {Bits: 8, GroupSize: 32},
		`q_proj:sym, group=-1`:              {Symmetric: new(true), GroupSize: quant.WholeLine},
		`(?:a|b): sym=false,axis=ic`:        {Symmetric: new(false), Axis: new(quant.IC)},
		`mlp: type=Q6_K,method=rtn`:         {Type: "Q6_K", Method: "rtn"},
		`x: dense`:                          {Dense: true},
	} {
		r, err := fitting.ParseRule(text)
		require.NoError(t, err, text)
		again, err := fitting.ParseRule(r.String())
		require.NoError(t, err, r.String())
		require.Equal(t, r, again)
		want.Match = r.Match
		require.Equal(t, want, r)
	}
	for text, want := range map[string]string{
		"q_proj":               "want EXPRESSION: KEY=VALUE",
		": bits=4":             "no expression",
		"(: bits=4":            "missing closing",
		"q: bits=1":            "a number from 2 to 8",
		"q: bits":              "a number from 2 to 8",
		"q: group=0":           "a number from 1",
		"q: bits=4,bits=4":     "given twice",
		"q: bots=4":            "unknown key",
		"q:":                   "unknown key",
		"q: axis=x":            "axis",
		"q: method=awq":        "want one of rtn, gptq",
		"q: dense=false":       "only true",
		"q: dense,bits=4":      "goes with nothing else",
		"q: type=Q6_K,group=8": "a type says",
		"q: sym=maybe":         "maybe",
	} {
		_, err := fitting.ParseRule(text)
		require.ErrorContains(t, err, want, text)
	}
	_, err := fitting.NewRule("q", nil)
	require.ErrorContains(t, err, "changes nothing")
}

func layerName(i int) string { return fmt.Sprintf("model.layers.%d.mlp.up_proj", i) }

// ruled plans layers 0, 1, … of 64 x 512 by rules.
func ruled(t *testing.T, r *fitting.Rules, n int, texts ...string) *fitting.Plan {
	for _, text := range texts {
		rule, err := fitting.ParseRule(text)
		require.NoError(t, err)
		r.Change = append(r.Change, rule)
	}
	p := r.NewPlan()
	for i := range n {
		p.Add(layout.Layer{Name: layerName(i), Out: 64, In: 512})
	}
	return p
}

func TestRulesOfLayers(t *testing.T) {
	r := rules(func(layout.Layer) string { return "" })
	p := ruled(t, r, 6, "\\.0\\.: bits=8,group=32", "\\.[01]\\.: sym,axis=ic", "\\.2\\.: dense", "\\.3\\.: method=rtn", "\\.4\\.: group=-1")
	require.NoError(t, p.CheckRules())
	require.NoError(t, p.Err())
	asked := r.Scheme
	with := func(bits, group int, sym bool) quant.Scheme {
		s := asked
		s.Bits, s.GroupSize, s.Symmetric = bits, group, sym
		return s
	}
	require.Equal(t, with(8, 32, false), p.Layer(layerName(0)).Scheme, "the first rule alone")
	require.Equal(t, with(4, 64, true), p.Layer(layerName(1)).Scheme)
	require.Equal(t, adadim.AllArms(), p.Layer(layerName(0)).Arms)
	for _, a := range p.Layer(layerName(1)).Arms {
		require.Equal(t, quant.IC, a.Axis)
	}
	require.True(t, p.Layer(layerName(2)).Dense)
	require.Contains(t, p.Layer(layerName(2)).Notes[0], "rule")
	require.Equal(t, "rtn", p.Layer(layerName(3)).Method)
	require.Equal(t, asked, p.Layer(layerName(3)).Scheme)
	require.Equal(t, quant.WholeLine, p.Layer(layerName(4)).Scheme.GroupSize)
	require.Equal(t, asked, p.Layer(layerName(5)).Scheme)
}

// Rules that are given to single layers count where none of Change matches.
func TestRulesGiven(t *testing.T) {
	r := rules(func(layout.Layer) string { return "" })
	given := func(what string) fitting.Rule {
		rule, err := fitting.GivenRule(what)
		require.NoError(t, err)
		require.Equal(t, what, rule.String())
		return rule
	}
	r.Given = map[string]fitting.Rule{layerName(0): given("bits=8,group=32"), layerName(1): given("bits=2"), layerName(2): given("dense"), "elsewhere": given("bits=5")}
	p := ruled(t, r, 4, `\.1\.: bits=6`)
	require.NoError(t, p.CheckRules())
	require.NoError(t, p.Err())
	require.Equal(t, 8, p.Layer(layerName(0)).Scheme.Bits)
	require.Equal(t, 32, p.Layer(layerName(0)).Scheme.GroupSize)
	require.Equal(t, 6, p.Layer(layerName(1)).Scheme.Bits)
	require.True(t, p.Layer(layerName(2)).Dense)
	require.Equal(t, r.Scheme, p.Layer(layerName(3)).Scheme)
	require.True(t, p.Ruled(layerName(0)))
	require.False(t, p.Ruled(layerName(3)))
	_, err := fitting.GivenRule("bits=9")
	require.Error(t, err)
}

func TestRulesRefused(t *testing.T) {
	any := func(layout.Layer) string { return "" }
	require.ErrorContains(t, ruled(t, rules(any), 2, "\\.7\\.: bits=8").CheckRules(), `matches no layer's name (the first is model.layers.0.mlp.up_proj)`)
	require.ErrorContains(t, ruled(t, rules(any), 2, "layers: bits=8", "\\.1\\.: bits=4").CheckRules(), "never counts: for model.layers.1.mlp.up_proj it is")
	require.ErrorContains(t, ruled(t, rules(any), 2, "layers: type=Q6_K").CheckRules(), "has no types of its own")
	r := rules(any)
	r.Arms = []adadim.Arm{{Axis: quant.OC}}
	require.ErrorContains(t, ruled(t, r, 2, "\\.0\\.: axis=ic").Err(), "no arms of axis ic")
	// A rule that the format refuses is told, unless layers may give way.
	refuse := func(l layout.Layer) string {
		if l.Scheme.Bits == 8 && l.Scheme.GroupSize > 16 {
			return "8 bits in groups of more than 16"
		}
		return ""
	}
	require.ErrorContains(t, ruled(t, rules(refuse), 2, "\\.0\\.: bits=8").Err(), "groups of more than 16")
	r = rules(refuse)
	r.Shrink = true
	p := ruled(t, r, 2, "\\.0\\.: bits=8,group=128")
	require.NoError(t, p.Err())
	require.Equal(t, 16, p.Layer(layerName(0)).Scheme.GroupSize)
	require.Equal(t, 64, p.Layer(layerName(1)).Scheme.GroupSize)
}

// Rules on the grids of a format: mlx's follow from bits and groups, GGUF's have names.
func TestRulesOfGrids(t *testing.T) {
	r := &fitting.Rules{Format: mlx.Format{}, Arms: []adadim.Arm{{Axis: quant.OC}}, Scheme: quant.Scheme{Bits: 4, GroupSize: 64, ScaleType: quant.F16}}
	p := ruled(t, r, 2, "\\.0\\.: bits=8,group=32")
	require.NoError(t, p.CheckRules())
	require.Equal(t, "8 affine8 f16", fmt.Sprint(p.Layer(layerName(0)).Scheme.Bits, " ", p.Layer(layerName(0)).Scheme.Grid))
	require.Equal(t, 32, p.Layer(layerName(0)).Scheme.GroupSize)
	require.Equal(t, "affine4 f16", fmt.Sprint(p.Layer(layerName(1)).Scheme.Grid))

	gguf := func(mixed bool) *fitting.Rules {
		r := &fitting.Rules{Format: ggufmodel.Format{}, Arms: []adadim.Arm{{Axis: quant.OC}}, Scheme: quant.Scheme{Bits: 4, GroupSize: 32, ScaleType: quant.F16}}
		if mixed {
			r.Mix = func(layout.Layer) (quant.Scheme, string, error) {
				return ggufmodel.Format{}.Typed("Q4_K", 512)
			}
		}
		return r
	}
	for _, mixed := range []bool{false, true} {
		p := ruled(t, gguf(mixed), 3, "\\.0\\.: type=q6_k", "\\.1\\.: type=Q8_0")
		require.NoError(t, p.CheckRules())
		require.NoError(t, p.Err())
		require.Equal(t, "Q6_K", fmt.Sprint(p.Layer(layerName(0)).Scheme.Grid))
		require.Equal(t, "Q8_0", fmt.Sprint(p.Layer(layerName(1)).Scheme.Grid))
		require.Equal(t, mixed, p.Layer(layerName(2)).Scheme.Grid != nil)
	}
	require.ErrorContains(t, ruled(t, gguf(true), 1, "\\.0\\.: bits=8").CheckRules(), "want type=NAME")
	require.ErrorContains(t, ruled(t, gguf(false), 1, "\\.0\\.: type=Q9_K").CheckRules(), `unknown type "Q9_K", want one of IQ4_NL`)
	r = gguf(true)
	r.Change = []fitting.Rule{{Match: regexp.MustCompile("down"), Type: "Q6_K"}}
	p = r.NewPlan()
	p.Add(layout.Layer{Name: "model.layers.0.mlp.down_proj", Out: 64, In: 96})
	require.Equal(t, "Q8_0", fmt.Sprint(p.Layer("model.layers.0.mlp.down_proj").Scheme.Grid))
	require.Contains(t, p.Layer("model.layers.0.mlp.down_proj").Notes[0], "96 inputs are not a whole number")
}

var _ layout.Typer = ggufmodel.Format{}
