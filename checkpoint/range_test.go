package checkpoint

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// embeddedCopy copies the embedded model and sets elements of its tensors.
func embeddedCopy(t *testing.T, elements map[string]float64) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join("..", "testdata", "tinyllama-2m"))))
	for tensor, v := range elements {
		poison(t, dir, tensor, 5, v)
	}
	return dir
}

// TestGGUFRange: what does not fit the type that a tensor has in GGUF gets a
// larger one.
func TestGGUFRange(t *testing.T) {
	const name, other = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
	src := openModel(t, embeddedCopy(t, map[string]float64{
		"model.embed_tokens.weight": 1e5, "model.layers.2.mlp.up_proj.weight": -3e38, name + ".weight": -70000,
	}))
	o := WriterOptions{Out: filepath.Join(t.TempDir(), "out.gguf"), Source: src, Format: ggufmodel.Format{}, Layers: []layout.Layer{{Name: name}, {Name: other}}}
	w, err := Create(o)
	require.NoError(t, err)
	defer w.Close()
	weights := map[string]*quant.Weight{}
	for _, l := range o.Layers {
		m, err := src.Matrix(l.Name + ".weight")
		require.NoError(t, err)
		weights[l.Name], err = quant.RTN{}.Quantize(t.Context(), m, quant.Scheme{Bits: 4, GroupSize: 32, ScaleType: quant.F16Short}, nil)
		require.NoError(t, err)
		require.NoError(t, w.Put(l.Name, weights[l.Name], nil))
	}
	require.NoError(t, w.Finish(t.Context()))

	f, err := gguf.Open(o.Out)
	require.NoError(t, err)
	defer f.Close()
	types := map[string]gguf.Type{}
	for _, info := range f.Tensors() {
		types[info.Name] = info.Type
	}
	require.Equal(t, gguf.BF16, types["token_embd.weight"])
	require.Equal(t, gguf.BF16, types["blk.2.ffn_up.weight"])
	require.Equal(t, gguf.F16, types["blk.2.ffn_gate.weight"])
	require.Equal(t, gguf.Q5_0, types["blk.0.attn_q.weight"])
	require.Equal(t, gguf.Q4_1, types["blk.1.attn_q.weight"])
	back := openModel(t, o.Out)
	for layer, q := range weights {
		m, err := back.Matrix(layer + ".weight")
		require.NoError(t, err)
		require.Equal(t, q.Dequantize().Data, m.Data, layer)
	}
	for _, tensor := range []string{"model.embed_tokens.weight", "model.layers.2.mlp.up_proj.weight"} {
		want, err := src.Matrix(tensor)
		require.NoError(t, err)
		got, err := back.Matrix(tensor)
		require.NoError(t, err)
		require.Equal(t, want.Data, got.Data, tensor)
	}
}

// TestGGUFHeaderNumbers: numbers that the header cannot say are refused before
// anything is made.
func TestGGUFHeaderNumbers(t *testing.T) {
	for key, value := range map[string]string{
		"max_position_embeddings": "5000000000", "rms_norm_eps": "1e-60", "rope_theta": "1e39",
	} {
		dir := embeddedCopy(t, nil)
		path := filepath.Join(dir, "config.json")
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		o, err := layout.ParseObject(data)
		require.NoError(t, err)
		o.Set(key, []byte(value))
		require.NoError(t, os.WriteFile(path, o.Bytes(), 0o666))
		out := filepath.Join(t.TempDir(), "out.gguf")
		_, err = Create(WriterOptions{Out: out, Source: openModel(t, dir), Format: ggufmodel.Format{}, Layers: []layout.Layer{{Name: "model.layers.0.self_attn.q_proj"}}})
		require.ErrorIs(t, err, layout.ErrUnsupported, key)
		require.True(t, strings.Contains(err.Error(), "GGUF cannot say"), err)
		require.Empty(t, sortedNames(t, filepath.Dir(out)))
	}
}

// TestNamesTaken: a tensor of the source under a name that the format needs is
// found before anything is made, for every format.
func TestNamesTaken(t *testing.T) {
	const name = "model.layers.0.self_attn.q_proj"
	src := openModel(t, embeddedCopy(t, nil))
	m, err := src.Matrix(name + ".weight")
	require.NoError(t, err)
	for _, format := range Formats() {
		f, ok := format.(layout.Folder)
		if !ok || f.Name() == (dense.Format{}).Name() {
			continue // it has one name, the layer's own
		}
		l := layout.Layer{Name: name, Out: m.Rows, In: m.Cols, Scheme: heldScheme(f, quant.Scheme{Bits: 4, GroupSize: 64, Symmetric: true})}
		specs, err := f.Plan(l)
		require.NoError(t, err)
		taken := specs[len(specs)-1].Name
		dir := filepath.Join(t.TempDir(), "taken")
		require.NoError(t, os.CopyFS(dir, os.DirFS(src.Path())))
		withTensor(t, dir, taken)
		for _, direct := range []bool{false, true} {
			out := filepath.Join(t.TempDir(), "out")
			_, err := Create(WriterOptions{Out: out, Source: openModel(t, dir), Format: f, Layers: []layout.Layer{l}, Direct: direct})
			require.ErrorIs(t, err, safetensors.ErrInvalid, f.Name())
			require.ErrorContains(t, err, taken)
			require.Empty(t, sortedNames(t, filepath.Dir(out)))
		}
	}
}

