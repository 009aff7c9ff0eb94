package checkpoint

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// What a format holds and what an engine loads are two questions. Format.Check
// answers the first; this file answers the second, from the sources of the
// engines as of August 2026: vLLM 017e9f4, GPTQModel f4c327a, optimum 83c88b8,
// compressed-tensors ac8e2ba, hqq e0b1d00, llama.cpp (ggml d99724f), ollama
// fb30760. Engines change; a note is what was read there, not a promise.

// The engines that EngineNotes speaks of.
const (
	EngineVLLM         = "vllm"
	EngineTransformers = "transformers"
	EngineGPTQModel    = "gptqmodel"
	EngineLlamaCPP     = "llama.cpp"
	EngineOllama       = "ollama"
)

// EngineNames lists the engines in the order in which notes are given.
func EngineNames() []string {
	return []string{EngineVLLM, EngineTransformers, EngineGPTQModel, EngineLlamaCPP, EngineOllama}
}

// EngineNote says whether an engine loads a checkpoint.
type EngineNote struct {
	Engine   string `json:"engine"`
	Accepted bool   `json:"accepted"`
	// Layer is the first layer that the engine refuses, or "" if the reason
	// is the format or the checkpoint as a whole; Layers is how many it refuses.
	Layer  string `json:"layer,omitempty"`
	Layers int    `json:"layers,omitempty"`
	// Reason says why not, or what an engine that accepts needs for it.
	Reason string `json:"reason,omitempty"`
}

func (n EngineNote) String() string {
	verb := "does not load it"
	if n.Accepted {
		verb = "loads it"
	}
	s := n.Engine + " " + verb
	if n.Reason != "" {
		s += ": " + n.Reason
	}
	switch {
	case n.Layers == 1:
		s += fmt.Sprintf(" (%s)", n.Layer)
	case n.Layers > 1:
		s += fmt.Sprintf(" (%s and %d more)", n.Layer, n.Layers-1)
	}
	return s
}

// engineRule answers for one layer: a refusal, or what the engine needs.
type engineRule func(l Layer) (accepted bool, reason string)

// Engines says which engines load a checkpoint with these layers in the named
// format. The layers are taken to have passed the format's Check.
func Engines(format string, layers []Layer) []EngineNote {
	var notes []EngineNote
	for _, engine := range EngineNames() {
		n := EngineNote{Engine: engine, Accepted: true}
		rule := engineRuleFor(engine, format)
		if len(layers) == 0 {
			n.Accepted, n.Reason = rule(Layer{Out: 1024, In: 1024, Scheme: quant.Scheme{Bits: 4, GroupSize: 128, Symmetric: true}})
		}
		for _, l := range layers {
			ok, reason := rule(l)
			switch {
			case !ok && n.Accepted:
				n.Accepted, n.Reason, n.Layer, n.Layers = false, reason, l.Name, 1
			case !ok:
				n.Layers++
			case n.Accepted && n.Reason == "":
				n.Reason = reason
			}
		}
		if n.Layers == len(layers) && n.Layers > 1 {
			n.Layer, n.Layers = "", 0
		}
		if n.Accepted {
			if reason := mixRefused(engine, format, layers); reason != "" {
				n.Accepted, n.Reason = false, reason
			}
		}
		notes = append(notes, n)
	}
	return notes
}

func refuse(format string, args ...any) (bool, string) { return false, fmt.Sprintf(format, args...) }

// always is the rule of an engine to which the layer does not matter.
func always(accepted bool, reason string) engineRule {
	return func(Layer) (bool, string) { return accepted, reason }
}

// isGPTQ reports whether the format is one of the three of GPTQ.
func isGPTQ(format string) bool {
	return slices.Contains([]string{GPTQ{}.Name(), GPTQ{Version: 1}.Name(), GPTQ{Version: 2}.Name()}, format)
}

