package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/report"
)

// readReport reads both files of a report; what differs from run to run is taken out of the first.
func readReport(t *testing.T, output string) (r *report.Report, page string) {
	t.Helper()
	text, err := os.ReadFile(output + ".report.json")
	require.NoError(t, err)
	// A grid cannot be told from its text alone.
	var all map[string]any
	require.NoError(t, json.Unmarshal(text, &all))
	for _, l := range all["layers"].([]any) {
		delete(l.(map[string]any), "scheme")
		delete(l.(map[string]any), "seconds")
	}
	for _, key := range []string{"phases", "seconds", "peak_memory"} {
		delete(all, key)
	}
	text, err = json.Marshal(all)
	require.NoError(t, err)
	r = &report.Report{}
	require.NoError(t, json.Unmarshal(text, r))
	html, err := os.ReadFile(output + ".report.html")
	require.NoError(t, err)
	return r, string(html)
}

// TestReport: both files are there, with every layer and its channels, the same for the same
// run; the result and what is printed do not depend on it.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	run := func(more ...string) (o outcome, files map[string]string) {
		o = succeed(t, quick(out, append(more, "--json", "--eval", shortText(t), "--skip", `0\.self_attn\.k`)...)...)
		files = tree(t, out)
		require.NoError(t, os.RemoveAll(out))
		return o, files
	}
	o, files := run("--report", "--progress", "json")
	first, page := readReport(t, out)
	require.Contains(t, o.stderr, out+".report.html")
	require.NotContains(t, o.stdout, `"channels"`)
	require.NotContains(t, o.stderr, `"channels"`)
	require.Equal(t, report.Version, first.Version)
	require.Equal(t, 4, first.Model.Blocks)
	require.Len(t, first.Layers, 28)
	for _, l := range first.Layers {
		require.Contains(t, page, l.Name)
		require.Equal(t, strings.HasSuffix(l.Name, "0.self_attn.k_proj"), l.Dense)
		if l.Dense {
			require.Nil(t, l.Channels)
			continue
		}
		require.Equal(t, l.In, l.Channels.Inputs.Channels)
		require.Equal(t, l.Out, l.Channels.Outputs.Channels)
		require.NotNil(t, l.Channels.Inputs.Activation)
		require.NotNil(t, l.Channels.Inputs.Loss)
		require.NotNil(t, l.Channels.Outputs.Loss)
		require.Nil(t, l.Channels.Outputs.Activation)
	}
	require.NotNil(t, first.Evaluation)
	require.NotNil(t, first.Memory)
	require.Contains(t, page, "Loss by depth")
	require.Contains(t, page, "tokens of calibration text are few")

	_, again := run("--report") // and replaces the files
	second, _ := readReport(t, out)
	require.Equal(t, files, again)
	require.Equal(t, first, second)

	require.NoError(t, os.Remove(out+".report.html"))
	_, without := run()
	require.Equal(t, files, without)
	require.NoFileExists(t, out+".report.html")
}

// TestReportRounded: where nothing was collected, weights are looked at afterwards, also of a
// model that no decoder knows.
func TestReportRounded(t *testing.T) {
	unknown := badModel(t, func(dir string) {
		replaceIn(t, filepath.Join(dir, "config.json"), "LlamaForCausalLM", "UnknownForCausalLM")
		replaceIn(t, filepath.Join(dir, "config.json"), `"llama"`, `"unknown"`)
	})
	var seen []map[string]*lowbit.Channels
	for _, model := range []string{embedded, unknown} {
		out := filepath.Join(t.TempDir(), "out.gguf")
		args := []string{"quantize", model, "-o", out, "--format", "gguf", "--method", "rtn", "--bits", "4", "--report", "-q"}
		if model == unknown {
			out = filepath.Join(filepath.Dir(out), "out")
			args = []string{"quantize", model, "-o", out + "/", "--method", "rtn", "--axis", "oc", "--report", "-q"}
		}
		succeed(t, args...)
		r, page := readReport(t, out)
		channels := map[string]*lowbit.Channels{}
		for _, l := range r.Layers {
			if l.Dense { // the embedding, by its name
				continue
			}
			require.NotNil(t, l.Channels, l.Name)
			channels[l.Name] = l.Channels
			require.Nil(t, l.Channels.Inputs.Activation)
			require.Nil(t, l.Channels.Inputs.Loss)
			require.Contains(t, page, l.Name)
		}
		require.Contains(t, page, "Losses were not measured")
		seen = append(seen, channels)
	}
	require.Len(t, seen[0], 28)
	require.Equal(t, seen[0], seen[1])
}

