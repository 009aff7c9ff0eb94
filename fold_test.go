package lowbit

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// unbalanced is the embedded model with random scales folded into it, so
// that its function is about the same but its channels are of very different
// sizes; with biases, if asked, in which case the function is another.
func unbalanced(t *testing.T, biases bool) string {
	t.Helper()
	src, err := safetensors.OpenFolder(embedded)
	require.NoError(t, err)
	defer src.Close()
	dir := t.TempDir()
	for _, name := range []string{"config.json", "tokenizer.json", "tokenizer_config.json"} {
		data, err := os.ReadFile(filepath.Join(embedded, name))
		require.NoError(t, err)
		if name == "config.json" && biases {
			var c map[string]any
			require.NoError(t, json.Unmarshal(data, &c))
			c["attention_bias"], c["mlp_bias"] = true, true
			data, err = json.Marshal(c)
			require.NoError(t, err)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o666))
	}
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	m, err := arch.ParseConfig(config)
	require.NoError(t, err)

	values := map[string][]float32{}
	shapes := map[string][]int{}
	for _, name := range src.Names() {
		info, _ := src.Info(name)
		shapes[name] = info.Shape
		values[name], err = src.ReadFloat32(name, nil)
		require.NoError(t, err)
	}
	rng := rand.New(rand.NewPCG(8, 8))
	for _, p := range m.Blocks {
		for _, l := range p.Linears {
			if !l.Bias {
				continue
			}
			v := make([]float32, l.Out)
			for j := range v {
				v[j] = tensor.RoundBF16(float32(rng.NormFloat64()) * 0.05)
			}
			values[l.BiasName()], shapes[l.BiasName()] = v, []int{l.Out}
		}
		b, err := p.Load(weights{values, shapes})
		require.NoError(t, err)
		s := fold.New(b)
		for stage := range b.Stages {
			factors := make([]float64, b.Stages[stage].Fold.Channels)
			for j := range factors {
				factors[j] = math.Exp(1.2 * rng.NormFloat64())
			}
			require.True(t, s.Set(stage, factors, func(_ string, v float32) float32 { return tensor.RoundBF16(v) }))
		}
		for i, l := range b.Linears {
			values[l.WeightName()] = s.Weight(i, b.Linear(i).Weight).Data
		}
		maps.Copy(values, s.Stored())
	}
	var plan []safetensors.TensorInfo
	for _, name := range slices.Sorted(maps.Keys(values)) {
		plan = append(plan, safetensors.TensorInfo{Name: name, DType: safetensors.BF16, Shape: shapes[name]})
	}
	w, err := safetensors.NewWriter(dir, plan, safetensors.Options{})
	require.NoError(t, err)
	defer w.Abort()
	for _, p := range plan {
		require.NoError(t, w.WriteFloat32(p.Name, values[p.Name]))
	}
	require.NoError(t, w.Close())
	return dir
}

// weights are decoder.Weights in memory.
type weights struct {
	values map[string][]float32
	shapes map[string][]int
}

func (w weights) Matrix(name string) (*tensor.Matrix, error) {
	s := w.shapes[name]
	return tensor.FromSlice(s[0], s[1], slices.Clone(w.values[name])), nil
}
func (w weights) Rows(name string, i0, i1 int, _ []float32) ([]float32, error) {
	n := w.shapes[name][1]
	return w.values[name][i0*n : i1*n], nil
}
func (w weights) Vector(name string) ([]float32, error) { return slices.Clone(w.values[name]), nil }
func (w weights) Has(name string) bool                  { return w.values[name] != nil }
func (w weights) Shape(name string) ([]int, bool)       { s, ok := w.shapes[name]; return s, ok }

func divergence(t *testing.T, model, against string) float64 {
	t.Helper()
	e, err := Evaluate(t.Context(), EvalOptions{Model: model, Against: against, Tokenizer: against, Text: short(t), Window: 64})
	require.NoError(t, err)
	return *e.KL
}

