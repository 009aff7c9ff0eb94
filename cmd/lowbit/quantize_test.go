package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/autoawq"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// quick are flags for a run of a second.
func quick(out string, more ...string) []string {
	return append([]string{"quantize", embedded, "-o", out, "--bits", "3", "--group-size", "64",
		"--calib", calibration, "--per-document", "--samples", "4", "--method", "gptq"}, more...)
}

// shortText is a text of a few windows of the embedded model.
func shortText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(heldout)
	require.NoError(t, err)
	name := filepath.Join(t.TempDir(), "short.txt")
	require.NoError(t, os.WriteFile(name, text[:8000], 0o666))
	return name
}

func TestQuantizeTable(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	o := succeed(t, quick(out, "--skip", `\.k_proj$`, "--eval", shortText(t))...)
	require.Contains(t, o.stderr, "settings: preset plain, format lowbit, bits 3, group_size 64, symmetric false, ")
	lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
	require.Len(t, lines, 1+28+1+3)
	require.Equal(t, []string{"layer", "arm", "loss", "margin", "bits", "seconds"}, strings.Fields(lines[0]))
	axes := map[string]int{}
	for _, l := range lines[1:29] {
		f := strings.Fields(l)
		require.Len(t, f, 6)
		require.Equal(t, strings.HasSuffix(f[0], "k_proj"), f[1] == "dense", l)
		axes[f[1]]++
	}
	require.Equal(t, 4, axes["dense"])
	require.Positive(t, axes["oc"])
	require.Positive(t, axes["ic"])
	require.Regexp(t, `5\.25 MB before, 1\.\d\d MB after; 3\.297 bits per quantized weight`, lines[30])
	require.Equal(t, "engines that load it: lowbit", lines[31])
	require.Contains(t, o.stderr, " tokens of calibration text are few for layers of 512 inputs: ")
	require.Regexp(t, `^perplexity \d+\.\d+ before, \d+\.\d+ after; KL divergence 0\.\d+; \d+ tokens in windows of 256$`, lines[32])
}

func TestQuantizeJSON(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	o := succeed(t, quick(out, "--json", "--axis", "ic", "--eval", shortText(t))...)
	var r struct {
		lowbit.Report
		Evaluation lowbit.Evaluation `json:"evaluation"`
	}
	d := json.NewDecoder(strings.NewReader(o.stdout))
	require.NoError(t, d.Decode(&r))
	require.False(t, d.More(), "more than one object")
	require.Equal(t, out, r.Output)
	require.Len(t, r.Layers, 28)
	for _, l := range r.Layers {
		require.Equal(t, "ic", l.Arm)
		require.Positive(t, *l.Loss)
		require.Less(t, *l.Loss, 0.1)
		require.Nil(t, l.Margin)
	}
	require.Contains(t, o.stdout, `"engines":[{"engine":"vllm","accepted":false,`)
	require.NotRegexp(t, `"[A-Z]\w*":`, o.stdout)
	require.Equal(t, 4*256, r.Tokens)
	require.Positive(t, *r.Evaluation.KL)
	require.Greater(t, r.Evaluation.Perplexity, *r.Evaluation.Against)

	// Everything the source had is there.
	for _, name := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"} {
		require.FileExists(t, filepath.Join(out, name))
	}
}

func TestQuantizeWithoutText(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	o := succeed(t, "quantize", embedded, "-o", out, "--method", "rtn", "--axis", "oc")
	require.Contains(t, o.stdout, "4.156 bits per quantized weight")
	// Plain lines, no control characters of a bar.
	require.Contains(t, o.stderr, "28/28  model.layers.")
	require.NotContains(t, o.stderr, "\r")
	require.NotContains(t, o.stderr, "\x1b")
}

// TestFlagsReachTheResult reads the folder back.
func TestFlagsReachTheResult(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	succeed(t, "quantize", embedded, "-o", out, "--method", "rtn", "--axis", "ic", "--bits", "5", "--group-size", "-1",
		"--sym", "--scale-dtype", "f32", "-q")
	o := succeed(t, "inspect", out)
	require.Regexp(t, `q_proj +\[256 256\] +ic +5 bits, whole channels, symmetric, f32 scales`, o.stdout)
}