func engineRuleFor(engine, format string) engineRule {
	const gguf = "gguf"
	switch format {
	case (Lowbit{}).Name():
		return always(false, "format lowbit is read by lowbit only; convert it")
	case (Dense{}).Name():
		if engine == EngineLlamaCPP || engine == EngineOllama {
			return always(false, "needs a GGUF file; llama.cpp's converter makes one")
		}
		return always(true, "at full size")
	}
	switch engine {
	case EngineVLLM:
		return vllmRule(format)
	case EngineTransformers:
		return transformersRule(format)
	case EngineGPTQModel:
		return gptqModelRule(format)
	}
	switch {
	case format == gguf:
		return always(true, "")
	case engine == EngineLlamaCPP && (isGPTQ(format) || format == CompressedTensors{}.Name()):
		return always(false, "does not run it; its converter to GGUF dequantizes")
	}
	return always(false, "reads GGUF files")
}

func vllmRule(format string) engineRule {
	switch {
	case isGPTQ(format):
		return vllmGPTQ
	case format == CompressedTensors{}.Name():
		return vllmCT
	case format == AWQ{}.Name():
		return func(l Layer) (bool, string) {
			if !marlinGroup(l.Scheme.GroupSize) {
				return true, fmt.Sprintf("with the slower AWQ kernel, as Marlin has no groups of %d", l.Scheme.GroupSize)
			}
			return true, bfloatNote(l)
		}
	case format == HQQ{}.Name():
		return always(false, "no loader for layers with an axis of their own")
	}
	return always(false, "not checked with this format")
}

func marlinGroup(size int) bool { return slices.Contains([]int{quant.WholeLine, 32, 64, 128}, size) }

// bfloatNote warns that the engine converts scales to the model's type.
func bfloatNote(l Layer) string {
	if l.DType == safetensors.BF16 && l.Scheme.ScaleType != quant.F16Short {
		return "exact in float16, which config.json is set to; run in bfloat16 it rounds the scales"
	}
	return ""
}

func vllmGPTQ(l Layer) (bool, string) {
	s := l.Scheme
	switch {
	case !s.Symmetric:
		return refuse("takes gptq only with symmetric weights; format compressed-tensors or awq holds asymmetric 4 bits for it")
	case s.Bits != 4 && s.Bits != 8:
		return refuse("takes gptq only with 4 or 8 bits, not %d; format compressed-tensors holds 2 to 8 for it", s.Bits)
	case !marlinGroup(s.GroupSize):
		return refuse("takes groups of 32, 64, 128 or whole rows (-1), not %d", s.GroupSize)
	case s.GroupSize != quant.WholeLine && l.In%s.GroupSize != 0:
		return refuse("needs groups that divide the inputs: %d does not divide %d", s.GroupSize, l.In)
	case l.GroupIndex && (l.Out%64 != 0 || l.In%128 != 0):
		return refuse("needs outputs a multiple of 64 and inputs of 128 with a group index, not [%d %d]; quantize with static groups", l.Out, l.In)
	case l.GroupIndex:
		return true, "not with every kernel, because of the group index; static groups avoid it"
	}
	return true, bfloatNote(l)
}

func vllmCT(l Layer) (bool, string) {
	s := l.Scheme
	plain := s.Bits == 4 || s.Bits == 8
	switch {
	case s.Symmetric && !plain && l.GroupIndex:
		return refuse("takes no group index with %d bits; quantize with static groups", s.Bits)
	case s.Symmetric && !plain:
		return true, fmt.Sprintf("%d bits need its Humming kernel (CUDA)", s.Bits)
	case s.Bits == 8 && !s.Symmetric:
		if !slices.Contains([]int{quant.WholeLine, 64, 128}, s.GroupSize) {
			return refuse("takes asymmetric 8 bits with groups of 64, 128 or whole rows (-1), not %d", s.GroupSize)
		}
		return true, "asymmetric 8 bits need its Machete (Hopper) or Conch kernel"
	case !s.Symmetric && s.Bits != 4:
		return refuse("takes asymmetric weights with 4 or 8 bits, not %d", s.Bits)
	case !marlinGroup(s.GroupSize) && s.GroupSize != 256:
		return refuse("takes groups of 32, 64, 128, 256 or whole rows (-1), not %d", s.GroupSize)
	case s.GroupSize == 256:
		return true, "with its Triton kernel, as Marlin has no groups of 256"
	case l.GroupIndex:
		return true, "not with every kernel, because of the group index; static groups avoid it"
	}
	return true, bfloatNote(l)
}