var ocArms = []adadim.Arm{adadim.ArmOC(), adadim.ArmOCInputScale()}

// TestFoldAuto: where the format has no input scales the model gets the good
// of them all the same, at the same bits per weight, and nothing else of it
// changes than what the scales go into.
func TestFoldAuto(t *testing.T) {
	source := unbalanced(t, false)
	for _, tt := range []struct {
		format string
		set    func(o *Options)
	}{
		{"gptq_v2", func(o *Options) {}},
		{"gptq_v2", func(o *Options) { o.Inputs, o.Correction = InputsQuantized, new(0.5) }},
		{"gptq_v2", func(o *Options) { o.Objective = new(adadim.ObjectiveBlock); o.Calibration.SeqLen = 32 }},
		{"gguf", func(o *Options) {
			o.Search, o.Method = new(adadim.SearchMethod), gptq.Quantizer{Refine: gptq.Refine{Rounds: 1, Sweeps: 1}}
		}},
	} {
		run := func(arms []adadim.Arm) (*Report, Options) {
			o := quick(t)
			o.Model, o.Format, o.Bits, o.Arms = source, format(t, tt.format), 4, arms
			o.Skip = []*regexp.Regexp{regexp.MustCompile(`layers\.[23]\.`)}
			tt.set(&o)
			r, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			return r, o
		}
		plain, without := run(ocArms[:1])
		folded, with := run(ocArms)
		require.Equal(t, plain.BitsPerWeight, folded.BitsPerWeight)
		require.Less(t, divergence(t, with.Output, source), 0.5*divergence(t, without.Output, source), tt.format)
		into := 0
		for i, l := range folded.Layers {
			require.Empty(t, plain.Layers[i].Folded)
			if l.Dense {
				require.Empty(t, l.Folded)
				continue
			}
			require.Equal(t, "oc", l.Arm)
			first := strings.HasSuffix(l.Name, "layers.0.self_attn.q_proj")
			if rowsKept := !strings.HasSuffix(l.Name, "v_proj") && !strings.HasSuffix(l.Name, "up_proj"); first || with.Inputs == InputsFull && rowsKept {
				// The output is what it was: weight and statistics go together.
				require.InEpsilon(t, plain.Layers[i].Decision.OutputSize, l.Decision.OutputSize, 1e-3, l.Name)
			}
			if l.Folded != "" {
				require.Regexp(t, `^input (scale|over column scale) into (input_layernorm|self_attn.v_proj|post_attention_layernorm|mlp.up_proj), power (0.25|0.5|0.75|1)$`, l.Folded)
				into++
			}
		}
		require.Greater(t, into, 9, "of 14")
		if tt.format == "gguf" {
			continue
		}
		a, err := checkpoint.Open(without.Output)
		require.NoError(t, err)
		b, err := checkpoint.Open(with.Output)
		require.NoError(t, err)
		changed := 0
		for _, s := range a.Dense() {
			if len(s.Shape) != 1 {
				continue
			}
			before, err := a.Vector(s.Name)
			require.NoError(t, err)
			after, err := b.Vector(s.Name)
			require.NoError(t, err)
			if !slices.Equal(before, after) {
				require.Contains(t, s.Name, "layernorm")
				changed++
			}
		}
		require.Greater(t, changed, 2, "of 4")
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	}
}

