package checking

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

const source = "../../testdata/tinyllama-2m"

// made quantizes the source into a format, by rounding.
func made(t *testing.T, format string, shard int64, change func(*lowbit.Options)) string {
	t.Helper()
	f, err := checkpoint.Lookup(format)
	require.NoError(t, err)
	o := lowbit.Options{
		Model: source, Output: filepath.Join(t.TempDir(), "out"), Format: f, Method: quant.RTN{}, Preset: lowbit.Plain,
		Axis: lowbit.AxisOC, Bits: 4, GroupSize: 32, MaxShardBytes: shard,
	}
	if format == "gguf" {
		o.Output += ".gguf"
	}
	if change != nil {
		change(&o)
	}
	_, err = lowbit.Quantize(t.Context(), o)
	require.NoError(t, err)
	return o.Output
}

func check(t *testing.T, path, source string) *Report {
	t.Helper()
	r, err := Check(t.Context(), Options{Path: path, Source: source})
	require.NoError(t, err)
	return r
}

// TestClean: nothing is wrong with what is written here, of any format, and each layer is
// as near to the source as 4 bits are, or 8.
func TestClean(t *testing.T) {
	for _, f := range checkpoint.Formats() {
		t.Run(f.Name(), func(t *testing.T) {
			var path string
			switch f.Name() {
			case "dense":
				path = filepath.Join(t.TempDir(), "out")
				err := lowbit.Convert(t.Context(), lowbit.ConvertOptions{Model: source, Output: path, Format: f})
				require.NoError(t, err)
			case "gptq", "gptq_v1":
				path = made(t, f.Name(), 500_000, func(o *lowbit.Options) { o.Symmetric = new(true) })
			case "gguf":
				path = made(t, f.Name(), 0, nil)
			case "bitsandbytes":
				path = made(t, f.Name(), 500_000, func(o *lowbit.Options) { o.Bits, o.GroupSize = 0, 0 })
			default:
				path = made(t, f.Name(), 500_000, nil)
			}
			r := check(t, path, source)
			require.Empty(t, r.Findings)
			require.Empty(t, r.Notes)
			require.NotEmpty(t, r.Engines)
			require.Equal(t, 10, r.Identical+map[bool]int{true: 10}[f.Name() == "gguf"]-map[bool]int{true: 28}[f.Name() == "dense"])
			want := 0.09
			if f.Name() == "bitsandbytes" { // 8 bits
				want = 0.008
			}
			for _, l := range r.LayerErrors {
				require.InDelta(t, want, l.Error, want/3, l.Name)
			}
			if f.Name() != "dense" {
				require.Len(t, r.LayerErrors, 28)
			}
		})
	}
	mixed := made(t, "gguf", 0, func(o *lowbit.Options) { o.Format, o.Bits, o.GroupSize = ggufmodel.Format{Type: "Q4_K_M"}, 0, 0 })
	require.Empty(t, check(t, mixed, source).Findings)
}

// patch changes bytes of a tensor in a safetensors folder.
func patch(t *testing.T, dir, tensor string, change func(data []byte)) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	require.NoError(t, err)
	for _, path := range paths {
		f, err := safetensors.Open(path)
		require.NoError(t, err)
		_, ok := f.Info(tensor)
		var data []byte
		if ok {
			data, err = f.ReadBytes(tensor, nil)
		}
		require.NoError(t, err)
		require.NoError(t, f.Close())
		if !ok {
			continue
		}
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		at := bytes.Index(whole, data)
		require.Positive(t, at)
		change(whole[at : at+len(data)])
		require.NoError(t, os.WriteFile(path, whole, 0o666))
		return
	}
	t.Fatalf("%s: no tensor %s", dir, tensor)
}

func edit(t *testing.T, path, from, to string) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(data), from)
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(data), from, to, 1)), 0o666))
}

const q = "model.layers.1.self_attn.q_proj"

// index changes what the index of a folder says.
func index(t *testing.T, dir string, change func(weights map[string]string, meta map[string]any)) {
	t.Helper()
	path := filepath.Join(dir, safetensors.IndexName)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var i struct {
		Metadata map[string]any    `json:"metadata"`
		Weights  map[string]string `json:"weight_map"`
	}
	require.NoError(t, json.Unmarshal(data, &i))
	change(i.Weights, i.Metadata)
	data, err = json.Marshal(i)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, data, 0o666))
}