// TestQuiet: nothing but the outcome, and only what matters of that.
func TestQuiet(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	o := succeed(t, "quantize", embedded, "-o", out, "--method", "rtn", "--axis", "oc", "-q")
	require.Empty(t, o.stderr)
	require.Regexp(t, `^\S+out \(lowbit\): 5\.25 MB before, .*\nengines that load it: lowbit\n$`, o.stdout)
}

// TestFlagsAreOptions: the command means what the library means.
func TestFlagsAreOptions(t *testing.T) {
	all := adadim.AllArms()
	for flags, want := range map[string]lowbit.Options{
		"":                                    {},
		"--preset best":                       {},
		"--preset fast":                       {Preset: lowbit.Fast},
		"--preset plain":                      {Preset: lowbit.Plain},
		"--method gptq":                       {Preset: lowbit.Plain},
		"--method rtn":                        {Method: quant.RTN{}},
		"--method rtn --preset paper":         {Method: quant.RTN{}, Preset: lowbit.Paper},
		"--method gptq --preset fast":         {Preset: lowbit.Fast},
		"--axis oc":                           {Axis: lowbit.AxisOC},
		"--axis ada":                          {Axis: lowbit.AxisAda},
		"--axis ic --arms all":                {Axis: lowbit.AxisIC, Arms: all},
		"--refine 1 --damp 0.05":              {GPTQ: lowbit.GPTQ{Damping: 0.05, Refine: &gptq.Refine{Rounds: 1, Sweeps: gptq.DefaultRefine().Sweeps}}},
		"--refine 0 --act-order=false":        {GPTQ: lowbit.GPTQ{Order: new(gptq.OrderNatural), Refine: &gptq.Refine{}}},
		"--act-order":                         {},
		"--clip=false":                        {Clip: new(false)},
		"--clip-input --preset plain":         {ClipInput: new(true), Preset: lowbit.Plain},
		"--sym --bits 3 --group-size -1":      {Symmetric: new(true), Bits: 3, GroupSize: quant.WholeLine},
		"--sym=false --target vllm":           {Symmetric: new(false), Target: "vllm"},
		"--range paper --scale-dtype f32":     {Range: quant.RangePaper, ScaleType: new(quant.F32)},
		"--objective block --search rtn":      {Objective: new(adadim.ObjectiveBlock), Search: new(adadim.SearchRTN)},
		"--inputs fp":                         {Inputs: lowbit.InputsFull},
		"--inputs full":                       {Inputs: lowbit.InputsFull},
		"--save-imatrix x":                    {SaveImportance: "x"},
		"--correct 0.5":                       {Correction: new(0.5)},
		"--preset paper --correct 0.5":        {Preset: lowbit.Paper, Correction: new(0.5)},
		"--fold":                              {Fold: lowbit.FoldOn},
		"--fold=off --axis oc":                {Fold: lowbit.FoldOff, Axis: lowbit.AxisOC},
		"--fit --format awq":                  {Fit: lowbit.FitOn, Format: autoawq.Format{}},
		"--fit=off":                           {Fit: lowbit.FitOff},
		"--format gptq_v1 --skip v_proj":      {Format: autogptq.Format{Version: 1}, Skip: []*regexp.Regexp{regexp.MustCompile("v_proj")}},
		"--min-zero 1 --bf16":                 {MinZero: 1, BF16: true},
		"--target llama.cpp --gguf-dense f32": {Target: "llama.cpp", Format: ggufmodel.Format{Dense: safetensors.F32}},
		"--format gguf --gguf-type q4_k_m":    {Format: ggufmodel.Format{Type: "Q4_K_M"}},
		"--target ollama --gguf-type Q3_K_S --gguf-pure": {Target: "ollama", Format: ggufmodel.Format{Type: "Q3_K_S", Pure: true}},
		"--format gguf --bits 2":                         {Format: ggufmodel.Format{}, Bits: 2},
	} {
		want.Model, want.Output = embedded, "OUT"
		var expected bytes.Buffer
		p, err := lowbit.Resolve(want)
		require.NoError(t, err, flags)
		require.NoError(t, printJSON(&expected, p))
		args := append([]string{"quantize", embedded, "--print-config", "--json"}, strings.Fields(flags)...)
		var stdout, stderr bytes.Buffer
		a := &app{args: args, stdout: &stdout, stderr: &stderr}
		require.Equal(t, exitOK, a.run(t.Context()), stderr.String())
		require.JSONEq(t, withoutFrom(expected.String()), withoutFrom(stdout.String()), flags)
		require.Empty(t, stderr.String())
	}
}