// TestFoldKeepsTheFunction: with enough bits the model with folded scales is
// that without, with biases, all arms, and however it is calibrated.
func TestFoldKeepsTheFunction(t *testing.T) {
	source := unbalanced(t, true)
	for _, inputs := range []Inputs{InputsFull, InputsQuantized} {
		for _, arms := range [][]adadim.Arm{ocArms, adadim.AllArms()} {
			o := quick(t)
			o.Model, o.Inputs, o.Fold, o.Arms, o.Method = source, inputs, FoldOn, arms, quant.RTN{}
			o.Bits = 8
			r, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			require.Less(t, divergence(t, o.Output, source), 2e-3, "%v %v", inputs, arms)
			out, err := checkpoint.Open(o.Output)
			require.NoError(t, err)
			into := map[string]int{}
			for i, l := range out.Layers() {
				require.False(t, l.InputScale, l.Name)
				if strings.Contains(l.Name, "v_proj") || strings.Contains(l.Name, "up_proj") {
					require.False(t, l.RowScale, l.Name)
				}
				if f := r.Layers[i].Folded; f != "" {
					into[strings.Fields(f)[3]]++
				}
			}
			require.NoError(t, out.Close())
			require.GreaterOrEqual(t, len(into), 2, "%v", into)
		}
	}
}

// TestFoldSameBytes: neither workers nor interruptions change a byte.
func TestFoldSameBytes(t *testing.T) {
	source := unbalanced(t, true)
	for _, inputs := range []Inputs{InputsFull, InputsQuantized} {
		set := func(workers int) Options {
			o := quick(t)
			o.Model, o.Format, o.Arms, o.Workers, o.Inputs = source, format(t, "gptq_v2"), ocArms, workers, inputs
			return o
		}
		whole := set(1)
		want, err := Quantize(t.Context(), whole)
		require.NoError(t, err)
		require.True(t, slices.ContainsFunc(want.Layers, func(l LayerReport) bool { return l.Folded != "" }))

		o := set(3)
		o.Resume = true
		for _, stop := range []int{1, 7, 10} {
			ctx, cancel := context.WithCancel(t.Context())
			o.Events = func(e Event) {
				if e.Kind == EventLayer && e.Done == stop {
					cancel()
				}
			}
			_, err := Quantize(ctx, o)
			require.ErrorIs(t, err, context.Canceled)
			cancel()
		}
		o.Events = nil
		got, err := Quantize(t.Context(), o)
		require.NoError(t, err)
		requireSameFolder(t, whole.Output, o.Output)
		for i, l := range got.Layers {
			require.Equal(t, want.Layers[i].Folded, l.Folded)
		}
	}
}

// armsOf are the arms of a layer in words.
func armsOf(l *fitting.Layer) string {
	if l.Dense {
		return "dense"
	}
	return fmt.Sprint(l.Arms)
}

