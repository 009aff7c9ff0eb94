package fitting_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// picky is a format that refuses more than the one it is.
type picky struct {
	native.Format
	refuse func(layout.Layer) string
}

func (p picky) Check(l layout.Layer) error {
	if why := p.refuse(l); why != "" {
		return fmt.Errorf("%w: %s", layout.ErrUnsupported, why)
	}
	return p.Format.Check(l)
}

// noScales refuses scales outside the groups.
func noScales(l layout.Layer) string {
	if l.RowScale || l.InputScale {
		return "no scales"
	}
	return ""
}

// smallGroups refuses groups of more than 32 in layers wider than 64, and any axis
// but oc.
func smallGroups(l layout.Layer) string {
	switch {
	case l.Scheme.Axis == quant.IC:
		return "axis ic"
	case l.In == 120:
		return "a width of 120"
	case l.In > 64 && l.Scheme.GroupSize > 32:
		return fmt.Sprintf("groups of %d", l.Scheme.GroupSize)
	}
	return ""
}

func rules(refuse func(layout.Layer) string) *fitting.Rules {
	return &fitting.Rules{
		Format: picky{refuse: refuse}, Arms: adadim.AllArms(),
		Scheme: quant.Scheme{Bits: 4, GroupSize: 64, ScaleType: quant.F16},
	}
}

func linear(name string, out, in int) layout.Layer { return layout.Layer{Name: name, Out: out, In: in} }

func arms(l *fitting.Layer) string { return fmt.Sprint(l.Arms) }

func TestSmallerGroups(t *testing.T) {
	for _, c := range []struct {
		size, in int
		want     []int
	}{
		{128, 4096, []int{64, 32, 16}}, {100, 4096, []int{64, 32, 16}}, {17, 4096, []int{16}}, {16, 4096, nil}, {8, 4096, nil},
		{quant.WholeLine, 96, []int{64, 32, 16}}, {quant.WholeLine, 64, []int{32, 16}},
	} {
		require.Equal(t, c.want, slices.Collect(fitting.SmallerGroups(c.size, c.in)), c)
	}
	for g := range fitting.SmallerGroups(128, 0) {
		require.Equal(t, 64, g)
		break
	}
}

// TestRules: what gives way for a layer that the format does not hold as asked.
func TestRules(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fitting.Rules)
		refuse func(layout.Layer) string
		layer  layout.Layer
		arms   string // "" if it stays dense
		group  int
		notes  []string
		err    string
		silent bool
	}{
		"held":         {refuse: func(layout.Layer) string { return "" }, layer: linear("a", 64, 128), arms: fmt.Sprint(adadim.AllArms()), group: 64, silent: true},
		"refused":      {refuse: noScales, layer: linear("a", 64, 128), err: "format lowbit cannot hold this: a: arm oc+in: no scales (fit changes such layers to what fits)"},
		"dropped":      {change: func(r *fitting.Rules) { r.Drop = true }, refuse: noScales, layer: linear("a", 64, 128), arms: "[oc ic]", group: 64, notes: []string{"without oc+in,ic+row: no scales"}, silent: true},
		"nothing left": {change: func(r *fitting.Rules) { r.Drop = true }, refuse: smallGroups, layer: linear("a", 64, 128), err: "a: groups of 64"},
		"shrunk":       {change: func(r *fitting.Rules) { r.Shrink = true }, refuse: smallGroups, layer: linear("a", 64, 128), arms: "[oc oc+in]", group: 32, notes: []string{"without ic,ic+row: axis ic", "group size 32: groups of 64"}},
		"odd width":    {change: func(r *fitting.Rules) { r.Shrink = true }, refuse: smallGroups, layer: linear("a", 64, 120), group: 64, notes: []string{"left dense: a width of 120"}},
		"skipped": {change: func(r *fitting.Rules) { r.Skip = []*regexp.Regexp{regexp.MustCompile("^a$")} }, refuse: noScales, layer: linear("a", 64, 128), group: 64,
			notes: []string{`left dense: skip "^a$"`}, silent: true},
		"too large": {change: func(r *fitting.Rules) { r.TooLarge = map[string]error{"a": errors.New("weight 1e9")} }, refuse: noScales, layer: linear("a", 64, 128), group: 64,
			notes: []string{"left dense: weight 1e9"}},
		"beside too large": {change: func(r *fitting.Rules) { r.TooLarge = map[string]error{"b": errors.New("weight 1e9")} }, refuse: noScales, layer: linear("a", 64, 128),
			arms: "[oc ic]", group: 64, notes: []string{"without oc+in,ic+row: no scales"}, silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := rules(c.refuse)
			if c.change != nil {
				c.change(r)
			}
			p := r.NewPlan()
			held := p.Add(c.layer)
			require.Equal(t, c.err == "", held)
			if c.err != "" {
				require.ErrorContains(t, p.Err(), c.err)
				require.ErrorIs(t, p.Err(), layout.ErrUnsupported)
				require.Empty(t, p.Layers)
				return
			}
			require.NoError(t, p.Err())
			l := p.Layer("a")
			require.Same(t, p.Layers[0], l)
			require.Equal(t, c.arms == "", l.Dense)
			require.Equal(t, c.group, l.Scheme.GroupSize)
			require.Equal(t, c.silent, l.Silent)
			require.Len(t, l.Notes, len(c.notes))
			for i, note := range c.notes {
				require.Contains(t, l.Notes[i], note)
			}
			if l.Dense {
				require.Empty(t, p.Quantized())
				require.Equal(t, []layout.Layer{{Name: "a", Out: 64, In: c.layer.In, Dense: true}}, p.Engines())
				return
			}
			require.Equal(t, c.arms, arms(l))
			require.Equal(t, []layout.Layer{l.First()}, p.Quantized())
			require.Equal(t, p.Quantized(), p.Engines())
			require.NoError(t, p.CheckTogether())
		})
	}
}

