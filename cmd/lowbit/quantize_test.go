package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/gptq"
)

// quick are flags for a run of a second.
func quick(out string, more ...string) []string {
	return append([]string{"quantize", embedded, "-o", out, "--bits", "3", "--group-size", "64",
		"--calib", calibration, "--per-document", "--samples", "4", "--method", "gptq", "--quiet"}, more...)
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
	require.Empty(t, o.stderr)
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
		require.Positive(t, l.Loss)
		require.Less(t, l.Loss, 0.1)
	}
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

// TestPreset: flags beside a preset win, an axis restricts its arms.
func TestPreset(t *testing.T) {
	var best lowbit.Options
	require.NoError(t, best.ApplyPreset("best"))
	strength := best.Correction
	require.Positive(t, strength)
	for _, c := range []struct {
		args      []string
		arms      []adadim.Arm
		objective adadim.Objective
		search    adadim.Search
		inputs    lowbit.Inputs
		correct   float64
		rounds    int
		clip      bool
	}{
		{nil, adadim.AllArms(), adadim.ObjectiveRelative, adadim.SearchMethod, lowbit.InputsQuantized, strength, 3, true},
		{[]string{"--axis", "ada"}, adadim.PaperArms(), adadim.ObjectiveLinear, adadim.SearchRTN, lowbit.InputsFull, 0, 0, false},
		{[]string{"--preset", "paper"}, adadim.PaperArms(), adadim.ObjectiveLinear, adadim.SearchRTN, lowbit.InputsFull, 0, 0, false},
		{[]string{"--preset", "best", "--axis", "oc"}, []adadim.Arm{adadim.ArmOC(), adadim.ArmOCInputScale()}, adadim.ObjectiveRelative, adadim.SearchMethod, lowbit.InputsQuantized, strength, 3, true},
		{[]string{"--preset", "best", "--axis", "ic", "--arms", "all", "--refine", "1"}, []adadim.Arm{adadim.ArmIC(), adadim.ArmICRowScale()}, adadim.ObjectiveRelative, adadim.SearchMethod, lowbit.InputsQuantized, strength, 1, true},
		{[]string{"--preset", "best", "--inputs", "fp", "--clip=false", "--search", "rtn", "--arms", "ic,oc"}, []adadim.Arm{adadim.ArmIC(), adadim.ArmOC()}, adadim.ObjectiveRelative, adadim.SearchRTN, lowbit.InputsFull, 0, 3, false},
		{[]string{"--correct", "0.25"}, adadim.PaperArms(), adadim.ObjectiveLinear, adadim.SearchRTN, lowbit.InputsQuantized, 0.25, 0, false},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			var f quantizeFlags
			cmd := &cobra.Command{}
			f.register(cmd.Flags())
			require.NoError(t, cmd.ParseFlags(append([]string{"-o", "out"}, c.args...)))
			o, err := f.options(cmd, embedded)
			require.NoError(t, err)
			require.Equal(t, c.arms, o.Arms)
			require.Equal(t, c.objective, o.Objective)
			require.Equal(t, c.search, o.Search)
			require.Equal(t, c.inputs, o.Inputs)
			require.Equal(t, c.correct, o.Correction)
			require.Equal(t, c.rounds, o.Method.(gptq.Quantizer).Refine.Rounds)
			require.Equal(t, c.clip, o.Scheme.Clip)
			if !c.clip {
				require.False(t, o.Scheme.ClipInput)
			}
		})
	}
}

