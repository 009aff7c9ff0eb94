package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/autoawq"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/compressed"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/internal/leftover"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// copyTree copies the files right inside a folder.
func copyTree(t *testing.T, to, from string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(to, 0o777))
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, e.Name()), data, 0o666))
	}
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
}

// sameTensors compares what a model reads with a safetensors file.
func sameTensors(t *testing.T, path string, m *Model) {
	t.Helper()
	want, err := safetensors.Open(path)
	require.NoError(t, err)
	defer want.Close()
	for _, name := range want.Names() {
		w, err := want.ReadFloat32(name, nil)
		require.NoError(t, err)
		got, err := layout.ReadFloats(m.Source(), name, func() []int { i, _ := want.Info(name); return i.Shape }()...)
		require.NoError(t, err)
		require.InDeltaSlice(t, w, got, 1e-6, name)
	}
}

func TestOpenTorch(t *testing.T) {
	dir := t.TempDir()
	copyTree(t, dir, "internal/torchfile/testdata/sharded")
	m := openModel(t, dir)
	require.False(t, m.HasConfig())
	require.JSONEq(t, "{}", string(m.Config()))
	put(t, dir, "config.json", formattest.ModelConfig)
	m = openModel(t, dir)
	require.True(t, m.HasConfig())
	sameTensors(t, "internal/torchfile/testdata/sharded.safetensors", m)
	require.Equal(t, "pytorch_model-00001-of-00002.bin", filepath.Base(m.Source().File("a.weight")))
	require.Equal(t, dense.Format{}, m.Format())

	require.NoError(t, os.Remove(filepath.Join(dir, "pytorch_model-00002-of-00002.bin")))
	_, err := Open(dir)
	require.ErrorContains(t, err, "pytorch_model-00002-of-00002.bin")

	// A file of any name, if it is the only one.
	dir = t.TempDir()
	put(t, dir, "config.json", formattest.ModelConfig)
	data, err := os.ReadFile("internal/torchfile/testdata/training.pt")
	require.NoError(t, err)
	put(t, dir, "checkpoint.pt", string(data))
	put(t, dir, "optimizer.pt", "of the training run")
	sameTensors(t, "internal/torchfile/testdata/training.safetensors", openModel(t, dir))
}

func TestOpenConsolidated(t *testing.T) {
	for _, name := range []string{"mistral", "llama"} {
		from := filepath.Join("internal/consolidated/testdata", name)
		dir := t.TempDir()
		copyTree(t, dir, from)
		require.NoError(t, os.Remove(filepath.Join(dir, "hf.safetensors")))
		m := openModel(t, dir)
		sameTensors(t, filepath.Join(from, "hf.safetensors"), m)
		require.True(t, json.Valid(m.Config()))
		// A model that is written of it is Hugging Face's alone.
		out := filepath.Join(t.TempDir(), "out")
		w, err := Create(WriterOptions{Out: out, Source: m, Format: dense.Format{}, Direct: true})
		require.NoError(t, err)
		require.NoError(t, w.Finish(context.Background()))
		sameTensors(t, filepath.Join(from, "hf.safetensors"), openModel(t, out))
		require.NoFileExists(t, filepath.Join(out, "params.json"))
		require.FileExists(t, filepath.Join(out, "config.json"))
		// Hugging Face's files win.
		copyTree(t, dir, from)
		require.NoError(t, os.Rename(filepath.Join(dir, "hf.safetensors"), filepath.Join(dir, "model.safetensors")))
		put(t, dir, "config.json", string(m.Config()))
		require.Equal(t, "model.safetensors", filepath.Base(openModel(t, dir).Source().File("model.norm.weight")))
	}
}

// adapterAndBase lays out an adapter of PEFT and the part of its base that it
// changes.
func adapterAndBase(t *testing.T, base string) (adapter string) {
	t.Helper()
	adapter = filepath.Join(t.TempDir(), "adapter")
	copyTree(t, adapter, "internal/lora/testdata/llama")
	require.NoError(t, os.MkdirAll(base, 0o777))
	require.NoError(t, os.Rename(filepath.Join(adapter, "base.safetensors"), filepath.Join(base, "model.safetensors")))
	require.NoError(t, os.Remove(filepath.Join(adapter, "merged.safetensors")))
	put(t, base, "config.json", formattest.ModelConfig)
	put(t, base, "tokenizer.json", "of the base")
	put(t, base, "LICENSE", "of the base")
	put(t, adapter, "tokenizer.json", "of the adapter")
	return adapter
}

