package layout

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/quant"
)

// PackedLayer is a quantized layer found in an opened checkpoint.
type PackedLayer struct {
	Layer
	// Parts names the tensors of the source that make up the layer, and File
	// the file of the largest, for messages.
	Parts []string
	File  string
	// Read reads the layer. The decoder validates what it returns.
	Read func() (*quant.Weight, error)
}

// PackedDecoder is the Decoder of layers that are added one by one, in file
// order, while a checkpoint is opened.
type PackedDecoder struct {
	layers []PackedLayer
	index  map[string]int
}

// Add adds a layer.
func (d *PackedDecoder) Add(l PackedLayer) {
	if d.index == nil {
		d.index = map[string]int{}
	}
	d.index[l.Name] = len(d.layers)
	d.layers = append(d.layers, l)
}

// Layers implements Decoder.
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

// Tensors implements Decoder.
func (d *PackedDecoder) Tensors(name string) []string {
	l, err := d.find(name)
	if err != nil {
		return nil
	}
	return slices.Clone(l.Parts)
}

// Weight implements Decoder.
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
