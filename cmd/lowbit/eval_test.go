package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/safetensors"
)

func TestEval(t *testing.T) {
	text := shortText(t)
	o := succeed(t, "eval", embedded, "--text", text, "--text", text, "--window", "128", "--json", "-q")
	require.Empty(t, o.stderr)
	var r map[string]float64
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
	require.Equal(t, 128., r["window"])
	require.Equal(t, r["windows"]*127, r["tokens"])
	require.InDelta(t, 11, r["perplexity"], 3)
	require.NotContains(t, r, "kl")
	plain := r["perplexity"]

	o = succeed(t, "eval", embedded, "--text", text, "--text", text, "--window", "128", "--json", "-q", "--against", embedded)
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
	require.InDelta(t, 0, r["kl"], 1e-12)
	require.Equal(t, plain, r["perplexity"])

	o = succeed(t, "eval", embedded, "--text", text, "--window", "128", "--per-document")
	require.Regexp(t, `^perplexity +\d+\.\d{4} ± \d\.\d{4}\ntokens +\d+ scored, in \d+ windows of 128\n$`, o.stdout)
}

// TestEvalOfQuantized compares a quantized folder with its source.
func TestEvalOfQuantized(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	succeed(t, "quantize", embedded, "-o", out, "--method", "rtn", "--axis", "oc", "--bits", "8", "-q")
	o := succeed(t, "eval", out, "--text", shortText(t), "--against", embedded, "-q")
	require.Contains(t, o.stdout, "nats a token from "+embedded)
	require.Regexp(t, `KL divergence +0\.00\d+ `, o.stdout)
	require.Regexp(t, `\n  median +0\.\d{6}\n  95 % +0\.\d{6}\n  99 % +0\.\d{6}\n  99\.9 % +0\.\d{6}\n  maximum +0\.\d{6}\n  mean +0\.\d{6} ± 0\.\d{6}\nsame top +\d\d\.\d\d ± \d\.\d\d % of the tokens\nratio +[01]\.\d{5} ± 0\.\d{5} of the perplexities\n`, o.stdout)
}

// TestEvalPacked: products from codes change figures by rounding alone.
func TestEvalPacked(t *testing.T) {
	out, text := filepath.Join(t.TempDir(), "out"), shortText(t)
	succeed(t, "quantize", embedded, "-o", out, "--method", "rtn", "--axis", "ic", "--bits", "4", "-q")
	measure := func(more ...string) (r map[string]float64) {
		require.NoError(t, json.Unmarshal([]byte(succeed(t, append([]string{"eval", out, "--text", text, "--against", embedded, "--json", "-q"}, more...)...).stdout), &r))
		return r
	}
	plain, packed := measure(), measure("--packed")
	require.Equal(t, plain["tokens"], packed["tokens"])
	require.InEpsilon(t, plain["perplexity"], packed["perplexity"], 1e-5)
	require.InEpsilon(t, plain["kl"], packed["kl"], 1e-4)
	require.NotEqual(t, plain["kl"], packed["kl"])
	o := runCommand(t, "eval", out, "--text", text, "--packed", "--activations", "int8")
	require.Equal(t, exitUsage, o.code)
	requireOneLine(t, o, "--packed and --activations")
}

// TestEvalInt8: activations in 8 bits change perplexity a little, all of them more than
// those that are no outliers; columns in 16 bits are shown.
func TestEvalInt8(t *testing.T) {
	out, text := filepath.Join(t.TempDir(), "out"), shortText(t)
	succeed(t, "quantize", embedded, "-o", out, "--method", "int8", "--calib", calibration, "--samples", "4", "--seq-len", "64", "--int8-threshold", "20", "-q")
	require.Regexp(t, `down_proj .*, llm\.int8, \d+ columns in 16 bits`, succeed(t, "inspect", out).stdout)
	kl := func(more ...string) float64 {
		var r map[string]float64
		require.NoError(t, json.Unmarshal([]byte(succeed(t, append([]string{"eval", out, "--text", text, "--against", embedded, "--json", "-q"}, more...)...).stdout), &r))
		return r["kl"]
	}
	weights, six, all := kl(), kl("--activations", "int8"), kl("--activations", "int8", "--threshold", "0")
	require.Less(t, weights, six)
	require.Less(t, six, all)
	require.Less(t, all, 0.01)

	o := runCommand(t, "eval", embedded, "--text", text, "--activations", "int8", "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "nothing in the model is quantized")
}

func TestEvalBadInput(t *testing.T) {
	o := runCommand(t, "eval", embedded, "--text", "absent.txt")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "absent.txt")
	o = runCommand(t, "eval", "absent", "--text", heldout)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "absent")
	o = runCommand(t, "eval", embedded, "--text", heldout, "--against", "absent")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "absent")

	dir := badModel(t, func(dir string) { poison(t, dir, "model.norm.weight", 0x7fc0) })
	o = runCommand(t, "eval", dir, "--text", shortText(t), "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "NaN")
}

