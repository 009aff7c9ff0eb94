package lora

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// Merged is a base with an adapter merged into it. It implements weights.Tensors:
// names are the base's, in its order; what the adapter changes is F32 (or, if
// it is replaced whole, of the adapter's type).
type Merged struct {
	base, adapter weights.Tensors
	deltas        map[string]delta  // by the base's name
	replaced      map[string]string // the base's name to the adapter's
	vocab         int

	mu     sync.Mutex
	loaded []*factors // the last few, so that reading in pieces stays cheap
}

// delta is what is added to a tensor of the base: s·left·right, of the shape
// of the tensor.
type delta struct {
	name       string
	a, b       string // tensors of the adapter
	scale      float32
	rows, cols int
	// transposed says that the base keeps [in, out]: (BA)ᵀ = AᵀBᵀ.
	transposed bool
}

// factors are the matrices of a delta, [rows, r] and [r, cols].
type factors struct {
	name        string
	left, right *tensor.Matrix
}

// keptFactors is how many pairs stay in memory: those of one block.
const keptFactors = 8

// Merge lays the adapter over the base. Merged takes both over and closes
// them; after an error they are still the caller's. tied says that the base's
// head is its embedding.
func (a *Adapter) Merge(base weights.Tensors, tied bool) (*Merged, error) {
	m := &Merged{base: base, adapter: a.src, deltas: map[string]delta{}, replaced: map[string]string{}}
	for _, p := range a.pairs {
		d, err := a.delta(base, p, tied)
		if err != nil {
			return nil, err
		}
		if _, twice := m.deltas[d.name]; twice {
			return nil, fmt.Errorf("%s: two pairs of lora_A and lora_B for %q", a.src.Path(p.a), d.name)
		}
		m.deltas[d.name] = d
	}
	for _, r := range a.replace {
		if err := m.put(a, r, tied); err != nil {
			return nil, err
		}
	}
	return m, m.checkVocab(a, tied)
}

var floatTypes = []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16, safetensors.F64}

// delta finds the base's tensor of a pair and checks the shapes.
func (a *Adapter) delta(base weights.Tensors, p pair, tied bool) (delta, error) {
	fail := func(format string, args ...any) (delta, error) {
		return delta{}, fmt.Errorf("%s: module %q: %w", a.src.Path(p.a), p.module, fmt.Errorf(format, args...))
	}
	A, _ := a.src.Info(p.a)
	B, _ := a.src.Info(p.b)
	if len(A.Shape) != 2 || len(B.Shape) != 2 {
		return fail("%w: lora_A of shape %v and lora_B of %v, want matrices", ErrUnsupported, A.Shape, B.Shape)
	}
	for _, t := range []safetensors.TensorInfo{A, B} {
		if !slices.Contains(floatTypes, t.DType) {
			return fail("tensor %q of %s, want floats", t.Name, t.DType)
		}
	}
	r, want := A.Shape[0], a.config.rank(p.module)
	if r != want || B.Shape[1] != r {
		return fail("lora_A %v and lora_B %v, want rank %d (%s)", A.Shape, B.Shape, want, ConfigName)
	}
	name, ok := findName(base, p.module+".weight")
	if !ok {
		if tied && isHead(p.module) {
			return fail("%w: it changes the head, which is the base's embedding (tie_word_embeddings); merge it with PEFT first", ErrUnsupported)
		}
		return fail("%s has no %q: is it the adapter's base?", base.Path(""), p.module+".weight")
	}
	if tied && hasVocab(name) && !a.config.Tying {
		return fail("%w: it changes the embedding, which is also the base's head (tie_word_embeddings); merge it with PEFT first", ErrUnsupported)
	}
	W, _ := base.Info(name)
	if !slices.Contains(floatTypes, W.DType) {
		return fail("the base's weight is %s: merging needs the base in floating point, not a quantized one", W.DType)
	}
	d := delta{name: name, a: p.a, b: p.b, scale: a.config.scale(p.module)}
	out, in := B.Shape[0], A.Shape[1]
	straight, turned := slices.Equal(W.Shape, []int{out, in}), slices.Equal(W.Shape, []int{in, out})
	switch {
	case p.embedding && turned, !p.embedding && turned && (!straight || a.config.FanInFanOut):
		d.rows, d.cols, d.transposed = in, out, true
	case !p.embedding && straight:
		d.rows, d.cols = out, in
	default:
		return fail("lora_A %v and lora_B %v do not fit the base's weight of %v", A.Shape, B.Shape, W.Shape)
	}
	return d, nil
}

func isHead(module string) bool { return module == "lm_head" || strings.HasSuffix(module, ".lm_head") }