// TestReportResumed: what was collected before an interrupt is in the report, and what was not,
// as there was no --report then, is made up for.
func TestReportResumed(t *testing.T) {
	for _, first := range []bool{true, false} {
		out := filepath.Join(t.TempDir(), "out")
		args := quick(out, "-q")
		ctx, cancel := context.WithCancel(t.Context())
		stderr := &stopperAt{at: `"done":9,`, stop: cancel}
		before := append(args, "--progress", "json")
		if first {
			before = append(before, "--report")
		}
		require.Equal(t, exitInterrupted, (&app{args: before, stdout: io.Discard, stderr: stderr}).run(ctx), stderr.String())
		cancel()
		succeed(t, append(args, "--report", "--resume")...)
		r, _ := readReport(t, out)
		for i, l := range r.Layers {
			require.NotNil(t, l.Channels, l.Name)
			require.Equal(t, first || i >= 9, l.Channels.Inputs.Loss != nil, l.Name)
		}
	}
}

// TestReportUnwritten: where only the report fails the result is there, and the message says so.
func TestReportUnwritten(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.MkdirAll(filepath.Join(out+".report.json", "in the way"), 0o777))
	o := runCommand(t, "quantize", embedded, "-o", out, "--method", "rtn", "--axis", "oc", "--report", "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, out+" is complete, but the report could not be written: ")
	succeed(t, "inspect", out)
}

// TestInspectHTML: a page with every layer of a model, with activations where there is text,
// also of a quantized model and of one that no decoder knows.
func TestInspectHTML(t *testing.T) {
	dir := t.TempDir()
	quantized := filepath.Join(dir, "quantized")
	succeed(t, "quantize", embedded, "-o", quantized, "--method", "rtn", "--axis", "oc", "--bits", "8", "--rule", "down_proj: dense", "-q")
	unknown := badModel(t, func(dir string) {
		replaceIn(t, filepath.Join(dir, "config.json"), "LlamaForCausalLM", "UnknownForCausalLM")
		replaceIn(t, filepath.Join(dir, "config.json"), `"llama"`, `"unknown"`)
	})
	file := filepath.Join(dir, "page.html")
	for _, c := range []struct {
		model  string
		active bool
	}{{embedded, false}, {embedded, true}, {quantized, true}, {unknown, false}} {
		args := []string{"inspect", c.model, "--html", file}
		if c.active {
			args = append(args, "--text", heldout, "--samples", "2", "--window", "64")
		}
		o := succeed(t, args...)
		require.Empty(t, o.stdout)
		require.Contains(t, o.stderr, c.model+": ")
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		page := string(data)
		for _, name := range []string{"model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj", "block 3", "Outliers among inputs", filepath.Base(c.model)} {
			require.Contains(t, page, name)
		}
		require.Equal(t, 28, strings.Count(page, ">weights by output<")-strings.Count(page, "<h3>model.embed_tokens</h3>"))
		require.Equal(t, c.active, strings.Contains(page, ">activations by input<"))
		require.Equal(t, c.model == quantized, strings.Contains(page, "in quantized layers"))
		require.NotContains(t, page, "Loss by depth")
		require.NotContains(t, page, "ZgotmplZ")
		succeed(t, args...)
		again, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, data, again)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{embedded, "--text", heldout}, exitUsage, "--text, --samples and --window are for --html"},
		{[]string{embedded, "--html", file, "--text", heldout, "--window", "512"}, exitUsage, "context is 256"},
		{[]string{unknown, "--html", file, "--text", heldout}, exitError, "there is text, and the model cannot be run on it"},
		{[]string{embedded, "--html", filepath.Join(dir, "no", "page")}, exitError, "no such file"},
	} {
		o := runCommand(t, append([]string{"inspect"}, c.args...)...)
		require.Equal(t, c.code, o.code, o.stderr)
		require.Contains(t, o.stderr, c.want)
	}
}

// TestInspectActivations: activations are the root mean squares that quantize sees too.
func TestInspectActivations(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	succeed(t, quick(out, "--report", "-q", "--samples", "8", "--inputs", "full", "--arms", "oc")...)
	r, _ := readReport(t, out)
	layers, err := report.Look(t.Context(), report.Options{Path: embedded, Text: lowbit.Text{Files: []string{calibration}, PerDocument: true}})
	require.NoError(t, err)
	require.Len(t, layers, 28)
	for i, l := range layers {
		want := r.Layers[i]
		require.Equal(t, want.Name, l.Name)
		require.Equal(t, want.Channels.Inputs.Weight, l.Channels.Inputs.Weight)
		require.InDeltaSlice(t, want.Channels.Inputs.Activation.Max, l.Channels.Inputs.Activation.Max, 0.02*want.Channels.Inputs.Activation.Median)
	}
}
