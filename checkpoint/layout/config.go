package layout

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// CutWeight cuts ".weight" from the name of a tensor.
func CutWeight(name string) (string, bool) { return strings.CutSuffix(name, WeightSuffix) }

// QuantMethod returns the quant_method of a quantization_config, or "".
func QuantMethod(quantization json.RawMessage) string {
	var q struct {
		QuantMethod string `json:"quant_method"`
	}
	if json.Unmarshal(quantization, &q) != nil {
		return ""
	}
	return q.QuantMethod
}

// ConfigFile is the file that makes a folder a model.
const ConfigFile = "config.json"

// QuantizationKey is the key of config.json that tells how a model is quantized.
const QuantizationKey = "quantization_config"

// WeightSuffix ends the name of a linear's weight.
const WeightSuffix = ".weight"

// ConfigDType is the floating-point type that a config.json declares; F16
// where it says nothing, as quantized checkpoints are half floats.
func ConfigDType(config json.RawMessage) safetensors.DType {
	var c struct {
		DType      string `json:"dtype"`
		TorchDType string `json:"torch_dtype"`
	}
	if json.Unmarshal(config, &c) == nil {
		if c.DType == "" {
			c.DType = c.TorchDType
		}
		switch strings.TrimPrefix(c.DType, "torch.") {
		case "float32":
			return safetensors.F32
		case "bfloat16":
			return safetensors.BF16
		}
	}
	return safetensors.F16
}

// SkippedLinears names the dense linears of the model. Engines count the head
// among the linears even where it is tied and not in the files.
func SkippedLinears(c Contents) []string {
	head := !slices.ContainsFunc(c.Layers, func(l Layer) bool { return l.Name == "lm_head" })
	var names []string
	for _, name := range c.Dense {
		last := name[strings.LastIndexByte(name, '.')+1:]
		switch {
		case IsEmbedding(last):
			continue
		case name == "lm_head":
			head = false
		}
		names = append(names, name)
	}
	if head {
		names = append(names, "lm_head")
	}
	return names
}

// IsEmbedding reports whether a module of that name, the last part alone, looks
// up rows instead of multiplying.
func IsEmbedding(name string) bool {
	switch name {
	case "embed_tokens", "embed_positions", "embed_in", "wte", "wpe",
		"word_embeddings", "position_embeddings", "tok_embeddings", "token_embedding":
		return true
	}
	return false
}

// InBlock reports whether a module belongs to a numbered block, and gives its
// name inside the block: "self_attn.q_proj" for "model.layers.0.self_attn.q_proj".
func InBlock(name string) (inside string, ok bool) {
	parts := strings.Split(name, ".")
	for i, p := range parts[:len(parts)-1] {
		if _, err := strconv.Atoi(p); err == nil {
			return strings.Join(parts[i+1:], "."), true
		}
	}
	return "", false
}

// MostFrequent returns the most frequent value, the first of equals.
func MostFrequent[T comparable](values []T) T {
	count := map[T]int{}
	var best T
	for _, v := range values {
		count[v]++
	}
	for _, v := range values {
		if count[v] > count[best] {
			best = v
		}
	}
	return best
}

// HalfModel returns the keys of config.json to set so that engines load
// scales as the half floats they are: they convert scales to the type of the
// model. A bfloat16 model stays one if all its scales are bfloat16, as those of
// 7 significant bits are too.
func HalfModel(c Contents) map[string]json.RawMessage {
	t := ConfigDType(c.Config)
	if t == safetensors.F16 && hasDType(c.Config) || len(c.Layers) == 0 {
		return nil
	}
	if t == safetensors.BF16 && !slices.ContainsFunc(c.Layers, func(l Layer) bool { return !BF16Scales(l.Scheme) }) {
		return nil
	}
	set := map[string]json.RawMessage{}
	for _, key := range dtypeKeys(c.Config) {
		set[key] = json.RawMessage(`"float16"`)
	}
	return set
}

// BF16Scales reports whether bfloat16 holds all scales of a scheme.
func BF16Scales(s quant.Scheme) bool {
	return s.ScaleType == quant.BF16 || s.ScaleType == quant.F16Short
}

func hasDType(config json.RawMessage) bool {
	o, err := ParseObject(config)
	if err != nil {
		return false
	}
	_, a := o.Get("torch_dtype")
	_, b := o.Get("dtype")
	return a || b
}

// dtypeKeys are the keys that name the model's type: those that are there, or
// the one that every version of transformers knows.
func dtypeKeys(config json.RawMessage) []string {
	var keys []string
	if o, err := ParseObject(config); err == nil {
		for _, key := range []string{"torch_dtype", "dtype"} {
			if _, ok := o.Get(key); ok {
				keys = append(keys, key)
			}
		}
	}
	if keys == nil {
		keys = []string{"torch_dtype"}
	}
	return keys
}
