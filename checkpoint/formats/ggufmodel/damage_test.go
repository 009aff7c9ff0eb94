package ggufmodel_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/gguf"
)

// editedGGUF writes a small model whose metadata and tensors have been changed.
func editedGGUF(t testing.TB, edit func(kv map[string]any, tensors map[string]gguf.Tensor)) string {
	t.Helper()
	kv := map[string]any{
		"general.architecture": "llama", "llama.block_count": uint32(1), "llama.embedding_length": uint32(64),
		"llama.context_length": uint32(32), "llama.feed_forward_length": uint32(64), "llama.attention.head_count": uint32(4),
		"llama.attention.layer_norm_rms_epsilon": float32(1e-5),
	}
	tensors := map[string]gguf.Tensor{}
	add := func(name string, typ gguf.Type, dims ...int) { tensors[name] = gguf.Tensor{Type: typ, Dims: dims} }
	add("token_embd.weight", gguf.Q8_0, 64, 40)
	add("output_norm.weight", gguf.F32, 64)
	for _, n := range []string{"attn_norm", "ffn_norm"} {
		add("blk.0."+n+".weight", gguf.F32, 64)
	}
	for i, n := range []string{"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"} {
		add("blk.0."+n+".weight", []gguf.Type{gguf.Q4_0, gguf.F16, gguf.Q5_1, gguf.Q8_0, gguf.Q5_0, gguf.BF16, gguf.Q4_1}[i], 64, 64)
	}
	edit(kv, tensors)
	var list []gguf.KV
	for _, k := range slices.Sorted(maps.Keys(kv)) {
		if kv[k] != nil {
			list = append(list, gguf.KV{Key: k, Value: kv[k]})
		}
	}
	var infos []gguf.Tensor
	for _, n := range slices.Sorted(maps.Keys(tensors)) {
		tn := tensors[n]
		tn.Name = n
		infos = append(infos, tn)
	}
	path := filepath.Join(t.TempDir(), "x.gguf")
	w, err := gguf.Create(path, list, infos)
	require.NoError(t, err)
	for _, tn := range infos {
		require.NoError(t, w.Append(tn.Name, make([]byte, tn.Bytes())))
	}
	require.NoError(t, w.Close())
	return path
}

func TestGGUFFromStrangers(t *testing.T) {
	type (
		values  = map[string]any
		entries = map[string]gguf.Tensor
	)
	key := func(k string, v any) func(values, entries) { return func(kv values, _ entries) { kv[k] = v } }
	entry := func(name string, typ gguf.Type, dims ...int) func(values, entries) {
		return func(_ values, ts entries) { ts[name] = gguf.Tensor{Type: typ, Dims: dims} }
	}
	for _, c := range []struct {
		name string
		edit func(values, entries)
		want string
	}{
		{"good", func(values, entries) {}, ""},
		{"blocks of 256", func(kv values, ts entries) {
			kv["llama.feed_forward_length"] = uint32(256)
			ts["blk.0.ffn_down.weight"] = gguf.Tensor{Type: gguf.Q6_K, Dims: []int{256, 64}}
			ts["blk.0.ffn_up.weight"] = gguf.Tensor{Type: gguf.BF16, Dims: []int{64, 256}}
			ts["blk.0.ffn_gate.weight"] = gguf.Tensor{Type: gguf.Q5_0, Dims: []int{64, 256}}
		}, ""},
		{"equal heads by layer", key("llama.attention.head_count_kv", []int32{4, 4}), ""},
		{"architecture", key("general.architecture", "bert"), `"bert"`},
		{"no architecture", key("general.architecture", nil), `general.architecture ""`},
		{"no layers", key("llama.block_count", nil), "llama.block_count"},
		{"layers", key("llama.block_count", uint32(0)), "want at least 1"},
		{"negative", key("llama.embedding_length", int32(-64)), "want one number"},
		{"huge", key("llama.feed_forward_length", uint64(1)<<60), "want one number"},
		{"text", key("llama.context_length", "many"), "a string"},
		{"heads by layer", key("llama.attention.head_count", []uint32{4, 2}), "a []uint32"},
		{"no heads", key("llama.attention.head_count", uint32(0)), "want at least 1"},
		{"kv heads", key("llama.attention.head_count_kv", uint32(3)), "num_key_value_heads"},
		{"no kv heads", key("llama.attention.head_count_kv", uint32(0)), "num_key_value_heads"},
		{"odd heads", key("llama.attention.head_count", uint32(64)), "even number"},
		{"value width", key("llama.attention.value_length", uint32(8)), "value_length is 8"},
		{"rotary width", key("llama.rope.dimension_count", uint32(8)), "part of each head"},
		{"no epsilon", key("llama.attention.layer_norm_rms_epsilon", nil), "layer_norm_rms_epsilon"},
		{"epsilon", key("llama.attention.layer_norm_rms_epsilon", uint32(1)), "floating-point"},
		{"experts", key("llama.expert_count", uint32(8)), "blk.0.ffn"},
		{"scaling", key("llama.rope.scaling.type", "yarn"), "original_context_length"},
		{"unknown scaling", key("llama.rope.scaling.type", "spiral"), "spiral"},
		{"factors", entry("rope_freqs.weight", gguf.F32, 8), "rope_freqs"},
		{"count of factors", entry("rope_freqs.weight", gguf.F32, 9), "want 8"},
		{"unknown tensor", entry("blk.0.ssm_a", gguf.F32, 4), "ssm_a"},
		{"layer outside", entry("blk.1.attn_q.weight", gguf.F32, 4, 4), "blk.1"},
		{"type", entry("blk.0.attn_q.weight", gguf.Type(15), 256, 1), "Q8_K"},
		{"cube", entry("blk.0.attn_q.weight", gguf.F32, 4, 4, 4), "dimensions"},
		{"vector of blocks", entry("output_norm.weight", gguf.Q8_0, 64), "a vector of type Q8_0"},
		{"no embedding", func(_ values, ts entries) { delete(ts, "token_embd.weight") }, "token_embd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := editedGGUF(t, c.edit)
			m, err := checkpoint.Open(path)
			if c.want != "" {
				require.ErrorContains(t, err, c.want)
				require.ErrorContains(t, err, path)
				return
			}
			require.NoError(t, err)
			defer m.Close()
			readEverything(t, m)
			require.Len(t, m.Layers(), 5)
		})
	}
	// A file that is none of ours is not claimed.
	path := filepath.Join(t.TempDir(), "x")
	for _, text := range []string{"", "GG", "not a model"} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := checkpoint.Open(path)
		require.ErrorContains(t, err, "neither a model folder")
	}
	require.NoError(t, os.WriteFile(path, []byte("GGUF\x03\x00\x00\x00"), 0o600))
	_, err := checkpoint.Open(path)
	require.ErrorIs(t, err, gguf.ErrFormat)
}