// TestFoldPlan: what is folded, and which arms are left, by layer.
func TestFoldPlan(t *testing.T) {
	all := []string{"q", "k", "v", "o", "gate", "up", "down"}
	same := func(arms string) map[string]string {
		m := map[string]string{}
		for _, l := range all {
			m[l] = arms
		}
		return m
	}
	with := func(m map[string]string, pairs ...string) map[string]string {
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	type options struct {
		format, arms, skip string
		fold               Fold
		fit                Fit
		group              int
	}
	for _, tt := range []struct {
		name  string
		o     options
		folds []bool
		want  map[string]string
		err   string
	}{
		{"lowbit stores all", options{format: "lowbit", arms: "all"}, nil, same("[oc oc+in ic ic+row]"), ""},
		{"unless told to fold", options{format: "lowbit", arms: "all", fold: FoldOn}, []bool{true, true, true, true},
			with(same("[oc ic ic+row]"), "v", "[oc ic]", "up", "[oc ic]"), ""},
		{"gptq", options{format: "gptq_v2", arms: "oc,oc+in"}, []bool{true, true, true, true}, same("[oc]"), ""},
		{"input scales alone", options{format: "gptq_v2", arms: "oc+in"}, []bool{true, true, true, true}, same("[oc]"), ""},
		{"folded, no arm has scales", options{format: "gptq_v2", arms: "oc", fold: FoldOn}, []bool{true, true, true, true}, same("[oc]"), ""},
		{"nothing to fold", options{format: "gptq_v2", arms: "oc"}, nil, same("[oc]"), ""},
		{"off", options{format: "gptq_v2", arms: "oc,oc+in", fold: FoldOff}, nil, nil, "has no input scales"},
		{"no axis ic", options{format: "gptq_v2", arms: "all"}, nil, nil, "axis ic does not fit"},
		{"fit", options{format: "gptq_v2", arms: "all", fit: FitOn}, []bool{true, true, true, true}, same("[oc]"), ""},
		{"fit to groups", options{format: "gptq_v2", arms: "all", fit: FitOn, group: 96}, []bool{true, true, true, true}, same("[oc]"), ""},
		{"row scales of v and up only", options{format: "lowbit", arms: "ic,ic+row", fold: FoldOn}, []bool{false, true, false, true},
			with(same("[ic ic+row]"), "v", "[ic]", "up", "[ic]"), ""},
		{"dense v", options{format: "gptq_v2", arms: "oc,oc+in", fit: FitOn, skip: "v_proj"}, []bool{false, false, true, true},
			with(same("[oc]"), "v", "dense"), ""},
		{"dense gate", options{format: "lowbit", arms: "oc,oc+in", fold: FoldOn, skip: "gate_proj"}, []bool{true, true, false, true},
			with(same("[oc]"), "gate", "dense", "up", "[oc oc+in]"), ""},
		{"dense down", options{format: "lowbit", arms: "oc,oc+in", fold: FoldOn, skip: "down_proj"}, []bool{true, true, true, false},
			with(same("[oc]"), "down", "dense"), ""},
		{"dense v, no fit", options{format: "gptq_v2", arms: "oc,oc+in", skip: "v_proj"}, nil, nil, "has no input scales"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := quick(t)
			var err error
			o.Format, o.Fold, o.Fit = format(t, tt.o.format), tt.o.fold, tt.o.fit
			o.Arms, err = adadim.ParseArms(tt.o.arms)
			require.NoError(t, err)
			if tt.o.skip != "" {
				o.Skip = []*regexp.Regexp{regexp.MustCompile(tt.o.skip)}
			}
			if tt.o.group != 0 {
				o.GroupSize = tt.o.group
			}
			j, err := newJob(o)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			defer j.close()
			if tt.folds == nil {
				tt.folds = make([]bool, 4)
			}
			for b, folds := range j.plan.Folds {
				require.Equal(t, tt.folds, folds)
				for i, l := range j.model.Blocks[b].Linears {
					require.Equal(t, tt.want[all[i]], armsOf(j.plan.Layer(l.Name)), l.Name)
				}
			}
		})
	}
}

// TestFoldOutliers: on a model with outlying channels folding takes most of
// what per-OC groups lose to them; on one without it leaves the result alone.
func TestFoldOutliers(t *testing.T) {
	text := Text{Files: []string{golden.Shared(t, "text/tinystories/calibration.txt")}, PerDocument: true, BOS: new(true)}
	heldout := Text{Files: []string{golden.Shared(t, "text/tinystories/heldout.txt")}, PerDocument: true, BOS: new(true)}
	perplexity := func(model string, fold Fold) float64 {
		o := quick(t)
		o.Model, o.Arms, o.Fold = golden.Shared(t, "models/"+model), ocArms[:1], fold
		o.Calibration = Calibration{Text: text, Samples: 24, SeqLen: 256}
		o.Preset, o.Curvature = Best, CurvatureOff
		_, err := Quantize(t.Context(), o)
		require.NoError(t, err)
		e, err := Evaluate(t.Context(), EvalOptions{Model: o.Output, Text: heldout, Window: 512})
		require.NoError(t, err)
		return e.Perplexity
	}
	const unquantized = 6.11
	plain, folded := perplexity("tinystories-260k-outliers", FoldOff), perplexity("tinystories-260k-outliers", FoldOn)
	require.Less(t, folded-unquantized, 0.45*(plain-unquantized), "%g instead of %g", folded, plain)
	plain, folded = perplexity("tinystories-260k", FoldOff), perplexity("tinystories-260k", FoldDefault)
	require.InDelta(t, plain, folded, 0.02*plain)
}
