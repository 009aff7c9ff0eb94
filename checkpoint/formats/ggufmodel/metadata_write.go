package ggufmodel

import (
	"math"

	"github.com/golowbit/lowbit/checkpoint/layout"
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