// withoutFrom leaves out who decided a setting: two ways to say the same
// differ in that.
func withoutFrom(text string) string {
	return regexp.MustCompile(`,"from":"[^"]*"`).ReplaceAllString(text, "")
}

// TestPrintConfig: what would be done, in a table, and nothing is done.
func TestPrintConfig(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	o := succeed(t, "quantize", embedded, "-o", out, "--print-config", "--axis", "oc", "--format", "gptq", "--sym", "--skip", "down_proj")
	require.Empty(t, o.stderr)
	require.Regexp(t, `(?m)^setting +value +from\npreset +best +default\nformat +gptq +given\nbits +4 +default\n`, o.stdout)
	require.Regexp(t, `(?m)^symmetric +true +given$`, o.stdout)
	require.Regexp(t, `(?m)^fold +on +preset best in axis oc$`, o.stdout)
	require.Regexp(t, `(?m)^model\.layers\.0\.self_attn\.q_proj +\[256 256\] +4 bits, groups of 128, symmetric, f16 scales +oc \(a scale of its input is folded\)`, o.stdout)
	require.Regexp(t, `(?m)^model\.layers\.3\.mlp\.down_proj +\[256 512\] +dense +- +left dense: skip "down_proj"$`, o.stdout)
	require.Contains(t, o.stdout, "needs calibration text\n")
	require.Contains(t, o.stdout, "\nvllm ")
	require.NoFileExists(t, out)
	require.NoFileExists(t, out+".partial")
}

// TestText: JSON lines, standard input, and documents with their own BOS.
func TestText(t *testing.T) {
	data, err := os.ReadFile(heldout)
	require.NoError(t, err)
	var lines []byte
	for doc := range strings.SplitSeq(string(data[:8000]), "\n\n") {
		line, err := json.Marshal(map[string]string{"story": doc})
		require.NoError(t, err)
		lines = append(append(lines, line...), '\n')
	}
	name := filepath.Join(t.TempDir(), "stories.jsonl")
	require.NoError(t, os.WriteFile(name, lines, 0o666))
	o := runCommand(t, "eval", embedded, "--text", name, "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, `line 1: the JSON object has no "text"; it has ["story"]`)
	want := succeed(t, "eval", embedded, "--text", name, "--field", "story", "--per-document", "-q").stdout

	plain := filepath.Join(t.TempDir(), "stories.txt")
	require.NoError(t, os.WriteFile(plain, data[:8000], 0o666))
	require.Equal(t, want, succeed(t, "eval", embedded, "--text", plain, "--per-document", "-q").stdout)
	require.NotEqual(t, want, succeed(t, "eval", embedded, "--text", plain, "--per-document", "--bos", "-q").stdout)

	c, stdout, stderr := command(t, "eval", embedded, "--text", "-", "--per-document", "-q")
	c.Stdin = bytes.NewReader(append([]byte("\ufeff"), bytes.ReplaceAll(data[:8000], []byte("\n"), []byte("\r\n"))...))
	require.NoError(t, c.Run(), stderr.String())
	require.Equal(t, want, stdout.String())
}

// TestTarget: the result is what the engine loads.
func TestTarget(t *testing.T) {
	for engine, want := range map[string]string{"vllm": "compressed-tensors", "transformers": "compressed-tensors", "llama.cpp": "gguf"} {
		t.Run(engine, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			o := succeed(t, "quantize", embedded, "-o", out, "--target", engine, "--method", "rtn", "--json", "-q")
			var r struct {
				Format  string
				Engines []layout.Note
			}
			require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
			require.Equal(t, want, r.Format)
			require.True(t, slices.ContainsFunc(r.Engines, func(n layout.Note) bool { return n.Engine == engine && n.Accepted }))
		})
	}
	out := filepath.Join(t.TempDir(), "out")
	o := runCommand(t, "quantize", embedded, "-o", out, "--target", "vllm", "--bits", "3", "--sym=false", "--method", "rtn")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "vllm does not load it: takes asymmetric weights with 4 or 8 bits, not 3")
	require.NoFileExists(t, out)
}

