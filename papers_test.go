package lowbit

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/olive"
	"github.com/golowbit/lowbit/quant/split"
	"github.com/golowbit/lowbit/safetensors"
)

// TestSplitQuantAndOliVe: under AdaDim in both axes, an interrupted run goes on to the same bytes; what
// is read back is what a dense output has; no other format takes it over.
func TestSplitQuantAndOliVe(t *testing.T) {
	for name, method := range map[string]quant.Quantizer{"splitquant": split.Quantizer{}, "olive": olive.Quantizer{}} {
		t.Run(name, func(t *testing.T) {
			o := quick(t)
			o.Preset, o.Method, o.Bits, o.GroupSize = PresetDefault, method, 4, 32
			o.Arms, o.Search = adadim.PaperArms(), new(adadim.SearchMethod)
			o.Calibration.Samples, o.Calibration.SeqLen = 2, 64
			r, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			chosen := map[string]int{}
			for _, l := range r.Layers {
				chosen[l.Arm]++
			}
			require.Len(t, chosen, 2, "groups lie in either axis")

			m, plain := opened(t, o.Output), filepath.Join(t.TempDir(), "dense")
			require.NoError(t, checkpoint.Convert(t.Context(), checkpoint.WriterOptions{Out: plain, Source: m, Format: dense.Format{}}))
			dequantized := opened(t, plain)
			require.Len(t, m.Layers(), 28)
			for _, l := range m.Layers() {
				require.Equal(t, quant.Summands(method), l.Summands)
				_, pairs := l.Scheme.Grid.(olive.Grid)
				require.Equal(t, l.Summands == 0, pairs)
				w, err := m.Weight(l.Name)
				require.NoError(t, err)
				require.InDelta(t, float64(w.StorageBits())/float64(w.Out*w.In), bitsOf(r, l.Name), 1e-9)
				after, err := dequantized.Matrix(l.Name + ".weight")
				require.NoError(t, err)
				for i, v := range w.Dequantize().Data {
					if want := float64(v); math.Abs(want-float64(after.Data[i])) > math.Abs(want)/128 { // bfloat16
						t.Fatalf("%s: %g, dense %g", l.Name, v, after.Data[i])
					}
				}
				for _, f := range checkpoint.Formats() {
					l.DType = safetensors.F32
					if err := f.Check(l); f.Name() == "lowbit" || f.Name() == "dense" {
						require.NoError(t, err)
					} else {
						require.ErrorIs(t, err, layout.ErrUnsupported, f.Name())
					}
				}
			}

			i := o
			i.Output = filepath.Join(t.TempDir(), "resumed")
			interrupt(t, i, 11)
			i.Resume = true
			again, err := Quantize(t.Context(), i)
			require.NoError(t, err)
			require.Equal(t, r.BitsPerWeight, again.BitsPerWeight)
			require.Equal(t, folder(t, o.Output)["model.safetensors"], folder(t, i.Output)["model.safetensors"])
		})
	}
}

// rules are those of a text.
func rules(t *testing.T, text string) []Rule {
	t.Helper()
	r, err := fitting.ParseRule(text)
	require.NoError(t, err)
	return []Rule{r}
}

// What they do not do is refused before the work, and says what does.
func TestSplitQuantAndOliVeRefuse(t *testing.T) {
	for want, change := range map[string]func(o *Options){
		"OliVe: 3 bits":                         func(o *Options) { o.Method, o.Bits = olive.Quantizer{}, 3 },
		"groups of 33 hold no whole pairs":      func(o *Options) { o.Method, o.GroupSize = olive.Quantizer{}, 33 },
		"groups of 32: want -1":                 func(o *Options) { o.Method = olive.Quantizer{PerTensor: true} },
		"SplitQuant: range paper":               func(o *Options) { o.Method, o.Range = split.Quantizer{}, quant.RangePaper },
		"at most 6 bits, not 8":                 func(o *Options) { o.Method, o.Bits = split.Quantizer{Joint: true}, 8 },
		"use format lowbit or dense":            func(o *Options) { o.Method, o.Format = split.Quantizer{}, format(t, "gptq_v2") },
		"lowbit for those of int8 and OliVe":    func(o *Options) { o.Method, o.Format = olive.Quantizer{}, format(t, "hqq") },
		"grids or sums of its own":              func(o *Options) { o.Method, o.Tuning.What = olive.Quantizer{}, TuneScales },
		"parameters of GPTQ are given":          func(o *Options) { o.Method, o.GPTQ.Damping = split.Quantizer{}, 0.1 },
		"OliVe: 5 bits with normal values adap": func(o *Options) { o.Method = olive.Quantizer{}; o.Rules = rules(t, ".*: bits=5") },
	} {
		o := quick(t)
		o.Preset, o.Bits, o.GroupSize = PresetDefault, 4, 32
		change(&o)
		_, err := Resolve(o)
		require.ErrorContains(t, err, want)
	}
	// A rule may give some layers another method.
	o := quick(t)
	o.Preset, o.Bits, o.GroupSize, o.Method = PresetDefault, 4, 32, olive.Quantizer{}
	o.Rules = rules(t, "down_proj: method=gptq,bits=3")
	p, err := Resolve(o)
	require.NoError(t, err)
	grids := map[bool]int{}
	for _, l := range p.Layers {
		grids[l.Scheme.Grid != nil]++
	}
	require.Equal(t, map[bool]int{true: 24, false: 4}, grids)
}
