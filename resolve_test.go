package lowbit

import (
	"context"
	"encoding/json"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// TestValidate: no value that makes no sense gets as far as a file.
func TestValidate(t *testing.T) {
	good := Options{Model: "m", Output: "o"}
	require.NoError(t, good.Validate())
	for want, change := range map[string]func(o *Options){
		"no model given":                        func(o *Options) { o.Model = "" },
		"no output given":                       func(o *Options) { o.Output = "" },
		"bits 1":                                func(o *Options) { o.Bits = 1 },
		"bits 9":                                func(o *Options) { o.Bits = 9 },
		"group size -2":                         func(o *Options) { o.GroupSize = -2 },
		"-1 samples":                            func(o *Options) { o.Calibration.Samples = -1 },
		"of -5 tokens":                          func(o *Options) { o.Calibration.SeqLen = -5 },
		"correction -1":                         func(o *Options) { o.Correction = new(-1.0) },
		"correction NaN":                        func(o *Options) { o.Correction = new(math.NaN()) },
		"correction needs quantized inputs":     func(o *Options) { o.Correction, o.Inputs = new(0.5), InputsFull },
		"a nil pattern":                         func(o *Options) { o.Skip = []*regexp.Regexp{nil} },
		"-3 workers":                            func(o *Options) { o.Workers = -3 },
		"files of at most -1 bytes":             func(o *Options) { o.MaxShardBytes = -1 },
		"gguf is one file and cannot be split":  func(o *Options) { o.MaxShardBytes, o.Format = 1e9, ggufmodel.Format{} },
		"unknown preset 9":                      func(o *Options) { o.Preset = 9 },
		"unknown axis 9":                        func(o *Options) { o.Axis = 9 },
		"unknown fold 9":                        func(o *Options) { o.Fold = 9 },
		"unknown inputs 9":                      func(o *Options) { o.Inputs = 9 },
		"unknown fit 9":                         func(o *Options) { o.Fit = 9 },
		"unknown objective 9":                   func(o *Options) { o.Objective = new(adadim.Objective(9)) },
		"unknown search 9":                      func(o *Options) { o.Search = new(adadim.Search(9)) },
		"unknown range rule 9":                  func(o *Options) { o.Range = 9 },
		"unknown scale type 9":                  func(o *Options) { o.ScaleType = new(quant.ScaleType(9)) },
		"unknown engine \"toaster\"":            func(o *Options) { o.Target = "toaster" },
		"input scales need axis oc":             func(o *Options) { o.Arms = []adadim.Arm{{Axis: quant.IC, InputScale: true}} },
		"arms ic: none of axis oc":              func(o *Options) { o.Arms, o.Axis = []adadim.Arm{adadim.ArmIC()}, AxisOC },
		"damping 2":                             func(o *Options) { o.GPTQ.Damping = 2 },
		"damping -1":                            func(o *Options) { o.Method = gptq.Quantizer{Damping: -1} },
		"set them in the method":                func(o *Options) { o.GPTQ.Damping, o.Method = 0.1, quant.RTN{} },
		"clip by inputs without clip":           func(o *Options) { o.Clip, o.ClipInput = new(false), new(true) },
		"a beginning-of-sequence token is for":  func(o *Options) { o.Calibration.BOS = new(true) },
		"a text file without a name":            func(o *Options) { o.Calibration.Files = []string{""} },
		"smallest zero-point -1":                func(o *Options) { o.MinZero = -1 },
		"parameters of method lowbit.unencoded": func(o *Options) { o.Method = unencoded{} },
	} {
		o := good
		change(&o)
		err := o.Validate()
		require.ErrorIs(t, err, ErrOptions, want)
		require.ErrorContains(t, err, want)
		_, err = Resolve(o)
		require.ErrorIs(t, err, ErrOptions)
		_, err = Quantize(t.Context(), o)
		require.ErrorIs(t, err, ErrOptions)
	}
	for want, o := range map[string]ConvertOptions{
		"no model given":   {Output: "o", Format: native.Format{}},
		"no output given":  {Model: "m", Format: native.Format{}},
		"no format given":  {Model: "m", Output: "o"},
		"-1 workers":       {Model: "m", Output: "o", Format: native.Format{}, Workers: -1},
		"at most -5 bytes": {Model: "m", Output: "o", Format: native.Format{}, MaxShardBytes: -5},
	} {
		require.ErrorIs(t, o.Validate(), ErrOptions)
		require.ErrorContains(t, o.Validate(), want)
		require.ErrorContains(t, Convert(t.Context(), o), want)
	}
}

// unencoded is a method with a parameter that cannot be put into JSON.
type unencoded struct{ F func() }

func (unencoded) Quantize(context.Context, *tensor.Matrix, quant.Scheme, *quant.Calibration) (*quant.Weight, error) {
	return nil, nil
}

// values are the settings of a plan by name, as text.
func values(t *testing.T, o Options) map[string]string {
	t.Helper()
	if o.Model == "" {
		o.Model = embedded
	}
	o.Output = "out"
	p, err := Resolve(o)
	require.NoError(t, err)
	v := map[string]string{}
	for _, s := range p.Settings {
		require.NotEmpty(t, s.From, s.Name)
		require.NotContains(t, v, s.Name)
		v[s.Name] = s.Text()
	}
	return v
}

// TestResolve: presets, targets and fields combine by one rule, in any order.
func TestResolve(t *testing.T) {
	plain := map[string]string{
		"preset": "plain", "format": "lowbit", "bits": "4", "group_size": "128", "symmetric": "false", "range": "zero",
		"scale_type": "f16", "min_zero": "0", "clip": "false", "clip_input": "false", "method": "gptq.Quantizer",
		"axis": "ada", "arms": "oc,ic", "objective": "linear", "search": "rtn", "count_bits": "false", "fold": "auto",
		"inputs": "quantized", "correction": "0", "curvature": "off", "fit": "arms", "bf16": "false",
		"samples": "128", "seq_len": "256", "per_document": "false",
	}
	with := func(m map[string]string, pairs ...string) map[string]string {
		n := map[string]string{}
		for k, v := range m {
			n[k] = v
		}
		for i := 0; i < len(pairs); i += 2 {
			n[pairs[i]] = pairs[i+1]
		}
		return n
	}
	fast := with(plain, "preset", "fast", "inputs", "full", "count_bits", "true", "clip", "true", "clip_input", "true", "arms", "oc,oc+in,ic,ic+row", "objective", "relative")
	best := with(fast, "preset", "best", "search", "method", "inputs", "quantized", "correction", "1", "curvature", "on", "objective", "curvature")
	refined := `"rounds":3`
	for name, c := range map[string]struct {
		o          Options
		want       map[string]string
		parameters string
	}{
		"nothing given":        {Options{}, best, refined},
		"best":                 {Options{Preset: Best}, best, refined},
		"fast":                 {Options{Preset: Fast}, fast, `"rounds":0`},
		"paper":                {Options{Preset: Paper}, with(plain, "preset", "paper", "inputs", "full"), ""},
		"plain":                {Options{Preset: Plain}, plain, ""},
		"a method":             {Options{Method: quant.RTN{}}, with(plain, "method", "quant.RTN", "inputs", "full"), ""},
		"a method in a preset": {Options{Method: gptq.Quantizer{Damping: 0.05}, Preset: Best}, with(best, "curvature", "off", "objective", "relative"), `"rounds":0`},
		"axis in a preset":     {Options{Axis: AxisOC}, with(best, "axis", "oc", "arms", "oc,oc+in", "fold", "on"), refined},
		"axis ic":              {Options{Axis: AxisIC, Fold: FoldOff}, with(best, "axis", "ic", "arms", "ic,ic+row", "fold", "off"), refined},
		"axis oc, not folded":  {Options{Axis: AxisOC, Fold: FoldAuto}, with(best, "axis", "oc", "arms", "oc,oc+in"), refined},
		"axis oc, plain":       {Options{Preset: Plain, Axis: AxisOC}, with(plain, "axis", "oc", "arms", "oc"), ""},
		"axis ada":             {Options{Axis: AxisAda}, with(best, "fit", "off"), refined},
		"arms":                 {Options{Arms: []adadim.Arm{adadim.ArmIC(), adadim.ArmOC()}}, with(best, "arms", "ic,oc", "fit", "off", "fold", "on"), refined},
		"arms of an axis":      {Options{Arms: adadim.AllArms(), Axis: AxisOC}, with(best, "axis", "oc", "arms", "oc,oc+in", "fit", "off", "fold", "on"), refined},
		"one setting":          {Options{Search: new(adadim.SearchRTN)}, with(best, "search", "rtn"), refined},
		"no clip":              {Options{Clip: new(false)}, with(best, "clip", "false", "clip_input", "false"), refined},
		"clip by inputs":       {Options{Preset: Plain, ClipInput: new(true)}, with(plain, "clip", "true", "clip_input", "true"), ""},
		"full inputs":          {Options{Inputs: InputsFull}, with(best, "inputs", "full", "correction", "0"), refined},
		"a correction":         {Options{Preset: Fast, Correction: new(0.25)}, with(fast, "inputs", "quantized", "correction", "0.25"), ""},
		"no correction":        {Options{Correction: new(0.0)}, with(best, "correction", "0"), refined},
		"damping":              {Options{GPTQ: GPTQ{Damping: 0.05}}, best, `"damping":0.05`},
		"order":                {Options{GPTQ: GPTQ{Order: new(gptq.OrderNatural)}}, best, `"natural"`},
		"refinement":           {Options{GPTQ: GPTQ{Refine: &gptq.Refine{}}}, best, `"rounds":0`},
		"gptq_v1":              {Options{Format: autogptq.Format{Version: 1}}, with(best, "format", "gptq_v1", "min_zero", "1"), refined},
		"gptq_v1, symmetric":   {Options{Format: autogptq.Format{Version: 1}, Symmetric: new(true)}, with(best, "format", "gptq_v1", "symmetric", "true"), refined},
		"target": {Options{Target: "vllm"}, with(best, "target", "vllm", "format", "compressed-tensors", "symmetric", "true", "scale_type", "bf16",
			"axis", "oc", "arms", "oc,oc+in", "fold", "on"), refined},
		"target with settings": {Options{Target: "llama.cpp", Bits: 8, GroupSize: 64}, with(best, "target", "llama.cpp", "format", "gguf",
			"bits", "8", "group_size", "64", "symmetric", "true", "axis", "oc", "arms", "oc,oc+in", "fold", "on"), refined},
		"target and method": {Options{Target: "llama.cpp", Method: quant.RTN{}}, with(plain, "inputs", "full", "target", "llama.cpp", "format", "gguf", "method", "quant.RTN",
			"group_size", "32", "symmetric", "true", "axis", "oc", "arms", "oc"), ""},
		"skip": {Options{Skip: []*regexp.Regexp{regexp.MustCompile("q_proj"), regexp.MustCompile("lm_head")}}, with(best, "skip", "q_proj lm_head"), refined},
	} {
		t.Run(name, func(t *testing.T) {
			got := values(t, c.o)
			require.Contains(t, got["parameters"], c.parameters)
			delete(got, "parameters")
			require.Equal(t, c.want, got)
		})
	}
}

// TestResolveLayers: the plan says what becomes of every layer, and why.
func TestResolveLayers(t *testing.T) {
	o := Options{
		Model: embedded, Output: "out", Format: autogptq.Format{}, GroupSize: 96, Symmetric: new(true), Fit: FitOn,
		Skip: []*regexp.Regexp{regexp.MustCompile(`layers\.0\..*v_proj`)},
	}
	p, err := Resolve(o)
	require.NoError(t, err)
	require.True(t, p.NeedsText)
	require.Len(t, p.Layers, 28)
	q, v := p.Layers[0], p.Layers[2]
	require.Equal(t, "model.layers.0.self_attn.q_proj", q.Name)
	require.Equal(t, []adadim.Arm{adadim.ArmOC()}, q.Arms)
	require.Equal(t, quant.Scheme{Bits: 4, GroupSize: 64, Symmetric: true, Clip: true, ClipInput: true}, q.Scheme)
	require.False(t, q.Folded) // v is dense, and has no scale to take back
	require.Len(t, q.Notes, 3)
	require.Regexp(t, `^without oc\+in: .* no input scales`, q.Notes[0])
	require.Regexp(t, `^without ic,ic\+row: .* axis ic does not fit`, q.Notes[1])
	require.Regexp(t, "^group size 64: .*no engine", q.Notes[2])
	require.True(t, v.Dense)
	require.Equal(t, []string{`left dense: skip "layers\\.0\\..*v_proj"`}, v.Notes)
	require.True(t, p.Layers[7].Folded)
	require.NotEmpty(t, p.Engines)

	text, err := json.Marshal(p)
	require.NoError(t, err)
	require.Contains(t, string(text), `{"name":"arms","value":["oc","oc+in","ic","ic+row"],"from":"preset best"}`)
	require.Contains(t, string(text), `"scheme":{"bits":4,"group_size":64,"axis":"oc",`)
	require.Regexp(t, `"name":"model.layers.0.self_attn.v_proj","out":\d+,"in":\d+,"dense":true,"notes"`, string(text))
	require.NotRegexp(t, `"[A-Z]\w*":`, string(text), "snake case throughout")

	// A format that holds what is asked for has nothing to say.
	p, err = Resolve(Options{Model: embedded, Output: "out", Method: quant.RTN{}, Axis: AxisOC})
	require.NoError(t, err)
	require.False(t, p.NeedsText)
	for _, l := range p.Layers {
		require.Empty(t, l.Notes)
	}
	// Options are not changed, and nothing is written.
	before := Options{Model: embedded, Output: filepath.Join(t.TempDir(), "out")}
	o = before
	_, err = Resolve(o)
	require.NoError(t, err)
	require.Equal(t, before, o)
	require.NoFileExists(t, o.Output+checkpoint.PartialSuffix)
}

// TestResolveTarget: a target finds a group size that the layers hold, unless
// one is asked for.
func TestResolveTarget(t *testing.T) {
	o := Options{Model: golden.Shared(t, "cases/hidden-not-multiple-of-128/model"), Output: "out", Target: layout.EngineVLLM, Method: quant.RTN{}}
	p, err := Resolve(o)
	require.NoError(t, err)
	require.Contains(t, p.Settings, Setting{Name: "group_size", Value: 64, From: "the largest that target vllm takes for every layer"})
	for _, l := range p.Layers {
		require.Equal(t, 64, l.Scheme.GroupSize)
	}
	require.True(t, slices.ContainsFunc(p.Engines, func(n layout.Note) bool { return n.Engine == o.Target && n.Accepted }))
	o.GroupSize = 128
	_, err = Resolve(o)
	require.ErrorContains(t, err, "128")
}

// clipped is a method from outside with a parameter. It needs no data, and
// counts how often its draft is asked.
type clipped struct {
	Shrink float32 `json:"shrink"`
	Drafts *int    `json:"-"`
}

func (clipped) NeedsCalibration() bool { return false }

func (c clipped) Draft() quant.Quantizer {
	if c.Drafts != nil {
		*c.Drafts++
	}
	return quant.RTN{}
}

func (c clipped) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	small := w.Clone()
	for i := range small.Rows {
		for j, v := range small.Row(i) {
			small.Set(i, j, v*c.Shrink)
		}
	}
	return quant.RTN{}.Quantize(ctx, small, s, cal)
}