// TestEvalIDs writes the logits of sequences of token ids, and holds them to those
// of Hugging Face transformers.
func TestEvalIDs(t *testing.T) {
	const model = "../../testdata/architectures/gpt-oss"
	var ref struct {
		IDs json.RawMessage `json:"input_ids"`
		Std float64         `json:"logits_std"`
	}
	data, err := os.ReadFile(filepath.Join(model, "reference.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &ref))
	dir := t.TempDir()
	ids, out := filepath.Join(dir, "ids.json"), filepath.Join(dir, "out.safetensors")
	require.NoError(t, os.WriteFile(ids, ref.IDs, 0o666))
	o := succeed(t, "eval", model, "--ids", ids, "--logits", out, "-q")
	require.Regexp(t, `^perplexity +\d`, o.stdout)
	got, want := floats(t, out, "logits"), floats(t, filepath.Join(model, "logits.safetensors"), "logits")
	require.InDeltaSlice(t, want, got, 2e-4*ref.Std)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "nothing else is left behind")

	o = runCommand(t, "eval", model, "--ids", ids, "--logits", out, "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "exists")

	// Of different lengths: a tensor each.
	require.NoError(t, os.WriteFile(ids, []byte(`[[1,2,3],[4,5]]`), 0o666))
	out = filepath.Join(dir, "two.safetensors")
	succeed(t, "eval", model, "--ids", ids, "--logits", out, "-q")
	require.Len(t, floats(t, out, "logits.0"), 3*len(got)/72)
	require.Len(t, floats(t, out, "logits.1"), 2*len(got)/72)

	for _, bad := range []string{`{"a": 1}`, `[1, 2]`, `[[1, 2], []]`, `[]`, `[["a"]]`, `[[1,99999]]`} {
		require.NoError(t, os.WriteFile(ids, []byte(bad), 0o666))
		o = runCommand(t, "eval", model, "--ids", ids, "-q")
		require.NotZero(t, o.code, bad)
	}
}

func floats(t *testing.T, path, name string) []float32 {
	t.Helper()
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	defer f.Close()
	v, err := f.ReadFloat32(name, nil)
	require.NoError(t, err)
	return v
}

// TestEvalNotFinite: a model that computes no numbers has no perplexity, and the
// first block where that is so is named.
func TestEvalNotFinite(t *testing.T) {
	dir := badModel(t, func(dir string) {
		for _, name := range []string{"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"} {
			poison(t, dir, "model.layers.1."+name+".weight", 0x7f7f) // the largest bfloat16
		}
	})
	o := runCommand(t, "eval", dir, "--text", shortText(t), "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "block 1 (model.layers.1)")
}

// TestQuantizeOnIDs calibrates on token ids: the model has no tokenizer.
func TestQuantizeOnIDs(t *testing.T) {
	const model = "../../testdata/architectures/granitemoe"
	dir := t.TempDir()
	ids, out := filepath.Join(dir, "ids.json"), filepath.Join(dir, "out")
	require.NoError(t, os.WriteFile(ids, []byte(`[[1,2,3,4,5,6,7,8,9,10,11,12],[13,14,15,16,17,18,19,20,21,22,23,24]]`), 0o666))
	succeed(t, "quantize", model, "-o", out, "--method", "gptq", "--calib-ids", ids, "--seq-len", "12", "--group-size", "4", "-q")
	o := succeed(t, "eval", out, "--ids", ids, "--against", model, "-q")
	require.Contains(t, o.stdout, "nats a token from "+model)
	o = runCommand(t, "quantize", model, "-o", out+"2", "--calib-ids", filepath.Join(dir, "absent"))
	require.NotZero(t, o.code)
	requireOneLine(t, o, "absent")
}