// findName finds a tensor of the base whose name may lack or have the prefixes
// with which models are wrapped.
func findName(base weights.Tensors, name string) (string, bool) {
	bare := name
	for _, p := range []string{"model.language_model.", "language_model.model.", "language_model.", "model."} {
		if s, ok := strings.CutPrefix(name, p); ok {
			bare = s
			break
		}
	}
	for _, p := range []string{"", "model.", "language_model.model.", "model.language_model.", "language_model."} {
		for _, n := range []string{name, p + bare} {
			if _, ok := base.Info(n); ok {
				return n, true
			}
		}
	}
	return "", false
}

// put notes a tensor that takes the place of the base's.
func (m *Merged) put(a *Adapter, r replacement, tied bool) error {
	t, _ := a.src.Info(r.from)
	name, ok := findName(m.base, r.name)
	if !ok {
		if tied && isHead(strings.TrimSuffix(r.name, ".weight")) {
			return m.sameHead(a, r)
		}
		return fmt.Errorf("%s: tensor %q: %s has no %q: is it the adapter's base?", a.src.Path(r.from), r.from, m.base.Path(""), r.name)
	}
	W, _ := m.base.Info(name)
	grown := len(W.Shape) == 2 && len(t.Shape) == 2 && W.Shape[1] == t.Shape[1] && hasVocab(name)
	if !slices.Equal(W.Shape, t.Shape) {
		if !grown {
			return fmt.Errorf("%s: tensor %q: shape %v, the base's is %v", a.src.Path(r.from), r.from, t.Shape, W.Shape)
		}
		if m.vocab != 0 && m.vocab != t.Shape[0] {
			return fmt.Errorf("%s: tensor %q: %d tokens, another has %d", a.src.Path(r.from), r.from, t.Shape[0], m.vocab)
		}
		m.vocab = t.Shape[0]
	} else if tied && hasVocab(name) && !a.config.Tying && !a.savesHead() {
		return fmt.Errorf("%s: tensor %q: %w: the embedding is saved without the head, which the base ties to it (tie_word_embeddings); merge it with PEFT first", a.src.Path(r.from), r.from, ErrUnsupported)
	}
	if !slices.Contains(floatTypes, t.DType) {
		return fmt.Errorf("%s: tensor %q of %s, want floats", a.src.Path(r.from), r.from, t.DType)
	}
	// An embedding that is also a target: what is saved is the one the pair is
	// added to.
	if _, both := m.deltas[name]; both && grown && m.vocab != 0 {
		return fmt.Errorf("%s: tensor %q: %w: a resized embedding with a pair of its own; merge it with PEFT first", a.src.Path(r.from), r.from, ErrUnsupported)
	}
	m.replaced[name] = r.from
	return nil
}

func (a *Adapter) savesHead() bool {
	return slices.ContainsFunc(a.replace, func(r replacement) bool { return isHead(strings.TrimSuffix(r.name, ".weight")) })
}

// vocabNames are the last parts of the names of matrices with a row a token.
var vocabNames = []string{"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"}

func hasVocab(name string) bool {
	module := strings.TrimSuffix(name, ".weight")
	return slices.Contains(vocabNames, module[strings.LastIndexByte(module, '.')+1:])
}

// sameHead accepts a saved head where the base's is tied, if it is the saved
// embedding.
func (m *Merged) sameHead(a *Adapter, head replacement) error {
	for _, r := range a.replace {
		if r.name == head.name || !hasVocab(r.name) {
			continue
		}
		h, _ := a.src.Info(head.from)
		e, _ := a.src.Info(r.from)
		if h.DType == e.DType && slices.Equal(h.Shape, e.Shape) {
			x, y := make([]byte, h.Size()), make([]byte, e.Size())
			if err := errors.Join(a.src.ReadAt(head.from, x, 0), a.src.ReadAt(r.from, y, 0)); err != nil {
				return err
			}
			if slices.Equal(x, y) {
				return nil
			}
		}
	}
	return fmt.Errorf("%s: tensor %q: %w: a head of its own, and the base's is its embedding (tie_word_embeddings); merge it with PEFT first", a.src.Path(head.from), head.from, ErrUnsupported)
}

// checkVocab refuses an embedding and a head of different lengths.
func (m *Merged) checkVocab(a *Adapter, tied bool) error {
	if m.vocab == 0 {
		return nil
	}
	for _, name := range m.base.Names() {
		if !hasVocab(name) || tied && isHead(strings.TrimSuffix(name, ".weight")) {
			continue
		}
		if t, _ := m.Info(name); len(t.Shape) == 2 && t.Shape[0] != m.vocab {
			return fmt.Errorf("%s: the adapter has %d tokens, and %q of the base, which it leaves as it is, %d", a.src.Path(""), m.vocab, name, t.Shape[0])
		}
	}
	return nil
}

// Vocab is the number of tokens where the adapter changes it, else 0.
func (m *Merged) Vocab() int { return m.vocab }

