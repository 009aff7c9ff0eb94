package compressed

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/internal/vllm"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// Engines says which engines load the layers.
func (Format) Engines(layers []layout.Layer) []layout.Note {
	return []layout.Note{
		vllm.Judge(layers, vllmTakes),
		layout.Judge(layout.EngineTransformers, layers, func(l layout.Layer) (bool, string) {
			if b := l.Scheme.Bits; 32%b != 0 {
				return true, fmt.Sprintf("%d bits need the package compressed-tensors of May 2026 or later", b)
			}
			return true, "needs the package compressed-tensors"
		}),
		layout.Judge(layout.EngineLlamaCPP, layers, layout.Always(false, "does not run it; its converter to GGUF dequantizes")),
	}
}

func vllmTakes(l layout.Layer) (bool, string) {
	s := l.Scheme
	plain := s.Bits == 4 || s.Bits == 8
	switch {
	case s.Symmetric && !plain && l.GroupIndex:
		return layout.Refuse("takes no group index with %d bits; quantize with static groups", s.Bits)
	case s.Symmetric && !plain:
		return true, fmt.Sprintf("%d bits need its Humming kernel (CUDA)", s.Bits)
	case s.Bits == 8 && !s.Symmetric:
		if !slices.Contains([]int{quant.WholeLine, 64, 128}, s.GroupSize) {
			return layout.Refuse("takes asymmetric 8 bits with groups of 64, 128 or whole rows (-1), not %d", s.GroupSize)
		}
		return true, "asymmetric 8 bits need its Machete (Hopper) or Conch kernel"
	case !s.Symmetric && s.Bits != 4:
		return layout.Refuse("takes asymmetric weights with 4 or 8 bits, not %d", s.Bits)
	case !vllm.MarlinGroup(s.GroupSize) && s.GroupSize != 256:
		return layout.Refuse("takes groups of 32, 64, 128, 256 or whole rows (-1), not %d", s.GroupSize)
	case s.GroupSize == 256:
		return true, "with its Triton kernel, as Marlin has no groups of 256"
	case l.GroupIndex:
		return true, "not with every kernel, because of the group index; static groups avoid it"
	}
	return true, vllm.ScaleNote(l)
}
