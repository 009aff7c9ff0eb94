package lowbit

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// kinds are ways to quantize that take different paths through the code.
var kinds = map[string]func(o *Options){
	"rtn without text": func(o *Options) {
		o.Method, o.Arms = quant.RTN{}, []adadim.Arm{adadim.ArmOC()}
		o.Calibration = Calibration{}
	},
	"paper": func(o *Options) {},
	"block objective": func(o *Options) {
		o.Objective = new(adadim.ObjectiveBlock)
		o.Calibration.SeqLen = 32
	},
	"best": func(o *Options) {
		o.Preset, o.Curvature = Best, CurvatureOff
		o.Skip = []*regexp.Regexp{regexp.MustCompile(`layers\.[23]\.|gate_proj`)} // it is thorough, and slow
	},
	"gptq format": func(o *Options) {
		o.Format, o.Arms = autogptq.Format{Version: 2}, []adadim.Arm{adadim.ArmOC()}
	},
	"quantized inputs, bfloat16": func(o *Options) {
		o.Inputs, o.BF16 = InputsQuantized, true
	},
	"curvature": func(o *Options) {
		o.Preset = Best
		o.GPTQ.Refine = &gptq.Refine{Rounds: 1, Sweeps: 1}
	},
}

// TestSameBytesForAnyWorkers: the folder does not depend on how many
// goroutines made it.
func TestSameBytesForAnyWorkers(t *testing.T) {
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		t.Run(kind, func(t *testing.T) {
			var first string
			for _, workers := range []int{1, 8} {
				o := quick(t)
				kinds[kind](&o)
				o.Workers = workers
				_, err := Quantize(t.Context(), o)
				require.NoError(t, err)
				if first == "" {
					first = o.Output
				} else {
					requireSameFolder(t, first, o.Output)
				}
			}
		})
	}
}

// TestResume: however often a run is interrupted, the result has the bytes of
// one that was not.
func TestResume(t *testing.T) {
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		t.Run(kind, func(t *testing.T) {
			whole := quick(t)
			kinds[kind](&whole)
			want, err := Quantize(t.Context(), whole)
			require.NoError(t, err)

			o := quick(t)
			kinds[kind](&o)
			o.Resume = true // there may be nothing to go on with
			for _, stop := range []int{0, 5, 9} {
				ctx, cancel := context.WithCancel(t.Context())
				o.Events = func(e Event) {
					if e.Kind == EventPlan && stop == 0 || e.Kind == EventLayer && e.Done == stop {
						cancel()
					}
				}
				_, err := Quantize(ctx, o)
				require.ErrorIs(t, err, context.Canceled)
				require.NoFileExists(t, o.Output)
				cancel()
			}
			o.Events = nil
			got, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			requireSameFolder(t, whole.Output, o.Output)
			require.NoFileExists(t, o.Output+checkpoint.PartialSuffix)
			require.Len(t, got.Layers, len(want.Layers))
			for i, l := range got.Layers {
				w := want.Layers[i]
				require.Equal(t, w.Name, l.Name)
				require.Equal(t, w.Arm, l.Arm)
				require.Equal(t, w.Loss, l.Loss)
				require.Equal(t, w.Margin, l.Margin)
			}
		})
	}
}

