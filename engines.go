package lowbit

import (
	"fmt"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/llama"
)

// Engines says, without doing any work, which engines will load what
// Quantize makes with these options. It fails where Quantize would because
// the format cannot hold a layer.
func Engines(o Options) ([]layout.Note, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	j := &job{Options: o, plan: map[string]*layerPlan{}}
	var err error
	if j.dst, err = o.format(); err != nil {
		return nil, err
	}
	if j.src, err = checkpoint.Open(o.Model); err != nil {
		return nil, err
	}
	defer j.src.Close()
	if j.cfg, err = llama.ParseConfig(j.src.Config()); err != nil {
		return nil, fmt.Errorf("%s: config.json: %w", o.Model, err)
	}
	if err := llama.CheckShapes(j.cfg, j.src); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Model, err)
	}
	if err := j.planLayers(); err != nil {
		return nil, err
	}
	var layers []layout.Layer
	for _, p := range j.order {
		if p.dense {
			continue
		}
		l := layout.Layer{Name: p.name, Out: p.out, In: p.in, Scheme: p.scheme}
		l.Scheme.Axis = p.arms[0].Axis
		l.DType, _ = j.src.DType(p.name + ".weight")
		layers = append(layers, l)
	}
	return checkpoint.Engines(j.dst, layers), nil
}