// Changed says whether the adapter changes or replaces the tensor.
func (m *Merged) Changed(name string) bool {
	_, d := m.deltas[name]
	_, r := m.replaced[name]
	return d || r
}

// Names implements weights.Tensors.
func (m *Merged) Names() []string { return m.base.Names() }

// Info implements weights.Tensors.
func (m *Merged) Info(name string) (safetensors.TensorInfo, bool) {
	_, changed := m.deltas[name]
	src, from := m.origin(name)
	t, ok := src.Info(from)
	t.Name = name
	if changed {
		t.DType = safetensors.F32
	}
	return t, ok
}

// origin is where the values come from, before a delta is added.
func (m *Merged) origin(name string) (weights.Tensors, string) {
	if from, ok := m.replaced[name]; ok {
		return m.adapter, from
	}
	return m.base, name
}

// Path implements weights.Tensors.
func (m *Merged) Path(name string) string {
	src, from := m.origin(name)
	return src.Path(from)
}

// Close implements weights.Tensors.
func (m *Merged) Close() error { return errors.Join(m.base.Close(), m.adapter.Close()) }

// ReadAt implements weights.Tensors.
func (m *Merged) ReadAt(name string, p []byte, off int64) error {
	d, ok := m.deltas[name]
	if !ok {
		src, from := m.origin(name)
		return src.ReadAt(from, p, off)
	}
	size := 4 * int64(d.rows) * int64(d.cols)
	if off < 0 || off > size || int64(len(p)) > size-off {
		return fmt.Errorf("%s: tensor %q: bytes %d to %d of %d asked for", m.Path(name), name, off, off+int64(len(p)), size)
	}
	f, err := m.factors(d)
	if err != nil {
		return err
	}
	for len(p) > 0 {
		n, err := m.readPart(d, f, p, off)
		if err != nil {
			return err
		}
		p = p[n:]
		off += int64(n)
	}
	return nil
}

// bandBytes is about how much is merged at a time.
const bandBytes = 1 << 20

// readPart fills the beginning of p: some whole rows, or a part of one.
func (m *Merged) readPart(d delta, f *factors, p []byte, off int64) (int, error) {
	row := 4 * int64(d.cols)
	r0, at := off/row, off%row
	r1, c0, c1 := r0+1, at/4, int64(d.cols)
	if end := at + int64(len(p)); at == 0 && end >= row {
		r1 = r0 + max(1, min(int64(len(p)), bandBytes)/row)
	} else if end < row {
		c1 = (end + 3) / 4
	}
	rows, cols := int(r1-r0), int(c1-c0)
	w, err := m.origins(d.name, int(r0)*d.cols+int(c0), rows*cols)
	if err != nil {
		return 0, err
	}
	// Every element is one sum over r in the kernel's order, whatever the piece.
	sum := tensor.New(rows, cols)
	tensor.Gemm(false, false, 1, f.left.View(int(r0), int(r1), 0, f.left.Cols), f.right.View(0, f.right.Rows, int(c0), int(c1)), 0, sum, 1)
	out := make([]byte, 4*len(w))
	for i := range w {
		w[i] += float32(d.scale * sum.Data[i])
	}
	if err := safetensors.EncodeFloat32(out, safetensors.F32, w); err != nil {
		return 0, err
	}
	return copy(p, out[at-4*c0:]), nil
}

// origins reads n elements of a tensor as float32, before the delta.
func (m *Merged) origins(name string, first, n int) ([]float32, error) {
	src, from := m.origin(name)
	t, _ := src.Info(from)
	return readFloats(src, t, first, n)
}

func readFloats(src weights.Tensors, t safetensors.TensorInfo, first, n int) ([]float32, error) {
	width := int64(t.DType.Bits() / 8)
	data := make([]byte, int64(n)*width)
	if err := src.ReadAt(t.Name, data, int64(first)*width); err != nil {
		return nil, err
	}
	v := make([]float32, n)
	return v, safetensors.DecodeFloat32(v, t.DType, data)
}

// factors reads the matrices of a delta, or gives those that are at hand.
func (m *Merged) factors(d delta) (*factors, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.loaded {
		if f.name == d.name {
			return f, nil
		}
	}
	read := func(name string) (*tensor.Matrix, error) {
		t, _ := m.adapter.Info(name)
		v, err := readFloats(m.adapter, t, 0, t.Elements())
		if err != nil {
			return nil, err
		}
		return tensor.FromSlice(t.Shape[0], t.Shape[1], v), nil
	}
	a, err := read(d.a)
	if err != nil {
		return nil, err
	}
	b, err := read(d.b)
	if err != nil {
		return nil, err
	}
	f := &factors{d.name, b, a}
	if d.transposed {
		f.left, f.right = a.T(), b.T()
	}
	if len(m.loaded) == keptFactors {
		m.loaded = m.loaded[1:]
	}
	m.loaded = append(slices.Clone(m.loaded), f)
	return f, nil
}