// TestFormatRefused: what a format cannot hold is said before work starts.
func TestFormatRefused(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	o := runCommand(t, quick(out, "--format", "gptq", "--axis", "ada")...)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "use axis oc, or format hqq")
	require.NotContains(t, o.stderr, "not supported by the format")
	require.NoFileExists(t, out)
	require.NoFileExists(t, out+".partial")

	o = runCommand(t, "quantize", embedded, "-o", out, "--format", "compressed-tensors", "--group-size", "48", "--calib", calibration)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "48 does not divide 256")
	require.NotContains(t, o.stderr, "arm ", "the shape is what does not fit")

	o = succeed(t, quick(out, "--format", "gptq", "--axis", "ada", "--fit")...)
	require.Equal(t, 1, strings.Count(o.stderr, "warning: model.layers."), o.stderr)
	require.Contains(t, o.stderr, "the same for 28 layers in all: ")
	require.Contains(t, o.stdout, "engines that load it: lowbit, transformers")
}

// TestTerminalBar draws a bar and keeps warnings on lines of their own.
func TestTerminalBar(t *testing.T) {
	var out bytes.Buffer
	p := (&app{stderr: &out, terminal: true}).progress(false)
	p.event(lowbit.Event{Kind: lowbit.EventPlan, Blocks: 2, Total: 4, Plan: &lowbit.Plan{Layers: slices.Repeat([]lowbit.LayerPlan{{Out: 4, In: 8}}, 4)}})
	for i := range 4 {
		p.event(lowbit.Event{Kind: lowbit.EventBlock, Block: i / 2, Blocks: 2})
		p.event(lowbit.Event{Kind: lowbit.EventLayer, Done: i + 1, Total: 4, Layer: &lowbit.LayerReport{Name: "x", Out: 4, In: 8}})
		if i == 1 {
			p.event(lowbit.Event{Kind: lowbit.EventWarning, Message: "look out"})
		}
	}
	p.event(lowbit.Event{Kind: lowbit.EventWarning, Name: "y", Message: "look out"})
	p.event(lowbit.Event{Kind: lowbit.EventWrite, Done: 5, Total: 10})
	p.close()
	require.Contains(t, out.String(), "the same for 2 layers in all: look out\n")
	require.Contains(t, out.String(), "block 1 of 2")
	require.Contains(t, out.String(), "warning: look out\n")
	require.Contains(t, out.String(), "writing")
}

// TestTimeLeft: plain lines say how long it will take, from what this run has done.
func TestTimeLeft(t *testing.T) {
	var out bytes.Buffer
	p := (&app{stderr: &out}).progress(false)
	var now time.Time
	p.now = func() time.Time { return now }
	p.event(lowbit.Event{Kind: lowbit.EventPlan, Blocks: 1, Total: 10, Kept: 4, Plan: &lowbit.Plan{Layers: slices.Repeat([]lowbit.LayerPlan{{Out: 4, In: 8}}, 10)}})
	for i := range 10 {
		if i >= 4 {
			now = now.Add(12 * time.Second)
		}
		p.event(lowbit.Event{Kind: lowbit.EventLayer, Done: i + 1, Total: 10, Layer: &lowbit.LayerReport{Name: "x", Out: 4, In: 8, Arm: "oc"}})
	}
	require.Contains(t, out.String(), "10 layers to quantize in 1 blocks, 4 of them finished by an earlier run\n")
	require.Contains(t, out.String(), "4/10  x  oc\n5/10  x  oc  about 1m0s left\n")
	require.Contains(t, out.String(), "9/10  x  oc  about 12s left\n10/10  x  oc\n")
}

