package layout

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/quant"
)

// What the formats that come from elsewhere have in common.

// PackedLayer is a quantized layer found in an opened checkpoint.
type PackedLayer struct {
	Layer
	Parts []string
	File  string
	Read  func() (*quant.Weight, error)
}

// PackedDecoder is the Decoder of those layers.
type PackedDecoder struct {
	layers []PackedLayer
	index  map[string]int
}

func (d *PackedDecoder) Add(l PackedLayer) {
	if d.index == nil {
		d.index = map[string]int{}
	}
	d.index[l.Name] = len(d.layers)
	d.layers = append(d.layers, l)
}

func (d *PackedDecoder) Layers() []Layer {
	out := make([]Layer, len(d.layers))
	for i, l := range d.layers {
		out[i] = l.Layer
	}
	return out
}

func (d *PackedDecoder) find(name string) (PackedLayer, error) {
	i, ok := d.index[name]
	if !ok {
		return PackedLayer{}, fmt.Errorf("no quantized layer %q", name)
	}
	return d.layers[i], nil
}

func (d *PackedDecoder) Tensors(name string) []string {
	l, err := d.find(name)
	if err != nil {
		return nil
	}
	return slices.Clone(l.Parts)
}

func (d *PackedDecoder) Weight(name string) (*quant.Weight, error) {
	l, err := d.find(name)
	if err != nil {
		return nil, err
	}
	w, err := l.Read()
	if err != nil {
		return nil, err
	}
	if err := w.Validate(); err != nil {
		return nil, fmt.Errorf("%s: layer %q: %w", l.File, name, err)
	}
	return w, nil
}
