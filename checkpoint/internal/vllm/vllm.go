// Package vllm has what vLLM asks of layers whatever the format.
package vllm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Judge is layout.Judge for vLLM, which loads some linears as one and so
// wants them alike. One layer alone is not a checkpoint and passes.
func Judge(layers []layout.Layer, rule layout.EngineRule) layout.Note {
	n := layout.Judge(layout.EngineVLLM, layers, rule)
	if !n.Accepted || len(layers) < 2 {
		return n
	}
	type kind struct {
		bits, group int
		symmetric   bool
	}
	kindOf := func(l layout.Layer) kind { return kind{l.Scheme.Bits, l.Scheme.GroupSize, l.Scheme.Symmetric} }
	kinds := map[string]kind{}
	for _, l := range layers {
		kinds[l.Name] = kindOf(l)
	}
	for _, l := range layers {
		fused, members, ok := FusedWith(l.Name)
		if !ok {
			continue
		}
		for _, m := range members {
			if k, ok := kinds[m]; !ok || k != kindOf(l) {
				n.Accepted = false
				n.Reason = fmt.Sprintf("loads %s as one, so its parts must be quantized alike, or none of them", fused)
				return n
			}
		}
	}
	return n
}

// MarlinGroup reports whether vLLM's fast kernel has groups of the size.
func MarlinGroup(size int) bool { return slices.Contains([]int{quant.WholeLine, 32, 64, 128}, size) }

// ScaleNote warns that the engine converts scales to the model's type.
func ScaleNote(l layout.Layer) string {
	if l.DType == safetensors.BF16 && l.Scheme.ScaleType != quant.F16Short {
		return "exact in float16, which config.json is set to; run in bfloat16 it rounds the scales"
	}
	return ""
}

// fusedLinears are the linears that vLLM loads as one.
var fusedLinears = map[string][]string{
	"qkv_proj":     {"q_proj", "k_proj", "v_proj"},
	"gate_up_proj": {"gate_proj", "up_proj"},
}

// FusedWith names the fused linear that the linear becomes part of in vLLM,
// and all of its members; ok is false if there is none.
func FusedWith(name string) (fused string, members []string, ok bool) {
	dot := strings.LastIndexByte(name, '.') + 1
	for whole, parts := range fusedLinears {
		if slices.Contains(parts, name[dot:]) {
			for _, p := range parts {
				members = append(members, name[:dot]+p)
			}
			return name[:dot] + whole, members, true
		}
	}
	return "", nil, false
}