// damages are what can be wrong with a folder of a format, and what is found of it.
var damages = []struct {
	name, format string
	do           func(t *testing.T, dir string)
	kind         string
	want         []string // in the line of the finding
	warning      bool
}{
	{"truncated shard", "gptq_v2", func(t *testing.T, dir string) {
		st, err := os.Stat(filepath.Join(dir, "model-00002-of-00004.safetensors"))
		require.NoError(t, err)
		require.NoError(t, os.Truncate(filepath.Join(dir, "model-00002-of-00004.safetensors"), st.Size()-1))
	}, KindHeader, []string{"model-00002-of-00004.safetensors"}, false},
	{"missing shard", "gptq_v2", func(t *testing.T, dir string) {
		require.NoError(t, os.Remove(filepath.Join(dir, "model-00003-of-00004.safetensors")))
	}, KindIndex, []string{safetensors.IndexName, "expected in model-00003-of-00004.safetensors, found no such file"}, false},
	{"tensor not in the index", "gptq_v2", func(t *testing.T, dir string) {
		index(t, dir, func(w map[string]string, _ map[string]any) { delete(w, "model.norm.weight") })
	}, KindIndex, []string{"model.norm.weight: expected an entry in " + safetensors.IndexName + ", found none"}, false},
	{"tensor of the index not there", "gptq_v2", func(t *testing.T, dir string) {
		index(t, dir, func(w map[string]string, _ map[string]any) { w["extra.weight"] = w["model.norm.weight"] })
	}, KindIndex, []string{"extra.weight: expected in model-", "found no such tensor"}, false},
	{"tensor in another shard", "gptq_v2", func(t *testing.T, dir string) {
		index(t, dir, func(w map[string]string, _ map[string]any) {
			for _, shard := range w {
				if shard != w["model.norm.weight"] {
					w["model.norm.weight"] = shard
					return
				}
			}
		})
	}, KindIndex, []string{"model.norm.weight: expected in model-", "found in model-"}, false},
	{"tensor twice", "gptq_v2", func(t *testing.T, dir string) {
		data, err := os.ReadFile(filepath.Join(dir, "model-00001-of-00004.safetensors"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "again.safetensors"), data, 0o666))
		index(t, dir, func(w map[string]string, _ map[string]any) { w["other.weight"] = "again.safetensors" })
	}, KindIndex, []string{"found in again.safetensors and model-00001-of-00004.safetensors"}, false},
	{"total size", "gptq_v2", func(t *testing.T, dir string) {
		index(t, dir, func(_ map[string]string, m map[string]any) { m["total_size"] = 12 })
	}, KindIndex, []string{"total_size", "found 12"}, true},
	{"shape", "gptq_v2", func(t *testing.T, dir string) {
		edit(t, filepath.Join(dir, "config.json"), `"intermediate_size": 512`, `"intermediate_size": 480`)
	}, KindShape, []string{"mlp", "480", "512"}, false},
	{"bits of the configuration", "gptq_v2", func(t *testing.T, dir string) {
		edit(t, filepath.Join(dir, "config.json"), `"bits": 4`, `"bits": 8`)
	}, KindConfig, []string{"qweight", "shape [64 256], want [128 any]", "8 bits"}, false},
	{"group size of the configuration", "compressed-tensors", func(t *testing.T, dir string) {
		edit(t, filepath.Join(dir, "config.json"), `"group_size": 32`, `"group_size": 64`)
	}, KindConfig, []string{"scale"}, false},
	{"no quantization in the configuration", "awq", func(t *testing.T, dir string) {
		edit(t, filepath.Join(dir, "config.json"), `"quantization_config"`, `"quantization_was"`)
	}, KindConfig, []string{"qweight"}, false},
	{"group index", "gptq_v2", func(t *testing.T, dir string) {
		patch(t, dir, q+".g_idx", func(b []byte) { binary.LittleEndian.PutUint32(b[8:], 99) })
	}, KindConfig, []string{"g_idx", "group 99 of input 2, want 0 to 7"}, false},
	{"scale of zero", "gptq_v2", func(t *testing.T, dir string) {
		patch(t, dir, q+".scales", func(b []byte) { copy(b[6:], []byte{0, 0}) })
	}, KindScale, []string{q, "expected a number that is not 0, found 0"}, false},
	{"scale that is none", "awq", func(t *testing.T, dir string) {
		patch(t, dir, q+".scales", func(b []byte) { copy(b[6:], []byte{0, 0x7e}) })
	}, KindValue, []string{q + ".scales", "element 3", "found NaN"}, false},
	{"infinite scale", "mlx", func(t *testing.T, dir string) {
		patch(t, dir, q+".scales", func(b []byte) { copy(b, []byte{0, 0x7c}) })
	}, KindValue, []string{q + ".scales", "element 0", "found +Inf"}, false},
	{"infinite weight", "hqq", func(t *testing.T, dir string) {
		patch(t, dir, "model.norm.weight", func(b []byte) { copy(b[4:], []byte{0x80, 0x7f, 0x80, 0x7f}) })
	}, KindValue, []string{"model.norm.weight", "element 2"}, false},
	{"checksum inside", "lowbit", func(t *testing.T, dir string) {
		patch(t, dir, q+".lowbit_codes", func(b []byte) { b[100] ^= 1 })
	}, KindLayer, []string{q, "checksum"}, false},
	{"checksum of a file", "hqq", func(t *testing.T, dir string) {
		data, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, sumsFile), fmt.Appendf(nil, "%x *tokenizer.json\n%x  config.json\n", sha256.Sum256(data), sha256.Sum256(data)), 0o666))
	}, KindChecksum, []string{"config.json: expected ", "found "}, false},
	{"checksum of nothing", "hqq", func(t *testing.T, dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, sumsFile), fmt.Appendf(nil, "%064d  gone\n", 0), 0o666))
	}, KindChecksum, []string{"gone", "no such file"}, false},
	{"tokenizer", "hqq", func(t *testing.T, dir string) {
		edit(t, filepath.Join(dir, "config.json"), `"vocab_size": 1024`, `"vocab_size": 1000`)
	}, KindShape, []string{"model.embed_tokens.weight", "1000", "1024"}, false},
	{"broken tokenizer", "hqq", func(t *testing.T, dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte("{"), 0o666))
	}, KindTokenizer, []string{"tokenizer.json"}, false},
	{"end token", "hqq", func(t *testing.T, dir string) {
		edit(t, filepath.Join(dir, "config.json"), `"eos_token_id": 1023`, `"eos_token_id": 5000`)
	}, KindTokenizer, []string{"eos_token_id: expected an id below the model's 1024 tokens, found 5000"}, false},
	{"another norm, where scales may be folded", "awq", func(t *testing.T, dir string) {
		patch(t, dir, "model.norm.weight", func(b []byte) { b[0] ^= 1 })
	}, KindSource, []string{"model.norm.weight", "expected the same bytes"}, true},
	{"another tensor", "lowbit", func(t *testing.T, dir string) {
		patch(t, dir, "model.norm.weight", func(b []byte) { b[0] ^= 1 })
	}, KindSource, []string{"model.norm.weight", "expected the same bytes, found others from byte 0 on"}, false},
	{"another layer", "awq", func(t *testing.T, dir string) {
		patch(t, dir, q+".qweight", func(b []byte) {
			for i := range b {
				b[i] = byte(i * 37)
			}
		})
	}, KindSource, []string{q, "relative error", "expected at most 0.9, found"}, false},
	{"link to nothing", "hqq", func(t *testing.T, dir string) {
		require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "added_tokens.txt")))
	}, KindHeader, []string{"added_tokens.txt", "link to nothing"}, false},
}

