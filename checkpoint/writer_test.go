package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/internal/partial"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// putAll puts the weights concurrently, in a random order.
func putAll(t *testing.T, w *Writer, weights map[string]*quant.Weight) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, len(testLinears))
	for _, i := range rand.Perm(len(testLinears)) {
		wg.Go(func() {
			name := testLinears[i].name
			if !w.Done(name) {
				errs[i] = w.Put(name, weights[name], json.RawMessage(fmt.Sprintf(`{"layer":%d}`, i)))
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
}

// checkResult compares a finished folder with its source and the weights.
func checkResult(t *testing.T, out, source string, weights map[string]*quant.Weight) {
	t.Helper()
	src, m := openModel(t, source), openModel(t, out)
	require.Equal(t, "lowbit", m.Format().Name())
	require.Len(t, m.Quantized(), len(weights))
	for _, name := range m.Quantized() {
		w, err := m.Weight(name)
		require.NoError(t, err)
		require.Equal(t, weights[name], w)
		d, err := m.Matrix(name + ".weight")
		require.NoError(t, err)
		require.Equal(t, weights[name].Dequantize(), d)
		l, ok := m.Layer(name)
		require.True(t, ok)
		require.Equal(t, safetensors.BF16, l.DType)
		require.Equal(t, name == "model.layers.0.self_attn.q_proj", l.Bias)
		shape, ok := m.Shape(name + ".weight")
		require.True(t, ok)
		require.Equal(t, []int{w.Out, w.In}, shape)
		require.False(t, m.Has(name))
	}
	require.Len(t, m.Dense(), len(src.Dense())-len(weights))
	for _, s := range m.Dense() {
		_, want, err := layout.ReadBytes(src.Source(), s.Name, s.Shape, s.DType)
		require.NoError(t, err)
		_, got, err := layout.ReadBytes(m.Source(), s.Name, s.Shape, s.DType)
		require.NoError(t, err)
		require.Equal(t, want, got, s.Name)
	}
	for _, name := range []string{"generation_config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "modeling.py", "LICENSE"} {
		want, err := os.ReadFile(filepath.Join(source, name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(out, name))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, name := range []string{".gitattributes", "pytorch_model.bin", "original"} {
		require.NoFileExists(t, filepath.Join(out, name))
	}
	require.NoDirExists(t, out+PartialSuffix)

	config := string(m.Config())
	before, ok := strings.CutSuffix(formattest.ModelConfig, "\n}")
	require.True(t, ok)
	before = strings.Replace(before, `["LlamaForCausalLM"]`, "[\n    \"LlamaForCausalLM\"\n  ]", 1)
	require.True(t, strings.HasPrefix(config, before+",\n  \"quantization_config\": {\n    \"quant_method\": \"lowbit\","), config)
}

// folderSums returns a checksum of every file.
func folderSums(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, name := range sortedNames(t, dir) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		files[name] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return files
}

func TestWriter(t *testing.T) {
	source := writeModel(t, safetensors.BF16)
	src := openModel(t, source)
	require.Equal(t, "dense", src.Format().Name())
	require.Empty(t, src.Quantized())
	weights := testWeights()
	var layers []layout.Layer
	for _, l := range layerNames() {
		layers = append(layers, layout.LayerOf(l.Name, weights[l.Name]))
	}
	var results []map[string]string
	for name, o := range map[string]WriterOptions{
		"spooled":    {Layers: layerNames()},
		"direct":     {Layers: layers, Direct: true, Workers: 1},
		"8 workers":  {Layers: layers, Direct: true, Workers: 8},
		"one worker": {Layers: layerNames(), Workers: 1},
	} {
		t.Run(name, func(t *testing.T) {
			o.Out, o.Source, o.Format = filepath.Join(t.TempDir(), "parent", "out"), src, native.Format{}
			var done, total int64
			o.Progress = func(d, n int64) { done, total = d, n }
			w, err := Create(o)
			require.NoError(t, err)
			putAll(t, w, weights)
			require.NoDirExists(t, o.Out)
			require.NoError(t, w.Finish(t.Context()))
			require.NoError(t, w.Close())
			checkResult(t, o.Out, source, weights)
			require.NotZero(t, total)
			require.Equal(t, total, done)
			results = append(results, folderSums(t, o.Out))
		})
	}
	for _, r := range results {
		require.Equal(t, results[0], r, "the bytes depend on workers or mode")
	}
}

func TestWriterShards(t *testing.T) {
	source := writeModel(t, safetensors.BF16)
	out := filepath.Join(t.TempDir(), "out")
	w, err := Create(WriterOptions{Out: out, Source: openModel(t, source), Format: native.Format{}, Layers: layerNames(), MaxShardBytes: 4000})
	require.NoError(t, err)
	putAll(t, w, testWeights())
	require.NoError(t, w.Finish(t.Context()))
	require.FileExists(t, filepath.Join(out, "model.safetensors.index.json"))
	checkResult(t, out, source, testWeights())
}

func TestWriterResume(t *testing.T) {
	source := writeModel(t, safetensors.BF16)
	src := openModel(t, source)
	weights := testWeights()
	out := filepath.Join(t.TempDir(), "out")
	o := WriterOptions{
		Out: out, Source: src, Format: native.Format{}, Layers: layerNames(),
		Fingerprint: json.RawMessage(`{"bits":3,"lr":0.10}`),
	}
	w, err := Create(o)
	require.NoError(t, err)
	first := testLinears[2].name
	require.NoError(t, w.Put(first, weights[first], json.RawMessage(`{"margin":0.5}`)))
	require.ErrorContains(t, w.Put(first, weights[first], nil), "written already")

	_, err = Create(WriterOptions{Out: out, Source: src, Format: native.Format{}, Layers: layerNames(), Resume: true})
	require.ErrorIs(t, err, ErrExists, "another run holds the folder")

	// A run that ends before all layers are done keeps what is done.
	err = w.Finish(t.Context())
	require.ErrorContains(t, err, "3 layers have not been written: model.layers.0.mlp.down_proj")
	require.NoDirExists(t, out)
	require.Error(t, w.Put(testLinears[0].name, weights[testLinears[0].name], nil))

	// A killed run may leave half a layer and half a result.
	half := filepath.Join(out+PartialSuffix, partial.LayerFolder, "layer-"+testLinears[0].name)
	require.NoError(t, os.Mkdir(half, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(half, "model.safetensors.0123.tmp"), []byte("half"), 0o666))
	result := filepath.Join(out+PartialSuffix, partial.ResultName)
	require.NoError(t, os.Mkdir(result, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(result, "model.safetensors"), []byte("half"), 0o666))

	_, err = Create(o)
	require.ErrorIs(t, err, ErrExists)
	require.ErrorContains(t, err, "resume it or remove the folder")

	other := o
	other.Resume, other.Fingerprint = true, json.RawMessage(`{"bits":4,"lr":0.10,"sym":true}`)
	_, err = Create(other)
	require.ErrorIs(t, err, ErrResume)
	require.ErrorContains(t, err, "bits was 3, is 4; sym was not set, is true")

	o.Resume, o.Fingerprint = true, json.RawMessage(`{ "lr":0.10, "bits":3 }`)
	w, err = Create(o)
	require.NoError(t, err)
	for _, l := range testLinears {
		require.Equal(t, l.name == first, w.Done(l.name))
	}
	require.JSONEq(t, `{"margin":0.5}`, string(w.Report(first)))
	back, err := w.Weight(first)
	require.NoError(t, err)
	require.Equal(t, weights[first], back)
	_, err = w.Weight(testLinears[0].name)
	require.ErrorContains(t, err, "not done")

	// Interrupted while the model is put together: everything is kept.
	putAll(t, w, weights)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.Finish(ctx), context.Canceled)
	require.NoDirExists(t, out)
	require.NoDirExists(t, result)

	w, err = Create(o)
	require.NoError(t, err)
	require.True(t, w.Done(testLinears[0].name))
	require.NoError(t, w.Finish(t.Context()))
	checkResult(t, out, source, weights)
}

// A layer that was damaged in the partial folder is named, set aside and put
// again.
func TestWriterResumeDamaged(t *testing.T) {
	source := writeModel(t, safetensors.BF16)
	weights := testWeights()
	for what, damage := range map[string]func(data []byte) []byte{
		"a flipped bit": func(data []byte) []byte { data[len(data)/2] ^= 1; return data },
		"cut":           func(data []byte) []byte { return data[:len(data)-1] },
		"empty":         func(data []byte) []byte { return nil },
		"other bytes":   func(data []byte) []byte { return make([]byte, len(data)) },
	} {
		t.Run(what, func(t *testing.T) {
			o := WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: openModel(t, source), Format: native.Format{}, Layers: layerNames()}
			w, err := Create(o)
			require.NoError(t, err)
			putAll(t, w, weights)
			require.NoError(t, w.Close())
			name := testLinears[1].name
			file := filepath.Join(o.Out+PartialSuffix, partial.LayerFolder, "layer-"+name, "model.safetensors")
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file, damage(data), 0o666))

			o.Resume = true
			w, err = Create(o)
			require.NoError(t, err)
			require.Len(t, w.Damaged(), 1)
			require.ErrorContains(t, w.Damaged()[0], name)
			require.False(t, w.Done(name))
			require.NoDirExists(t, filepath.Dir(file))
			moved, err := filepath.Glob(filepath.Join(o.Out+PartialSuffix, partial.AsideFolder, "*", "layer-"+name))
			require.NoError(t, err)
			require.Len(t, moved, 1)
			putAll(t, w, weights)
			require.NoError(t, w.Finish(t.Context()))
			checkResult(t, o.Out, source, weights)
		})
	}
}

func TestWriterKeepsNothing(t *testing.T) {
	src := openModel(t, writeModel(t, safetensors.BF16))
	weights := testWeights()
	name := testLinears[0].name
	for _, direct := range []bool{false, true} {
		out := filepath.Join(t.TempDir(), "out")
		o := WriterOptions{Out: out, Source: src, Format: native.Format{}, Direct: direct}
		for _, l := range layerNames() {
			o.Layers = append(o.Layers, layout.LayerOf(l.Name, weights[l.Name]))
		}
		w, err := Create(o)
		require.NoError(t, err)
		if direct {
			require.NoError(t, w.Put(name, weights[name], nil))
		}
		require.NoError(t, w.Close())
		require.Empty(t, sortedNames(t, filepath.Dir(out)))

		w, err = Create(o)
		require.NoError(t, err)
		require.NoError(t, w.Put(name, weights[name], nil))
		require.NoError(t, w.Discard())
		require.Empty(t, sortedNames(t, filepath.Dir(out)))
	}
}

func TestWriterRefuses(t *testing.T) {
	src := openModel(t, writeModel(t, safetensors.BF16))
	weights := testWeights()
	name := testLinears[0].name
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink("nowhere", link))
	foreign := filepath.Join(dir, "foreign")
	require.NoError(t, os.Mkdir(foreign+PartialSuffix, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(foreign+PartialSuffix, "thesis.txt"), nil, 0o666))

	for what, c := range map[string]struct {
		change func(o *WriterOptions)
		want   string
	}{
		"existing":      {func(o *WriterOptions) { o.Out = dir }, "exists already"},
		"the source":    {func(o *WriterOptions) { o.Out = src.Path() + "/" }, "exists already"},
		"file":          {func(o *WriterOptions) { o.Out = file }, "exists already"},
		"dangling link": {func(o *WriterOptions) { o.Out = link }, "exists already"},
		"under a file":  {func(o *WriterOptions) { o.Out = filepath.Join(file, "out") }, "not a directory"},
		"foreign":       {func(o *WriterOptions) { o.Out, o.Resume = foreign, true }, "not an interrupted run"},
		"no tensor":     {func(o *WriterOptions) { o.Layers = append(o.Layers, layout.Layer{Name: "model.x"}) }, `no tensor "model.x.weight"`},
		"vector":        {func(o *WriterOptions) { o.Layers = append(o.Layers, layout.Layer{Name: "model.norm"}) }, "want a matrix"},
		"twice":         {func(o *WriterOptions) { o.Layers = append(o.Layers, o.Layers[0]) }, "listed twice"},
		"shape":         {func(o *WriterOptions) { o.Layers[1].Out, o.Layers[1].In = 96, 64 }, "shape [64 96], want [96 64]"},
		"fingerprint":   {func(o *WriterOptions) { o.Fingerprint = json.RawMessage(`[1]`) }, "not a JSON object"},
		"incomplete":    {func(o *WriterOptions) { o.Direct = true }, "bits 0"},
	} {
		t.Run(what, func(t *testing.T) {
			before := sortedNames(t, dir)
			o := WriterOptions{Out: filepath.Join(dir, "out"), Source: src, Format: native.Format{}, Layers: layerNames()}
			c.change(&o)
			_, err := Create(o)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n")
			require.Equal(t, before, sortedNames(t, dir))
		})
	}

	w, err := Create(WriterOptions{Out: filepath.Join(dir, "out"), Source: src, Format: native.Format{}, Layers: layerNames()})
	require.NoError(t, err)
	require.ErrorContains(t, w.Put("model.norm", weights[name], nil), "not among those to write")
	require.ErrorContains(t, w.Put(testLinears[1].name, weights[name], nil), "weight of shape [64 64], want [64 96]")
	require.ErrorContains(t, w.Put(name, weights[name], json.RawMessage("{")), "not JSON")
	bad := *weights[name]
	bad.Scales = slices.Repeat([]float32{0.1}, len(bad.Scales))
	require.ErrorIs(t, w.Put(name, &bad, nil), layout.ErrUnsupported)
	require.False(t, w.Done(name))
	require.NoError(t, w.Put(name, weights[name], nil), "a refused layer may be put again")
	require.NoError(t, w.Discard())
}

