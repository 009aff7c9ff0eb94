package engines

import (
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// Symmetry is which grids a row speaks of.
type Symmetry int

// Grids of a row.
const (
	AnyGrid Symmetry = iota
	Symmetric
	Asymmetric
	Floats // of 4 bits: mxfp4 and nvfp4
)

// Index is whether a row speaks of weights with a group index.
type Index int

// Group indices of a row.
const (
	AnyIndex Index = iota
	NoIndex
	WithIndex
)

// Needs are the shapes that a row asks for. A layer of other shapes is refused.
type Needs struct {
	InBy, OutBy int // multiples of which inputs and outputs must be; 0 for any
	GroupBy     int // multiple of which the group size must be
	GroupsIn    bool
	GroupsOut   bool // the group size must divide the outputs
	Hint        string
}

// Alike is what the linears of a model must have in common for an engine.
type Alike int

// Mixtures that an engine takes.
const (
	AnyMixture   Alike = iota
	FusedAlike         // what is loaded as one linear is quantized alike
	OneScheme          // one scheme, and a kind of linear quantized in every block or in none
	AllOrNothing       // every linear of the blocks quantized
)

// Row is one line of the table: what an engine does with some layers of a
// format. For a layer the first row that speaks of it counts.
type Row struct {
	Engine   string
	Only     string // the versions that the row is about, if not all
	Formats  []string
	Bits     []int // none: any
	Symmetry Symmetry
	Groups   []int // none: any
	Index    Index
	Needs    Needs
	Mixture  Alike
	Loads    bool
	// Note says why not, or what is needed. {bits}, {group}, {out} and {in}
	// stand for the layer's.
	Note      string
	HalfScale bool // the engine converts scales to the model's type
	Shard     bool // tensor parallelism cuts between groups
	GPU       bool // loads on a GPU only
}

// What rows have in common.
var (
	gptqNames      = []string{"gptq", "gptq_v1", "gptq_v2"}
	ct             = []string{"compressed-tensors"}
	awq            = []string{"awq"}
	hqq            = []string{"hqq"}
	ggufNames      = []string{"gguf"}
	mlxNames       = []string{"mlx"}
	int8Names      = []string{"bitsandbytes"}
	dense          = []string{"dense"}
	native         = []string{"lowbit"}
	marlinGroups   = []int{quant.WholeLine, 32, 64, 128}
	checkedGroups  = []int{quant.WholeLine, 32, 64, 128, 256}
	usualGroups    = []int{32, 64, 128}
	cpuGroups      = []int{32, 64, 128, 256}
	wideGroups     = []int{quant.WholeLine, 16, 512, 1024}
	tileNeeds      = Needs{GroupsIn: true}
	indexNeeds     = Needs{InBy: 128, OutBy: 64, GroupsIn: true}
	awqKernelNeeds = Needs{GroupBy: 32, OutBy: 64, GroupsOut: true, Hint: "groups of 32, 64, 128 or whole rows (-1) run with Marlin"}
)

const (
	indexNote  = "not with every kernel, because of the group index; static groups avoid it"
	sourceOnly = "does not run it; its converter to GGUF dequantizes"
	ggufOnly   = "needs a GGUF file; llama.cpp's converter makes one"
	nativeOnly = "format lowbit is read by lowbit only; convert it"
	noGGUF     = "reads GGUF files only of a few old types; not checked"
	needsCT    = "needs the package compressed-tensors"
	noKernel   = "its kernels for CPUs take 4 bits only"
	noCPU      = "; on a CPU only groups of 32, 64, 128 or 256"
	needsGPTQ  = "needs the packages optimum and gptqmodel"
)

// Table is everything that is said of engines. It was written by their sources as of
// August 2026: vLLM 017e9f4, GPTQModel f4c327a, optimum 83c88b8, compressed-tensors
// ac8e2ba, hqq e0b1d00, llama.cpp (ggml d99724f), ollama fb30760. What was tried of it
// is in package verified.
var Table = []Row{
	// compressed-tensors
	{Engine: layout.EngineVLLM, Formats: ct, Symmetry: Floats, Mixture: FusedAlike, Loads: true, Note: "with its Marlin kernel (CUDA)", GPU: true},
	{Engine: layout.EngineTransformers, Formats: ct, Symmetry: Floats, Loads: true, Note: needsCT},
	{Engine: layout.EngineVLLM, Formats: ct, Bits: []int{2, 3, 5, 6, 7}, Symmetry: Symmetric, Index: WithIndex,
		Note: "takes no group index with {bits} bits; quantize with static groups"},
	{Engine: layout.EngineVLLM, Formats: ct, Bits: []int{2, 3, 5, 6, 7}, Symmetry: Symmetric, Mixture: FusedAlike, Loads: true, Shard: true,
		Note: "{bits} bits need its Humming kernel (CUDA)", GPU: true},
	{Engine: layout.EngineVLLM, Formats: ct, Bits: []int{8}, Symmetry: Asymmetric, Groups: []int{quant.WholeLine, 64, 128}, Mixture: FusedAlike, Loads: true, Shard: true,
		Note: "asymmetric 8 bits need its Machete (Hopper) or Conch kernel", GPU: true},
	{Engine: layout.EngineVLLM, Formats: ct, Bits: []int{8}, Symmetry: Asymmetric,
		Note: "takes asymmetric 8 bits with groups of 64, 128 or whole rows (-1), not {group}"},
	{Engine: layout.EngineVLLM, Formats: ct, Bits: []int{2, 3, 5, 6, 7}, Symmetry: Asymmetric,
		Note: "takes asymmetric weights with 4 or 8 bits, not {bits}"},
	{Engine: layout.EngineVLLM, Formats: ct, Bits: []int{4}, Groups: marlinGroups, Index: NoIndex, Mixture: FusedAlike, Loads: true, HalfScale: true, Shard: true},
	{Engine: layout.EngineVLLM, Formats: ct, Bits: []int{8}, Groups: marlinGroups, Index: NoIndex, Mixture: FusedAlike, Loads: true, HalfScale: true, Shard: true,
		Note: noKernel, GPU: true},
	{Engine: layout.EngineVLLM, Formats: ct, Groups: marlinGroups, Index: WithIndex, Mixture: FusedAlike, Loads: true, Shard: true, Note: indexNote},
	{Engine: layout.EngineVLLM, Formats: ct, Bits: []int{4}, Groups: []int{256}, Index: NoIndex, Mixture: FusedAlike, Loads: true, Shard: true,
		Note: "on GPUs with its Triton kernel, as Marlin has no groups of 256"},
	{Engine: layout.EngineVLLM, Formats: ct, Groups: []int{256}, Mixture: FusedAlike, Loads: true, Shard: true,
		Note: "with its Triton kernel, as Marlin has no groups of 256", GPU: true},
	{Engine: layout.EngineVLLM, Formats: ct, Note: "takes groups of 32, 64, 128, 256 or whole rows (-1), not {group}"},
	{Engine: layout.EngineTransformers, Formats: ct, Symmetry: Asymmetric,
		Note: "fails to load asymmetric weights (their zero-points are packed in the file and not in its model); use symmetric ones, or format gptq_v2 or awq"},
	{Engine: layout.EngineTransformers, Formats: ct, Bits: []int{2, 4, 8}, Groups: checkedGroups, Index: NoIndex, Loads: true, Note: needsCT},
	{Engine: layout.EngineTransformers, Formats: ct, Bits: []int{3, 5, 6, 7}, Groups: checkedGroups, Index: NoIndex, Loads: true,
		Note: "{bits} bits need the package compressed-tensors of May 2026 or later"},
	{Engine: layout.EngineTransformers, Formats: ct, Loads: true, Note: needsCT},
	{Engine: layout.EngineLlamaCPP, Formats: ct, Note: sourceOnly},
	{Engine: layout.EngineMLX, Formats: ct, Note: "stops with an error"},

	// gptq
	{Engine: layout.EngineVLLM, Formats: gptqNames, Symmetry: Asymmetric,
		Note: "takes gptq only with symmetric weights; format compressed-tensors or awq holds asymmetric 4 bits for it"},
	{Engine: layout.EngineVLLM, Formats: gptqNames, Bits: []int{2, 3},
		Note: "takes gptq only with 4 or 8 bits, not {bits}; format compressed-tensors holds 2 to 8 for it"},
	{Engine: layout.EngineVLLM, Formats: gptqNames, Groups: marlinGroups, Index: WithIndex, Needs: indexNeeds, Mixture: FusedAlike, Loads: true, Shard: true, Note: indexNote},
	{Engine: layout.EngineVLLM, Formats: gptqNames, Bits: []int{4}, Groups: marlinGroups, Needs: tileNeeds, Mixture: FusedAlike, Loads: true, HalfScale: true, Shard: true},
	{Engine: layout.EngineVLLM, Formats: gptqNames, Bits: []int{8}, Groups: marlinGroups, Needs: tileNeeds, Mixture: FusedAlike, Loads: true, HalfScale: true, Shard: true,
		Note: noKernel, GPU: true},
	{Engine: layout.EngineVLLM, Formats: gptqNames, Note: "takes groups of 32, 64, 128 or whole rows (-1), not {group}"},
	{Engine: layout.EngineTransformers, Formats: gptqNames, Bits: []int{4}, Groups: wideGroups, Mixture: OneScheme, Loads: true, GPU: true, Note: needsGPTQ + noCPU},
	{Engine: layout.EngineTransformers, Formats: gptqNames, Bits: []int{4}, Groups: cpuGroups, Index: NoIndex, Mixture: OneScheme, Loads: true, Note: needsGPTQ},
	{Engine: layout.EngineTransformers, Formats: []string{"gptq", "gptq_v2"}, Bits: []int{3}, Symmetry: Asymmetric, Groups: usualGroups, Index: NoIndex, Mixture: OneScheme, Loads: true, Note: needsGPTQ},
	{Engine: layout.EngineTransformers, Formats: gptqNames, Mixture: OneScheme, Loads: true, Note: needsGPTQ},
	{Engine: layout.EngineGPTQModel, Formats: []string{"gptq_v1"}, Symmetry: Asymmetric,
		Note: "refuses asymmetric version 1 files that it did not write; use format gptq_v2"},
	{Engine: layout.EngineGPTQModel, Formats: gptqNames, Bits: []int{4}, Groups: usualGroups, Index: NoIndex, Loads: true},
	{Engine: layout.EngineGPTQModel, Formats: gptqNames, Loads: true},
	{Engine: layout.EngineLlamaCPP, Formats: gptqNames, Note: sourceOnly},
	{Engine: layout.EngineMLX, Formats: gptqNames, Note: "stops with an error (g_idx)"},

	// awq
	{Engine: layout.EngineVLLM, Formats: awq, Groups: marlinGroups, Mixture: FusedAlike, Loads: true, HalfScale: true, Shard: true},
	{Engine: layout.EngineVLLM, Formats: awq, Needs: awqKernelNeeds, Mixture: FusedAlike, Loads: true, Shard: true,
		Note: "with its plain AWQ kernel, the slower one, as Marlin has no groups of {group}"},
	{Engine: layout.EngineTransformers, Formats: awq, Groups: cpuGroups, Loads: true, Note: "needs the package gptqmodel"},
	{Engine: layout.EngineTransformers, Formats: awq, Loads: true, GPU: true, Note: "needs the package gptqmodel" + noCPU},
	{Engine: layout.EngineGPTQModel, Formats: awq, Groups: usualGroups, Mixture: AllOrNothing, Loads: true},
	{Engine: layout.EngineGPTQModel, Formats: awq, Mixture: AllOrNothing, Loads: true},
	{Engine: layout.EngineLlamaCPP, Formats: awq, Note: sourceOnly},
	{Engine: layout.EngineMLX, Formats: awq, Groups: usualGroups, Loads: true},
	{Engine: layout.EngineMLX, Formats: awq, Note: "takes groups of 32, 64 or 128, not {group}"},

	// bitsandbytes
	{Engine: layout.EngineTransformers, Formats: int8Names, Loads: true, Note: "needs the package bitsandbytes, which rounds activations to 8 bits too"},

	// hqq
	{Engine: layout.EngineVLLM, Formats: hqq, Note: "no loader for layers with an axis of their own"},
	{Engine: layout.EngineTransformers, Formats: hqq, Groups: []int{quant.WholeLine}, Only: "4", Loads: true, Note: hqqVersions},
	{Engine: layout.EngineTransformers, Formats: hqq, Only: "4", Needs: Needs{GroupBy: 8}, Loads: true, Note: hqqVersions},

	// gguf
	{Engine: layout.EngineLlamaCPP, Formats: ggufNames, Loads: true},
	{Engine: layout.EngineOllama, Formats: ggufNames, Bits: []int{4}, Symmetry: Symmetric, Loads: true},
	{Engine: layout.EngineOllama, Formats: ggufNames, Loads: true},
	{Engine: layout.EngineMLX, Formats: ggufNames, Note: noGGUF},

	// mlx
	{Engine: layout.EngineMLX, Formats: mlxNames, Bits: []int{2, 3, 4, 5, 6, 8}, Groups: usualGroups, Loads: true},
	{Engine: layout.EngineMLX, Formats: mlxNames, Bits: []int{2, 3, 4, 5, 6, 8}, Loads: true},

	// dense
	{Engine: layout.EngineVLLM, Formats: dense, Loads: true, Note: "at full size"},
	{Engine: layout.EngineTransformers, Formats: dense, Loads: true, Note: "at full size"},
	{Engine: layout.EngineGPTQModel, Formats: dense, Loads: true, Note: "at full size"},
	{Engine: layout.EngineMLX, Formats: dense, Loads: true, Note: "at full size"},
	{Engine: layout.EngineLlamaCPP, Formats: dense, Note: ggufOnly},
	{Engine: layout.EngineOllama, Formats: dense, Note: ggufOnly},

	// lowbit
	{Engine: layout.EngineVLLM, Formats: native, Note: nativeOnly},
	{Engine: layout.EngineTransformers, Formats: native, Note: nativeOnly},
	{Engine: layout.EngineGPTQModel, Formats: native, Note: nativeOnly},
	{Engine: layout.EngineLlamaCPP, Formats: native, Note: nativeOnly},
	{Engine: layout.EngineOllama, Formats: native, Note: nativeOnly},
	{Engine: layout.EngineMLX, Formats: native, Note: nativeOnly},
}

const hqqVersions = "with the package hqq, on CPUs too; version 5 (5.24.0) draws the weights at random without an error"
