package ggufmodel

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/gguf"
)

// archOf finds the architecture of a file.
func archOf(f *gguf.File) (*spec.Architecture, error) {
	v, _ := f.Value("general.architecture")
	name, _ := v.(string)
	var found *spec.Architecture
	for _, a := range arch.WithGGUF() {
		g := a.GGUF
		if g.Name != name || g.Images {
			continue
		}
		n, _ := f.Value(name + "." + g.Needs)
		count, _ := f.Count(name+"."+g.Needs, 0)
		if g.Needs != "" && (count > 0 || n == true) && hasFixed(g, f) {
			return a, nil
		}
		if g.Needs == "" && found == nil {
			found = a
		}
	}
	if found == nil {
		return nil, layout.Unsupported("general.architecture %q is not read here", name)
	}
	r := metadata{f: f, prefix: name + "."}
	if n := r.int("expert_count", 0); n != 0 && r.err == nil && !hasKey(found.GGUF, "expert_count") {
		r.err = layout.Unsupported("a mixture of %d experts is not read", n)
	}
	return found, r.err
}

// hasFixed tells whether a file has all values that those of an architecture have.
func hasFixed(g *decoder.GGUF, f *gguf.File) bool {
	for _, x := range g.Fixed {
		if v, _ := f.Value(g.Name + "." + x.Name); v != x.Value {
			return false
		}
	}
	return true
}

func hasKey(g *decoder.GGUF, name string) bool {
	for _, k := range g.Keys {
		if k.Name == name {
			return true
		}
	}
	return false
}

// configWriter puts a config.json together and keeps the first error.
type configWriter struct {
	metadata
	rename map[string]string
	o      layout.Object
	inner  map[string]map[string]any // objects in it
}

func (w *configWriter) set(key string, v any) {
	if name, ok := w.rename[key]; ok {
		key = name
	}
	if key == "" {
		return
	}
	if outer, name, ok := strings.Cut(key, "."); ok {
		if w.inner == nil {
			w.inner = map[string]map[string]any{}
		}
		if w.inner[outer] == nil {
			w.inner[outer] = map[string]any{}
		}
		w.inner[outer][name] = v
		key, v = outer, w.inner[outer]
	}
	data, err := json.Marshal(v)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("%s: %w", key, err)
	}
	w.o.Set(key, data)
}

// maxLayers bounds lists with an entry for each layer; no model comes near.
const maxLayers = 1 << 14