// TestFolds: where scales are folded the layers choose among the arms that are
// left, and beside a layer that stays dense nothing is folded.
func TestFolds(t *testing.T) {
	block := func() []fitting.Linear {
		return []fitting.Linear{
			{Layer: linear("q", 64, 128), Input: 0, Rows: -1},
			{Layer: linear("v", 64, 128), Input: 0, Rows: 1},
			{Layer: linear("o", 128, 64), Input: 1, Rows: -1},
			{Layer: linear("x", 128, 64), Input: -1, Rows: -1},
		}
	}
	all := fmt.Sprint(adadim.AllArms())
	for name, c := range map[string]struct {
		change func(*fitting.Rules)
		refuse func(layout.Layer) string
		folds  []bool
		arms   []string
	}{
		"none":     {func(r *fitting.Rules) { r.Fold = fitting.FoldNone }, func(layout.Layer) string { return "" }, []bool{false, false}, []string{all, all, all, all}},
		"unstored": {func(r *fitting.Rules) { r.Fold, r.Drop = fitting.FoldUnstored, true }, noScales, []bool{true, true}, []string{"[oc ic]", "[oc ic]", "[oc ic]", "[oc ic]"}},
		"stored":   {func(r *fitting.Rules) { r.Fold = fitting.FoldUnstored }, func(layout.Layer) string { return "" }, []bool{false, false}, []string{all, all, all, all}},
		"all":      {func(r *fitting.Rules) { r.Fold = fitting.FoldAll }, func(layout.Layer) string { return "" }, []bool{true, true}, []string{"[oc ic ic+row]", "[oc ic]", "[oc ic ic+row]", all}},
		"o skipped": {func(r *fitting.Rules) { r.Fold, r.Skip = fitting.FoldAll, []*regexp.Regexp{regexp.MustCompile("o")} }, func(layout.Layer) string { return "" },
			[]bool{true, false}, []string{"[oc ic ic+row]", "[oc ic ic+row]", "", all}},
		"o too large": {func(r *fitting.Rules) {
			r.Fold, r.TooLarge = fitting.FoldAll, map[string]error{"o": errors.New("large")}
		}, noScales,
			[]bool{true, false}, []string{"[oc ic]", "[oc ic]", "", "[oc ic]"}},
		"q does not fit": {func(r *fitting.Rules) { r.Fold, r.Shrink = fitting.FoldAll, true }, func(l layout.Layer) string {
			if l.Name == "q" {
				return "not q"
			}
			return ""
		}, []bool{false, true}, []string{"", "[oc oc+in ic]", "[oc ic ic+row]", all}},
	} {
		t.Run(name, func(t *testing.T) {
			r := rules(c.refuse)
			c.change(r)
			p := r.NewPlan()
			p.AddBlock(2, block())
			require.NoError(t, p.Err())
			require.Equal(t, [][]bool{c.folds}, p.Folds)
			for i, l := range p.Layers {
				if c.arms[i] == "" {
					require.True(t, l.Dense, l.Name)
					require.False(t, l.Folds, l.Name)
					continue
				}
				require.Equal(t, c.arms[i], arms(l), l.Name)
				place := block()[i].Input
				require.Equal(t, place >= 0 && c.folds[place], l.Folds, l.Name)
			}
		})
	}
}

