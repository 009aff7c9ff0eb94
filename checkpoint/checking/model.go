package checking

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/internal/leftover"
	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// model looks at what the files mean together.
func (c *checker) model(ctx context.Context, m *checkpoint.Model) error {
	c.r.Format = m.Format().Name()
	c.r.Tensors, c.r.Layers, c.r.Bytes = len(m.Dense()), len(m.Layers()), m.Bytes()
	a := c.architecture(m)
	c.left(m)
	c.tokenizer(m, a)
	return c.each(ctx, m.Dense(), m.Layers(), func(s layout.Spec) []Finding { return finite(m.Source(), s) },
		func(l layout.Layer) []Finding { return layer(m, l) })
}

// each has tensors and layers looked at on all workers, and keeps the findings in order.
func (c *checker) each(ctx context.Context, dense []layout.Spec, layers []layout.Layer, tensorOf func(layout.Spec) []Finding, layerOf func(layout.Layer) []Finding) error {
	total := len(dense) + len(layers)
	found := make([][]Finding, total)
	var done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Workers)
	for i := range total {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if i < len(dense) {
				found[i] = tensorOf(dense[i])
			} else {
				found[i] = layerOf(layers[i-len(dense)])
			}
			if n := int(done.Add(1)); c.o.Step != nil {
				c.mu.Lock()
				c.o.Step(n, total)
				c.mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	c.r.Findings = append(c.r.Findings, slices.Concat(found...)...)
	return nil
}

// packed are the endings of tensors that only quantized layers have.
var packed = []string{
	".qweight", ".qzeros", ".scales", ".g_idx", ".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx", ".weight_global_scale", ".W_q", ".lowbit_codes", ".lowbit_scales", ".lowbit_zeros", ".lowbit_header",
}

// left looks for tensors that quantization left behind, and for a configuration that
// speaks of layers that are not there.
func (c *checker) left(m *checkpoint.Model) {
	for _, s := range m.Dense() {
		for _, end := range packed {
			if strings.HasSuffix(s.Name, end) {
				c.add(Finding{Kind: KindConfig, File: m.Source().File(s.Name), Tensor: s.Name, Expected: "a part of a quantized layer", Found: "none that the configuration makes one of"})
				break
			}
		}
	}
	var config map[string]json.RawMessage
	if json.Unmarshal(m.Config(), &config) != nil || len(m.Layers()) > 0 {
		return
	}
	if q, ok := config[layout.QuantizationKey]; ok && string(q) != "null" && !leftover.Of(q) {
		c.add(Finding{Kind: KindConfig, File: m.Path(), Text: layout.QuantizationKey, Expected: "quantized layers", Found: "none"})
	}
}

// tokenizer compares the tokens with the rows that the model has for them.
func (c *checker) tokenizer(m *checkpoint.Model, a *decoder.Model) {
	tok, err := tokenizer.OpenFS(m.Files())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.note("no tokenizer beside the model: %v", err)
		return
	case err != nil:
		c.add(Finding{Kind: KindTokenizer, File: m.Path(), Text: err.Error()})
		return
	case a == nil:
		return
	}
	if n := tok.VocabSize(); n > a.Vocab {
		name, _ := tok.Token(int32(n - 1))
		c.add(Finding{Kind: KindTokenizer, File: m.Path(), Tensor: fmt.Sprintf("token %q", name), Expected: fmt.Sprintf("an id below the model's %d tokens", a.Vocab), Found: fmt.Sprint(n - 1)})
	}
	for _, role := range []string{"bos", "eos", "pad"} {
		for _, id := range configIDs(m.Config(), role+"_token_id") {
			if id >= a.Vocab {
				c.add(Finding{Kind: KindTokenizer, File: m.Path(), Text: role + "_token_id", Expected: fmt.Sprintf("an id below the model's %d tokens", a.Vocab), Found: fmt.Sprint(id)})
			}
		}
	}
}

// configIDs are the ids that config.json has for a role, which may be one, several or null.
func configIDs(config json.RawMessage, key string) []int {
	var o map[string]json.RawMessage
	if json.Unmarshal(config, &o) != nil || o[key] == nil {
		return nil
	}
	var one *int
	if json.Unmarshal(o[key], &one) == nil {
		if one == nil {
			return nil
		}
		return []int{*one}
	}
	var many []int
	_ = json.Unmarshal(o[key], &many) // something else: no ids
	return many
}