// TestCustomMethod: a method from outside runs without text if it needs
// none, is resumed only with its own parameters, and is not replaced.
func TestCustomMethod(t *testing.T) {
	o := Options{Model: embedded, Output: filepath.Join(t.TempDir(), "out"), Method: clipped{Shrink: 0.5}, Axis: AxisOC, GroupSize: 64}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	kept := 0
	o.Events = func(e Event) {
		kept = max(kept, e.Kept)
		if e.Kind == EventLayer && e.Done == 3 {
			cancel()
		}
	}
	_, err := Quantize(ctx, o)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 3, kept)

	o.Resume = true
	other := o
	other.Method = clipped{Shrink: 0.75}
	_, err = Quantize(t.Context(), other)
	require.ErrorIs(t, err, checkpoint.ErrResume)
	require.ErrorContains(t, err, "parameters")

	var plan Event
	o.Events = func(e Event) {
		if e.Kind == EventPlan {
			plan = e
		}
	}
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, 3, plan.Kept)
	require.False(t, plan.Plan.NeedsText)
	require.Zero(t, r.Tokens)
	for _, l := range r.Layers {
		require.Equal(t, "oc", l.Arm)
		require.Nil(t, l.Loss)
		require.Nil(t, l.Margin)
		require.Nil(t, l.Decision)
	}
	text, err := json.Marshal(r)
	require.NoError(t, err)
	require.NotRegexp(t, `"[A-Z]\w*":`, string(text))
	require.NotContains(t, string(text), `"loss"`)
	src, err := checkpoint.Open(embedded)
	require.NoError(t, err)
	defer src.Close()
	out, err := checkpoint.Open(o.Output)
	require.NoError(t, err)
	defer out.Close()
	w, err := src.Matrix(r.Layers[0].Name + ".weight")
	require.NoError(t, err)
	q, err := out.Weight(r.Layers[0].Name)
	require.NoError(t, err)
	want, err := clipped{Shrink: 0.5}.Quantize(t.Context(), w, q.Scheme, nil)
	require.NoError(t, err)
	require.Equal(t, want.Codes, q.Codes)
}

// TestDraft: what is folded is searched with the method's draft.
func TestDraft(t *testing.T) {
	drafts := 0
	o := quick(t)
	o.Method, o.Axis, o.Fold, o.Search = clipped{1, &drafts}, AxisOC, FoldOn, new(adadim.SearchMethod)
	o.Arms = adadim.AllArms()
	_, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	require.Positive(t, drafts)
}

// TestWorkersOfMethod: the limit on goroutines is the method's too.
func TestWorkersOfMethod(t *testing.T) {
	for workers, want := range map[int]int{0: 5, 2: 2} {
		o := Options{Method: gptq.Quantizer{Workers: 5}, Workers: workers}
		s, err := o.resolve()
		require.NoError(t, err)
		require.Equal(t, gptq.Quantizer{Workers: want}, s.method)
	}
}

// TestShards: a limit on the size of files is kept.
func TestShards(t *testing.T) {
	o := Options{Model: embedded, Output: filepath.Join(t.TempDir(), "out"), Method: quant.RTN{}, Axis: AxisOC, MaxShardBytes: 600_000}
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(o.Output, "*.safetensors"))
	require.NoError(t, err)
	require.Greater(t, len(files), 1)
	require.Greater(t, r.BytesAfter, int64(600_000))
}
