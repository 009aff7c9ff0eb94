package lora

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/safetensors"
)

// memory is a model in memory, all F32.
type memory struct {
	names  []string
	shapes map[string][]int
	values map[string][]float32
}

func (m *memory) put(name string, v []float32, shape ...int) {
	if m.shapes == nil {
		m.shapes, m.values = map[string][]int{}, map[string][]float32{}
	}
	m.names = append(m.names, name)
	m.shapes[name], m.values[name] = shape, v
}

func (m *memory) Names() []string { return m.names }
func (m *memory) Info(name string) (safetensors.TensorInfo, bool) {
	s, ok := m.shapes[name]
	return safetensors.TensorInfo{Name: name, DType: safetensors.F32, Shape: s}, ok
}
func (m *memory) ReadAt(name string, p []byte, off int64) error {
	copy(p, raw(m.values[name])[off:])
	return nil
}
func (m *memory) Path(string) string { return "base" }
func (m *memory) Close() error       { return nil }

func raw(v []float32) []byte {
	p := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(p[4*i:], math.Float32bits(x))
	}
	return p
}

func floats(p []byte) []float32 {
	v := make([]float32, len(p)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(p[4*i:]))
	}
	return v
}

// save writes the model as an adapter with the configuration.
func (m *memory) save(t require.TestingT, dir, config string) {
	head := map[string]any{}
	var data []byte
	for _, n := range m.names {
		p := raw(m.values[n])
		head[n] = map[string]any{"dtype": "F32", "shape": m.shapes[n], "data_offsets": []int{len(data), len(data) + len(p)}}
		data = append(data, p...)
	}
	text, err := json.Marshal(head)
	require.NoError(t, err)
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "adapter_model.safetensors"), slices.Concat(file, text, data), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, ConfigName), []byte(config), 0o644))
}

func random(n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rand.NormFloat64())
	}
	return v
}

func read(t require.TestingT, m weights.Tensors, name string) []float32 {
	info, ok := m.Info(name)
	require.True(t, ok)
	p := make([]byte, info.Size())
	require.NoError(t, m.ReadAt(name, p, 0))
	return floats(p)
}

// sum is W + s·(B·A), or its transpose, in float64.
func sum(w, a, b []float32, out, in, r int, s float64, transposed bool) []float64 {
	y := make([]float64, len(w))
	for i := range out {
		for j := range in {
			at := i*in + j
			if transposed {
				at = j*out + i
			}
			y[at] = float64(w[at])
			for k := range r {
				y[at] += s * float64(b[i*r+k]) * float64(a[k*in+j])
			}
		}
	}
	return y
}

func close64(t require.TestingT, want []float64, got []float32) {
	require.Len(t, got, len(want))
	for i := range want {
		require.InDelta(t, want[i], got[i], 1e-4, "element %d", i)
	}
}

// TestMerge: any shape, orientation and rank; reading in pieces gives the same
// bytes as reading whole.
func TestMerge(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		out, in := rapid.IntRange(1, 40).Draw(t, "out"), rapid.IntRange(1, 700).Draw(t, "in")
		r := rapid.IntRange(1, 20).Draw(t, "r")
		embedding, turned := rapid.Bool().Draw(t, "embedding"), rapid.Bool().Draw(t, "fan_in_fan_out")
		rs := rapid.Bool().Draw(t, "rslora")
		if embedding || out == in {
			turned = embedding
		}
		shape := []int{out, in}
		if turned {
			shape = []int{in, out}
		}
		base, adapter := &memory{}, &memory{}
		base.put("model.x.weight", random(out*in), shape...)
		base.put("model.y.weight", random(6), 2, 3)
		suffix := [2]string{".lora_A.weight", ".lora_B.weight"}
		if embedding {
			suffix = [2]string{".lora_embedding_A", ".lora_embedding_B"}
		}
		adapter.put("base_model.model.model.x"+suffix[0], random(r*in), r, in)
		adapter.put("base_model.model.model.x"+suffix[1], random(out*r), out, r)
		adapter.save(t, dir, fmt.Sprintf(`{"peft_type":"LORA","r":%d,"lora_alpha":6,"use_rslora":%v,"fan_in_fan_out":%v}`, r, rs, turned))
		a, err := Open(dir)
		require.NoError(t, err)
		m, err := a.Merge(base, false)
		require.NoError(t, err)
		s := 6 / float64(r)
		if rs {
			s = 6 / math.Sqrt(float64(r))
		}
		whole := read(t, m, "model.x.weight")
		close64(t, sum(base.values["model.x.weight"], adapter.values[adapter.names[0]], adapter.values[adapter.names[1]], out, in, r, s, turned), whole)
		require.Equal(t, base.values["model.y.weight"], read(t, m, "model.y.weight"))
		require.True(t, m.Changed("model.x.weight"))
		require.False(t, m.Changed("model.y.weight"))

		all := raw(whole)
		for range 4 {
			at := rapid.IntRange(0, len(all)).Draw(t, "at")
			n := rapid.IntRange(0, len(all)-at).Draw(t, "n")
			p := make([]byte, n)
			require.NoError(t, m.ReadAt("model.x.weight", p, int64(at)))
			require.Equal(t, all[at:at+n], p)
		}
		require.Error(t, m.ReadAt("model.x.weight", make([]byte, 1), int64(len(all))))
		require.NoError(t, m.Close())
	})
}

