// Package bitsandbytes is the checkpoint format of bitsandbytes' int8.
package bitsandbytes

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/engines"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/safetensors"
)

// Format is the format in which transformers saves and loads models of bitsandbytes'
// load_in_8bit (Linear8bitLt):
//
//	X.weight         I8 [out, in], -127 to 127
//	X.SCB            F32 [out]: the largest absolute weight of each row
//	X.weight_format  U8, one: 0, rows one after the other
//
// A weight is (weight · SCB) · (1/127) in float32, which is llmint8.Grid. Outliers are found
// among the activations when the model runs (llm_int8_threshold), and their columns of the
// weight are dequantized: nothing is kept in 16 bits. NF4 and FP4 of the same library are
// read as floats (package coded) and not written.
//
// Sources: bitsandbytes 0.50 (nn.modules, backends.default), transformers 5.24
// (integrations.bitsandbytes).
type Format struct{}

const (
	suffixSCB    = ".SCB"
	suffixFormat = ".weight_format"
)

// Name returns "bitsandbytes".
func (Format) Name() string { return "bitsandbytes" }

// Check accepts weights on llmint8.Grid with a scale a row.
func (f Format) Check(l layout.Layer) error {
	s := l.Scheme
	switch {
	case l.Columns > 0:
		return layout.Unsupported("bitsandbytes finds outliers when the model runs, and holds all columns in 8 bits; quantize without text or with no outliers, or use format lowbit or dense")
	case s.Grid != llmint8.Grid{}:
		return layout.Unsupported("bitsandbytes has the grid llm.int8 only; quantize for it, or use format lowbit or dense")
	case s.Axis != quant.OC || s.GroupSize != quant.WholeLine:
		return layout.Unsupported("bitsandbytes has one scale a row; use axis oc and whole rows (group size -1)")
	case l.RowScale || l.InputScale:
		return layout.Unsupported("bitsandbytes has no row or input scales; quantize without them, or use format lowbit or dense")
	case l.GroupIndex:
		return layout.Unsupported("bitsandbytes has no group index; quantize without one")
	}
	return layout.CheckShape(l)
}

// Main implements layout.Mixer: all layers have the grid of the format.
func (Format) Main() (s quant.Scheme, ok bool) { return llmint8.Grid{}.Scheme(), true }

// Mix implements layout.Mixer.
func (f Format) Mix(layout.Origin, bool) (func(l layout.Layer) (quant.Scheme, string, error), error) {
	return func(layout.Layer) (quant.Scheme, string, error) { return llmint8.Grid{}.Scheme(), "", nil }, nil
}

// Engines says which engines load the layers.
func (f Format) Engines(layers []layout.Layer) []layout.Note { return engines.Notes(f.Name(), layers) }

// Plan lists weight, SCB and weight_format.
func (f Format) Plan(l layout.Layer) ([]layout.Spec, error) {
	if err := f.Check(l); err != nil {
		return nil, err
	}
	return []layout.Spec{
		{Name: l.Name + layout.WeightSuffix, DType: safetensors.I8, Shape: []int{l.Out, l.In}},
		{Name: l.Name + suffixSCB, DType: safetensors.F32, Shape: []int{l.Out}},
		{Name: l.Name + suffixFormat, DType: safetensors.U8},
	}, nil
}

// Encode packs a layer.
func (f Format) Encode(l layout.Layer, w *quant.Weight) ([]layout.Tensor, error) {
	if err := layout.CheckWeight(f, l, w); err != nil {
		return nil, err
	}
	specs, err := f.Plan(l)
	if err != nil {
		return nil, err
	}
	codes := make([]byte, l.Out*l.In)
	for r := range l.Out {
		line := codes[r*l.In : (r+1)*l.In]
		w.Line(line, r)
		flip(line)
	}
	scb, err := layout.FloatTensor(specs[1].Name, safetensors.F32, w.Scales, l.Out)
	return []layout.Tensor{{Spec: specs[0], Data: codes}, scb, {Spec: specs[2], Data: []byte{0}}}, err
}

// flip turns codes from 0 on into signed ones, and back.
func flip(codes []byte) {
	for i := range codes {
		codes[i] ^= 0x80
	}
}

