package checkpoint

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// heldScheme is the scheme, or the one that a format has for all layers.
func heldScheme(f layout.Format, s quant.Scheme) quant.Scheme {
	if m, ok := f.(layout.Mixer); ok {
		if own, ok := m.Main(); ok {
			return own
		}
	}
	return s
}

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
		"config.json":            formattest.ModelConfig,
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
		weights[l.name] = formattest.RandomWeight(uint64(i), l.out, l.in, s, i == 1, false)
	}
	return weights
}

func layerNames() []layout.Layer {
	var layers []layout.Layer
	for _, l := range testLinears {
		layers = append(layers, layout.Layer{Name: l.name})
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
func newModel(path string, config json.RawMessage, src layout.Source, format layout.Format, dec layout.Decoder) (*Model, error) {
	m := &Model{path: path, config: config, src: src, format: format, dec: dec}
	return m.indexed()
}
