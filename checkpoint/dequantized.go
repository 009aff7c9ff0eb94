package checkpoint

import (
	"maps"
	"sync"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/safetensors"
)

// Dequantized shows the model as a dense one: each quantized layer X is a
// tensor "X.weight" of the type it had before (Layer.DType), dequantized when
// it is read. It shares the model's files; closing either closes both.
func (m *Model) Dequantized() (*Model, error) { return m.dequantized(nil) }

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
	return (&Model{path: m.path, base: m.base, config: m.config, src: d, format: dense.Format{}, files: m.files}).indexed()
}

// dequantized is a source with the weights of a model's quantized layers.
type dequantized struct {
	layout.Source // the packed one
	model         *Model
	names         []string
	wide          map[string]bool // layers to show as F32

	mu   sync.Mutex
	last string // the layer that data holds, so that reading in pieces is cheap
	data []byte
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
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last != l.Name || d.data == nil {
		w, err := d.model.dequantize(l)
		if err != nil {
			return err
		}
		s, _ := d.Spec(name)
		data := make([]byte, s.Bytes())
		if err := safetensors.EncodeFloat32(data, s.DType, w.Data); err != nil {
			return outOfRange(l.Name, layout.TensorError(d, name, "%w", err))
		}
		d.last, d.data = l.Name, data
	}
	if off < 0 || off > int64(len(d.data)) || int64(len(p)) > int64(len(d.data))-off {
		return layout.TensorError(d, name, "bytes %d to %d of %d asked for", off, off+int64(len(p)), len(d.data))
	}
	copy(p, d.data[off:])
	return nil
}
