package checkpoint

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// What the formats that come from elsewhere have in common.

// packedLayer is a quantized layer found in an opened checkpoint.
type packedLayer struct {
	Layer
	tensors []string
	file    string
	read    func() (*quant.Weight, error)
}

// packedDecoder is the Decoder of those layers.
type packedDecoder struct {
	layers []packedLayer
	index  map[string]int
}

func (d *packedDecoder) add(l packedLayer) {
	if d.index == nil {
		d.index = map[string]int{}
	}
	d.index[l.Name] = len(d.layers)
	d.layers = append(d.layers, l)
}

func (d *packedDecoder) Layers() []Layer {
	out := make([]Layer, len(d.layers))
	for i, l := range d.layers {
		out[i] = l.Layer
	}
	return out
}

func (d *packedDecoder) find(name string) (packedLayer, error) {
	i, ok := d.index[name]
	if !ok {
		return packedLayer{}, fmt.Errorf("no quantized layer %q", name)
	}
	return d.layers[i], nil
}

func (d *packedDecoder) Tensors(name string) []string {
	l, err := d.find(name)
	if err != nil {
		return nil
	}
	return slices.Clone(l.tensors)
}

func (d *packedDecoder) Weight(name string) (*quant.Weight, error) {
	l, err := d.find(name)
	if err != nil {
		return nil, err
	}
	w, err := l.read()
	if err != nil {
		return nil, err
	}
	if err := w.Validate(); err != nil {
		return nil, fmt.Errorf("%s: layer %q: %w", l.file, name, err)
	}
	return w, nil
}

// dimensions returns the sizes of a tensor that must have n of them, each of
// a length that a layer can have.
func dimensions(src Source, spec Spec, n int) ([]int, error) {
	if len(spec.Shape) != n {
		return nil, tensorError(src, spec.Name, "shape %v, want %d dimensions", spec.Shape, n)
	}
	for _, d := range spec.Shape {
		if d < 1 || d > math.MaxInt32/64 {
			return nil, tensorError(src, spec.Name, "shape %v, want dimensions of 1 to %d", spec.Shape, math.MaxInt32/64)
		}
	}
	return spec.Shape, nil
}

// scaleTypeOf says in which type a weight must keep the scales of a tensor:
// F16 where half floats hold every one of them, as in most files of bfloat16.
func scaleTypeOf(src Source, spec Spec) (quant.ScaleType, error) {
	if spec.DType == safetensors.F16 {
		return quant.F16, nil
	}
	v, err := readFloats(src, spec.Name, spec.Shape...)
	if err != nil {
		return 0, err
	}
	if exactIn(safetensors.F16, v) {
		return quant.F16, nil
	}
	return quant.F32, nil
}

// exactIn reports whether a floating-point type holds the values.
func exactIn(t safetensors.DType, v []float32) bool {
	_, err := floatTensor("", t, v, len(v))
	return err == nil
}

// floatTypes are the types of tensors that hold floats.
func floatTypes() []safetensors.DType {
	return []safetensors.DType{safetensors.F16, safetensors.BF16, safetensors.F32}
}

// middle is the zero-point of symmetric codes.
func middle(bits int) uint8 { return 1 << (bits - 1) }

// constant returns n times the value v.
func constant(v uint8, n int) []uint8 {
	s := make([]uint8, n)
	for i := range s {
		s[i] = v
	}
	return s
}

// allEqual reports whether every element of s is v.
func allEqual(s []uint8, v uint8) bool {
	return !slices.ContainsFunc(s, func(x uint8) bool { return x != v })
}

// noteZeros records in the scheme what is known of its zero-points.
func noteZeros(s *quant.Scheme, zeros []uint8) {
	if !s.Symmetric && !slices.Contains(zeros, 0) {
		s.MinZero = 1
	}
}

// clearTail zeroes the bits beyond a line's last code, which a file may have
// filled with anything.
func clearTail(codes []uint32, lines, length, bits int) {
	words := packedWords(length, bits)
	used := length * bits & 31
	if used == 0 {
		return
	}
	for l := range lines {
		codes[(l+1)*words-1] &= 1<<used - 1
	}
}

// trivialGroups returns the group index that the scheme implies for in inputs.
func trivialGroups(in, groupSize int) []int32 {
	g := make([]int32, in)
	if groupSize == quant.WholeLine {
		return g
	}
	for i := range g {
		g[i] = int32(i / groupSize)
	}
	return g
}

// checkScheme refuses a scheme that does not fit the shape of its layer.
func checkScheme(l Layer) error {
	if err := l.Scheme.CheckShape(l.Out, l.In); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return nil
}

// checkInputGroups is the part of Check that is common to formats whose
// groups are consecutive inputs of an output row and whose scales are F16.
func checkInputGroups(format string, l Layer) error {
	s := l.Scheme
	if err := checkScheme(l); err != nil {
		return err
	}
	switch {
	case s.Axis == quant.IC:
		return Unsupported("%s keeps the scales of groups of inputs, so axis ic does not fit; use axis oc, or format hqq (with strided groups) or lowbit", format)
	case l.RowScale:
		return Unsupported("%s has no row scales, and folding them into the scales would round; quantize without them, or use format lowbit or dense", format)
	case l.InputScale:
		return Unsupported("%s has no input scales, and they belong to no group; quantize without them, or use format lowbit or dense", format)
	case s.ScaleType == quant.F32:
		return Unsupported("%s stores scales as f16; quantize with scale type f16, or use format lowbit or dense", format)
	}
	return nil
}