func TestNothingLeft(t *testing.T) {
	r := rules(func(layout.Layer) string { return "nothing" })
	r.Shrink = true
	p := r.NewPlan()
	require.NoError(t, p.CheckLeft())
	p.AddOther(linear("norm", 4, 4), "a norm")
	p.Add(linear("a", 64, 128))
	err := p.CheckLeft()
	require.ErrorIs(t, err, fitting.ErrNothing)
	require.ErrorContains(t, err, "norm: left dense: a norm")
	require.True(t, p.Layer("norm").Other)

	r.Skip = []*regexp.Regexp{regexp.MustCompile("")} // it was asked for
	p = r.NewPlan()
	p.Add(linear("a", 64, 128))
	require.NoError(t, p.CheckLeft())
}

// TestLayer: the axis of a layer's scheme is its arm's, and strided is only what
// lies along inputs.
func TestLayer(t *testing.T) {
	r := rules(func(l layout.Layer) string {
		if l.Scheme.Axis == quant.IC && !l.Scheme.Strided {
			return "only strided"
		}
		return ""
	})
	p := r.NewPlan()
	require.True(t, p.Add(layout.Layer{Name: "a", Out: 64, In: 64, Bias: true, DType: "BF16"}))
	l := p.Layer("a")
	require.True(t, l.Scheme.Strided)
	oc, ic := l.With(adadim.Arm{Axis: quant.OC, InputScale: true}), l.With(adadim.ArmIC())
	require.False(t, oc.Scheme.Strided)
	require.True(t, oc.InputScale)
	require.True(t, ic.Scheme.Strided)
	require.Equal(t, quant.IC, ic.Scheme.Axis)
	q := quant.NewWeight(64, 64, ic.Scheme)
	require.Equal(t, ic, l.As(q))
}

// TestMix: a format that chooses the grids says which, and leaves dense what it has
// none for.
func TestMix(t *testing.T) {
	r := rules(func(l layout.Layer) string {
		if l.Scheme.Axis == quant.IC || l.InputScale {
			return "only oc"
		}
		return ""
	})
	r.Drop, r.Shrink = true, true
	r.Mix = func(l layout.Layer) (quant.Scheme, string, error) {
		switch {
		case l.In%32 != 0:
			return quant.Scheme{}, "", fmt.Errorf("%w: no blocks", layout.ErrUnsupported)
		case l.In%64 != 0:
			return quant.Scheme{Bits: 5, GroupSize: 32}, "another type", nil
		}
		return quant.Scheme{Bits: 3, GroupSize: 16}, "", nil
	}
	p := r.NewPlan()
	for _, l := range []layout.Layer{linear("a", 64, 128), linear("b", 64, 96), linear("c", 64, 40)} {
		require.True(t, p.Add(l))
	}
	require.NoError(t, p.Err())
	a, b, c := p.Layer("a"), p.Layer("b"), p.Layer("c")
	require.Equal(t, quant.Scheme{Bits: 3, GroupSize: 16, ScaleType: quant.F16}, a.First().Scheme)
	require.Equal(t, "[oc]", arms(a))
	require.Equal(t, 5, b.First().Scheme.Bits)
	require.Equal(t, "another type", b.Notes[len(b.Notes)-1])
	require.False(t, b.Silent)
	require.True(t, c.Dense)
	require.Equal(t, []string{"left dense: no blocks"}, c.Notes)
}