// badModel copies the embedded model and lets change make it bad.
func badModel(t *testing.T, change func(dir string)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.CopyFS(dir, os.DirFS(embedded)))
	change(dir)
	return dir
}

func editFile(t *testing.T, name string, edit func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name, edit(data), 0o666))
}

func replaceIn(t *testing.T, name, old, with string) {
	t.Helper()
	editFile(t, name, func(b []byte) []byte {
		require.Contains(t, string(b), old)
		return []byte(strings.Replace(string(b), old, with, 1))
	})
}

// poison overwrites the first weight of a BF16 tensor.
func poison(t *testing.T, dir, tensor string, bits uint16) {
	t.Helper()
	editFile(t, filepath.Join(dir, "model.safetensors"), func(b []byte) []byte {
		n := binary.LittleEndian.Uint64(b)
		var header map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(b[8:8+n], &header))
		var info struct {
			Offsets [2]int `json:"data_offsets"`
		}
		require.NoError(t, json.Unmarshal(header[tensor], &info))
		binary.LittleEndian.PutUint16(b[8+int(n)+info.Offsets[0]:], bits)
		return b
	})
}

const bf16NaN, bf16Inf = 0x7fc0, 0x7f80

// badInputs are what a stranger's folder and flags may have, and what the message
// must say.
var badInputs = []struct {
	name string
	make func(t *testing.T, dir string)
	args []string
	want []string
}{
	{name: "truncated weights", make: func(t *testing.T, dir string) {
		editFile(t, filepath.Join(dir, "model.safetensors"), func(b []byte) []byte { return b[:len(b)/2] })
	}, want: []string{"model.safetensors"}},
	{name: "truncated header", make: func(t *testing.T, dir string) {
		editFile(t, filepath.Join(dir, "model.safetensors"), func(b []byte) []byte { return b[:100] })
	}, want: []string{"model.safetensors"}},
	{name: "empty weights", make: func(t *testing.T, dir string) {
		editFile(t, filepath.Join(dir, "model.safetensors"), func([]byte) []byte { return nil })
	}, want: []string{"model.safetensors"}},
	{name: "no weights", make: func(t *testing.T, dir string) {
		require.NoError(t, os.Remove(filepath.Join(dir, "model.safetensors")))
	}, want: []string{"model", "safetensors"}},
	{name: "missing shard", make: func(t *testing.T, dir string) {
		data, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
		require.NoError(t, err)
		require.NoError(t, os.Remove(filepath.Join(dir, "model.safetensors")))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "model-00001-of-00002.safetensors"), data, 0o666))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"),
			[]byte(`{"metadata":{},"weight_map":{"model.norm.weight":"model-00002-of-00002.safetensors"}}`), 0o666))
	}, want: []string{"model-00002-of-00002.safetensors"}},
	{name: "shard outside", make: func(t *testing.T, dir string) {
		require.NoError(t, os.Remove(filepath.Join(dir, "model.safetensors")))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"),
			[]byte(`{"metadata":{},"weight_map":{"model.norm.weight":"../model.safetensors"}}`), 0o666))
	}, want: []string{"../model.safetensors"}},
	{name: "NaN weight", make: func(t *testing.T, dir string) {
		poison(t, dir, "model.layers.1.mlp.up_proj.weight", bf16NaN)
	}, want: []string{"model.layers.1.mlp.up_proj"}},
	{name: "NaN weight, without text", make: func(t *testing.T, dir string) {
		poison(t, dir, "model.layers.1.mlp.up_proj.weight", bf16NaN)
	}, args: []string{"--method", "rtn", "--axis", "oc"}, want: []string{"model.layers.1.mlp.up_proj"}},
	{name: "infinite weight", make: func(t *testing.T, dir string) {
		poison(t, dir, "model.layers.0.self_attn.q_proj.weight", bf16Inf)
	}, want: []string{"model.layers.0.self_attn.q_proj"}},
	{name: "NaN norm", make: func(t *testing.T, dir string) {
		poison(t, dir, "model.layers.2.input_layernorm.weight", bf16NaN)
	}, want: []string{"model.layers.2.input_layernorm.weight", "element 0 is NaN"}},
	{name: "NaN in a later layer", make: func(t *testing.T, dir string) {
		poison(t, dir, "model.layers.2.self_attn.q_proj.weight", bf16NaN)
	}, want: []string{"model.layers.2.self_attn.q_proj.weight", "element 0 is NaN"}},
	{name: "activations beyond floats in a later layer", make: func(t *testing.T, dir string) {
		poison(t, dir, "model.layers.2.mlp.down_proj.weight", 0x7f7f)
	}, args: []string{"--curvature=off"}, want: []string{"model.layers.3", "layers are finished and kept in ", "--resume"}},
	{name: "the same on the way back", make: func(t *testing.T, dir string) {
		poison(t, dir, "model.layers.2.mlp.down_proj.weight", 0x7f7f)
	}, want: []string{"model.layers.3", "gradient", "NaN"}},
	{name: "NaN embedding", make: func(t *testing.T, dir string) {
		poison(t, dir, "model.embed_tokens.weight", bf16NaN)
	}, want: []string{"embed"}},
	{name: "no config", make: func(t *testing.T, dir string) {
		require.NoError(t, os.Remove(filepath.Join(dir, "config.json")))
	}, want: []string{"config.json"}},
	{name: "broken config", make: func(t *testing.T, dir string) {
		editFile(t, filepath.Join(dir, "config.json"), func(b []byte) []byte { return b[:len(b)/2] })
	}, want: []string{"config.json"}},
	{name: "unknown architecture", make: func(t *testing.T, dir string) {
		replaceIn(t, filepath.Join(dir, "config.json"), "LlamaForCausalLM", "T5ForConditionalGeneration")
		replaceIn(t, filepath.Join(dir, "config.json"), `"llama"`, `"t5"`)
	}, want: []string{"T5ForConditionalGeneration", "Llama", "Qwen3"}},
	{name: "config of another shape", make: func(t *testing.T, dir string) {
		replaceIn(t, filepath.Join(dir, "config.json"), `"intermediate_size": 512`, `"intermediate_size": 768`)
	}, want: []string{"mlp", "[512 256]", "[768 256]"}},
	{name: "no tokenizer", make: func(t *testing.T, dir string) {
		require.NoError(t, os.Remove(filepath.Join(dir, "tokenizer.json")))
	}, want: []string{"tokenizer.json"}},
	{name: "no such model", make: func(t *testing.T, dir string) {
		require.NoError(t, os.RemoveAll(dir))
	}, want: []string{"no such file"}},
	{name: "no such text", args: []string{"--calib", "absent.txt"}, want: []string{"absent.txt", "no such file"}},
	{name: "no such text to measure on", args: []string{"--eval", "absent.txt"}, want: []string{"absent.txt", "no such file"}},
	{name: "binary text", args: []string{"--calib", filepath.Join(embedded, "model.safetensors")}, want: []string{"not UTF-8"}},
}