func TestPatterns(t *testing.T) {
	c, err := parseConfig([]byte(`{"peft_type":"LORA","r":8,"lora_alpha":16,
		"rank_pattern":{"^model.layers.0.self_attn.q_proj":2,"q_proj":4,"layers\\.1\\.mlp\\.up_proj":16},
		"alpha_pattern":{"k_proj":1.5}}`))
	require.NoError(t, err)
	for module, want := range map[string]struct {
		rank  int
		scale float32
	}{
		"model.layers.0.self_attn.q_proj": {2, 8},
		"model.layers.1.self_attn.q_proj": {4, 4},
		"model.layers.1.self_attn.k_proj": {8, 1.5 / 8},
		"model.layers.1.mlp.up_proj":      {16, 1},
		"model.layers.11.mlp.up_proj":     {8, 2},
		"model.layers.1.xq_proj":          {8, 2},
	} {
		require.Equal(t, want.rank, c.rank(module), module)
		require.Equal(t, want.scale, c.scale(module), module)
	}
}

func TestReplacements(t *testing.T) {
	dir := t.TempDir()
	base := &memory{}
	base.put("embed_tokens.weight", random(12), 4, 3)
	base.put("layers.0.self_attn.q_proj.weight", random(9), 3, 3)
	base.put("layers.0.self_attn.q_proj.bias", random(3), 3)
	base.put("lm_head.weight", random(12), 4, 3)
	adapter := func(tokens int) *memory {
		a := &memory{}
		a.put("base_model.model.model.layers.0.self_attn.q_proj.bias", random(3), 3)
		a.put("base_model.model.model.embed_tokens.modules_to_save.weight", random(tokens*3), tokens, 3)
		a.put("base_model.model.lm_head.base_layer.weight", random(tokens*3), tokens, 3)
		return a
	}
	open := func(a *memory) *Adapter {
		a.save(t, dir, `{"peft_type":"LORA","bias":"all","base_model_name_or_path":"org/name"}`)
		x, err := Open(dir)
		require.NoError(t, err)
		return x
	}
	for _, tokens := range []int{4, 6} {
		a := adapter(tokens)
		x := open(a)
		name, revision := x.Base()
		require.Equal(t, "org/name", name)
		require.Empty(t, revision)
		m, err := x.Merge(base, false)
		require.NoError(t, err)
		require.Equal(t, a.values[a.names[0]], read(t, m, "layers.0.self_attn.q_proj.bias"))
		require.Equal(t, a.values[a.names[1]], read(t, m, "embed_tokens.weight"))
		require.Equal(t, a.values[a.names[2]], read(t, m, "lm_head.weight"))
		require.Equal(t, base.names, m.Names())
		require.Equal(t, map[int]int{4: 0, 6: 6}[tokens], m.Vocab())
		require.Equal(t, "base", m.Path("layers.0.self_attn.q_proj.weight"))
		require.Equal(t, filepath.Join(dir, "adapter_model.safetensors"), m.Path("lm_head.weight"))
	}
	a := adapter(6)
	a.names = a.names[:2]
	_, err := open(a).Merge(base, false)
	require.ErrorContains(t, err, `has 6 tokens, and "lm_head.weight"`)

	// Tied: a saved head must be the saved embedding.
	base.names = base.names[:3]
	delete(base.shapes, "lm_head.weight")
	_, err = open(adapter(6)).Merge(base, true)
	require.ErrorIs(t, err, ErrUnsupported)
	require.ErrorContains(t, err, "lm_head")
	a = adapter(6)
	a.values[a.names[2]] = a.values[a.names[1]]
	m, err := open(a).Merge(base, true)
	require.NoError(t, err)
	require.Equal(t, 6, m.Vocab())
	a = adapter(4)
	a.names = a.names[:2]
	_, err = open(a).Merge(base, true)
	require.ErrorContains(t, err, "without the head")
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	good := func() *memory {
		a := &memory{}
		a.put("base_model.model.model.x.lora_A.weight", random(6), 2, 3)
		a.put("base_model.model.model.x.lora_B.weight", random(8), 4, 2)
		return a
	}
	const lora = `{"peft_type":"LORA","r":2}`
	for name, c := range map[string]struct {
		config  string
		adapter *memory
		text    string
	}{
		"dora":         {`{"peft_type":"LORA","use_dora":true}`, good(), "use_dora"},
		"other method": {`{"peft_type":"IA3"}`, good(), `peft_type "IA3"`},
		"none":         {`{}`, good(), `peft_type ""`},
		"mlx":          {`{"fine_tune_type":"lora"}`, good(), "mlx_lm.fuse"},
		"pissa":        {`{"peft_type":"LORA","init_lora_weights":"pissa_niter_4"}`, good(), "pissa_niter_4"},
		"lora bias":    {`{"peft_type":"LORA","lora_bias":true}`, good(), "lora_bias"},
		"parameters":   {`{"peft_type":"LORA","target_parameters":["experts.up"]}`, good(), "target_parameters"},
		"pattern":      {`{"peft_type":"LORA","rank_pattern":{"(?=x)":3}}`, good(), "(?=x)"},
		"negative":     {`{"peft_type":"LORA","rank_pattern":{"x":-3}}`, good(), "positive"},
		"fraction":     {`{"peft_type":"LORA","rank_pattern":{"x":0.5}}`, good(), "0.5"},
		"json":         {`{`, good(), ConfigName},
		"rank":         {`{"peft_type":"LORA","r":4}`, good(), "want rank 4"},
		"magnitude": {lora, func() *memory {
			a := good()
			a.put("base_model.model.model.x.lora_magnitude_vector", random(4), 4)
			return a
		}(), "lora_magnitude_vector"},
		"half":         {lora, func() *memory { a := good(); a.names = a.names[:1]; return a }(), "only one of"},
		"nothing":      {lora, &memory{}, "no tensors"},
		"other module": {lora, func() *memory { a := good(); a.put("base_model.model.z.weight", random(4), 4); return a }(), "is it the adapter's base?"},
		"other shape":  {lora, func() *memory { a := good(); a.put("base_model.model.model.y.weight", random(4), 4); return a }(), "the base's is [2 3]"},
		"convolution":  {lora, func() *memory { a := good(); a.shapes[a.names[0]] = []int{2, 3, 1, 1}; return a }(), "want matrices"},
		"does not fit": {lora, func() *memory {
			a := good()
			a.shapes[a.names[0]] = []int{2, 4}
			a.values[a.names[0]] = random(8)
			return a
		}(), "do not fit"},
	} {
		t.Run(name, func(t *testing.T) {
			c.adapter.save(t, dir, c.config)
			base := &memory{}
			base.put("model.x.weight", random(12), 4, 3)
			base.put("model.y.weight", random(6), 2, 3)
			a, err := Open(dir)
			if err == nil {
				_, err = a.Merge(base, false)
			}
			require.ErrorContains(t, err, c.text)
		})
	}
	require.True(t, IsAdapter(dir))
	require.False(t, IsAdapter(t.TempDir()))
	good().save(t, dir, lora)
	require.NoError(t, os.Remove(filepath.Join(dir, "adapter_model.safetensors")))
	_, err := Open(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "LoRA adapter without weights")
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"peft_type":"LORA","r":2,"rank_pattern":{"a":1},"lora_alpha":4}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig(data)
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, c.rank("a.b"), 1)
		c.scale("a.b")
	})
}

// TestAgainstPEFT compares with merge_and_unload (testdata/generate.py).
func TestAgainstPEFT(t *testing.T) {
	for _, name := range []string{"llama", "llama-rs", "gpt2"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", name)
			file := func(n string) weights.Tensors {
				f, err := safetensors.Open(filepath.Join(dir, n))
				require.NoError(t, err)
				return weights.Safetensors(f, dir)
			}
			a, err := Open(dir)
			require.NoError(t, err)
			m, err := a.Merge(file("base.safetensors"), false)
			require.NoError(t, err)
			defer m.Close()
			want := file("merged.safetensors")
			defer want.Close()
			for _, n := range m.Names() {
				if _, ok := want.Info(n); !ok {
					require.False(t, m.Changed(n), n)
					continue
				}
				require.True(t, m.Changed(n), n)
				w, got := read(t, want, n), read(t, m, n)
				require.Len(t, got, len(w))
				for i := range w {
					require.InDelta(t, w[i], got[i], 1e-6, "%s element %d", n, i)
				}
			}
		})
	}
}