func transformersRule(format string) engineRule {
	switch {
	case isGPTQ(format):
		return func(l Layer) (bool, string) {
			if !slices.Contains(gptqGroupSizes, l.Scheme.GroupSize) {
				return refuse("GPTQModel's kernels take no groups of %d", l.Scheme.GroupSize)
			}
			return true, "needs the packages optimum and gptqmodel"
		}
	case format == CompressedTensors{}.Name():
		return func(l Layer) (bool, string) {
			if b := l.Scheme.Bits; 32%b != 0 {
				return true, fmt.Sprintf("%d bits need the package compressed-tensors of May 2026 or later", b)
			}
			return true, "needs the package compressed-tensors"
		}
	case format == AWQ{}.Name():
		return always(true, "needs the package autoawq or gptqmodel")
	case format == HQQ{}.Name():
		return always(true, "needs the package hqq and a GPU")
	}
	return always(false, "not checked with this format")
}

func gptqModelRule(format string) engineRule {
	switch {
	case isGPTQ(format):
		return func(l Layer) (bool, string) {
			if format == (GPTQ{Version: 1}).Name() && !l.Scheme.Symmetric {
				return refuse("refuses asymmetric version 1 files that it did not write; use format gptq_v2")
			}
			return true, ""
		}
	case format == AWQ{}.Name():
		return always(true, "")
	}
	return always(false, "not checked with this format")
}

// mixRefused says why an engine does not take the layers together, or "". One
// layer alone is not a checkpoint and passes.
func mixRefused(engine, format string, layers []Layer) string {
	if len(layers) < 2 {
		return ""
	}
	kinds := map[string]gptqKind{}
	mixed := false
	for _, l := range layers {
		kinds[l.Name] = gptqKindOf(l)
		mixed = mixed || gptqKindOf(l) != gptqKindOf(layers[0])
	}
	if mixed && engine == EngineTransformers && isGPTQ(format) {
		return "ignores the rules for layers that differ in bits, group size or symmetry; format compressed-tensors keeps them apart"
	}
	if engine != EngineVLLM || format == (Dense{}).Name() {
		return ""
	}
	for _, l := range layers {
		fused, members, ok := fusedWith(l.Name)
		if !ok {
			continue
		}
		for _, m := range members {
			if k, ok := kinds[m]; !ok || k != kinds[l.Name] {
				return fmt.Sprintf("loads %s as one, so its parts must be quantized alike, or none of them", fused)
			}
		}
	}
	return ""
}

// Target is the format and scheme that an engine runs at full speed.
type Target struct {
	Format string
	Scheme quant.Scheme
}

// TargetFor returns what to make for an engine where nothing else is asked:
// symmetric 4 bits, in groups of 128 for the GPU engines (Marlin), of 32 for
// those that read GGUF (Q4_0).
func TargetFor(engine string) (Target, error) {
	s := quant.Scheme{Bits: 4, GroupSize: 128, Symmetric: true}
	switch engine {
	case EngineVLLM:
		return Target{CompressedTensors{}.Name(), s}, nil
	case EngineTransformers, EngineGPTQModel:
		return Target{GPTQ{}.Name(), s}, nil
	case EngineLlamaCPP, EngineOllama:
		s.GroupSize = 32
		return Target{"gguf", s}, nil
	}
	return Target{}, fmt.Errorf("unknown engine %q: want one of %v", engine, EngineNames())
}