// TestBadInput: one clear line, a non-zero exit, and nothing under the final name.
func TestBadInput(t *testing.T) {
	for _, c := range badInputs {
		t.Run(c.name, func(t *testing.T) {
			dir := badModel(t, func(dir string) {
				if c.make != nil {
					c.make(t, dir)
				}
			})
			parent := t.TempDir()
			out := filepath.Join(parent, "out")
			args := append([]string{"quantize", dir, "-o", out, "--samples", "2", "-q"}, c.args...)
			if !slices.Contains(c.args, "--method") {
				args = append(args, "--calib", calibration)
			}
			o := runCommand(t, args...)
			require.Equal(t, exitError, o.code, o.stderr)
			if !strings.HasPrefix(o.stderr, "warning: ") {
				requireOneLine(t, o, "")
			}
			for _, w := range c.want {
				require.Contains(t, o.stderr, w)
			}
			require.NoFileExists(t, out)
		})
	}
}

func TestBadText(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.txt")
	require.NoError(t, os.WriteFile(text, []byte("once upon a time"), 0o666))
	out := filepath.Join(dir, "out")
	o := runCommand(t, "quantize", embedded, "-o", out, "--calib", text)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "want at least one window of 256")
	require.NoFileExists(t, out)
	require.NoDirExists(t, out+".partial")

	o = runCommand(t, "eval", embedded, "--text", text)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "want at least one window of 256")
}

