package ggufmodel

import (
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
)

// A matrix X.weight of type NVFP4 may have a vector X.scale beside it, a number for each
// expert that lies in it, or one, that the engine multiplies its outputs by
// (build_lora_mm in llama-graph.cpp).

const suffixScale = ".scale"

// tensorScaled reports whether a scheme has such a scale.
func tensorScaled(s quant.Scheme) bool { return s.Grid == kquant.TensorScaled() }

// scaleOf is the name of the scale of a tensor.
func scaleOf(weight string) string {
	return strings.TrimSuffix(weight, layout.WeightSuffix) + suffixScale
}

// scalePlan is the scale of a planned tensor.
func scalePlan(t plannedTensor) plannedTensor {
	values := slices.Repeat([]float32{kquant.TensorScale}, len(t.Parts))
	return plannedTensor{
		GGUFTensor: decoder.GGUFTensor{Parts: t.Parts},
		info:       gguf.Tensor{Name: scaleOf(t.info.Name), Type: gguf.F32, Dims: []int{len(values)}},
		write:      func(w *gguf.Writer, t plannedTensor) error { return appendFloats(w, t, values) },
	}
}

// tensorScales reads the scales in a file, by the name of the scale.
func tensorScales(f *gguf.File, known map[string]decoder.GGUFTensor) (map[string][]float32, error) {
	scales := map[string][]float32{}
	for _, t := range f.Tensors() {
		if t.Type == gguf.NVFP4 {
			scales[scaleOf(t.Name)] = nil
		}
	}
	for _, t := range f.Tensors() {
		if _, ok := scales[t.Name]; !ok || known[t.Name].Name != "" {
			continue
		}
		if t.Type != gguf.F32 || len(t.Dims) != 1 {
			return nil, fmt.Errorf("tensor %q: %v %v, want a vector of F32", t.Name, t.Type, t.Dims)
		}
		var err error
		if scales[t.Name], err = f.Floats(t.Name); err != nil {
			return nil, err
		}
	}
	return scales, nil
}

// schemeOf is the scheme of a tensor: with another scale than ours it is that of the
// blocks, which say less than all.
func (e fileTensor) schemeOf() quant.Scheme {
	if e.scale == kquant.TensorScale {
		return kquant.TensorScaled().Scheme()
	}
	return schemeOf(e.info.Type)
}

// scaled multiplies values by the tensor's scale.
func (e fileTensor) scaled(values []float32) {
	if e.scale != 0 {
		for i := range values {
			values[i] *= e.scale
		}
	}
}