// checkWholeGroups refuses a short last group.
func checkWholeGroups(format string, l Layer) error {
	g := l.Scheme.GroupSize
	if g == quant.WholeLine || l.In%g == 0 {
		return nil
	}
	return Unsupported("%s needs groups that divide the inputs, and %d does not divide %d; %s, or use format lowbit or dense",
		format, g, l.In, suggestGroup(l.In, g))
}

// suggestGroup names a group size that divides n, at most max.
func suggestGroup(n, most int) string {
	for g := 1 << 10; g >= 16; g /= 2 {
		if g <= most && n%g == 0 {
			return fmt.Sprintf("use groups of %d or whole rows", g)
		}
	}
	return "use whole rows (group size -1)"
}

// checkWeight refuses a weight that is not what Check and Plan were asked for.
func checkWeight(f Format, l Layer, w *quant.Weight) error {
	if err := f.Check(l); err != nil {
		return err
	}
	if err := w.Validate(); err != nil {
		return err
	}
	got := LayerOf(l.Name, w)
	if got.Out != l.Out || got.In != l.In || got.RowScale != l.RowScale || got.InputScale != l.InputScale || got.GroupIndex != l.GroupIndex ||
		got.Scheme.Bits != l.Scheme.Bits || got.Scheme.GroupSize != l.Scheme.GroupSize || got.Scheme.Axis != l.Scheme.Axis ||
		got.Scheme.Symmetric != l.Scheme.Symmetric || got.Scheme.Strided != l.Scheme.Strided {
		return fmt.Errorf("layer %q: the weight is %+v, planned was %+v", l.Name, got, l)
	}
	if l.Scheme.Symmetric && !allEqual(w.Zeros, middle(l.Scheme.Bits)) {
		return fmt.Errorf("layer %q: a symmetric weight has zero-points other than %d", l.Name, middle(l.Scheme.Bits))
	}
	return nil
}

// skippedLinears names the dense linears of the model. Engines count the head
// among the linears even where it is tied and not in the files.
func skippedLinears(c Contents) []string {
	head := !slices.ContainsFunc(c.Layers, func(l Layer) bool { return l.Name == "lm_head" })
	var names []string
	for _, name := range c.Dense {
		last := name[strings.LastIndexByte(name, '.')+1:]
		switch {
		case slices.Contains(embeddingNames, last):
			continue
		case name == "lm_head":
			head = false
		}
		names = append(names, name)
	}
	if head {
		names = append(names, "lm_head")
	}
	return names
}

var embeddingNames = []string{
	"embed_tokens", "embed_positions", "embed_in", "wte", "wpe",
	"word_embeddings", "position_embeddings", "tok_embeddings", "token_embedding",
}

// inBlock reports whether a module belongs to a numbered block, and gives its
// name inside the block: "self_attn.q_proj" for "model.layers.0.self_attn.q_proj".
func inBlock(name string) (inside string, ok bool) {
	parts := strings.Split(name, ".")
	for i, p := range parts[:len(parts)-1] {
		if _, err := strconv.Atoi(p); err == nil {
			return strings.Join(parts[i+1:], "."), true
		}
	}
	return "", false
}

// common returns the most frequent value, the first of equals.
func common[T comparable](values []T) T {
	count := map[T]int{}
	var best T
	for _, v := range values {
		count[v]++
	}
	for _, v := range values {
		if count[v] > count[best] {
			best = v
		}
	}
	return best
}

// halfModel returns the keys of config.json to set so that engines load
// scales as the half floats they are: they convert scales to the type of the
// model. Scales of 7 significant bits are exact in bfloat16 too, and a
// bfloat16 model stays one if all its scales are such.
func halfModel(c Contents) map[string]json.RawMessage {
	t := configDType(c.Config)
	if t == safetensors.F16 && hasDType(c.Config) || len(c.Layers) == 0 {
		return nil
	}
	if t == safetensors.BF16 && !slices.ContainsFunc(c.Layers, func(l Layer) bool { return l.Scheme.ScaleType != quant.F16Short }) {
		return nil
	}
	set := map[string]json.RawMessage{}
	for _, key := range dtypeKeys(c.Config) {
		set[key] = json.RawMessage(`"float16"`)
	}
	return set
}

func hasDType(config json.RawMessage) bool {
	o, err := parseObject(config)
	if err != nil {
		return false
	}
	_, a := o.get("torch_dtype")
	_, b := o.get("dtype")
	return a || b
}

// dtypeKeys are the keys that name the model's type: those that are there, or
// the one that every version of transformers knows.
func dtypeKeys(config json.RawMessage) []string {
	var keys []string
	if o, err := parseObject(config); err == nil {
		for _, key := range []string{"torch_dtype", "dtype"} {
			if _, ok := o.get(key); ok {
				keys = append(keys, key)
			}
		}
	}
	if keys == nil {
		keys = []string{"torch_dtype"}
	}
	return keys
}