func TestWriterUnwritable(t *testing.T) {
	if os.Getuid() == 0 {
		// Root writes anywhere but where there is no file system to write to.
		_, err := Create(WriterOptions{
			Out: "/proc/lowbit-test/out", Source: openModel(t, writeModel(t, safetensors.BF16)), Format: native.Format{}, Layers: layerNames(),
		})
		require.Error(t, err)
		return
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o555))
	_, err := Create(WriterOptions{
		Out: filepath.Join(dir, "out"), Source: openModel(t, writeModel(t, safetensors.BF16)), Format: native.Format{}, Layers: layerNames(),
	})
	require.ErrorIs(t, err, os.ErrPermission)
}

// A direct weight that is not what was planned is refused.
func TestWriterDirectMismatch(t *testing.T) {
	src := openModel(t, writeModel(t, safetensors.BF16))
	weights := testWeights()
	o := WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: src, Format: native.Format{}, Direct: true}
	for _, l := range layerNames() {
		o.Layers = append(o.Layers, layout.LayerOf(l.Name, weights[l.Name]))
	}
	w, err := Create(o)
	require.NoError(t, err)
	l := testLinears[0]
	other := formattest.RandomWeight(1, l.out, l.in, quant.Scheme{Bits: 4, GroupSize: 32}, false, false)
	require.ErrorContains(t, w.Put(l.name, other, nil), "planned was")
	sym := formattest.RandomWeight(1, l.out, l.in, quant.Scheme{Bits: 3, GroupSize: 32, Symmetric: true}, false, false)
	require.ErrorContains(t, w.Put(l.name, sym, nil), "3 tensors, 4 were planned")
	require.NoError(t, w.Close())
}

