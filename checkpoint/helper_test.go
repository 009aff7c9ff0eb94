package checkpoint

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// memory is a Source of tensors in memory.
type memory struct {
	names   []string
	tensors map[string]Tensor
}

func newMemory(tensors ...Tensor) *memory {
	m := &memory{tensors: map[string]Tensor{}}
	for _, t := range tensors {
		m.put(t)
	}
	return m
}

func (m *memory) put(t Tensor) {
	if _, ok := m.tensors[t.Name]; !ok {
		m.names = append(m.names, t.Name)
	}
	m.tensors[t.Name] = t
}

func (m *memory) drop(name string) {
	delete(m.tensors, name)
	m.names = slices.DeleteFunc(m.names, func(n string) bool { return n == name })
}

func (m *memory) Names() []string { return m.names }

func (m *memory) Spec(name string) (Spec, bool) {
	t, ok := m.tensors[name]
	return t.Spec, ok
}

func (m *memory) ReadAt(name string, p []byte, off int64) error {
	t, ok := m.tensors[name]
	if !ok || off < 0 || off+int64(len(p)) > int64(len(t.Data)) {
		return fmt.Errorf("memory: %q: bytes %d to %d asked for", name, off, off+int64(len(p)))
	}
	copy(p, t.Data[off:])
	return nil
}

func (m *memory) File(string) string { return "memory.safetensors" }
func (m *memory) Close() error       { return nil }

// randomWeight fills a weight of the scheme with random codes, scales that
// are exact in the scale type, and zero-points that the scheme allows.
func randomWeight(seed uint64, out, in int, s quant.Scheme, rowScale, inputScale bool) *quant.Weight {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := quant.NewWeight(out, in, s)
	codes := make([]uint8, w.LineLen())
	for l := range w.Lines() {
		for i := range codes {
			codes[i] = uint8(rng.IntN(s.MaxCode() + 1))
		}
		w.SetLine(l, codes)
	}
	exact := func() float32 {
		v := float32(rng.NormFloat64()) * 0.05
		switch s.ScaleType {
		case quant.F16:
			return tensor.RoundF16(v)
		case quant.F16Short:
			return float32(int(rng.IntN(127)+1)) / 4096
		}
		return v
	}
	for i := range w.Scales {
		w.Scales[i] = exact()
		w.Zeros[i] = 1 << (s.Bits - 1)
		if !s.Symmetric {
			w.Zeros[i] = uint8(s.MinZero + rng.IntN(s.MaxCode()+1-s.MinZero))
		}
	}
	if rowScale {
		w.RowScale = make([]float32, out)
		for i := range w.RowScale {
			w.RowScale[i] = exact()
		}
	}
	if inputScale {
		w.InputScale = make([]float32, in)
		for i := range w.InputScale {
			w.InputScale[i] = exact()
		}
	}
	return w
}

// withGroupIndex permutes the groups of the positions of a line.
func withGroupIndex(seed uint64, w *quant.Weight) *quant.Weight {
	rng := rand.New(rand.NewPCG(seed, 2))
	w.GroupIndex = make([]int32, w.LineLen())
	for i := range w.GroupIndex {
		w.GroupIndex[i] = int32(rng.IntN(w.Groups()))
	}
	return w
}

