// Package vllm has what vLLM asks of layers whatever the format.
package vllm

import (
	"slices"
	"strings"
)

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
