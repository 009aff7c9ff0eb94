package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// caseWant is what is right for a case of testdata/cases.
type caseWant struct {
	perplexities []float64 // all that are printed, in order, to seven digits
	evals        int       // perplexities printed of which none is given
	failed       bool      // the last command must fail
	has, not     []string  // expressions on all that is printed
	left         []string  // outputs that must be there, and no others
	early        bool      // refused before any layer is quantized
	files        map[string]string
	filesNot     map[string]string
}

var cases = map[string]caseWant{
	// The rotation's base is in an object for each type of layer.
	"rope-nested-v5":             {perplexities: []float64{2689.7507}},
	"added-token-only-in-config": {perplexities: []float64{3724.8955}, left: []string{"out.gguf"}, files: map[string]string{"out.gguf": `<\|im_end\|>[\s\S]*tokenizer\.ggml\.eos_token_id`}, filesNot: map[string]string{"out.gguf": `\[PAD26`}},
	"chat-text-double-bos":       {perplexities: []float64{1517.6184, 1517.6184}},
	"add-bos-false":              {perplexities: []float64{1486.5207}, left: []string{"out.gguf"}},
	"skip-matches-nothing":       {has: []string{`no layer's name matches "model\.layer\.1\.\*down_proj"`}, left: []string{}},
	"qwen-bos-null":              {left: []string{"out.gguf"}, files: map[string]string{"out.gguf": `tokenizer\.ggml\.bos_token_id`}},
	"calibration-bom-crlf": {perplexities: []float64{1487.2609, 1486.5207, 1487.2609, 1486.5207, 1487.2609, 1486.5207, 1487.2609},
		has: []string{`utf16\.txt: not UTF-8`, `latin1\.txt: not UTF-8`, `empty\.txt: 0 tokens`, `blank\.txt: \d tokens`}},

	"awq-group-16-256": {left: []string{}, has: []string{
		`target vllm does not load it: needs groups that are a multiple of 32, not 16`,
		`groups of 128 instead of 256: fit: the largest that format awq and every layer take`, `out-256 \(awq\)`}},
	"awq-outputs-not-64": {left: []string{"out"}, has: []string{
		`outputs that are no multiple of 64 \(96 in model\.layers\.0\.self_attn\.q_proj\)`, `out \(compressed-tensors\)`}},
	"tp-odd-groups": {left: []string{"out"}, has: []string{
		`tensor-parallel size up to 1 only: model\.layers\.0\.self_attn\.o_proj has 1 group of 128; groups of 32 would do up to 4`}},

	"unknown-pretokenizer":        {failed: true, early: true, left: []string{}, has: []string{`(?i)pre-?tokenizer`}},
	"tokenizer-longer-than-model": {failed: true, early: true, left: []string{}, has: []string{`<pad>`}},
	"extra-tensor-value-head": {early: true, left: []string{"out"}, has: []string{`v_head\.summary\.weight`, `"v_head\.summary"`},
		files: map[string]string{"out/config.json": `"v_head\.summary"`}},
	"llama1-config":        {failed: false, early: true, left: []string{"out.gguf"}, has: []string{`"LLaMAForCausalLM" is not supported`}},
	"tokenizer-model-only": {failed: true, early: true, left: []string{"out"}, has: []string{`tokenizer\.model`}},
	"llama3-rope-v5":       {perplexities: []float64{1159.7475}, evals: 1, left: []string{"out", "out.gguf"}, not: []string{`no llama3 scaling`}, has: []string{`"rope_type": "llama3"`}},

	"lora-adapter-folder":        {failed: true, left: []string{}, has: []string{`LoRA adapter for "someorg/some-base"`, `--base`}},
	"mlx-4bit-input":             {left: []string{"out.gguf"}, has: []string{`requantized from mlx: 15 layers of 4\.50 bits`}},
	"mlx-4bit-input-new":         {left: []string{"out.gguf"}, has: []string{`requantized from mlx: 15 layers of 4\.50 bits`}},
	"mistral-consolidated-only":  {has: []string{`architecture  mistral`, `model\.layers\.1\.mlp\.down_proj\.weight`}},
	"pytorch-bin-only":           {failed: true, left: []string{}, has: []string{`pytorch_model\.bin\.index\.json: weight_map is missing or empty`}},
	"awq-quant-config-file-only": {left: []string{"out"}, has: []string{`format +awq`, `out \(compressed-tensors\): 14 layers`}},
	"auto-round-gptq-packing":    {left: []string{"out"}, has: []string{`out \(compressed-tensors\): 14 layers`}},
	"llama-arch-fused-weights": {failed: true, early: true, left: []string{}, has: []string{
		`"model\.layers\.0\.self_attn\.q_proj\.weight": missing.*model\.layers\.0\.self_attn\.qkv_proj\.weight`}},
	// Left-over configurations: the weights are what they are.
	"bnb-config-left-in-merged": {left: []string{"out"}, has: []string{`out \(gptq\)`}, filesNot: map[string]string{"out/config.json": `bitsandbytes|load_in_4bit`}},
	"leftover-quantize-config":  {left: []string{"out"}, has: []string{`format +dense`}},
	"config-json-bom":           {left: []string{"out"}, has: []string{`out \(compressed-tensors\)`}},
	"hidden-not-multiple-of-128": {left: []string{}, not: []string{`arm oc`, `cannot hold`}, has: []string{
		`-- vllm\nengines that load it: .*vllm`, `-- transformers\nengines that load it: .*transformers`, `-- gptqmodel\nengines that load it: .*gptqmodel`, `-- llama\.cpp\nengines that load it: .*llama\.cpp`}},

	"yarn-qwen2":                 {left: []string{"out"}, has: []string{`out \(gptq\)`}},
	"phi3-fused":                 {left: []string{"out"}, has: []string{`8 layers to quantize`}},
	"fp8-block-scaled":           {early: true, left: []string{"out"}, has: []string{`requantized from FP8 \(E4M3\)`}},
	"fp8-block-scaled-no-config": {failed: true, early: true, left: []string{}, has: []string{`q_proj\.weight": dtype F8_E4M3`, `weight_scale_inv`}, not: []string{`layers to quantize`}},
	"float64-weights":            {evals: 1, left: []string{"out", "out.gguf"}, has: []string{`"torch_dtype": "float16"`}},
	"untied-head-missing":        {failed: true, early: true, left: []string{}, has: []string{`"lm_head\.weight": missing, and "tie_word_embeddings" is false`}},
	"tensor-in-two-shards":       {has: []string{`model-00002-of-00002\.safetensors: tensor "model\.embed_tokens\.weight": also in shard model-00001-of-00002`}},
	"gptq-outputs-48":            {failed: false, left: []string{}, has: []string{`gptq needs inputs and outputs that are multiples of 32, not \[48 96\]`, `out \(compressed-tensors\)`}},
	"hqq-group-38":               {failed: true, left: []string{"out"}, has: []string{`engines that load it: lowbit\n`, `512 does not divide 152`}},

	"merges-as-pairs":            {left: []string{"out.gguf"}},
	"tied-and-head-saved":        {left: []string{"out"}, files: map[string]string{"out/config.json": `"ignore":\s*\[\s*"lm_head"`}},
	"head-dim-explicit-nemo":     {perplexities: []float64{1534.4526, 1537.3453}, left: []string{"out.gguf"}, files: map[string]string{"out.gguf": `attention\.key_length`}},
	"kv-heads-null":              {perplexities: []float64{1689.7477}},
	"auto-map-llama":             {perplexities: []float64{1547.8677}, left: []string{"out"}, files: map[string]string{"out/modeling_flash_llama.py": ``}},
	"single-and-sharded":         {perplexities: []float64{1569.8317}},
	"llama31-post-processor":     {left: []string{"out.gguf"}, files: map[string]string{"out.gguf": `tokenizer\.ggml\.add_bos_token`}},
	"sliding-window-mistral-v01": {left: []string{"out.gguf"}},
	"added-domain-tokens":        {perplexities: []float64{1814.3097, 1564.6260}, left: []string{"out.gguf"}},
	"long-line-without-spaces":   {left: []string{"out"}},
	"gptq-whole-rows":            {left: []string{"out"}, has: []string{`"group_size": -1`}},
	"awq-whole-rows":             {left: []string{"out"}, has: []string{`"group_size": -1`}},
	"gptq-bf16-scales":           {perplexities: []float64{1416.9734, 1416.9734, 1416.9734, 1416.9734}},
	"ct-llm-compressor-bf16-scales": {perplexities: []float64{1416.9734, 1416.9734, 1416.9734, 1416.9734, 1416.9734, 1416.3757},
		has: []string{`"torch_dtype": "bfloat16"`}},
}