// drawWeight draws a weight of any kind that a quant.Weight can be.
func drawWeight(t *rapid.T) *quant.Weight {
	s := quant.Scheme{
		Bits:      rapid.IntRange(2, 8).Draw(t, "bits"),
		Axis:      rapid.SampledFrom([]quant.Axis{quant.OC, quant.IC}).Draw(t, "axis"),
		GroupSize: rapid.SampledFrom([]int{quant.WholeLine, 1, 3, 8, 32, 100}).Draw(t, "group"),
		Symmetric: rapid.Bool().Draw(t, "sym"),
		Range:     rapid.SampledFrom([]quant.Range{quant.RangeZero, quant.RangePaper}).Draw(t, "range"),
		ScaleType: rapid.SampledFrom([]quant.ScaleType{quant.F16, quant.F32, quant.F16Short}).Draw(t, "scale"),
		Clip:      rapid.Bool().Draw(t, "clip"),
		MinZero:   rapid.IntRange(0, 1).Draw(t, "minzero"),
	}
	out := rapid.IntRange(1, 70).Draw(t, "out")
	in := rapid.IntRange(1, 70).Draw(t, "in")
	if s.Axis == quant.IC && rapid.Bool().Draw(t, "strided") {
		s.Strided = true
		if s.GroupSize != quant.WholeLine {
			out = s.GroupSize * rapid.IntRange(1, 4).Draw(t, "bands")
		}
	}
	seed := rapid.Uint64().Draw(t, "seed")
	w := randomWeight(seed, out, in, s, rapid.Bool().Draw(t, "rows"), rapid.Bool().Draw(t, "inputs"))
	if rapid.Bool().Draw(t, "groupindex") {
		withGroupIndex(seed, w)
	}
	return w
}

const testConfig = `{
  "architectures": ["LlamaForCausalLM"],
  "rms_norm_eps": 1e-05,
  "hidden_size": 64,
  "rope_theta": 10000.0,
  "torch_dtype": "bfloat16",
  "vocab_size": 20
}`

// testLinears are the linears of the model that writeModel writes.
var testLinears = []struct {
	name    string
	out, in int
}{
	{"model.layers.0.self_attn.q_proj", 64, 64},
	{"model.layers.0.mlp.down_proj", 64, 96},
	{"model.layers.1.self_attn.q_proj", 64, 64},
	{"model.layers.1.mlp.down_proj", 64, 96},
}

// writeModel writes a dense folder with two small layers, embeddings, norms, a
// bias, and the usual files around them.
func writeModel(t testing.TB, dtype safetensors.DType) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "source")
	require.NoError(t, os.Mkdir(dir, 0o777))
	rng := rand.New(rand.NewPCG(7, 7))
	var plan []safetensors.TensorInfo
	add := func(name string, shape ...int) {
		plan = append(plan, safetensors.TensorInfo{Name: name, DType: dtype, Shape: shape})
	}
	add("model.embed_tokens.weight", 20, 64)
	add("lm_head.weight", 20, 64)
	for _, l := range testLinears {
		add(l.name+".weight", l.out, l.in)
	}
	add("model.layers.0.self_attn.q_proj.bias", 64)
	add("model.norm.weight", 64)
	w, err := safetensors.NewWriter(dir, plan, safetensors.Options{})
	require.NoError(t, err)
	for _, p := range plan {
		v := make([]float32, p.Elements())
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		require.NoError(t, w.WriteFloat32(p.Name, v))
	}
	require.NoError(t, w.Close())
	for name, text := range map[string]string{
		"config.json":            testConfig,
		"generation_config.json": `{"eos_token_id": 2}`,
		"tokenizer.json":         `{"version": "1.0"}`,
		"tokenizer.model":        "\x00\x01",
		"chat_template.jinja":    "{{ messages }}",
		"modeling.py":            "pass\n",
		"LICENSE":                "free",
		".gitattributes":         "hidden",
		"pytorch_model.bin":      "old weights",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "original"), 0o777))
	return dir
}

func openModel(t testing.TB, dir string) *Model {
	t.Helper()
	m, err := Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// testWeights quantizes nothing: it makes random weights of the shapes of
// testLinears, alternately of the two axes.
func testWeights() map[string]*quant.Weight {
	weights := map[string]*quant.Weight{}
	for i, l := range testLinears {
		s := quant.Scheme{Bits: 3, GroupSize: 32, Axis: quant.Axis(i % 2)}
		weights[l.name] = randomWeight(uint64(i), l.out, l.in, s, i == 1, false)
	}
	return weights
}

func layerNames() []Layer {
	var layers []Layer
	for _, l := range testLinears {
		layers = append(layers, Layer{Name: l.name})
	}
	return layers
}

func sortedNames(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

// newModel is a model of tensors in memory.
func newModel(path string, config json.RawMessage, src Source, format Format, dec Decoder) (*Model, error) {
	m := &Model{path: path, config: config, src: src, format: format, dec: dec}
	return m.indexed()
}