// pieceBytes is how much of a tensor is looked at at a time.
const pieceBytes = 1 << 20

// finite looks for what is no number in a tensor of floats.
func finite(src layout.Source, s layout.Spec) []Finding {
	f := Finding{Kind: KindValue, File: src.File(s.Name), Tensor: s.Name}
	buf := make([]byte, min(s.Bytes(), pieceBytes))
	for off := int64(0); off < s.Bytes(); off += pieceBytes {
		p := buf[:min(pieceBytes, s.Bytes()-off)]
		if err := src.ReadAt(s.Name, p, off); err != nil {
			f.Text = err.Error()
			return []Finding{f}
		}
		if i, v := weights.NotFinite(s.DType, p); i >= 0 && !leftover.IsBuffer(s.Name) {
			f.Text, f.Expected, f.Found = fmt.Sprintf("element %d", 8*off/int64(max(1, s.DType.Bits()))+int64(i)), "a number", fmt.Sprint(v)
			return []Finding{f}
		}
	}
	return nil
}

// layer looks at a quantized layer: whether it can be read as such, its scales, and the
// bits beside its codes.
func layer(m *checkpoint.Model, l layout.Layer) []Finding {
	var all []Finding
	for _, s := range m.LayerTensors(l.Name) {
		if slices.Contains(layout.FloatTypes(), s.DType) {
			all = append(all, finite(m.Source(), s)...)
		}
	}
	if len(all) > 0 {
		return all
	}
	w, err := m.Weight(l.Name)
	if errors.Is(err, layout.ErrNotWeight) {
		_, err = m.Matrix(l.Name + layout.WeightSuffix)
		w = nil
	}
	if err != nil {
		return []Finding{{Kind: KindLayer, Tensor: l.Name, Text: err.Error()}}
	}
	if w == nil {
		return nil
	}
	if f, ok := zeroScale(w); !ok {
		f.File, f.Tensor = m.Path(), l.Name
		all = append(all, f)
	}
	return append(all, padding(m, l, w)...)
}

// zeroScale looks for groups whose codes say something and whose scale says nothing.
func zeroScale(w *quant.Weight) (Finding, bool) {
	if !slices.Contains(w.Scales, 0) || w.Scheme.Grid != nil {
		return Finding{}, true
	}
	codes := make([]uint8, w.LineLen())
	groups := w.Groups()
	for l := range w.Lines() {
		line := w.Scales[l*groups : (l+1)*groups]
		if !slices.Contains(line, 0) {
			continue
		}
		w.Line(codes, l)
		for p, code := range codes {
			if g := w.Group(p); line[g] == 0 && code != w.Zeros[l*groups+g] {
				return Finding{Kind: KindScale, Text: fmt.Sprintf("scale of group %d of line %d, whose codes are not all %d", g, l, w.Zeros[l*groups+g]), Expected: "a number that is not 0", Found: "0"}, false
			}
		}
	}
	return Finding{}, true
}

// padding compares the words of codes with those that the format packs the layer into:
// what differs are bits that belong to no code.
func padding(m *checkpoint.Model, l layout.Layer, w *quant.Weight) []Finding {
	f, ok := m.Format().(layout.Folder)
	if !ok || f.Check(l) != nil {
		return nil
	}
	tensors, err := f.Encode(l, w)
	if err != nil {
		return nil // a layer of others, which this one would store otherwise
	}
	src := m.Source()
	for _, t := range tensors {
		s, ok := src.Spec(t.Name)
		if !ok || s.DType != t.DType || !slices.Equal(s.Shape, t.Shape) || !isCodes(t.Name) {
			continue
		}
		data := make([]byte, s.Bytes())
		if err := src.ReadAt(t.Name, data, 0); err != nil {
			return []Finding{{Kind: KindLayer, Tensor: l.Name, Text: err.Error()}}
		}
		if bytes.Equal(data, t.Data) {
			continue
		}
		size := max(1, s.DType.Bits()/8)
		for i := 0; i+size <= len(data); i += size {
			if want, got := word(t.Data[i:i+size]), word(data[i:i+size]); want != got {
				return []Finding{{
					Kind: KindPacking, File: src.File(t.Name), Tensor: t.Name, Text: fmt.Sprintf("element %d", i/size),
					Expected: fmt.Sprintf("%#x (bits beside the codes are 0)", want), Found: fmt.Sprintf("%#x", got),
				}}
			}
		}
	}
	return nil
}

