//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/testkit"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// cut writes a model of the shape of a Llama of 1.1 billion parameters, with so
// many blocks, all with the same weights, and a small vocabulary.
func cut(t *testing.T, blocks, vocab int) string {
	t.Helper()
	const hidden, inner, keys = 2048, 5632, 256
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.Mkdir(dir, 0o777))
	config, err := json.Marshal(map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
		"num_hidden_layers": blocks, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": vocab,
		"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666))
	tensors := []safetensors.TensorInfo{
		{Name: "model.embed_tokens.weight", Shape: []int{vocab, hidden}}, {Name: "lm_head.weight", Shape: []int{vocab, hidden}},
		{Name: "model.norm.weight", Shape: []int{hidden}},
	}
	for b := range blocks {
		p := fmt.Sprintf("model.layers.%d.", b)
		for _, l := range []struct {
			name  string
			shape []int
		}{
			{"input_layernorm", []int{hidden}}, {"post_attention_layernorm", []int{hidden}},
			{"self_attn.q_proj", []int{hidden, hidden}}, {"self_attn.k_proj", []int{keys, hidden}}, {"self_attn.v_proj", []int{keys, hidden}},
			{"self_attn.o_proj", []int{hidden, hidden}}, {"mlp.gate_proj", []int{inner, hidden}}, {"mlp.up_proj", []int{inner, hidden}},
			{"mlp.down_proj", []int{hidden, inner}},
		} {
			tensors = append(tensors, safetensors.TensorInfo{Name: p + l.name + ".weight", Shape: l.shape})
		}
	}
	for i := range tensors {
		tensors[i].DType = safetensors.BF16
	}
	w, err := safetensors.NewWriter(dir, tensors, safetensors.Options{})
	require.NoError(t, err)
	random := testkit.Normal(rand.New(rand.NewPCG(1, 1)), inner, hidden).Data
	half := make([]uint16, len(random))
	for i := range random {
		random[i] *= 0.02
	}
	tensor.F32ToBF16(half, random)
	data := make([]byte, 2*len(half))
	for i, v := range half {
		data[2*i], data[2*i+1] = byte(v), byte(v>>8)
	}
	for _, info := range tensors {
		n := 2
		for _, d := range info.Shape {
			n *= d
		}
		require.NoError(t, w.WriteTensor(info.Name, data[:n]))
	}
	require.NoError(t, w.Close())
	return dir
}

var memoryLimit = flag.Bool("memory", false, "hold runs of large models to their --memory")