func TestConvert(t *testing.T) {
	for _, dtype := range []safetensors.DType{safetensors.BF16, safetensors.F32} {
		source := writeModel(t, dtype)
		weights := testWeights()
		packed := filepath.Join(t.TempDir(), "packed")
		w, err := Create(WriterOptions{Out: packed, Source: openModel(t, source), Format: native.Format{}, Layers: layerNames()})
		require.NoError(t, err)
		putAll(t, w, weights)
		require.NoError(t, w.Finish(t.Context()))

		again := filepath.Join(t.TempDir(), "again")
		require.NoError(t, Convert(t.Context(), WriterOptions{Out: again, Source: openModel(t, packed), Format: native.Format{}}))
		if dtype == safetensors.BF16 {
			checkResult(t, again, source, weights)
		}

		folder := filepath.Join(t.TempDir(), "dense")
		require.NoError(t, Convert(t.Context(), WriterOptions{Out: folder, Source: openModel(t, packed), Format: dense.Format{}}))
		m := openModel(t, folder)
		require.Empty(t, m.Quantized())
		require.NotContains(t, string(m.Config()), "quantization_config")
		for _, l := range testLinears {
			got, err := m.Matrix(l.name + ".weight")
			require.NoError(t, err)
			want := weights[l.name].Dequantize()
			for i := range want.Data {
				// config.json says bfloat16: 8 significant bits.
				require.InDelta(t, want.Data[i], got.Data[i], float64(1.0/256)*abs(want.Data[i]))
			}
		}
		err = Convert(t.Context(), WriterOptions{Out: folder + "2", Source: m, Format: native.Format{}})
		require.ErrorContains(t, err, "nothing in the model is quantized")
	}
}

