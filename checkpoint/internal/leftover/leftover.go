// Package leftover tells what is left of a quantization that a model has no more,
// or that another program words its own way.
package leftover

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/safetensors"
)

// Plain puts the quantization_config of a program that writes
// another's format into that format's words. auto-round names the layout
// behind a colon: "auto_round:auto_gptq" is GPTQ's, byte by byte.
func Plain(quantization json.RawMessage) (json.RawMessage, error) {
	o, err := layout.ParseObject(quantization)
	if err != nil {
		return nil, err
	}
	var c struct {
		Method  string `json:"quant_method"`
		Packing string `json:"packing_format"`
	}
	if json.Unmarshal(quantization, &c) != nil || !strings.HasPrefix(strings.ReplaceAll(c.Method, "_", "-"), "auto-round") {
		return quantization, nil
	}
	switch _, packing, _ := strings.Cut(c.Packing, ":"); packing {
	case "auto_gptq", "gptq":
		o.Set("quant_method", json.RawMessage(`"gptq"`))
		o.Set("checkpoint_format", json.RawMessage(`"gptq"`))
	case "auto_awq", "awq":
		o.Set("quant_method", json.RawMessage(`"awq"`))
	default:
		return quantization, nil
	}
	return o.Bytes(), nil
}

// Of says whether a quantization_config is one of those that are found
// beside models that are no longer quantized.
func Of(quantization json.RawMessage) bool {
	return slices.Contains([]string{"bitsandbytes", "gptq", "awq", "auto-round", "hqq"}, layout.QuantMethod(quantization))
}

// Nothing says whether all that a model computes with is stored as
// floats: a quantization_config beside it is left over, for example by those
// who merged an adapter into what bitsandbytes had loaded.
func Nothing(src layout.Source) bool {
	floats := []safetensors.DType{safetensors.F64, safetensors.F32, safetensors.F16, safetensors.BF16}
	return !slices.ContainsFunc(src.Names(), func(name string) bool {
		s, _ := src.Spec(name)
		if strings.Contains(name[strings.LastIndexByte(name, '.')+1:], "scale") {
			return true
		}
		return len(s.Shape) >= 2 && !slices.Contains(floats, s.DType) && !IsBuffer(name)
	})
}

// IsBuffer says whether a tensor is one of those that old models save and
// compute anew: positions and masks.
func IsBuffer(name string) bool {
	return slices.ContainsFunc([]string{"position_ids", "attn.bias", "attention.bias", "masked_bias"}, func(s string) bool {
		return strings.HasSuffix(name, s)
	})
}
