package ggufmodel

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/safetensors"
)

// Numbers are tensors of one element in Hugging Face's files and lists in the
// metadata of GGUF.

// numberName is the name of the tensor of a number in a block.
func numberName(m *decoder.Model, n decoder.GGUFNumber, block int) string {
	return m.BlockPrefix(block) + n.HF
}

// numberLists are the lists of an architecture.
func (a *assembly) numberLists() ([]gguf.KV, error) {
	var kv []gguf.KV
	for _, n := range a.model.GGUF.Numbers {
		list := make([]float32, a.model.Layers)
		for i := range list {
			var err error
			if list[i], err = a.number(n, i); err != nil {
				return nil, err
			}
		}
		kv = append(kv, gguf.KV{Key: n.Name, Value: list})
	}
	return kv, nil
}

func (a *assembly) number(n decoder.GGUFNumber, block int) (float32, error) {
	name := numberName(a.model, n, block)
	spec, ok := a.src.Source().Spec(name)
	if !ok && n.Constant != 0 {
		return n.Constant, nil
	}
	v := make([]float32, 1)
	if ok && n.Constant != 0 && spec.Elems() == 1 { // perhaps without dimensions
		if err := layout.ReadFloatsAt(a.src.Source(), spec, 0, v); err != nil {
			return 0, err
		}
	} else {
		var err error
		if v, err = a.src.Vector(name); err != nil {
			return 0, err
		}
	}
	if len(v) != 1 {
		return 0, fmt.Errorf("tensor %q: %d elements, want 1", name, len(v))
	}
	if !isConstant(n, v[0]) {
		return 0, fmt.Errorf("tensor %q: %w", name, layout.Unsupported("%g, want %g", v[0], n.Constant))
	}
	return v[0], nil
}

// isConstant tells whether a constant is what it always is, rounded to bfloat16.
func isConstant(n decoder.GGUFNumber, v float32) bool {
	return n.Constant == 0 || math.Abs(float64(v/n.Constant)-1) < 1.0/128
}

// addNumbers gives the numbers of a file as tensors. One number stands for all
// blocks.
func (g *modelFile) addNumbers(m *decoder.Model) error {
	for _, n := range m.GGUF.Numbers {
		v, _ := g.f.Value(n.Name)
		list, ok := v.([]float32)
		if one, scalar := v.(float32); scalar {
			for range m.Layers {
				list = append(list, one)
			}
			ok = true
		}
		if !ok || len(list) != m.Layers {
			return fmt.Errorf("key %q: a %T of %d, want %d numbers", n.Name, v, len(list), m.Layers)
		}
		for i, x := range list {
			if x-x != 0 || !isConstant(n, x) {
				return fmt.Errorf("key %q: %g for block %d", n.Name, x, i)
			}
			if n.Constant != 0 {
				continue
			}
			name := numberName(m, n, i)
			g.names = append(g.names, name)
			g.tensors[name] = fileTensor{
				spec:  layout.Spec{Name: name, DType: safetensors.F32, Shape: []int{1}},
				value: binary.LittleEndian.AppendUint32(nil, math.Float32bits(x)),
			}
		}
	}
	return nil
}