// TestResumeRefuses what would mix two runs.
func TestResumeRefuses(t *testing.T) {
	o := quick(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Events = func(e Event) {
		if e.Kind == EventLayer && e.Done == 3 {
			cancel()
		}
	}
	_, err := Quantize(ctx, o)
	require.ErrorIs(t, err, context.Canceled)
	require.DirExists(t, o.Output+checkpoint.PartialSuffix)

	_, err = Quantize(t.Context(), o)
	require.ErrorIs(t, err, checkpoint.ErrExists)
	o.Resume, o.Events = true, nil
	for name, change := range map[string]func(o *Options){
		"bits":      func(o *Options) { o.Bits = 4 },
		"damping":   func(o *Options) { o.Method = gptq.Quantizer{Damping: 0.02} },
		"text":      func(o *Options) { o.Calibration.Files = []string{embeddedHeldout} },
		"samples":   func(o *Options) { o.Calibration.Samples = 5 },
		"objective": func(o *Options) { o.Objective = new(adadim.ObjectiveRelative) },
		"arms":      func(o *Options) { o.Arms = adadim.AllArms() },
		"skip":      func(o *Options) { o.Skip = []*regexp.Regexp{regexp.MustCompile("q_proj")} },
		"inputs":    func(o *Options) { o.Inputs = InputsQuantized },
	} {
		other := o
		change(&other)
		_, err := Quantize(t.Context(), other)
		require.ErrorIs(t, err, checkpoint.ErrResume, name)
	}
	_, err = Quantize(t.Context(), o)
	require.NoError(t, err)
}

// TestReport: the report agrees with the folder and with the events.
func TestReport(t *testing.T) {
	o := quick(t)
	o.Skip = []*regexp.Regexp{regexp.MustCompile(`layers\.0\.`), regexp.MustCompile(`down_proj$`)}
	var layers []string
	var concurrent atomic.Int32
	o.Events = func(e Event) {
		require.Equal(t, int32(1), concurrent.Add(1), "events overlap")
		defer concurrent.Add(-1)
		if e.Kind == EventLayer {
			layers = append(layers, e.Layer.Name)
			require.Equal(t, len(layers), e.Done)
			require.Equal(t, 28, e.Total)
		}
	}
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, r.Layers, 28)
	require.Len(t, layers, 28)
	require.Equal(t, 4*96, r.Tokens)

	info, err := Inspect(o.Output)
	require.NoError(t, err)
	require.NotEmpty(t, info.Quantized)
	var size int
	for name, data := range folder(t, o.Output) {
		if filepath.Ext(name) == ".safetensors" {
			size += len(data)
		}
	}
	require.EqualValues(t, size, r.BytesAfter)
	require.EqualValues(t, len(folder(t, embedded)["model.safetensors"]), r.BytesBefore)
	quantized := map[string]QuantizedLayer{}
	for _, q := range info.Quantized {
		quantized[q.Name] = q
	}
	dense := 0
	for i, l := range r.Layers {
		require.Equal(t, layers[i], l.Name)
		q, ok := quantized[l.Name]
		require.Equal(t, !l.Dense, ok, l.Name)
		if l.Dense {
			dense++
			continue
		}
		require.Equal(t, l.Scheme, q.Scheme)
		require.Equal(t, l.Arm, q.Scheme.Axis.String())
		require.InDelta(t, l.Bits, 8*float64(q.Bytes)/float64(l.Out*l.In), 0.05)
		require.Len(t, l.Decision.Candidates, 2)
		chosen, other := l.Decision.Candidates[l.Decision.Chosen], l.Decision.Candidates[1-l.Decision.Chosen]
		require.LessOrEqual(t, chosen.Objective, other.Objective)
		require.Equal(t, l.Arm == "ic", *l.Margin < 0, l.Name)
	}
	require.Equal(t, 7+3, dense)

	// What is dense is what it was.
	src, err := checkpoint.Open(o.Model)
	require.NoError(t, err)
	defer src.Close()
	out, err := checkpoint.Open(o.Output)
	require.NoError(t, err)
	defer out.Close()
	for _, name := range []string{"model.layers.0.mlp.up_proj.weight", "model.layers.3.mlp.down_proj.weight", "model.embed_tokens.weight"} {
		want, err := src.Matrix(name)
		require.NoError(t, err)
		got, err := out.Matrix(name)
		require.NoError(t, err)
		require.Equal(t, want.Data, got.Data, name)
	}
}

