package autogptq

import (
	"slices"

	"github.com/golowbit/lowbit/checkpoint/internal/vllm"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// Engines says which engines load the layers.
func (f Format) Engines(layers []layout.Layer) []layout.Note {
	transformers := layout.Judge(layout.EngineTransformers, layers, func(l layout.Layer) (bool, string) {
		if !slices.Contains(groupSizes, l.Scheme.GroupSize) {
			return layout.Refuse("GPTQModel's kernels take no groups of %d", l.Scheme.GroupSize)
		}
		return true, "needs the packages optimum and gptqmodel"
	})
	mixed := slices.ContainsFunc(layers, func(l layout.Layer) bool { return kindOf(l) != kindOf(layers[0]) })
	if transformers.Accepted && mixed {
		transformers.Accepted = false
		transformers.Reason = "ignores the rules for layers that differ in bits, group size or symmetry; format compressed-tensors keeps them apart"
	}
	return []layout.Note{
		vllm.Judge(layers, vllmTakes),
		transformers,
		layout.Judge(layout.EngineGPTQModel, layers, func(l layout.Layer) (bool, string) {
			if f.Version == 1 && !l.Scheme.Symmetric {
				return layout.Refuse("refuses asymmetric version 1 files that it did not write; use format gptq_v2")
			}
			return true, ""
		}),
		layout.Judge(layout.EngineLlamaCPP, layers, layout.Always(false, "does not run it; its converter to GGUF dequantizes")),
	}
}

func vllmTakes(l layout.Layer) (bool, string) {
	s := l.Scheme
	switch {
	case !s.Symmetric:
		return layout.Refuse("takes gptq only with symmetric weights; format compressed-tensors or awq holds asymmetric 4 bits for it")
	case s.Bits != 4 && s.Bits != 8:
		return layout.Refuse("takes gptq only with 4 or 8 bits, not %d; format compressed-tensors holds 2 to 8 for it", s.Bits)
	case !vllm.MarlinGroup(s.GroupSize):
		return layout.Refuse("takes groups of 32, 64, 128 or whole rows (-1), not %d", s.GroupSize)
	case s.GroupSize != quant.WholeLine && l.In%s.GroupSize != 0:
		return layout.Refuse("needs groups that divide the inputs: %d does not divide %d", s.GroupSize, l.In)
	case l.GroupIndex && (l.Out%64 != 0 || l.In%128 != 0):
		return layout.Refuse("needs outputs a multiple of 64 and inputs of 128 with a group index, not [%d %d]; quantize with static groups", l.Out, l.In)
	case l.GroupIndex:
		return true, "not with every kernel, because of the group index; static groups avoid it"
	}
	return true, vllm.ScaleNote(l)
}