func abs(v float32) float64 { return max(float64(v), -float64(v)) }

func TestDense(t *testing.T) {
	source := writeModel(t, safetensors.F32)
	weights := testWeights()
	out := filepath.Join(t.TempDir(), "out")
	w, err := Create(WriterOptions{Out: out, Source: openModel(t, source), Format: dense.Format{}, Layers: layerNames()})
	require.NoError(t, err)
	putAll(t, w, weights)
	require.NoError(t, w.Finish(t.Context()))
	m := openModel(t, out)
	require.Equal(t, sortedSpecs(openModel(t, source).Dense()), sortedSpecs(m.Dense()), "same tensors as the source")
	for _, l := range testLinears {
		d, err := m.Matrix(l.name + ".weight")
		require.NoError(t, err)
		require.Equal(t, weights[l.name].Dequantize(), d)
	}

	l := layout.LayerOf("x", formattest.RandomWeight(1, 4, 4, quant.Scheme{Bits: 4, GroupSize: 4, ScaleType: quant.F32}, false, false))
	l.DType = safetensors.F16
	big := formattest.RandomWeight(1, 4, 4, l.Scheme, false, false)
	big.Scales[2] = 1e9
	_, err = dense.Format{}.Encode(l, big)
	require.ErrorContains(t, err, "too large for F16")
	l.DType = safetensors.I32
	require.ErrorIs(t, dense.Format{}.Check(l), layout.ErrUnsupported)
}

func sortedSpecs(specs []layout.Spec) []layout.Spec {
	slices.SortFunc(specs, func(a, b layout.Spec) int { return strings.Compare(a.Name, b.Name) })
	return specs
}
