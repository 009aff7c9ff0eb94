package ggufmodel

import (
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
)

// TypesOf gives the types that the matrices of a model have in a file of g.Type.
func TypesOf(g Format, src layout.Origin, weighted bool) (map[string]gguf.Type, error) {
	m, err := modelOf(src)
	if err != nil {
		return nil, err
	}
	src = unstack(m, src)
	types := map[string]gguf.Type{}
	wanted := g.types(m, src, weighted)
	for _, t := range m.GGUFTensors() {
		if shape, ok := src.Shape(t.Parts[0]); ok && len(shape) == 2 && !t.Dense {
			types[t.Name] = fitting(wanted[t.Name], shape[1])
		}
	}
	return types, nil
}