var printedPerplexity = regexp.MustCompile(`perplexity\s+([0-9.eE+]+)`)

// workDone is a layer's line, in the progress or in the table.
var workDone = regexp.MustCompile(`\d+/\d+  model\.layers\.`)

// TestCases runs situations that people reported of other tools.
func TestCases(t *testing.T) {
	if testing.Short() {
		t.Skip("runs many commands")
	}
	if _, err := exec.LookPath("bash"); err != nil || runtime.GOOS == "windows" {
		t.Skip("no bash")
	}
	bin := t.TempDir()
	exe, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(exe, filepath.Join(bin, "lowbit")))
	folders, err := filepath.Glob("../../testdata/cases/*/cmd")
	require.NoError(t, err)
	require.Len(t, folders, len(cases))
	for _, f := range folders {
		name := filepath.Base(filepath.Dir(f))
		t.Run(name, func(t *testing.T) {
			want, ok := cases[name]
			require.True(t, ok)
			dir := unpackCase(t, name)
			line, err := os.ReadFile(filepath.Join(dir, "cmd"))
			require.NoError(t, err)
			c := exec.CommandContext(t.Context(), "bash", "-c", "{ "+strings.TrimRight(string(line), "\n; ")+"\n}")
			c.Dir = dir
			c.Env = append(os.Environ(), asCommand+"=1", "PATH="+bin+":"+os.Getenv("PATH"))
			printed, err := c.CombinedOutput()
			if e := (*exec.ExitError)(nil); err != nil && !errors.As(err, &e) {
				require.NoError(t, err)
			}
			want.check(t, dir, string(printed), err != nil)
		})
	}
}

