package rotation

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/internal/kept"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/rotate"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// source shows tensors of a model in other bases.
type source struct {
	layout.Source
	edits    map[string][]rotate.Edit // by tensor
	norms    map[string]bool          // see rotate.Plan
	from, to string                   // an embedding that is shown a second time, as the head; "" for none
	dtype    safetensors.DType        // of all floats; "" for what they are stored in
	bases    map[int]*rotate.Basis    // by width
	round    *quant.Scheme            // of the layers that are changed, or nil
	workers  int

	last kept.Last[[]byte] // so that reading in pieces is cheap
}

// rotated shows a model in the bases that are given for widths. Without bases nothing
// changes but what is rounded.
func (v *view) rotated(bases func(width int) *rotate.Basis) (*checkpoint.Model, error) {
	p, err := rotate.New(v.model)
	if err == nil {
		err = foreseen(v.src, v.model)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.src.Path(), err)
	}
	config, err := layout.ParseObject(v.src.Config())
	if err != nil {
		return nil, err
	}
	s := &source{Source: v.src.Source(), edits: map[string][]rotate.Edit{}, norms: p.Norms, dtype: v.dtype, bases: map[int]*rotate.Basis{}, round: v.round, workers: v.workers}
	if bases == nil {
		bases, s.norms = rotate.Identity, nil
		for i := range p.Edits {
			p.Edits[i].Gain = ""
		}
	} else if err := s.untie(v, p, config); err != nil {
		return nil, err
	}
	for _, e := range p.Edits {
		s.edits[e.Place.Weight] = append(s.edits[e.Place.Weight], e)
		if e.Rows.Width > 0 && e.Place.Bias != "" {
			s.edits[e.Place.Bias] = append(s.edits[e.Place.Bias], e)
		}
		for _, w := range []int{e.Columns.Width, e.Rows.Width} {
			if w > 0 && s.bases[w] == nil {
				s.bases[w] = bases(w)
			}
		}
	}
	if v.dtype == safetensors.F32 {
		for _, key := range []string{"dtype", "torch_dtype"} {
			if _, ok := config.Get(key); ok {
				config.Set(key, json.RawMessage(`"float32"`))
			}
		}
	}
	return v.src.Replaced(config.Bytes(), s)
}

// untie gives a tied head that is read through a gain a matrix of its own. One whose gain
// is one stays tied.
func (s *source) untie(v *view, p *rotate.Plan, config *layout.Object) error {
	m, d, u := v.src, v.model, p.Untied
	if u == nil {
		return nil
	}
	gain, err := m.Vector(u.Gain)
	if err != nil {
		return err
	}
	one := float32(1)
	if u.PlusOne {
		one = 0
	}
	if !m.Has(u.Place.Weight) && !slices.ContainsFunc(gain, func(v float32) bool { return v != one }) {
		return nil
	}
	if d.EmbeddingName() == u.Place.Weight {
		return fmt.Errorf("%s: %w: the embedding is stored as the head (%s), and becomes another", m.Path(), rotate.ErrUnsupported, u.Place.Weight)
	}
	p.Edits = append(p.Edits, *u)
	s.from, s.to = d.EmbeddingName(), u.Place.Weight
	config.Set("tie_word_embeddings", json.RawMessage("false"))
	return nil
}

// foreseen refuses a model with matrices that its blocks do not read: what they have to do
// with the residual stream is not known.
func foreseen(m *checkpoint.Model, d *decoder.Model) error {
	known := map[string]bool{d.HeadName(): true}
	for _, t := range d.Tensors() {
		known[t.Name] = true
	}
	for _, name := range m.Names() {
		if shape, _ := m.Shape(name); len(shape) > 1 && !known[name] && !strings.HasSuffix(name, "rotary_emb.inv_freq") {
			return fmt.Errorf("%w: tensor %q is none of its blocks: what reads or writes the residual stream beside them would not be rotated", rotate.ErrUnsupported, name)
		}
	}
	return nil
}

func (s *source) Names() []string {
	names := s.Source.Names()
	if s.to != "" && !slices.Contains(names, s.to) {
		names = append(slices.Clone(names), s.to)
	}
	return names
}

// origin is where the values of a tensor come from.
func (s *source) origin(name string) string {
	if s.to != "" && name == s.to {
		return s.from
	}
	return name
}

func (s *source) Spec(name string) (layout.Spec, bool) {
	spec, ok := s.Source.Spec(s.origin(name))
	if spec.Name = name; s.dtype != "" && slices.Contains(layout.FloatTypes(), spec.DType) {
		spec.DType = s.dtype
	}
	return spec, ok
}

func (s *source) File(name string) string { return s.Source.File(s.origin(name)) }

func (s *source) ReadAt(name string, p []byte, off int64) error {
	spec, ok := s.Spec(name)
	_, norm := s.norms[name]
	if stored, _ := s.Source.Spec(name); !ok || len(s.edits[name]) == 0 && !norm && stored.DType == spec.DType {
		return s.Source.ReadAt(name, p, off)
	}
	data, err := s.last.Get(name, func() ([]byte, error) { return s.encoded(spec) })
	if err != nil {
		return err
	}
	if off < 0 || off > int64(len(data)) || int64(len(p)) > int64(len(data))-off {
		return layout.TensorError(s, name, "bytes %d to %d of %d asked for", off, off+int64(len(p)), len(data))
	}
	copy(p, data[off:])
	return nil
}

// encoded are the bytes of a tensor in its basis.
func (s *source) encoded(spec layout.Spec) ([]byte, error) {
	v, err := layout.ReadFloats(s.Source, s.origin(spec.Name), spec.Shape...)
	if err != nil {
		return nil, err
	}
	if plusOne, ok := s.norms[spec.Name]; ok {
		for i := range v {
			if v[i] = 1; plusOne {
				v[i] = 0
			}
		}
	}
	for _, e := range s.edits[spec.Name] {
		if spec.Name == e.Place.Bias {
			e.Bias(v, s.bases)
			continue
		}
		var gain []float32
		if e.Gain != "" {
			if gain, err = layout.ReadFloats(s.Source, e.Gain, e.In); err != nil {
				return nil, err
			}
		}
		w := e.Weight(e.Matrix(v), gain, s.bases, s.workers)
		if s.round != nil && e.Linear != "" {
			q, err := quant.RTN{Workers: s.workers}.Quantize(context.Background(), w, *s.round, nil)
			if err != nil {
				return nil, layout.TensorError(s, spec.Name, "%w", err)
			}
			w = q.Dequantize()
		}
		e.Put(v, w)
	}
	data := make([]byte, spec.Bytes())
	if err := safetensors.EncodeFloat32(data, spec.DType, v); err != nil {
		return nil, layout.TensorError(s, spec.Name, "%w", err)
	}
	return data, nil
}