// TestLossIsThatOfTheFolder: the loss reported for the first layer is the one
// of the weights in the folder.
func TestLossIsThatOfTheFolder(t *testing.T) {
	o := quick(t)
	var h *tensor.Matrix
	o.Method = spy{func(w *tensor.Matrix, cal *quant.Calibration) {
		if h == nil {
			h = cal.H.Clone()
		}
	}}
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	src, err := checkpoint.Open(o.Model)
	require.NoError(t, err)
	defer src.Close()
	out, err := checkpoint.Open(o.Output)
	require.NoError(t, err)
	defer out.Close()
	const name = "model.layers.0.self_attn.q_proj"
	require.Equal(t, name, r.Layers[0].Name)
	w, err := src.Matrix(name + ".weight")
	require.NoError(t, err)
	q, err := out.Matrix(name + ".weight")
	require.NoError(t, err)
	want := quant.Loss(w, q, h, 0) / quant.Sum(quant.RowLosses(w, nil, h, 0))
	require.InEpsilon(t, want, *r.Layers[0].Loss, 1e-4)
}

// spy is a method that lets a test see what it is given.
type spy struct {
	see func(w *tensor.Matrix, cal *quant.Calibration)
}

func (s spy) Quantize(ctx context.Context, w *tensor.Matrix, sch quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	s.see(w, cal)
	return gptq.Quantizer{}.Quantize(ctx, w, sch, cal)
}

// failing is a method that fails at the n-th layer.
type failing struct{ left *int }

func (f failing) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	if *f.left--; *f.left < 0 {
		return nil, errors.New("no more")
	}
	return quant.RTN{}.Quantize(ctx, w, s, cal)
}

func TestMethodFails(t *testing.T) {
	o := quick(t)
	left := 9
	o.Method, o.Arms = failing{&left}, []adadim.Arm{adadim.ArmIC()}
	_, err := Quantize(t.Context(), o)
	require.EqualError(t, err, "model.layers.1.self_attn.v_proj: no more")
	require.NoFileExists(t, o.Output)
}

// TestQuantizedInputsSeeQuantizedLayers: the two kinds of input differ from
// the first layer on that reads what a quantized one made, and not before.
func TestQuantizedInputsSeeQuantizedLayers(t *testing.T) {
	seen := map[Inputs][]*tensor.Matrix{}
	for _, in := range []Inputs{InputsFull, InputsQuantized} {
		o := quick(t)
		o.Inputs, o.Arms = in, []adadim.Arm{adadim.ArmOC()}
		o.Bits = 2
		o.Method = spy{func(_ *tensor.Matrix, cal *quant.Calibration) { seen[in] = append(seen[in], cal.H.Clone()) }}
		_, err := Quantize(t.Context(), o)
		require.NoError(t, err)
		require.Len(t, seen[in], 28)
	}
	for i, full := range seen[InputsFull] {
		same := slices.Equal(full.Data, seen[InputsQuantized][i].Data)
		require.Equal(t, i < 3, same, "layer %d", i) // q, k and v of the first block
	}
}

// unpaired is a spy that does without what compares two streams.
type unpaired struct{ spy }

func (unpaired) NeedsPairs() bool { return false }

// TestPairs: a method is shown both streams unless it says that it needs no more
// than one, and is given the same corrected weights either way.
func TestPairs(t *testing.T) {
	type given struct {
		w     []*tensor.Matrix
		pairs int
	}
	run := func(method func(spy) quant.Quantizer) (g given, weights string) {
		o := quick(t)
		o.Correction, o.Arms = new(1.), []adadim.Arm{adadim.ArmOC()}
		o.Method = method(spy{func(w *tensor.Matrix, cal *quant.Calibration) {
			g.w = append(g.w, w.Clone())
			if cal.Cross != nil && cal.Halves[0] != nil {
				g.pairs++
			}
		}})
		_, err := Quantize(t.Context(), o)
		require.NoError(t, err)
		return g, folder(t, o.Output)["model.safetensors"]
	}
	both, want := run(func(s spy) quant.Quantizer { return s })
	one, got := run(func(s spy) quant.Quantizer { return unpaired{s} })
	require.Len(t, both.w, 28)
	require.Equal(t, 28, both.pairs)
	require.Zero(t, one.pairs)
	require.Equal(t, both.w, one.w)
	require.NotEmpty(t, want)
	require.True(t, want == got)

	src, err := checkpoint.Open(embedded)
	require.NoError(t, err)
	defer src.Close()
	w, err := src.Matrix("model.layers.3.mlp.down_proj.weight")
	require.NoError(t, err)
	require.NotEqual(t, w, both.w[27], "it was corrected")
}