func TestBadOutput(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	require.NoError(t, os.Mkdir(out, 0o777))
	o := runCommand(t, quick(out)...)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "exists already")
	entries, err := os.ReadDir(out)
	require.NoError(t, err)
	require.Empty(t, entries)

	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	o = runCommand(t, quick(filepath.Join(file, "out"))...)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "file")

	readOnly := filepath.Join(dir, "read-only")
	require.NoError(t, os.Mkdir(readOnly, 0o555))
	if os.Geteuid() != 0 { // root may write anywhere
		o = runCommand(t, quick(filepath.Join(readOnly, "out"))...)
		require.Equal(t, exitError, o.code)
		requireOneLine(t, o, "permission denied")
	}
}

func TestQuantizedTwice(t *testing.T) {
	dir := t.TempDir()
	first := filepath.Join(dir, "first")
	succeed(t, "quantize", embedded, "-o", first, "--method", "rtn", "--axis", "oc", "-q")
	o := succeed(t, "quantize", first, "-o", filepath.Join(dir, "second"), "--method", "rtn", "--axis", "oc", "-q")
	require.Contains(t, o.stdout+o.stderr, "requantized from lowbit: 28 layers of 4.16 bits")
}

// A GGUF file of few bits is a source: its values are the model's, its tokenizer the
// folder's, and what it is is said.
func TestQuantizeFromGGUF(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first.gguf"), filepath.Join(dir, "second")
	succeed(t, "quantize", embedded, "-o", first, "--method", "rtn", "--axis", "oc", "--group-size", "32", "--format", "gguf", "-q")
	o := succeed(t, "quantize", first, "-o", second, "--method", "rtn", "--axis", "oc", "-q")
	require.Contains(t, o.stdout+o.stderr, "requantized from gguf")
	was, err := tokenizer.Open(embedded)
	require.NoError(t, err)
	is, err := tokenizer.Open(second)
	require.NoError(t, err)
	const text = "Once upon a time <s> there was, é 🦙\n"
	require.Equal(t, was.Encode(text), is.Encode(text))

	packed, err := checkpoint.Open(first)
	require.NoError(t, err)
	name := packed.Quantized()[0] + ".weight"
	want, err := packed.Matrix(name)
	require.NoError(t, err)
	plain, err := packed.Plain()
	require.NoError(t, err)
	defer plain.Close()
	got, err := plain.Matrix(name)
	require.NoError(t, err)
	require.Empty(t, plain.Quantized())
	require.Equal(t, want.Data, got.Data)
}

// TestPlan: plan says what quantize would need, and makes nothing.
func TestPlan(t *testing.T) {
	dir := t.TempDir()
	args := []string{embedded, "--calib", calibration, "--samples", "8", "--per-document", "--memory", "800MiB", "--curvature=off"}
	got := succeed(t, append([]string{"plan", "--json"}, args...)...)
	var p struct {
		Memory struct {
			Limit int64
			Parts []struct {
				Name  string
				Bytes int64
			}
			Streams int64
		}
		Peak    int64
		Seconds float64
	}
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &p))
	require.EqualValues(t, 800<<20, p.Memory.Limit)
	require.EqualValues(t, 8*256*2*2*256*4, p.Memory.Streams) // of both, and what is kept of both inside a block
	require.Positive(t, p.Seconds)
	require.Less(t, p.Peak, p.Memory.Limit)
	text := succeed(t, append([]string{"plan"}, args...)...).stdout
	require.Contains(t, text, "statistics")
	require.Contains(t, text, "allowed")
	require.Contains(t, text, "\nabout ")
	require.Contains(t, succeed(t, "plan", embedded, "--method", "rtn", "--axis", "oc").stdout, "at most")
	requireOneLine(t, runCommand(t, "plan", embedded, "--calib", calibration, "--memory", "20MiB"), "are needed at least")
	requireOneLine(t, runCommand(t, "plan", embedded), "needs calibration text")
	requireOneLine(t, runCommand(t, "quantize", embedded, "-o", filepath.Join(dir, "out"), "--memory", "much"), `size "much"`)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}