// isCodes reports whether a tensor holds codes, or zero-points that are stored in one way
// only.
func isCodes(name string) bool {
	for _, end := range []string{".qweight", ".weight_packed", ".weight_zero_point", ".lowbit_codes", ".lowbit_zeros", ".W_q"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

func word(p []byte) uint64 {
	var b [8]byte
	copy(b[:], p)
	return binary.LittleEndian.Uint64(b[:])
}

// farthest is the relative error from which on a layer is not the source's: two
// matrices that have nothing to do with each other differ by 1.4, and 2 bits by 0.5.
const farthest = 0.9

// against compares a model with the one it was made of.
func (c *checker) against(ctx context.Context, m *checkpoint.Model) error {
	src, err := checkpoint.Open(c.o.Source)
	if err != nil {
		return fmt.Errorf("the source: %w", err)
	}
	defer src.Close()
	for _, name := range m.Names() {
		if !src.Has(name) && !leftover.IsBuffer(name) {
			c.add(Finding{Kind: KindSource, File: m.Path(), Tensor: name, Expected: "none, as in the source", Found: "a tensor"})
		}
	}
	for _, name := range src.Names() {
		// A head that is the embedding may be stored or not.
		if !m.Has(name) && !leftover.IsBuffer(name) && name != "lm_head.weight" {
			c.add(Finding{Kind: KindSource, File: m.Path(), Tensor: name, Expected: "a tensor, as in the source", Found: "none"})
		}
	}
	layers := m.Layers()
	errs := make([]*Layer, len(layers))
	at := map[string]int{}
	for i, l := range layers {
		at[l.Name] = i
	}
	var same atomic.Int64
	meant := mayFold(m.Config())
	_, container := m.Format().(layout.File)
	err = c.each(ctx, m.Dense(), layers, func(s layout.Spec) []Finding {
		e, found := unchanged(m, src, s, meant, &same)
		// A file's embedding and head may be quantized, and are no layers.
		if container && e > rounded && e <= farthest {
			c.mu.Lock()
			c.r.LayerErrors = append(c.r.LayerErrors, Layer{s.Name, e})
			c.mu.Unlock()
			return nil
		}
		return found
	}, func(l layout.Layer) []Finding {
		var found []Finding
		errs[at[l.Name]], found = distance(m, src, l)
		return found
	})
	for _, e := range errs {
		if e != nil {
			c.r.LayerErrors = append(c.r.LayerErrors, *e)
		}
	}
	slices.SortStableFunc(c.r.LayerErrors, func(a, b Layer) int { return strings.Compare(a.Name, b.Name) })
	c.r.Identical = int(same.Load())
	return err
}

// distance is the relative error of a layer.
func distance(m, src *checkpoint.Model, l layout.Layer) (*Layer, []Finding) {
	name := l.Name + layout.WeightSuffix
	shape, ok := src.Shape(name)
	if !ok {
		return nil, nil // said before
	}
	f := Finding{Kind: KindSource, File: m.Path(), Tensor: l.Name}
	if !slices.Equal(shape, []int{l.Out, l.In}) {
		f.Expected, f.Found = fmt.Sprintf("shape %v, as in the source", shape), fmt.Sprint([]int{l.Out, l.In})
		return nil, []Finding{f}
	}
	got, err := m.Matrix(name)
	if err != nil {
		return nil, nil // said before
	}
	want, err := src.Matrix(name)
	if err != nil {
		f.Text = err.Error()
		return nil, []Finding{f}
	}
	e := relative(got, want)
	if !(e <= farthest) {
		f.Text, f.Expected, f.Found = "relative error of the weight (scales that were folded into it or a changed layer may be the reason)", fmt.Sprintf("at most %g", farthest), fmt.Sprintf("%.3g", e)
		return &Layer{l.Name, e}, []Finding{f}
	}
	return &Layer{l.Name, e}, nil
}

func relative(got, want *tensor.Matrix) float64 {
	var diff, norm float64
	for r := range want.Rows {
		a, b := got.Row(r), want.Row(r)
		for j, v := range b {
			d := float64(a[j]) - float64(v)
			diff += d * d
			norm += float64(v) * float64(v)
		}
	}
	if norm == 0 {
		return math.Sqrt(diff)
	}
	return math.Sqrt(diff / norm)
}

// mayFold reports whether scales may have been folded into norms and biases: not where the
// configuration records a run that folds none.
func mayFold(config json.RawMessage) bool {
	var all any
	if json.Unmarshal(config, &all) != nil {
		return true
	}
	return !foldsNone(all)
}

// foldsNone looks for the record of a run in which no arm has a scale to fold.
func foldsNone(v any) bool {
	o, ok := v.(map[string]any)
	if !ok {
		return false
	}
	fold, isRun := o["fold"].(string)
	arms, _ := o["arms"].([]any)
	if isRun && len(arms) > 0 {
		return fold != "on" && !slices.ContainsFunc(arms, func(a any) bool {
			s, ok := a.(string)
			return !ok || strings.Contains(s, "+")
		})
	}
	for _, inner := range o {
		if foldsNone(inner) {
			return true
		}
	}
	return false
}

// rounded is the relative error that another type of floats may make.
const rounded = 0.005

// unchanged compares a tensor that is not quantized with the source's: bit for bit where
// both have one type, else by value. meant says that what differs may be meant. e is the relative error where types differ.
func unchanged(m, src *checkpoint.Model, s layout.Spec, meant bool, same *atomic.Int64) (e float64, found []Finding) {
	other, ok := src.Source().Spec(s.Name)
	if !ok {
		return 0, nil // said before, or quantized in the source
	}
	f := Finding{Kind: KindSource, File: m.Source().File(s.Name), Tensor: s.Name}
	if s.Elems() != other.Elems() {
		f.Expected, f.Found = fmt.Sprintf("shape %v, as in the source", other.Shape), fmt.Sprint(s.Shape)
		return 0, []Finding{f}
	}
	if s.DType == other.DType {
		a, b := make([]byte, min(s.Bytes(), pieceBytes)), make([]byte, min(s.Bytes(), pieceBytes))
		for off := int64(0); off < s.Bytes(); off += pieceBytes {
			n := min(pieceBytes, s.Bytes()-off)
			if errors.Join(m.Source().ReadAt(s.Name, a[:n], off), src.Source().ReadAt(s.Name, b[:n], off)) != nil {
				return 0, nil // said before, or the source's
			}
			if !bytes.Equal(a[:n], b[:n]) {
				if f.Text = "differs from the source"; meant {
					f.Warning, f.Text = true, "differs from the source (where scales are folded, norms and biases do)"
				}
				f.Expected, f.Found = "the same bytes", fmt.Sprintf("others from byte %d on", off+int64(firstOther(a[:n], b[:n])))
				return 0, []Finding{f}
			}
		}
		same.Add(1)
		return 0, nil
	}
	f.Text = fmt.Sprintf("stored as %s, in the source as %s", s.DType, other.DType)
	if !isFloat(s.DType) || !isFloat(other.DType) {
		f.Warning = true
		return 0, []Finding{f}
	}
	var diff, norm float64
	const many = pieceBytes / 8
	a, b := make([]float32, many), make([]float32, many)
	for first := 0; first < s.Elems(); first += many {
		n := min(many, s.Elems()-first)
		if errors.Join(layout.ReadFloatsAt(m.Source(), s, first, a[:n]), layout.ReadFloatsAt(src.Source(), other, first, b[:n])) != nil {
			return 0, nil
		}
		for i, v := range b[:n] {
			d := float64(a[i]) - float64(v)
			diff, norm = diff+d*d, norm+float64(v)*float64(v)
		}
	}
	if e = math.Sqrt(diff / max(norm, math.SmallestNonzeroFloat64)); e > rounded {
		f.Warning, f.Expected, f.Found = meant, "a relative error of rounding", fmt.Sprintf("%.3g", e)
		return e, []Finding{f}
	}
	return e, nil
}

func isFloat(t safetensors.DType) bool { return slices.Contains(layout.FloatTypes(), t) }

func firstOther(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}