// peakMemory is the most memory, in bytes, that the kernel saw a run of the
// command use. (What wait tells is no less than what the test itself has used.)
func peakMemory(t *testing.T, args ...string) int64 {
	t.Helper()
	c, _, stderr := command(t, args...)
	path := filepath.Join(t.TempDir(), "status")
	c.Env = append(c.Env, peakFile+"="+path)
	require.NoError(t, c.Run(), stderr)
	status, err := os.ReadFile(path)
	require.NoError(t, err)
	m := regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`).FindSubmatch(status)
	require.NotNil(t, m, "%s", status)
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	require.NoError(t, err)
	return n << 10
}

// TestMemoryLimit: --memory holds for the process as the kernel sees it, and how
// many blocks a model has does not matter. To save time only some layers are
// quantized, among them the widest, whose statistics and factors need the most;
// the text is short, and all of it in the file for --memory that leaves it no
// room.
func TestMemoryLimit(t *testing.T) {
	if !*memoryLimit {
		t.Skip("takes minutes: -memory runs it")
	}
	ids := filepath.Join(t.TempDir(), "ids.json")
	rng := rand.New(rand.NewPCG(2, 2))
	text := make([]int, 2048)
	for i := range text {
		text[i] = rng.IntN(256)
	}
	data, err := json.Marshal([][]int{text})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(ids, data, 0o666))
	const late = 64 << 20 // what is given up is gone a moment later
	skip := map[int]string{
		4:  `layers\.[12]\.|layers\.0\.mlp|[qkv]_proj|gate|up_proj`,
		12: `layers\.([1-9]|10)\.|layers\.0\.mlp|[qkv]_proj|gate|up_proj`,
	}
	for preset, c := range map[string]struct {
		limit  int64
		blocks []int // best takes minutes a layer with curvature
		more   []string
	}{"plain": {limit: 2 << 30, blocks: []int{4, 12}}, "best": {3 << 30, []int{4}, []string{"--refine", "1"}}} {
		t.Run(preset, func(t *testing.T) {
			peaks := map[int]int64{}
			for _, blocks := range c.blocks {
				model := cut(t, blocks, 256)
				args := []string{model, "-o", filepath.Join(t.TempDir(), "out"), "-q", "--preset", preset,
					"--calib-ids", ids, "--memory", fmt.Sprint(c.limit), "--skip", skip[blocks]}
				args = append(args, c.more...)
				p := planned(t, args...)
				peaks[blocks] = math.MaxInt64
				held := func() bool {
					return peaks[blocks] <= p.Peak+late && float64(peaks[blocks]) <= 1.05*float64(peaks[4])
				}
				for tries := 0; tries < 3 && !held(); tries++ { // the collector runs when it likes
					require.NoError(t, os.RemoveAll(args[2]))
					peaks[blocks] = min(peaks[blocks], peakMemory(t, append([]string{"quantize"}, args...)...))
				}
				t.Logf("%d blocks: %d MiB, planned %d MiB", blocks, peaks[blocks]>>20, p.Peak>>20)
				require.LessOrEqual(t, peaks[blocks], c.limit)
				require.LessOrEqual(t, peaks[blocks], p.Peak+late)
				require.NoError(t, os.RemoveAll(model))
			}
			if len(c.blocks) > 1 {
				require.LessOrEqual(t, float64(peaks[12]), 1.05*float64(peaks[4]), "more blocks need no more memory")
			}
		})
	}
}

// planned is what plan prints with these arguments of quantize.
func planned(t *testing.T, args ...string) foreseen {
	t.Helper()
	var f foreseen
	o := succeed(t, append(append([]string{"plan"}, args...), "--json")...)
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &f), o.stdout)
	return f
}

// TestConversionMemory: convert works on no more layers at a time than --memory has
// room for, and refuses one that it has none for.
func TestConversionMemory(t *testing.T) {
	packed := filepath.Join(t.TempDir(), "packed")
	succeed(t, "quantize", cut(t, 1, 256), "-o", packed, "--method", "rtn", "--axis", "oc", "-q")
	for _, format := range []string{"dense", "gptq"} {
		out := filepath.Join(t.TempDir(), format)
		peak := peakMemory(t, "convert", packed, "-o", out, "-q", "--format", format, "--workers", "16", "--memory", "300MiB")
		t.Logf("%s: %d MiB", format, peak>>20)
		require.LessOrEqual(t, peak, int64(300<<20))
	}
	o := runCommand(t, "convert", packed, "-o", filepath.Join(t.TempDir(), "out"), "--format", "gptq", "--memory", "120MiB")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "not enough memory: 146 MiB are needed at least (weights 44 MiB, rest 96 MiB), 120 MiB may be used")
}

// TestPlanHolds: what plan prints is enough for the process as the kernel sees it,
// for whatever needs the most: layers, a long text, the evaluation.
func TestPlanHolds(t *testing.T) {
	words, err := os.ReadFile(calibration)
	require.NoError(t, err)
	long := filepath.Join(t.TempDir(), "long.txt")
	require.NoError(t, os.WriteFile(long, bytes.Repeat(words, 160), 0o666)) // 16 MB
	skip := []string{"--skip", `layers\.[1-3]`}
	for name, args := range map[string][]string{
		"rounding":          {"--method", "rtn", "--axis", "oc"},
		"plain":             append(skip, "--preset", "plain", "--calib", calibration),
		"best":              append(skip, "--calib", calibration, "--samples", "16"),
		"a long text":       append(skip, "--preset", "plain", "--calib", long, "--samples", "2"),
		"evaluation":        {"--method", "rtn", "--axis", "oc", "--eval", shortText(t)},
		"written as floats": append(skip, "--preset", "plain", "--format", "dense", "--calib", calibration, "--samples", "2"),
	} {
		t.Run(name, func(t *testing.T) {
			p := planned(t, append([]string{embedded}, args...)...)
			peak := peakMemory(t, append([]string{"quantize", embedded, "-q", "-o", filepath.Join(t.TempDir(), "out")}, args...)...)
			t.Logf("%d MiB, planned %d MiB", peak>>20, p.Peak>>20)
			require.LessOrEqual(t, peak, p.Peak)
			require.Less(t, p.Peak, 6*peak, "a plan that is far off is of no use")
			if name == "a long text" {
				require.Greater(t, p.Peak, p.Memory.Work())
			}
		})
	}
	o := runCommand(t, "quantize", embedded, "-o", filepath.Join(t.TempDir(), "out"), "--calib", long, "--memory", "200MiB")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "long.txt: not enough memory: to read and encode the text ")
}

// TestEvaluationMemory: 4 MB of text, about a million tokens, go through two blocks of
// a model in 1 GB as the kernel sees it, without any --memory.
func TestEvaluationMemory(t *testing.T) {
	if !*memoryLimit {
		t.Skip("takes many minutes: -memory runs it")
	}
	model := cut(t, 2, 2048)
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		data, err := os.ReadFile(filepath.Join(embedded, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(model, name), data, 0o666))
	}
	text := filepath.Join(t.TempDir(), "text")
	const line = "once upon a time\n"
	require.NoError(t, os.WriteFile(text, bytes.Repeat([]byte(line), 4_000_000/len(line)), 0o666))
	peak := peakMemory(t, "eval", model, "--text", text)
	t.Logf("%d MiB", peak>>20)
	require.LessOrEqual(t, peak, int64(1_000_000_000))
}