// readEverything reads all tensors in every way; errors are allowed where the
// caller says so by ignoring the result.
func readEverything(t testing.TB, m *checkpoint.Model) (failed int) {
	t.Helper()
	for _, name := range m.Source().Names() {
		s, ok := m.Source().Spec(name)
		require.True(t, ok)
		data := make([]byte, s.Bytes())
		if m.Source().ReadAt(name, data, 0) != nil {
			failed++
			continue
		}
		// In pieces it is the same.
		for off := 0; off < len(data); off += 97 {
			p := make([]byte, min(97, len(data)-off))
			require.NoError(t, m.Source().ReadAt(name, p, int64(off)))
			require.Equal(t, data[off:off+len(p)], p)
		}
		require.Error(t, m.Source().ReadAt(name, data, 1))
		require.Error(t, m.Source().ReadAt(name, data, -1))
		var err error
		if shape, _ := m.Shape(name); len(shape) == 2 {
			_, err = m.Matrix(name)
		} else {
			_, err = m.Vector(name)
		}
		if err != nil {
			failed++
		}
	}
	for _, l := range m.Layers() {
		if w, err := m.Weight(l.Name); err != nil {
			failed++
		} else {
			require.NoError(t, w.Validate())
		}
	}
	return failed
}

// FuzzGGUF changes bytes of a model file: no panic, no absurd allocation, and
// what opens has a configuration that fits itself.
func FuzzGGUF(f *testing.F) {
	good, err := os.ReadFile(editedGGUF(f, func(map[string]any, map[string]gguf.Tensor) {}))
	require.NoError(f, err)
	data := slices.Index(good, 0x2d)
	f.Add(uint32(0), []byte{}, uint32(len(good)))
	f.Add(uint32(4), []byte{2}, uint32(len(good)))
	f.Add(uint32(24), []byte("\xff\xff\xff\xff\xff\xff\xff\xff"), uint32(len(good)))
	f.Add(uint32(max(data, 0)), []byte("\x00\x7c"), uint32(len(good)))
	for _, word := range []string{"head_count", "block_count", "blk.0.attn_q", "token_embd", "rms_epsilon"} {
		at := strings.Index(string(good), word)
		require.Positive(f, at, word)
		f.Add(uint32(at+len(word)), []byte{4, 0, 0, 0, 3}, uint32(len(good)))
		f.Add(uint32(at), []byte("x"), uint32(len(good)))
	}
	f.Add(uint32(0), []byte{}, uint32(len(good)/2))
	f.Fuzz(func(t *testing.T, at uint32, change []byte, size uint32) {
		b := slices.Clone(good)
		copy(b[int(at)%len(b):], change)
		b = b[:int(size)%(len(b)+1)]
		path := filepath.Join(t.TempDir(), "x.gguf")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		m, err := checkpoint.Open(path)
		if err != nil {
			return
		}
		defer m.Close()
		readEverything(t, m)
		_, err = arch.ParseConfig(m.Config())
		require.NoError(t, err)
		_, _ = fs.ReadFile(m.Files(), "tokenizer.json")
	})
}