// TestTarget: the result is what the engine loads.
func TestTarget(t *testing.T) {
	for engine, want := range map[string]string{"vllm": "compressed-tensors", "transformers": "gptq", "llama.cpp": "gguf"} {
		t.Run(engine, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			o := succeed(t, "quantize", embedded, "-o", out, "--target", engine, "--method", "rtn", "--json", "-q")
			var r struct {
				Format  string
				Engines []string
			}
			require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
			require.Equal(t, want, r.Format)
			require.Contains(t, r.Engines, engine)
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
	require.NoFileExists(t, out)
	require.NoFileExists(t, out+".partial")

	o = succeed(t, quick(out, "--format", "gptq", "--axis", "ada", "--fit")...)
	require.Equal(t, 1, strings.Count(o.stderr, "warning: model.layers."), o.stderr)
	require.Contains(t, o.stderr, "the same for 28 layers in all: ")
	require.Contains(t, o.stdout, "engines that load it: lowbit, transformers")
}

// TestTerminalBar draws a bar and keeps warnings on lines of their own.
func TestTerminalBar(t *testing.T) {
	var out bytes.Buffer
	p := (&app{stderr: &out, terminal: true}).progress(false)
	p.event(lowbit.Event{Kind: lowbit.EventPlan, Blocks: 2, Total: 4})
	for i := range 4 {
		p.event(lowbit.Event{Kind: lowbit.EventBlock, Block: i / 2, Blocks: 2})
		p.event(lowbit.Event{Kind: lowbit.EventLayer, Done: i + 1, Total: 4, Layer: &lowbit.LayerReport{Name: "x"}})
		if i == 1 {
			p.event(lowbit.Event{Kind: lowbit.EventWarning, Message: "look out"})
		}
	}
	p.event(lowbit.Event{Kind: lowbit.EventWrite, Done: 5, Total: 10})
	p.clear()
	require.Contains(t, out.String(), "quantizing")
	require.Contains(t, out.String(), "warning: look out\n")
	require.Contains(t, out.String(), "writing")
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

// TestBadInput: one clear line, a non-zero exit, and nothing under the final name.
func TestBadInput(t *testing.T) {
	const weights, config = "model.safetensors", "config.json"
	nan := uint16(math.Float32bits(float32(math.NaN())) >> 16)
	inf := uint16(math.Float32bits(float32(math.Inf(1))) >> 16)
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string)
		args []string
		want []string
	}{
		{name: "truncated weights", make: func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, weights), func(b []byte) []byte { return b[:len(b)/2] })
		}, want: []string{weights}},
		{name: "truncated header", make: func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, weights), func(b []byte) []byte { return b[:100] })
		}, want: []string{weights}},
		{name: "empty weights", make: func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, weights), func([]byte) []byte { return nil })
		}, want: []string{weights}},
		{name: "no weights", make: func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, weights)))
		}, want: []string{"model", "safetensors"}},
		{name: "missing shard", make: func(t *testing.T, dir string) {
			data, err := os.ReadFile(filepath.Join(dir, weights))
			require.NoError(t, err)
			require.NoError(t, os.Remove(filepath.Join(dir, weights)))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "model-00001-of-00002.safetensors"), data, 0o666))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"),
				[]byte(`{"metadata":{},"weight_map":{"model.norm.weight":"model-00002-of-00002.safetensors"}}`), 0o666))
		}, want: []string{"model-00002-of-00002.safetensors"}},
		{name: "shard outside", make: func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, weights)))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"),
				[]byte(`{"metadata":{},"weight_map":{"model.norm.weight":"../model.safetensors"}}`), 0o666))
		}, want: []string{"../model.safetensors"}},
		{name: "NaN weight", make: func(t *testing.T, dir string) {
			poison(t, dir, "model.layers.1.mlp.up_proj.weight", nan)
		}, want: []string{"model.layers.1.mlp.up_proj"}},
		{name: "NaN weight, without text", make: func(t *testing.T, dir string) {
			poison(t, dir, "model.layers.1.mlp.up_proj.weight", nan)
		}, args: []string{"--method", "rtn", "--axis", "oc"}, want: []string{"model.layers.1.mlp.up_proj"}},
		{name: "infinite weight", make: func(t *testing.T, dir string) {
			poison(t, dir, "model.layers.0.self_attn.q_proj.weight", inf)
		}, want: []string{"model.layers.0.self_attn.q_proj"}},
		{name: "NaN norm", make: func(t *testing.T, dir string) {
			poison(t, dir, "model.layers.2.input_layernorm.weight", nan)
		}, want: []string{"model.layers.2"}},
		{name: "NaN embedding", make: func(t *testing.T, dir string) {
			poison(t, dir, "model.embed_tokens.weight", nan)
		}, want: []string{"embed"}},
		{name: "no config", make: func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, config)))
		}, want: []string{config}},
		{name: "broken config", make: func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, config), func(b []byte) []byte { return b[:len(b)/2] })
		}, want: []string{config}},
		{name: "unknown architecture", make: func(t *testing.T, dir string) {
			replaceIn(t, filepath.Join(dir, config), "LlamaForCausalLM", "MambaForCausalLM")
			replaceIn(t, filepath.Join(dir, config), `"llama"`, `"mamba"`)
		}, want: []string{"Mamba", "Llama", "Qwen3"}},
		{name: "config of another shape", make: func(t *testing.T, dir string) {
			replaceIn(t, filepath.Join(dir, config), `"intermediate_size": 512`, `"intermediate_size": 768`)
		}, want: []string{"mlp", "[512 256]", "[768 256]"}},
		{name: "no tokenizer", make: func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "tokenizer.json")))
		}, want: []string{"tokenizer.json"}},
		{name: "no such model", make: func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(dir))
		}, want: []string{"no such file"}},
		{name: "no such text", args: []string{"--calib", "absent.txt"}, want: []string{"absent.txt", "no such file"}},
		{name: "no such text to measure on", args: []string{"--eval", "absent.txt"}, want: []string{"absent.txt", "no such file"}},
		{name: "binary text", args: []string{"--calib", filepath.Join(embedded, weights)}, want: []string{"not UTF-8"}},
	} {
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
			requireOneLine(t, o, "")
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
	o := runCommand(t, "quantize", first, "-o", filepath.Join(dir, "second"), "--method", "rtn", "--axis", "oc", "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "quantized already")
}
