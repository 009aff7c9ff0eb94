package lowbit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// grids counts the layers of a plan by grid.
func grids(p *Plan) map[string]int {
	n := map[string]int{}
	for _, l := range p.Layers {
		switch {
		case l.Dense:
			n["dense"]++
		case l.Scheme.Grid != nil:
			n[fmt.Sprint(l.Scheme.Grid)]++
		default:
			n[fmt.Sprintf("%d bits", l.Scheme.Bits)]++
		}
	}
	return n
}

// A file type decides the grid of every layer, and so do 2 and 3 bits in GGUF
// where no other groups are asked for.
func TestMixedPlan(t *testing.T) {
	gguf := func(typ string) Options {
		return Options{Model: embedded, Output: "o", Format: ggufmodel.Format{Type: typ}}
	}
	with := func(o Options, change func(o *Options)) Options { change(&o); return o }
	for name, c := range map[string]struct {
		o    Options
		want map[string]int
	}{
		"Q4_K_M":          {gguf("Q4_K_M"), map[string]int{"Q4_K": 24, "Q6_K": 4}},
		"Q2_K":            {gguf("Q2_K"), map[string]int{"Q2_K": 16, "Q3_K": 12}},
		"IQ4_XS":          {gguf("IQ4_XS"), map[string]int{"IQ4_XS": 28}},
		"its bits too":    {with(gguf("Q6_K"), func(o *Options) { o.Bits = 6 }), map[string]int{"Q6_K": 28}},
		"target":          {with(gguf("Q5_K_S"), func(o *Options) { o.Target = "llama.cpp" }), map[string]int{"Q5_K": 28}},
		"target's format": {Options{Model: embedded, Output: "o", Target: "ollama", Bits: 3}, map[string]int{"Q3_K": 28}},
		"3 bits":          {with(gguf(""), func(o *Options) { o.Bits = 3 }), map[string]int{"Q3_K": 28}},
		"2 bits":          {with(gguf(""), func(o *Options) { o.Bits = 2 }), map[string]int{"Q2_K": 28}},
		"3 bits in groups": {with(gguf(""), func(o *Options) { o.Bits, o.GroupSize = 3, 64 }),
			map[string]int{"3 bits": 28}},
		"4 bits": {with(gguf(""), func(o *Options) { o.Bits = 4 }), map[string]int{"4 bits": 28}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Resolve(c.o)
			require.NoError(t, err)
			require.Equal(t, c.want, grids(p))
		})
	}
	for want, change := range map[string]func(o *Options){
		"chooses the grid": func(o *Options) { o.GroupSize = 64 },
		"symmetry":         func(o *Options) { o.Symmetric = new(false) },
		"scale type":       func(o *Options) { o.ScaleType = new(quant.F16Short) },
		"3 bits are given": func(o *Options) { o.Bits = 3 },
	} {
		_, err := Resolve(with(gguf("Q4_K_M"), change))
		require.ErrorIs(t, err, ErrOptions)
		require.ErrorContains(t, err, want)
	}
	_, err := Resolve(gguf("Q9_K"))
	require.ErrorContains(t, err, "Q9_K")
}

// Layers of other widths get other types, and those of no blocks stay dense; each
// says why.
func TestMixedPlanOfOtherWidths(t *testing.T) {
	model := golden.Shared(t, filepath.Join("models", "tinystories-260k"))
	p, err := Resolve(Options{Model: model, Output: "o", Method: quant.RTN{}, Format: ggufmodel.Format{Type: "Q4_K_M"}})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"Q5_0": 28, "Q8_0": 2, "dense": 5}, grids(p))
	for _, l := range p.Layers {
		require.NotEmpty(t, l.Notes)
		require.Contains(t, l.Notes[len(l.Notes)-1], "are not a whole number of blocks")
	}
}

