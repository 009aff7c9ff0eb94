package checkpoint

import (
	"maps"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/internal/kept"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/safetensors"
)

// Dequantized shows the model as a dense one: each quantized layer X is a
// tensor "X.weight" of the type it had before (Layer.DType), dequantized when
// it is read. It shares the model's files; closing either closes both.
func (m *Model) Dequantized() (*Model, error) { return m.dequantized(nil) }

// Replaced shows the model, in which nothing is quantized, with another config.json and
// the tensors of src, which reads those of the model. Closing either closes both.
func (m *Model) Replaced(config []byte, src layout.Source) (*Model, error) {
	return (&Model{path: m.path, base: m.base, config: config, src: src, format: dense.Format{}, files: m.files}).indexed()
}

// plain shows all quantized layers as F32.
func (m *Model) plain(note string) (*Model, error) {
	wide, outIn := map[string]bool{}, map[string]bool{}
	for _, l := range m.layers {
		wide[l.Name], outIn[l.Name+layout.WeightSuffix] = true, true
	}
	p, err := m.dequantized(wide)
	if err != nil {
		return m, err
	}
	p.outIn, p.notes = outIn, append(m.Notes(), note)
	return p, nil
}

// dequantized shows layers of wide as F32.
func (m *Model) dequantized(wide map[string]bool) (*Model, error) {
	if m.dec == nil {
		return m, nil
	}
	d := &dequantized{Source: m.src, model: m, wide: maps.Clone(wide)}
	seen := map[string]bool{}
	for _, name := range m.src.Names() {
		layer, packed := m.part[name]
		switch {
		case !packed:
			d.names = append(d.names, name)
		case !seen[layer]:
			seen[layer] = true
			d.names = append(d.names, layer+layout.WeightSuffix)
		}
	}
	return (&Model{path: m.path, base: m.base, config: m.config, noConfig: m.noConfig, src: d, format: dense.Format{}, files: m.files}).indexed()
}

// dequantized is a source with the weights of a model's quantized layers.
type dequantized struct {
	layout.Source // the packed one
	model         *Model
	names         []string
	wide          map[string]bool // layers to show as F32

	last kept.Last[[]byte] // layers, so that reading in pieces is cheap
}

func (d *dequantized) Names() []string { return append([]string(nil), d.names...) }

func (d *dequantized) Spec(name string) (layout.Spec, bool) {
	if l, ok := d.model.quantized(name); ok {
		if d.wide[l.Name] {
			l.DType = safetensors.F32
		}
		return layout.Spec{Name: name, DType: l.DType, Shape: []int{l.Out, l.In}}, true
	}
	if _, packed := d.model.part[name]; packed {
		return layout.Spec{}, false
	}
	return d.Source.Spec(name)
}

func (d *dequantized) File(name string) string {
	if l, ok := d.model.quantized(name); ok {
		return d.Source.File(d.model.dec.Tensors(l.Name)[0])
	}
	return d.Source.File(name)
}

func (d *dequantized) ReadAt(name string, p []byte, off int64) error {
	l, ok := d.model.quantized(name)
	if !ok {
		return d.Source.ReadAt(name, p, off)
	}
	data, err := d.last.Get(l.Name, func() ([]byte, error) { return d.encoded(l, name) })
	if err != nil {
		return err
	}
	if off < 0 || off > int64(len(data)) || int64(len(p)) > int64(len(data))-off {
		return layout.TensorError(d, name, "bytes %d to %d of %d asked for", off, off+int64(len(p)), len(data))
	}
	copy(p, data[off:])
	return nil
}

// encoded are the bytes of a layer's weight.
func (d *dequantized) encoded(l layout.Layer, name string) ([]byte, error) {
	w, err := d.model.dequantize(l)
	if err != nil {
		return nil, err
	}
	s, _ := d.Spec(name)
	data := make([]byte, s.Bytes())
	if err := safetensors.EncodeFloat32(data, s.DType, w.Data); err != nil {
		return nil, outOfRange(l.Name, layout.TensorError(d, name, "%w", err))
	}
	return data, nil
}