func TestOpenAdapter(t *testing.T) {
	const merged = "internal/lora/testdata/llama/merged.safetensors"
	cache := t.TempDir()
	t.Setenv("HF_HUB_CACHE", cache)
	snapshot := filepath.Join(cache, "models--org--base", "snapshots", "0123abcd")
	adapter := adapterAndBase(t, snapshot)
	name := func(base string) {
		data, err := os.ReadFile("internal/lora/testdata/llama/adapter_config.json")
		require.NoError(t, err)
		put(t, adapter, "adapter_config.json", strings.Replace(string(data), `"base_model_name_or_path": null`, `"base_model_name_or_path": "`+base+`"`, 1))
	}

	_, err := Open(adapter)
	require.ErrorContains(t, err, "names no base")
	name("org/other")
	_, err = Open(adapter)
	require.ErrorContains(t, err, `a LoRA adapter for "org/other"`)
	require.ErrorContains(t, err, "--base")
	for _, base := range []string{"org/base", snapshot} {
		name(base)
		m := openModel(t, adapter)
		sameTensors(t, merged, m)
		require.Equal(t, adapter, m.Path())
		d, _ := m.DType("model.layers.0.self_attn.q_proj.weight")
		require.Equal(t, safetensors.F32, d)
		for file, want := range map[string]string{"tokenizer.json": "of the adapter", "LICENSE": "of the base"} {
			data, err := fs.ReadFile(m.Files(), file)
			require.NoError(t, err)
			require.Equal(t, want, string(data))
		}
		out := filepath.Join(t.TempDir(), "out")
		w, err := Create(WriterOptions{Out: out, Source: m, Format: dense.Format{}, Direct: true})
		require.NoError(t, err)
		require.NoError(t, w.Finish(context.Background()))
		sameTensors(t, merged, openModel(t, out))
		require.NoFileExists(t, filepath.Join(out, "adapter_config.json"))
		require.FileExists(t, filepath.Join(out, "LICENSE"))
	}
	m, err := OpenAdapter(adapter, filepath.Join(cache, "models--org--base"))
	require.NoError(t, err)
	require.NoError(t, m.Close())
	_, err = OpenAdapter(adapter, t.TempDir())
	require.ErrorContains(t, err, "the base of")

	// What is left beside a merged model changes nothing.
	copyTree(t, snapshot, adapter)
	put(t, snapshot, "config.json", formattest.ModelConfig)
	require.Equal(t, snapshot, openModel(t, snapshot).Path())
}

func TestOpenAdapterOnQuantized(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	adapter := adapterAndBase(t, filepath.Join(t.TempDir(), "unused"))
	quantized(t, base, autogptq.Format{Version: 2})
	_, err := OpenAdapter(adapter, base)
	require.ErrorContains(t, err, "is quantized (gptq")
}

// quantized writes the test model in a format of 4 bits.
func quantized(t *testing.T, out string, f layout.Format) {
	t.Helper()
	w, err := Create(WriterOptions{Out: out, Source: openModel(t, writeModel(t, safetensors.F16)), Format: f, Layers: layerNames()})
	require.NoError(t, err)
	scheme := quant.Scheme{Bits: 4, GroupSize: 32, Symmetric: true}
	for i, l := range testLinears {
		require.NoError(t, w.Put(l.name, formattest.RandomWeight(uint64(i), l.out, l.in, scheme, false, false), nil))
	}
	require.NoError(t, w.Finish(context.Background()))
}

func TestOpenHubCache(t *testing.T) {
	model := filepath.Join(t.TempDir(), "models--org--name")
	snapshot := filepath.Join(model, "snapshots", "0123abcd")
	require.NoError(t, os.MkdirAll(filepath.Join(model, "blobs"), 0o777))
	require.NoError(t, os.MkdirAll(filepath.Join(model, "refs"), 0o777))
	require.NoError(t, os.MkdirAll(snapshot, 0o777))
	put(t, filepath.Join(model, "refs"), "main", "0123abcd")
	from := writeModel(t, safetensors.F16)
	for i, name := range []string{"config.json", "model.safetensors", "tokenizer.json"} {
		blob := string(rune('a' + i))
		require.NoError(t, os.Rename(filepath.Join(from, name), filepath.Join(model, "blobs", blob)))
		require.NoError(t, os.Symlink("../../blobs/"+blob, filepath.Join(snapshot, name)))
	}
	m := openModel(t, model)
	require.Equal(t, snapshot, m.Path())
	require.True(t, m.Has("model.norm.weight"))

	t.Setenv("HF_HUB_CACHE", filepath.Dir(model))
	require.Equal(t, snapshot, openModel(t, "org/name").Path())
	_, err := Open("org/other")
	require.ErrorIs(t, err, fs.ErrNotExist)

	_, err = Open(filepath.Join(snapshot, "model.safetensors"))
	require.ErrorContains(t, err, "give the folder that holds it")

	require.NoError(t, os.Remove(filepath.Join(model, "blobs", "b")))
	_, err = Open(model)
	require.ErrorContains(t, err, "the download did not end: nothing is behind the link model.safetensors")
}