// configOf makes a config.json of a file's metadata.
func configOf(a *spec.Architecture, f *gguf.File) (json.RawMessage, error) {
	g := a.GGUF
	r := &configWriter{metadata: metadata{f: f, prefix: g.Name + "."}, rename: g.Rename}
	embedding, ok := f.Tensor(nameEmbedding)
	if !ok || len(embedding.Dims) != 2 {
		return nil, fmt.Errorf("no matrix %q", nameEmbedding)
	}
	vocab := embedding.Dims[1]
	layers, hidden := r.need("block_count"), r.need("embedding_length")
	r.set("architectures", []string{a.Classes[0]})
	r.set("model_type", a.Type)
	r.set("vocab_size", vocab)
	r.set("hidden_size", hidden)
	r.set("num_hidden_layers", layers)
	heads, headDim := 0, 0
	if !g.Headless {
		heads, headDim = r.heads(g, layers, hidden)
	}
	if g.Activation.Key == "" {
		r.set("hidden_act", "silu")
	} else {
		r.set(g.Activation.Key, g.Activation.Values[0])
	}
	r.set("max_position_embeddings", r.need("context_length"))
	r.set("rms_norm_eps", r.float(epsilonKey(g), ""))
	if !g.Unrotated {
		r.rotation(g, headDim)
	}
	r.architecture(g, f)
	var derived []map[string]any
	if g.Derive != nil {
		derived = append(derived, g.Derive(r.need))
	}
	if g.Layers != nil && layers <= maxLayers {
		derived = append(derived, g.Layers(layers, func(block int, name string) bool {
			_, ok := f.Tensor(fmt.Sprintf("blk.%d.%s.weight", block, name))
			return ok
		}))
	}
	for _, values := range derived {
		for _, key := range slices.Sorted(maps.Keys(values)) {
			r.set(key, values[key])
		}
	}
	if n := r.int(keyPeriod, 0); n > 0 && g.Period > 0 && layers <= maxLayers {
		r.set("layer_types", spec.Sequence(layers, n))
	}
	if g.HeadWidth != "" {
		r.set(g.HeadWidth, g.ScaleWidth(layers, hidden, heads, headDim))
	}
	_, head := f.Tensor(nameHead)
	r.set("tie_word_embeddings", !head)
	dtype := map[gguf.Type]string{gguf.F32: "float32", gguf.BF16: "bfloat16"}[embedding.Type]
	if dtype == "" {
		dtype = "float16"
	}
	r.set("torch_dtype", dtype)
	for _, role := range []string{"bos", "eos"} {
		if id := r.absolute("tokenizer.ggml."+role+"_token_id", -1); id >= 0 && id < vocab {
			r.set(role+"_token_id", id)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return r.o.Bytes(), nil
}

// heads sets the sizes of attention and MLP, and returns the number of heads and
// the width of one.
func (r *configWriter) heads(g *decoder.GGUF, layers, hidden int) (heads, headDim int) {
	heads = r.need("attention.head_count")
	if headDim = r.int("attention.key_length", 0); headDim == 0 {
		headDim = hidden / heads
	}
	if g.Latent {
		headDim = r.latent(headDim)
	} else if d := r.int("attention.value_length", headDim); d != headDim && r.err == nil {
		r.err = layout.Unsupported("%s is %d, but heads are %d wide", r.prefix+"attention.value_length", d, headDim)
	}
	r.set("intermediate_size", r.need("feed_forward_length"))
	r.set("num_attention_heads", heads)
	if g.Other != "" {
		r.mixed(g, layers)
	} else {
		r.set("num_key_value_heads", r.int("attention.head_count_kv", heads))
	}
	r.set("head_dim", headDim)
	return heads, headDim
}

// mixed sets the heads of keys and which layers have some.
func (r *configWriter) mixed(g *decoder.GGUF, layers int) {
	key := r.prefix + "attention.head_count_kv"
	v, _ := r.f.Value(key)
	var list []int
	switch v := v.(type) {
	case []uint32:
		for _, n := range v {
			list = append(list, int(n))
		}
	case []int32:
		for _, n := range v {
			list = append(list, int(n))
		}
	}
	heads := 0
	types := make([]string, len(list))
	for i, n := range list {
		types[i] = g.Other
		if n != 0 {
			types[i] = spec.FullAttention
			if heads == 0 {
				heads = n
			}
			if n != heads {
				list = nil
				break
			}
		}
	}
	if len(list) != layers || heads < 1 || heads > gguf.MaxCount {
		if r.err == nil {
			r.err = fmt.Errorf("key %q: %v, want a number for each of %d layers, 0 or the same", key, v, layers)
		}
		return
	}
	r.set("layer_types", types)
	r.set("num_key_value_heads", heads)
}

// latent sets the widths of latent attention, with a head's keys as wide as given,
// and returns that of their rotated part.
func (w *configWriter) latent(keys int) int {
	if _, ok := w.f.Value(w.prefix + "attention.key_length_mla"); ok && w.err == nil {
		w.err = layout.Unsupported("files in which attention.kv_b_proj is two tensors are not read")
	}
	rotated := w.need("rope.dimension_count")
	w.set("qk_rope_head_dim", rotated)
	w.set("qk_nope_head_dim", keys-rotated)
	w.set(keyValues, w.need("attention.value_length"))
	return rotated
}

// rotation sets what config.json says of rotations.
func (w *configWriter) rotation(g *decoder.GGUF, headDim int) {
	dim := w.int("rope.dimension_count", headDim)
	if dim < 1 || dim > headDim {
		if w.err == nil {
			w.err = fmt.Errorf("%s is %d, but heads are %d wide", w.prefix+"rope.dimension_count", dim, headDim)
		}
		return
	}
	theta := w.float("rope.freq_base", "10000")
	base, err := theta.Float64()
	if err != nil && w.err == nil {
		w.err = err
	}
	w.set("rope_theta", theta)
	if dim != headDim {
		part := float64(dim) / float64(headDim)
		if int(float64(headDim)*part) < dim {
			part = math.Nextafter(part, 1)
		}
		w.set("partial_rotary_factor", part)
	}
	scaling, err := w.ropeScaling(g, dim, base)
	if err != nil && w.err == nil {
		w.err = err
	}
	if scaling == nil && g.Scaled {
		scaling = map[string]any{"rope_type": "default"}
	}
	if list, ok := w.f.Value(w.prefix + keySections); ok && g.Sections {
		if scaling == nil {
			scaling = map[string]any{"rope_type": "default"}
		}
		scaling["mrope_section"], scaling["mrope_interleaved"] = list, true
	}
	w.set("rope_scaling", scaling)
}

// architecture sets what only some architectures have.
func (w *configWriter) architecture(g *decoder.GGUF, f *gguf.File) {
	for _, k := range g.Keys {
		v, ok := f.Value(w.prefix + k.Name)
		if !ok || k.Times != "" {
			continue
		}
		if k.True != "" {
			if v == true {
				w.set(k.Config, k.True)
			}
			continue
		}
		switch v := v.(type) {
		case bool, string:
			w.set(k.Config, v)
		case float32, float64:
			w.set(k.Config, w.float(k.Name, ""))
		default:
			w.set(k.Config, w.int(k.Name, 0))
		}
	}
	for _, x := range g.Fixed {
		if v, ok := f.Value(w.prefix + x.Name); ok && v != x.Value && w.err == nil {
			w.err = layout.Unsupported("%s is %v, want %v", w.prefix+x.Name, v, x.Value)
		}
	}
	for _, flag := range g.Flags {
		there := false
		for _, name := range flag.Tensors {
			_, ok := f.Tensor("blk.0." + name)
			there = there || ok
		}
		w.set(flag.Config, there != flag.Absent)
	}
	keys := make([]string, 0, len(g.Constants))
	for key := range g.Constants {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		w.set(key, g.Constants[key])
	}
}

// metadata reads metadata and keeps the first error.
type metadata struct {
	f      *gguf.File
	prefix string
	err    error
}

func (r *metadata) need(key string) int {
	if _, ok := r.f.Value(r.prefix + key); !ok && r.err == nil {
		r.err = fmt.Errorf("no key %q", r.prefix+key)
	}
	n := r.int(key, 1)
	if n < 1 && r.err == nil {
		r.err = fmt.Errorf("key %q: %d, want at least 1", r.prefix+key, n)
	}
	return max(n, 1)
}

func (r *metadata) int(key string, missing int) int { return r.absolute(r.prefix+key, missing) }

// absolute is int of a key with its prefix.
func (r *metadata) absolute(key string, missing int) int {
	n, err := r.f.Count(key, missing)
	if err != nil && r.err == nil {
		r.err = err
	}
	return n
}

// float reads a number as the shortest decimal that gives it, so that 1e-05
// does not become 9.999999747378752e-06. An empty default is an error if the
// key is not there.
func (r *metadata) float(key string, missing json.Number) json.Number {
	v, ok := r.f.Value(r.prefix + key)
	var s string
	switch v := v.(type) {
	case float32:
		s = strconv.FormatFloat(float64(v), 'g', -1, 32)
	case float64:
		s = strconv.FormatFloat(v, 'g', -1, 64)
	}
	if !ok && missing != "" {
		return missing
	}
	if f, err := strconv.ParseFloat(s, 64); err != nil || f-f != 0 {
		if r.err == nil {
			r.err = fmt.Errorf("key %q: %q (%T), want a finite floating-point number", r.prefix+key, s, v)
		}
		return "1"
	}
	return json.Number(s)
}