func (w caseWant) check(t *testing.T, dir, printed string, failed bool) {
	t.Helper()
	require.NotContains(t, printed, "panic:")
	require.NotContains(t, printed, "goroutine ")
	if w.failed {
		require.True(t, failed, printed)
	}
	var got []float64
	for _, m := range printedPerplexity.FindAllStringSubmatch(printed, -1) {
		v, err := strconv.ParseFloat(m[1], 64)
		require.NoError(t, err)
		got = append(got, v)
	}
	require.Len(t, got, len(w.perplexities)+w.evals, printed)
	for i, v := range w.perplexities {
		require.InEpsilon(t, v, got[i], 1e-7, "perplexity %d: %s", i, printed)
	}
	for _, re := range w.has {
		require.Regexp(t, re, printed)
	}
	for _, re := range w.not {
		require.NotRegexp(t, re, printed)
	}
	if w.left != nil {
		left := []string{}
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "out") {
				left = append(left, e.Name())
			}
		}
		require.ElementsMatch(t, w.left, left, printed)
	}
	if w.early && len(w.left) == 0 {
		require.NotRegexp(t, workDone, printed)
	}
	for name, re := range w.files {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.True(t, regexp.MustCompile(re).Match(data), "%s has no %s", name, re)
	}
	for name, re := range w.filesNot {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.False(t, regexp.MustCompile(re).Match(data), "%s has %s", name, re)
	}
}

// unpackCase makes the folder of a case.
func unpackCase(t *testing.T, name string) string {
	t.Helper()
	const root = "../../testdata/cases"
	dir := filepath.Join(t.TempDir(), "w")
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(root, name))))
	blob, err := os.ReadFile(filepath.Join(root, "tensors.bin"))
	require.NoError(t, err)
	headers, err := filepath.Glob(filepath.Join(dir, "*", "*.safetensors.json"))
	require.NoError(t, err)
	for _, h := range headers {
		require.NoError(t, os.WriteFile(strings.TrimSuffix(h, ".json"), assemble(t, h, blob), 0o644))
		require.NoError(t, os.Remove(h))
	}
	if name == "long-line-without-spaces" {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "calib.txt"), bytes.Repeat([]byte("漢字"), 60000), 0o644))
	}
	return dir
}

// assemble makes a safetensors file of its header and the tensors in blob.
func assemble(t *testing.T, path string, blob []byte) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var f struct {
		Header string `json:"header"`
		At     []int  `json:"at"`
	}
	require.NoError(t, json.Unmarshal(data, &f))
	type entry struct {
		DType   string `json:"dtype"`
		Offsets [2]int `json:"data_offsets"`
	}
	var header map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(f.Header), &header))
	delete(header, "__metadata__")
	var entries []entry
	for _, raw := range header {
		var e entry
		require.NoError(t, json.Unmarshal(raw, &e))
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return a.Offsets[0] - b.Offsets[0] })
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(f.Header)))
	out = append(out, f.Header...)
	rng := rand.New(rand.NewPCG(1, 2))
	for i, e := range entries {
		n := e.Offsets[1] - e.Offsets[0]
		if at := f.At[i]; at >= 0 {
			out = append(out, blob[at:at+n]...)
			continue
		}
		out = appendNoise(out, rng, e.DType, n)
	}
	return out
}

// appendNoise appends n bytes of small values of a type.
func appendNoise(out []byte, rng *rand.Rand, dtype string, n int) []byte {
	for end := len(out) + n; len(out) < end; {
		v := rng.NormFloat64() / 16
		switch dtype {
		case "F64":
			out = binary.LittleEndian.AppendUint64(out, math.Float64bits(v))
		case "F32":
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(v)))
		case "BF16":
			out = binary.LittleEndian.AppendUint16(out, uint16(math.Float32bits(float32(v))>>16))
		default:
			out = append(out, byte(rng.IntN(120)))
		}
	}
	return out
}