// TestDamaged: each kind of damage is found, and told with its file or tensor.
func TestDamaged(t *testing.T) {
	models := map[string]string{}
	for _, d := range damages {
		if models[d.format] == "" {
			models[d.format] = made(t, d.format, 500_000, nil)
			require.Empty(t, check(t, models[d.format], source).Findings)
		}
		t.Run(d.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "model")
			require.NoError(t, os.CopyFS(dir, os.DirFS(models[d.format])))
			d.do(t, dir)
			against := ""
			if d.kind == KindSource {
				against = source
			}
			r := check(t, dir, against)
			require.NotEmpty(t, r.Findings)
			var lines []string
			found := false
			for _, f := range r.Findings {
				lines = append(lines, f.String())
				all := f.Kind == d.kind && f.Warning == d.warning
				for _, w := range d.want {
					all = all && strings.Contains(f.String(), w)
				}
				found = found || all
			}
			require.True(t, found, "%s", strings.Join(lines, "\n"))
			require.Equal(t, d.warning, r.Errors() == 0)
		})
	}
}

// TestPadding: bits that belong to no code, at the end of a row and between zero-points.
func TestPadding(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.Mkdir(dir, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"model_type": "other", "torch_dtype": "float32"}`), 0o666))
	const name = "model.layers.0.self_attn.q_proj"
	data := make([]byte, 4*36*44)
	for i := range 36 * 44 {
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(float32(i%17)-8.5))
	}
	out, err := os.Create(filepath.Join(dir, safetensors.SingleName))
	require.NoError(t, err)
	header := fmt.Sprintf(`{"%s.weight":{"dtype":"F32","shape":[36,44],"data_offsets":[0,%d]}}`, name, len(data))
	header += strings.Repeat(" ", (8-len(header)%8)%8)
	_, err = out.Write(append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), data...))
	require.NoError(t, err)
	require.NoError(t, out.Close())
	for _, c := range []struct {
		tensor string
		at     int
		want   string
	}{
		{".weight_packed", 36*5*4 - 1, "element 179: expected 0x2 (bits beside the codes are 0), found 0x80000002"},
		{".weight_zero_point", 4*4 - 1, "element 3"},
	} {
		made := made(t, "compressed-tensors", 0, func(o *lowbit.Options) { o.Model, o.Bits, o.GroupSize = dir, 3, quant.WholeLine })
		require.Empty(t, check(t, made, dir).Findings)
		patch(t, made, name+c.tensor, func(b []byte) {
			require.Greater(t, len(b), c.at)
			b[c.at] |= 0x80
		})
		r := check(t, made, "")
		require.Len(t, r.Findings, 1)
		require.Equal(t, KindPacking, r.Findings[0].Kind)
		require.Contains(t, r.Findings[0].String(), name)
		require.Contains(t, r.Findings[0].String(), c.want)
	}
}

// TestContainer: a GGUF file's offsets, types and what lies between tensors.
func TestContainer(t *testing.T) {
	whole, err := os.ReadFile(made(t, "gguf", 0, nil))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "m.gguf")
	at := bytes.Index(whole, []byte("blk.1.attn_q.weight"))
	require.Positive(t, at)
	info := at + len("blk.1.attn_q.weight") // dimensions, two of them, type, offset
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   string
	}{
		"offset":    {func(b []byte) []byte { b[info+4+16+4]++; return b }, "blk.1.attn_q.weight"},
		"type":      {func(b []byte) []byte { b[info+4+16] = 200; return b }, "type"},
		"truncated": {func(b []byte) []byte { return b[:len(b)-1000] }, "data ends at"},
		"magic":     {func(b []byte) []byte { b[0] = 'X'; return b }, `begins with "XGUF", want "GGUF"`},
		"version":   {func(b []byte) []byte { b[4] = 9; return b }, "version 9"},
		"value": {func(b []byte) []byte {
			binary.LittleEndian.PutUint32(b[len(b)-64:], math.Float32bits(float32(math.Inf(1))))
			return b
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(path, c.change(bytes.Clone(whole)), 0o666))
			r := check(t, path, source)
			if c.want == "" {
				require.Positive(t, len(r.Findings))
				return
			}
			require.Positive(t, r.Errors())
			require.Contains(t, r.Findings[0].String(), c.want)
		})
	}
}

// TestHubCache: a file in the hub's cache is what its name says.
func TestHubCache(t *testing.T) {
	model := filepath.Join(t.TempDir(), "models--a--b")
	snapshot := filepath.Join(model, "snapshots", "1")
	require.NoError(t, os.MkdirAll(snapshot, 0o777))
	require.NoError(t, os.Mkdir(filepath.Join(model, "blobs"), 0o777))
	entries, err := os.ReadDir(source)
	require.NoError(t, err)
	var blobs []string
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(source, e.Name()))
		require.NoError(t, err)
		sum := sha256.Sum256(data)
		name := hex.EncodeToString(sum[:])
		blobs = append(blobs, filepath.Join(model, "blobs", name))
		require.NoError(t, os.WriteFile(blobs[len(blobs)-1], data, 0o666))
		require.NoError(t, os.Symlink(filepath.Join("..", "..", "blobs", name), filepath.Join(snapshot, e.Name())))
	}
	r := check(t, snapshot, source)
	require.Empty(t, r.Findings)
	require.Equal(t, len(entries), r.Checksums)
	f, err := os.OpenFile(blobs[0], os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("\n")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	r = check(t, snapshot, "")
	require.Equal(t, KindChecksum, r.Findings[0].Kind)
	require.Contains(t, r.Findings[0].String(), entries[0].Name()+": expected "+filepath.Base(blobs[0]))
}

// TestNotThere: what cannot be looked at is an error, not a finding.
func TestNotThere(t *testing.T) {
	_, err := Check(t.Context(), Options{Path: filepath.Join(t.TempDir(), "gone")})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Check(t.Context(), Options{Path: source, Source: "gone"})
	require.ErrorContains(t, err, "gone")
}