func TestOpenByteOrderMark(t *testing.T) {
	dir := writeModel(t, safetensors.F16)
	put(t, dir, "config.json", "\ufeff"+formattest.ModelConfig)
	require.JSONEq(t, formattest.ModelConfig, string(openModel(t, dir).Config()))
}

func TestOpenFloat64(t *testing.T) {
	dir := t.TempDir()
	head := `{"a.weight":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}`
	file := append([]byte{byte(len(head)), 0, 0, 0, 0, 0, 0, 0}, head...)
	file = append(file, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0) // 1, -2
	put(t, dir, "model.safetensors", string(file))
	put(t, dir, "config.json", `{"model_type": "llama", "torch_dtype": "float64"}`)
	m := openModel(t, dir)
	v, err := m.Vector("a.weight")
	require.NoError(t, err)
	require.Equal(t, []float32{1, -2}, v)
	require.JSONEq(t, `{"model_type": "llama", "torch_dtype": "float32"}`, string(m.Config()))
}

// TestOpenOtherConfigs: the same tensors under the configurations that other
// programs write for them.
func TestOpenOtherConfigs(t *testing.T) {
	change := func(dir, key, value string) {
		data, err := os.ReadFile(filepath.Join(dir, "config.json"))
		require.NoError(t, err)
		o, err := layout.ParseObject(data)
		require.NoError(t, err)
		o.Remove(layout.QuantizationKey)
		if key != "" {
			o.Set(key, json.RawMessage(value))
		}
		put(t, dir, "config.json", string(o.Bytes()))
	}
	for name, c := range map[string]struct {
		format layout.Format
		change func(dir string)
	}{
		"AutoAWQ's file": {autoawq.Format{}, func(dir string) {
			change(dir, "", "")
			put(t, dir, "quant_config.json", `{"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}`)
		}},
		"auto-round as gptq": {autogptq.Format{Version: 1}, func(dir string) {
			change(dir, layout.QuantizationKey, `{"bits": 4, "group_size": 32, "sym": true, "quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}`)
			require.NoError(t, os.Remove(filepath.Join(dir, "quantize_config.json")))
		}},
		"auto-round as awq": {autoawq.Format{}, func(dir string) {
			change(dir, layout.QuantizationKey, `{"bits": 4, "group_size": 32, "zero_point": true, "quant_method": "auto-round", "packing_format": "auto_round:auto_awq"}`)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "model")
			quantized(t, dir, c.format)
			before := openModel(t, dir)
			c.change(dir)
			after := openModel(t, dir)
			require.Equal(t, before.Quantized(), after.Quantized())
			for _, l := range before.Quantized() {
				want, err := before.Weight(l)
				require.NoError(t, err)
				got, err := after.Weight(l)
				require.NoError(t, err)
				require.Equal(t, want.Codes, got.Codes)
				require.Equal(t, want.Zeros, got.Zeros)
			}
			out := filepath.Join(t.TempDir(), "out")
			require.NoError(t, Convert(context.Background(), WriterOptions{Out: out, Source: after, Format: compressed.Format{}}))
			require.NoFileExists(t, filepath.Join(out, "quant_config.json"))
		})
	}
}

// TestOpenLeftOver: configurations that lie beside weights that are no longer
// quantized.
func TestOpenLeftOver(t *testing.T) {
	dir := writeModel(t, safetensors.BF16)
	put(t, dir, "quantize_config.json", `{"bits": 4, "group_size": 128, "desc_act": false, "quant_method": "gptq"}`)
	require.Equal(t, dense.Format{}, openModel(t, dir).Format())
	config(`{"quantization_config": {"load_in_4bit": true, "quant_method": "bitsandbytes"}}`)(t, dir)
	require.Equal(t, dense.Format{}, openModel(t, dir).Format())

	// With a tensor of bitsandbytes it is no leftover.
	src := formattest.NewMemory(layout.Tensor{Spec: layout.Spec{Name: "a.weight", DType: safetensors.U8, Shape: []int{2, 1}}, Data: []byte{1, 2}})
	require.False(t, leftover.Nothing(src))
}