// TestNothingToQuantize: a model whose layers are all skipped is copied.
func TestNothingToQuantize(t *testing.T) {
	o := quick(t)
	o.Skip = []*regexp.Regexp{regexp.MustCompile(".")}
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	require.InDelta(t, r.BytesBefore, r.BytesAfter, 8192) // headers
	require.Zero(t, r.BitsPerWeight)
	require.Equal(t, folder(t, embedded)["model.safetensors"][8:], folder(t, o.Output)["model.safetensors"][8:])
}

// TestOptionsAgainstModel: mistakes that show only when the model is open.
func TestOptionsAgainstModel(t *testing.T) {
	for want, change := range map[string]func(o *Options){
		"needs calibration text": func(o *Options) { o.Calibration.Files = nil },
		"context is 256":         func(o *Options) { o.Calibration.SeqLen = 257 },
		"no such file":           func(o *Options) { o.Model = "absent" },
		"use axis oc":            func(o *Options) { o.Format, o.Axis = autogptq.Format{}, AxisAda },
		`matches "layer.7"`: func(o *Options) {
			o.Skip = []*regexp.Regexp{regexp.MustCompile("lm_head"), regexp.MustCompile("layer.7")}
		},
		"target vllm does not load it: takes asymmetric weights with 4 or 8 bits, not 3": func(o *Options) {
			o.Target, o.Symmetric = layout.EngineVLLM, new(false)
		},
	} {
		o := quick(t)
		change(&o)
		_, err := Quantize(t.Context(), o)
		require.ErrorContains(t, err, want)
		require.NoFileExists(t, o.Output)
		require.NoFileExists(t, o.Output+checkpoint.PartialSuffix)
	}
}

// TestFit: what a format cannot hold is changed, and said.
func TestFit(t *testing.T) {
	o := quick(t)
	o.Format, o.Fit = autogptq.Format{Version: 2}, FitOn
	warned := map[string]string{}
	o.Events = func(e Event) {
		if e.Kind == EventWarning {
			warned[e.Name] += e.Message
		}
	}
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	for _, l := range r.Layers {
		require.Equal(t, "oc", l.Arm)
		require.Regexp(t, "^without ic: ", warned[l.Name])
	}
}

// TestMethodIsRecorded: config.json says how the codes were found.
func TestMethodIsRecorded(t *testing.T) {
	o := quick(t)
	_, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(o.Output, "config.json"))
	require.NoError(t, err)
	var c struct {
		Quantization json.RawMessage `json:"quantization_config"`
	}
	require.NoError(t, json.Unmarshal(data, &c))
	require.Contains(t, string(c.Quantization), "gptq.Quantizer")
	require.NotContains(t, string(data), filepath.Dir(o.Output), "no path of this machine")
}

// TestSharded quantizes a model of two shards with an index.
func TestSharded(t *testing.T) {
	o := quick(t)
	o.Model = golden.Shared(t, "models/tinystories-260k-bf16-sharded")
	o.Calibration.Files = []string{golden.Shared(t, "text/tinystories/calibration.txt")}
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, r.Layers, 5*7)
	text := Text{Files: []string{golden.Shared(t, "text/tinystories/heldout.txt")}, PerDocument: true, BOS: new(true)}
	before, err := Evaluate(t.Context(), EvalOptions{Model: o.Model, Text: text, Window: 512})
	require.NoError(t, err)
	require.InEpsilon(t, 6.1165, before.Perplexity, 1e-2) // that of the float32 model
	_, err = os.Stat(filepath.Join(o.Output, "model.safetensors.index.json"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
