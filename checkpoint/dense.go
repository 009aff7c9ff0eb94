package checkpoint

import (
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Dense stores dequantized weights in the type of the weights they came
// from. Every engine loads it, at full size; the rounding to F16 or BF16 is
// the only difference from the quantized weight.
type Dense struct{}

// Name returns "dense".
func (Dense) Name() string { return "dense" }

// Check accepts every layer whose type is F32, F16 or BF16.
func (Dense) Check(l Layer) error {
	switch l.DType {
	case safetensors.F32, safetensors.F16, safetensors.BF16:
		return checkScheme(l)
	}
	return Unsupported("dense weights of type %v, want F32, F16 or BF16", l.DType)
}

// Plan returns the one tensor "<name>.weight".
func (f Dense) Plan(l Layer) ([]Spec, error) {
	if err := f.Check(l); err != nil {
		return nil, err
	}
	return []Spec{{l.Name + ".weight", l.DType, []int{l.Out, l.In}}}, nil
}

// Encode dequantizes. It fails where a weight is too large for the type.
func (f Dense) Encode(l Layer, w *quant.Weight) ([]Tensor, error) {
	specs, err := f.Plan(l)
	if err != nil {
		return nil, err
	}
	if err := w.Validate(); err != nil {
		return nil, err
	}
	t := Tensor{Spec: specs[0]}
	t.Data = make([]byte, t.Bytes())
	if err := safetensors.EncodeFloat32(t.Data, l.DType, w.Dequantize().Data); err != nil {
		return nil, err
	}
	return []Tensor{t}, nil
}

// Engines says that every engine but those of GGUF files loads it.
func (Dense) Engines([]Layer) []Note {
	var notes []Note
	for _, e := range []string{EngineVLLM, EngineTransformers, EngineGPTQModel} {
		notes = append(notes, Note{Engine: e, Accepted: true, Reason: "at full size"})
	}
	for _, e := range []string{EngineLlamaCPP, EngineOllama} {
		notes = append(notes, Note{Engine: e, Reason: "needs a GGUF file; llama.cpp's converter makes one"})
	}
	return notes
}

// Config removes the quantization_config.
func (Dense) Config(Contents) (Config, error) { return Config{}, nil }
