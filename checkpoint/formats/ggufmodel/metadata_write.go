package ggufmodel

import (
	"math"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/gguf"
)

// metadataWriter collects metadata and keeps the first error: for a number that
// its type there cannot say.
type metadataWriter struct {
	prefix string
	kv     []gguf.KV
	err    error
}

func (w *metadataWriter) add(key string, v any) {
	w.kv = append(w.kv, gguf.KV{Key: w.prefix + key, Value: v})
}

func (w *metadataWriter) fail(key string, v any) {
	if w.err == nil {
		w.err = layout.Unsupported("GGUF cannot say %s%s = %v", w.prefix, key, v)
	}
}

// int adds a count: engines read 32 bits, many of them with a sign.
func (w *metadataWriter) int(key string, n int) {
	if n < 0 || n > math.MaxInt32 {
		w.fail(key, n)
		return
	}
	w.add(key, uint32(n))
}

func (w *metadataWriter) float(key string, x float64) {
	v := float32(x)
	if v-v != 0 || v == 0 && x != 0 {
		w.fail(key, x)
		return
	}
	w.add(key, v)
}

// heads adds the sizes of attention and MLP. Where there is no attention the
// engine wants 0.
func (w *metadataWriter) heads(m *decoder.Model) {
	g := m.GGUF
	if m.NoAttention {
		w.int("feed_forward_length", 0)
		w.int("attention.head_count", 0)
		w.float(epsilonKey(g), m.NormEps)
		return
	}
	w.int("feed_forward_length", m.Intermediate)
	w.int("attention.head_count", m.Heads)
	values := m.HeadDim
	switch {
	case g.Latent:
		values = int(m.Number(keyValues))
		w.int("attention.head_count_kv", m.Heads)
	case g.Other != "":
		list := make([]uint32, m.Layers)
		for i := range list {
			if m.Attends(i) {
				list[i] = uint32(m.KVHeads)
			}
		}
		w.add("attention.head_count_kv", list)
	default:
		w.int("attention.head_count_kv", m.KVHeads)
	}
	w.float(epsilonKey(g), m.NormEps)
	if m.Rope != nil {
		w.int("rope.dimension_count", m.Rope.Dim)
		w.float("rope.freq_base", m.Rope.Theta)
	}
	if m.QueryWidth() != m.Hidden || (g.Name != "llama" && g.Name != "qwen2") {
		w.int("attention.key_length", m.HeadDim)
		w.int("attention.value_length", values)
	}
}

// keys adds what only some architectures have.
func (w *metadataWriter) keys(m *decoder.Model) {
	for _, k := range m.GGUF.Keys {
		if k.Read {
			continue
		}
		switch v := m.Value(k.Config).(type) {
		case int:
			if k.Times != "" {
				v *= int(m.Number(k.Times))
			}
			if v > k.Above || k.Zero {
				w.int(k.Name, v)
			}
		case float64:
			if v != 0 {
				w.float(k.Name, v)
			}
		case bool:
			w.add(k.Name, v)
		case string:
			w.add(k.Name, v == k.True)
		}
	}
	if list, ok := m.Value("mrope_section").([]int); ok && m.GGUF.Sections {
		sections := make([]int32, 4)
		for i := range min(len(list), len(sections)) {
			sections[i] = int32(min(max(list[i], 0), math.MaxInt32))
		}
		w.add(keySections, sections)
	}
	for _, x := range m.GGUF.Fixed {
		w.add(x.Name, x.Value)
	}
}