// A quantized file of a type is the model that was reported, and one that was
// interrupted comes out the same.
func TestQuantizeMixed(t *testing.T) {
	options := func() Options {
		o := quick(t)
		o.Output += ".gguf"
		o.Preset, o.Curvature, o.Bits, o.GroupSize, o.Workers = Best, CurvatureOff, 0, 0, 1
		o.Format = ggufmodel.Format{Type: "Q4_K_M", Dense: safetensors.F16}
		return o
	}
	whole := options()
	r, err := Quantize(t.Context(), whole)
	require.NoError(t, err)
	require.InDelta(t, 4.786, r.BitsPerWeight, 0.001)
	m, err := checkpoint.Open(whole.Output)
	require.NoError(t, err)
	defer m.Close()
	for _, l := range r.Layers {
		q, err := m.Weight(l.Name)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(l.Scheme.Grid), fmt.Sprint(q.Scheme.Grid))
		require.Less(t, *l.Loss, 0.01)
	}
	o := options()
	interrupt(t, o, 5)
	o.Resume = true
	again, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, r.BitsPerWeight, again.BitsPerWeight)
	for i, l := range again.Layers {
		require.Equal(t, r.Layers[i].Scheme, l.Scheme)
		require.Equal(t, r.Layers[i].Loss, l.Loss)
	}
	a, err := os.ReadFile(whole.Output)
	require.NoError(t, err)
	b, err := os.ReadFile(o.Output)
	require.NoError(t, err)
	require.True(t, bytes.Equal(a, b))
}

// Rounding to the grids of a type needs no text.
func TestMixedNeedsNoText(t *testing.T) {
	o := quick(t)
	o.Output += ".gguf"
	o.Preset, o.Bits, o.GroupSize, o.Calibration, o.Method = PresetDefault, 0, 0, Calibration{}, quant.RTN{}
	o.Format = ggufmodel.Format{Type: "IQ4_NL"}
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	require.InDelta(t, 4.5, r.BitsPerWeight, 1e-9)
	m, err := checkpoint.Open(o.Output)
	require.NoError(t, err)
	defer m.Close()
	require.Len(t, m.Quantized(), 28)
}

// Rules make a mixture that every format holds as it is, or refuses before any work.
func TestRules(t *testing.T) {
	var rules []Rule
	for _, text := range []string{`layers\.0\.: bits=8,group=32,sym`, `layers\.1\..*down_proj$: dense`, `layers\.2\.mlp: method=gptq`} {
		r, err := fitting.ParseRule(text)
		require.NoError(t, err)
		rules = append(rules, r)
	}
	for _, name := range []string{"lowbit", "gptq", "compressed-tensors", "hqq", "mlx", "gguf"} {
		t.Run(name, func(t *testing.T) {
			o := Options{Model: embedded, Output: filepath.Join(t.TempDir(), "out"), Method: quant.RTN{}, Axis: AxisOC, Bits: 4, GroupSize: 32, Rules: rules, Calibration: Calibration{Text: Text{Files: []string{embeddedCalibration}}, Samples: 4, SeqLen: 128}}
			var err error
			o.Format, err = checkpoint.Lookup(name)
			require.NoError(t, err)
			if name == "gptq" || name == "hqq" {
				o.Rules = slices.Clone(rules)
				o.Rules[0].Symmetric = nil // one version, or no symmetric grid
			}
			_, err = Quantize(t.Context(), o)
			require.NoError(t, err)
			m, err := checkpoint.Open(o.Output)
			require.NoError(t, err)
			defer func() { require.NoError(t, m.Close()) }()
			kinds := map[string]int{}
			for _, l := range m.Layers() {
				kinds[fmt.Sprintf("%d/%d", l.Scheme.Bits, l.Scheme.GroupLen(l.In))]++
			}
			rest := "4/32"
			if name == "gguf" {
				rest = "5/32" // what Q4_1 stands for
			}
			require.Equal(t, map[string]int{"8/32": 7, rest: 20}, kinds)
		})
	}
	o := Options{Model: embedded, Output: "o", Method: quant.RTN{}, Axis: AxisOC, Rules: rules}
	p, err := Resolve(o)
	require.NoError(t, err)
	require.True(t, p.NeedsText, "for the layers of GPTQ")
	o.Rules = []Rule{{}}
	_, err = Resolve(o)
	require.ErrorIs(t, err, ErrOptions)
	o.Rules = []Rule{{Match: regexp.MustCompile("no such layer"), Bits: 8}}
	_, err = Resolve(o)
	require.ErrorIs(t, err, ErrOptions)
}