func TestOpenNothing(t *testing.T) {
	for file, want := range map[string]string{
		"mmproj-x.gguf":     "no model of its own",
		"tf_model.h5":       "TensorFlow",
		"flax.msgpack":      "Flax",
		"x.incomplete":      "download that did not end",
		"notes.txt":         "neither model.safetensors nor",
		"model.nemo":        "NeMo",
		"decoder.onnx":      "ONNX",
		"training_args.bin": "neither model.safetensors nor",
	} {
		dir := t.TempDir()
		put(t, dir, "config.json", formattest.ModelConfig)
		put(t, dir, file, "x")
		_, err := Open(dir)
		require.ErrorIs(t, err, fs.ErrNotExist, file)
		require.ErrorContains(t, err, want)
	}
	dir := t.TempDir()
	put(t, dir, "config.json", formattest.ModelConfig)
	put(t, dir, "other.gguf", "x")
	_, err := Open(dir)
	require.ErrorContains(t, err, "other.gguf: neither a model folder nor a model file")
}

// TestOpenMLX: a folder of mlx-lm evaluates to what mlx makes of it, and is
// converted to a dense one.
func TestOpenMLX(t *testing.T) {
	values, err := safetensors.Open("formats/mlx/testdata/values.safetensors")
	require.NoError(t, err)
	defer values.Close()
	dir := t.TempDir()
	modules := map[string]string{"model.embed_tokens": "affine-4-64", "model.layers.0.mlp.up_proj": "affine-6-32", "lm_head": "mxfp4-4-32"}
	var plan []safetensors.TensorInfo
	var data [][]byte
	for module, key := range modules {
		for _, part := range []string{"weight", "scales", "biases"} {
			if info, ok := values.Info(key + "." + part); ok {
				info.Name, info.Begin, info.End, info.File = module+"."+part, 0, 0, ""
				plan = append(plan, info)
				raw, err := values.ReadBytes(key+"."+part, nil)
				require.NoError(t, err)
				data = append(data, raw)
			}
		}
	}
	w, err := safetensors.NewWriter(dir, plan, safetensors.Options{})
	require.NoError(t, err)
	for i, p := range plan {
		require.NoError(t, w.WriteTensor(p.Name, data[i]))
	}
	require.NoError(t, w.Close())
	quantization := `{"group_size": 64, "bits": 4, "model.layers.0.mlp.up_proj": {"group_size": 32, "bits": 6, "mode": "affine"},
		"model.layers.0.mlp.down_proj": false, "lm_head": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}`
	for _, text := range []string{
		`{"model_type": "llama", "torch_dtype": "float32", "quantization": ` + quantization + `}`,
		`{"model_type": "llama", "torch_dtype": "float32", "quantization": ` + quantization + `, "quantization_config": ` + quantization + `}`,
		`{"model_type": "llama", "torch_dtype": "float32", "quantization_config": ` + quantization + `}`,
	} {
		put(t, dir, "config.json", text)
		m := openModel(t, dir)
		require.Equal(t, "mlx", m.Format().Name())
		require.Len(t, m.Layers(), 3)
		out := filepath.Join(t.TempDir(), "out")
		require.NoError(t, Convert(context.Background(), WriterOptions{Out: out, Source: m, Format: dense.Format{}}))
		d := openModel(t, out)
		require.Equal(t, dense.Format{}, d.Format())
		require.JSONEq(t, `{"model_type": "llama", "torch_dtype": "float32"}`, string(d.Config()))
		for module, key := range modules {
			want, err := values.ReadFloat32(key, nil)
			require.NoError(t, err)
			got, err := m.Matrix(module + ".weight")
			require.NoError(t, err)
			require.Equal(t, want, got.Data)
			converted, err := d.Matrix(module + ".weight")
			require.NoError(t, err)
			require.Equal(t, want, converted.Data)
		}
		err := Convert(context.Background(), WriterOptions{Out: out + "2", Source: m, Format: compressed.Format{}})
		require.ErrorIs(t, err, layout.ErrUnsupported)
		require.Regexp(t, `the grid affine\d b?f16 is not one of scales and zero-points`, err.Error(), "whichever is the first")
	}
	put(t, dir, "config.json", `{"quantization": {"group_size": 32, "bits": 4}}`)
	_, err = Open(dir)
	require.ErrorContains(t, err, "want [2 ")
	put(t, dir, "config.json", `{"quantization": {"group_size": 64, "bits": 7}}`)
	_, err = Open(dir)
	require.ErrorContains(t, err, "bits 7")
	require.False(t, bytes.Contains([]byte(err.Error()), []byte("\n")))
}