// withTensor adds a tensor of one element to a folder's one safetensors file.
func withTensor(t *testing.T, dir, name string) {
	t.Helper()
	f, err := safetensors.OpenFolder(dir)
	require.NoError(t, err)
	plan := []safetensors.TensorInfo{{Name: name, DType: safetensors.F32, Shape: []int{1}}}
	for _, old := range f.Names() {
		info, _ := f.Info(old)
		plan = append(plan, safetensors.TensorInfo{Name: old, DType: info.DType, Shape: info.Shape})
	}
	made := t.TempDir()
	w, err := safetensors.NewWriter(made, plan, safetensors.Options{})
	require.NoError(t, err)
	defer w.Abort()
	require.NoError(t, w.WriteTensor(name, make([]byte, 4)))
	for _, info := range plan[1:] {
		r, err := f.Section(info.Name)
		require.NoError(t, err)
		require.NoError(t, w.WriteFrom(info.Name, r))
	}
	require.NoError(t, w.Close())
	require.NoError(t, f.Close())
	require.NoError(t, os.Rename(filepath.Join(made, "model.safetensors"), filepath.Join(dir, "model.safetensors")))
}

// TestConvertBeyondHalf: a layer whose weights no half float holds is stored as
// F32 by format dense, with a warning, and the others as they were.
func TestConvertBeyondHalf(t *testing.T) {
	source := writeModel(t, safetensors.F16)
	config, err := os.ReadFile(filepath.Join(source, "config.json"))
	require.NoError(t, err)
	parsed, err := layout.ParseObject(config)
	require.NoError(t, err)
	parsed.Remove("dtype")
	parsed.Set("torch_dtype", []byte(`"float16"`))
	require.NoError(t, os.WriteFile(filepath.Join(source, "config.json"), parsed.Bytes(), 0o666))
	weights := testWeights()
	large := testLinears[2].name
	q := weights[large]
	q.Scales[0], q.Zeros[0] = 65504, 0
	q.SetLine(0, slices.Repeat([]uint8{3}, q.LineLen()))
	made := filepath.Join(t.TempDir(), "made")
	w, err := Create(WriterOptions{Out: made, Source: openModel(t, source), Format: native.Format{}, Layers: layerNames()})
	require.NoError(t, err)
	putAll(t, w, weights)
	require.NoError(t, w.Finish(t.Context()))

	var warnings []string
	out := filepath.Join(t.TempDir(), "out")
	o := WriterOptions{Out: out, Source: openModel(t, made), Format: dense.Format{}, Warn: func(s string) { warnings = append(warnings, s) }}
	require.NoError(t, Convert(t.Context(), o))
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], large+" is stored as F32")
	m := openModel(t, out)
	for _, l := range testLinears {
		d, _ := m.DType(l.name + ".weight")
		require.Equal(t, map[bool]safetensors.DType{true: safetensors.F32, false: safetensors.F16}[l.name == large], d)
	}
	got, err := m.Matrix(large + ".weight")
	require.NoError(t, err)
	require.Equal(t, q.Dequantize().Data, got.Data)

	// The same of models whose layers are no quant.Weight.
	back, err := o.Source.dequantized(nil)
	require.NoError(t, err)
	_, err = back.Matrix(large + ".weight")
	var r *rangeError
	require.ErrorAs(t, err, &r)
	require.Equal(t, large, r.name)
	back, err = o.Source.dequantized(map[string]bool{large: true})
	require.NoError(t, err)
	got, err = back.Matrix(large + ".weight")
	require.NoError(t, err)
	require.Equal(t, q.Dequantize().Data, got.Data)
}

// TestGGUFExperts: experts of a block are one tensor in GGUF, so that one alone
// cannot stay dense; that is said before anything is made.
func TestGGUFExperts(t *testing.T) {
	dir := embeddedCopy(t, nil)
	config := []byte(`{"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 4096, "hidden_size": 32,
		"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2,
		"num_experts_per_tok": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false}`)
	embedded, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	o, err := layout.ParseObject(embedded)
	require.NoError(t, err)
	vocab, ok := o.Get("vocab_size")
	require.True(t, ok)
	config = bytes.Replace(config, []byte("4096"), vocab, 1)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666))
	m, err := arch.ParseConfig(config)
	require.NoError(t, err)
	var plan []safetensors.TensorInfo
	for _, s := range m.Tensors() {
		plan = append(plan, safetensors.TensorInfo{Name: s.Name, DType: safetensors.BF16, Shape: s.Shape})
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "model.safetensors")))
	w, err := safetensors.NewWriter(dir, plan, safetensors.Options{})
	require.NoError(t, err)
	for _, s := range plan {
		require.NoError(t, w.WriteFloat32(s.Name, make([]float32, s.Elements())))
	}
	require.NoError(t, w.Close())
	src := openModel(t, dir)
	var layers []layout.Layer
	for _, l := range m.Linears() {
		if strings.Contains(l.Name, "experts") {
			layers = append(layers, layout.Layer{Name: l.Name, Out: l.Out, In: l.In, Scheme: faultScheme})
		}
	}
	require.Len(t, layers, 6)
	out := filepath.Join(t.TempDir(), "out.gguf")
	for _, missing := range []int{0, 5} {
		some := slices.Delete(slices.Clone(layers), missing, missing+1)
		_, err := Create(WriterOptions{Out: out, Source: src, Format: ggufmodel.Format{}, Layers: some})
		require.ErrorIs(t, err, layout.ErrUnsupported)
		require.ErrorContains(t, err, "all experts of a block")
		require.Empty(t, sortedNames(t, filepath.Dir(out)))
	}
	all, err := Create(WriterOptions{Out: out, Source: src, Format: ggufmodel.Format{}, Layers: layers})
	require.NoError(t, err)
	require.NoError(t, all.Close())
}