// config is the quantization_config that transformers writes, as far as it matters for int8.
type config struct {
	Method     string   `json:"quant_method"`
	In4Bit     bool     `json:"load_in_4bit"`
	In8Bit     bool     `json:"load_in_8bit"`
	Offload    bool     `json:"llm_int8_enable_fp32_cpu_offload"`
	HalfWeight bool     `json:"llm_int8_has_fp16_weight"`
	Skip       []string `json:"llm_int8_skip_modules"`
	Threshold  number   `json:"llm_int8_threshold"`
}

// number is written as Python's floats are, which transformers insists on: 6.0.
type number float32

// MarshalJSON implements json.Marshaler.
func (n number) MarshalJSON() ([]byte, error) {
	text := strconv.FormatFloat(float64(n), 'f', -1, 32)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return []byte(text), nil
}

// Config names the dense linears. The threshold is that of the method, if it is LLM.int8().
func (f Format) Config(c layout.Contents) (layout.Config, error) {
	q := config{Method: f.Name(), In8Bit: true, Skip: layout.SkippedLinears(c), Threshold: llmint8.DefaultThreshold}
	if q.Skip == nil {
		q.Skip = []string{} // null is lm_head
	}
	var m struct {
		Method     string `json:"method"`
		Parameters struct {
			Threshold number `json:"threshold"`
		} `json:"parameters"`
	}
	if json.Unmarshal(c.Method, &m) == nil && m.Method == fmt.Sprintf("%T", llmint8.Quantizer{}) {
		q.Threshold = m.Parameters.Threshold
	}
	data, err := json.Marshal(q)
	return layout.Config{Quantization: data}, err
}

// Detect looks at quant_method.
func (f Format) Detect(quantization json.RawMessage) bool {
	return layout.QuantMethod(quantization) == f.Name()
}

// Open finds the layers by their SCB.
func (f Format) Open(_ json.RawMessage, src layout.Source) (layout.Decoder, error) {
	d := &layout.PackedDecoder{}
	for _, name := range src.Names() {
		base, ok := layout.CutWeight(name)
		if !ok {
			continue
		}
		if _, ok := src.Spec(base + suffixSCB); !ok {
			continue
		}
		p, err := open(src, base)
		if err != nil {
			return nil, err
		}
		d.Add(p)
	}
	return d, nil
}

// open describes a layer.
func open(src layout.Source, base string) (layout.PackedLayer, error) {
	var p layout.PackedLayer
	weight, err := layout.Want(src, base+layout.WeightSuffix, nil, safetensors.I8)
	if err != nil {
		return p, err
	}
	shape, err := layout.Dimensions(src, weight, 2)
	if err != nil {
		return p, err
	}
	scb, err := layout.Want(src, base+suffixSCB, shape[:1], safetensors.F32)
	if err != nil {
		return p, err
	}
	p.Layer = layout.Layer{Name: base, Out: shape[0], In: shape[1], Scheme: llmint8.Grid{}.Scheme()}
	p.Parts, p.File = []string{weight.Name, scb.Name}, src.File(weight.Name)
	if _, ok := src.Spec(base + suffixFormat); ok {
		if err := checkFormat(src, base+suffixFormat); err != nil {
			return p, err
		}
		p.Parts = append(p.Parts, base+suffixFormat)
	}
	p.Read = func() (*quant.Weight, error) {
		w := quant.NewWeight(shape[0], shape[1], p.Scheme)
		_, codes, err := layout.ReadBytes(src, weight.Name, shape, safetensors.I8)
		if err != nil {
			return nil, err
		}
		flip(codes)
		for r := range w.Out {
			w.SetLine(r, codes[r*w.In:(r+1)*w.In])
		}
		w.Scales, err = layout.ReadFloats(src, scb.Name, w.Out)
		return w, err
	}
	return p, nil
}

// checkFormat refuses weights whose rows are not one after the other: older versions had
// such orders for kernels.
func checkFormat(src layout.Source, name string) error {
	spec, data, err := layout.ReadBytes(src, name, nil, safetensors.U8)
	if err != nil {
		return err
	}
	if len(data) != 1 {
		return layout.TensorError(src, name, "shape %v, want one number", spec.Shape)
	}
	if data[0] != 0 {
		return layout.TensorError(src, name, "weight_format %d, want 0 (row): load it in an older bitsandbytes and save it anew", data[0])
	}
	return nil
}

// Has tells whether tensors of a layer are among names.
func Has(names []string) bool {
	for _, n := range names {
		if strings.HasSuffix(n, suffixSCB) {
			return true
		}
	}
	return false
}
