package fitting_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// vocabulary has matrices of 100 x 512.
type vocabulary []string

func (v vocabulary) Shape(name string) ([]int, bool) {
	for _, n := range v {
		if n == name {
			return []int{100, 512}, true
		}
	}
	return nil, false
}

func (v vocabulary) DType(name string) (safetensors.DType, bool) { return safetensors.BF16, true }

// outer plans a linear, and an embedding and a head by rules. The error is of CheckRules.
func outer(t *testing.T, f layout.Format, tied bool, texts ...string) (*fitting.Plan, error) {
	t.Helper()
	r := &fitting.Rules{Format: f, Scheme: quant.Scheme{Bits: 4, GroupSize: 64, ScaleType: quant.F16}, Arms: []adadim.Arm{{Axis: quant.OC}}}
	for _, text := range texts {
		c, err := fitting.ParseRule(text)
		require.NoError(t, err)
		r.Change = append(r.Change, c)
	}
	p := r.NewPlan()
	p.Add(layout.Layer{Name: layerName(0), Out: 64, In: 512, DType: safetensors.BF16})
	src := vocabulary{"model.embed_tokens.weight", "lm_head.weight"}
	if tied {
		src = src[:1]
	}
	p.AddOuter(src, "model.embed_tokens.weight", "lm_head.weight", tied)
	return p, p.CheckRules()
}

func TestOuter(t *testing.T) {
	p, err := outer(t, mlx.Format{}, false, ".: bits=6", `lm_head: bits=8,group=32`)
	require.NoError(t, err)
	require.Equal(t, 6, p.Layer(layerName(0)).Scheme.Bits)
	require.Nil(t, p.Layer("model.embed_tokens"), "a rule for all layers names it not")
	l := p.Layer("lm_head")
	require.Equal(t, []int{8, 32, 100, 512}, []int{l.Scheme.Bits, l.Scheme.GroupSize, l.Out, l.In})
	require.Equal(t, "rtn", l.Method)
	require.Equal(t, []*fitting.Layer{l}, p.Outer())
	require.True(t, p.Ruled("lm_head"))
	require.EqualValues(t, 24*100*512, p.OuterBytes())

	for _, rules := range [][]string{{"lm_head: type=Q6_K"}, {"embed: type=Q6_K"}, {"embed_tokens: type=Q6_K", "lm_head: type=Q6_K"}, {"embed_tokens|lm_head: type=Q6_K"}} {
		p, err := outer(t, ggufmodel.Format{}, true, rules...)
		require.NoError(t, err, rules)
		require.Len(t, p.Outer(), 1)
		require.Equal(t, "Q6_K", p.Layer("model.embed_tokens").Scheme.Grid.(interface{ String() string }).String(), rules)
	}

	p, err = outer(t, autogptq.Format{Version: 1}, false, "lm_head: dense")
	require.NoError(t, err)
	require.True(t, p.Layer("lm_head").Dense)
	require.Zero(t, p.OuterBytes())
}

func TestOuterRefused(t *testing.T) {
	for _, c := range []struct {
		f    layout.Format
		tied bool
		rule []string
		want string
	}{
		{autogptq.Format{Version: 1}, false, []string{"lm_head: bits=8"}, "does not hold lm_head quantized; formats gguf and mlx do"},
		{native.Format{}, true, []string{"lm_head: bits=8"}, "does not hold model.embed_tokens quantized"},
		{mlx.Format{}, true, []string{"lm_head: bits=8", "embed_tokens: bits=6"}, "one tensor"},
		{mlx.Format{}, false, []string{"lm_head: bits=7"}, "lm_head: not supported by the format: mlx has 2, 3"},
		{mlx.Format{}, false, []string{"lm_head: bits=8,axis=ic"}, "no arms of axis ic"},
		{mlx.Format{}, false, []string{"lm_head: method=gptq"}, "lm_head is rounded to nearest"},
		{mlx.Format{}, false, []string{"embed_out: bits=8"}, "matches no layer's name"},
		{ggufmodel.Format{}, false, []string{"lm_head: type=IQ2_XS"}, "unknown type"},
		{ggufmodel.Format{}, false, []string{"lm_head: type=NVFP4"}, "a scale beside a linear"},
		{ggufmodel.Format{}, false, []string{"lm_head: bits=8"}, "asymmetric 8 bits"},
	} {
		_, err := outer(t, c.f, c.tied, c.rule...)
		require.ErrorContains(t, err, c.want, c.rule)
	}
}
