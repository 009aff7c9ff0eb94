package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// Model is an opened model: dense, or quantized in any registered format.
// Tensors are read from the files on each call; nothing is cached. It is
// safe for concurrent use until Close.
//
// Names are those of Hugging Face. A quantized linear X has no tensor
// "X.weight" in its files, but Has, Shape and Matrix answer for that name as
// if it had.
type Model struct {
	path   string
	config json.RawMessage
	src    Source
	format Format
	dec    Decoder // nil if nothing is quantized

	layers []Layer
	index  map[string]int    // layer by name
	part   map[string]string // layer a packed tensor belongs to
	dense  []string          // tensors that belong to no layer, in file order

	changed map[string][]float32 // vectors that take the place of the source's
}

const (
	configFile      = "config.json"
	maxConfig       = 64 << 20
	quantConfigKey  = "quantization_config"
	quantizeFile    = "quantize_config.json"
	olderQuantKey   = "compression_config"
	weightSuffix    = ".weight"
	biasSuffix      = ".bias"
	defaultGPTQName = "gptq"
)

// Open opens a model folder, or a model file of a format that is one file.
func Open(path string) (*Model, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return openFile(path)
	}
	config, err := readConfig(filepath.Join(path, configFile))
	if err != nil {
		return nil, err
	}
	quantization, err := quantizationConfig(path, config)
	if err != nil {
		return nil, err
	}
	var format Format = Dense{}
	if quantization != nil {
		if format, err = detect(quantization); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(path, configFile), err)
		}
	}
	src, err := openFolder(path)
	if err != nil {
		return nil, err
	}
	var dec Decoder
	if quantization != nil {
		if dec, err = format.Open(quantization, src); err != nil {
			return nil, errors.Join(err, src.Close())
		}
	}
	return newModel(path, config, src, format, dec)
}

func openFile(path string) (*Model, error) {
	for _, f := range formats() {
		c, ok := f.(Container)
		if !ok {
			continue
		}
		config, src, dec, ok, err := c.OpenFile(path)
		if err != nil {
			return nil, err
		}
		if ok {
			return newModel(path, config, src, f, dec)
		}
	}
	return nil, fmt.Errorf("%s: neither a model folder nor a model file of a known format", path)
}

func readConfig(path string) (json.RawMessage, error) {
	data, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	if _, err := parseObject(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

// readSmall reads a configuration file, of a size such files have.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxConfig)
	}
	return data, nil
}

// quantizationConfig returns the quantization_config of a folder, or nil.
// AutoGPTQ first kept it in quantize_config.json alone, without a
// quant_method, and compressed-tensors under another key.
func quantizationConfig(dir string, config json.RawMessage) (json.RawMessage, error) {
	o, err := parseObject(config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, configFile), err)
	}
	for _, key := range []string{quantConfigKey, olderQuantKey} {
		if v, ok := o.get(key); ok && string(v) != "null" {
			return v, nil
		}
	}
	path := filepath.Join(dir, quantizeFile)
	data, err := readConfig(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if o, err = parseObject(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if _, ok := o.get("quant_method"); !ok {
		o.set("quant_method", json.RawMessage(`"`+defaultGPTQName+`"`))
	}
	return o.bytes(), nil
}

func detect(quantization json.RawMessage) (Format, error) {
	var names []string
	for _, f := range formats() {
		if f.Detect(quantization) {
			return f, nil
		}
		names = append(names, f.Name())
	}
	if m := quantMethod(quantization); m != "" {
		return nil, fmt.Errorf("%s: quant_method %q cannot be read: known formats are %s", quantConfigKey, m, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("%s of an unknown format: known formats are %s", quantConfigKey, strings.Join(names, ", "))
}

func newModel(path string, config json.RawMessage, src Source, format Format, dec Decoder) (*Model, error) {
	m := &Model{path: path, config: config, src: src, format: format, dec: dec, index: map[string]int{}, part: map[string]string{}}
	if dec != nil {
		m.layers = dec.Layers()
	}
	fallback := configDType(config)
	for i := range m.layers {
		l := &m.layers[i]
		if _, twice := m.index[l.Name]; twice {
			return nil, errors.Join(fmt.Errorf("%s: layer %q is there twice", path, l.Name), src.Close())
		}
		m.index[l.Name] = i
		if l.DType == "" {
			l.DType = fallback
		}
		_, l.Bias = src.Spec(l.Name + biasSuffix)
		for _, t := range dec.Tensors(l.Name) {
			m.part[t] = l.Name
		}
	}
	for _, name := range src.Names() {
		if _, packed := m.part[name]; packed {
			continue
		}
		if base, ok := strings.CutSuffix(name, weightSuffix); ok {
			if _, twice := m.index[base]; twice {
				return nil, errors.Join(tensorError(src, name, "the layer is there in packed form too"), src.Close())
			}
		}
		m.dense = append(m.dense, name)
	}
	return m, nil
}

// configDType is the floating-point type that a config.json declares; F16
// where it says nothing, as quantized checkpoints are half floats.
func configDType(config json.RawMessage) safetensors.DType {
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

// Close closes the model's files.
func (m *Model) Close() error { return m.src.Close() }

// Path is the path the model was opened with.
func (m *Model) Path() string { return m.path }

// Config is config.json as it was read, or as a container's metadata gives it.
func (m *Model) Config() json.RawMessage { return m.config }

// Format is the format the model was found to be in; Dense if nothing in it
// is quantized.
func (m *Model) Format() Format { return m.format }

// Source gives the tensors as they are stored.
func (m *Model) Source() Source { return m.src }

// Layers describes the quantized layers in file order.
func (m *Model) Layers() []Layer { return slices.Clone(m.layers) }

// Layer describes a quantized layer; ok is false if there is none of that name.
func (m *Model) Layer(name string) (l Layer, ok bool) {
	i, ok := m.index[name]
	if !ok {
		return Layer{}, false
	}
	return m.layers[i], true
}

// Quantized names the quantized layers in file order, without ".weight".
func (m *Model) Quantized() []string {
	names := make([]string, len(m.layers))
	for i, l := range m.layers {
		names[i] = l.Name
	}
	return names
}

// LayerTensors describes the tensors in which a quantized layer is stored.
func (m *Model) LayerTensors(name string) []Spec {
	if m.dec == nil {
		return nil
	}
	var specs []Spec
	for _, t := range m.dec.Tensors(name) {
		if s, ok := m.src.Spec(t); ok {
			specs = append(specs, s)
		}
	}
	return specs
}

// Dense describes the tensors that belong to no quantized layer, in file order.
func (m *Model) Dense() []Spec {
	specs := make([]Spec, len(m.dense))
	for i, name := range m.dense {
		specs[i], _ = m.src.Spec(name)
	}
	return specs
}

// Bytes is the size of all tensors.
func (m *Model) Bytes() int64 {
	var n int64
	for _, name := range m.src.Names() {
		s, _ := m.src.Spec(name)
		n += s.Bytes()
	}
	return n
}

// Weight reads a quantized layer; name is without ".weight".
func (m *Model) Weight(name string) (*quant.Weight, error) {
	if _, ok := m.index[name]; !ok {
		return nil, fmt.Errorf("%s: no quantized layer %q", m.path, name)
	}
	return m.dec.Weight(name)
}

// Has reports whether there is a tensor, or the weight of a quantized layer,
// of that name.
func (m *Model) Has(name string) bool {
	_, ok := m.Shape(name)
	return ok
}

// Shape is the shape of a tensor or of the weight of a quantized layer.
func (m *Model) Shape(name string) ([]int, bool) {
	if l, ok := m.quantized(name); ok {
		return []int{l.Out, l.In}, true
	}
	s, ok := m.src.Spec(name)
	return slices.Clone(s.Shape), ok
}

// DType is the type of a tensor, or the type a quantized weight had.
func (m *Model) DType(name string) (safetensors.DType, bool) {
	if l, ok := m.quantized(name); ok {
		return l.DType, true
	}
	s, ok := m.src.Spec(name)
	return s.DType, ok
}

func (m *Model) quantized(name string) (Layer, bool) {
	base, ok := strings.CutSuffix(name, weightSuffix)
	if !ok {
		return Layer{}, false
	}
	return m.Layer(base)
}

// Matrix reads a two-dimensional tensor, or dequantizes the weight of a
// quantized layer, as [out, in]. NaN and infinities are errors.
func (m *Model) Matrix(name string) (*tensor.Matrix, error) {
	if l, ok := m.quantized(name); ok {
		return m.dequantize(l)
	}
	v, shape, err := m.floats(name, 2)
	if err != nil {
		return nil, err
	}
	return tensor.FromSlice(shape[0], shape[1], v), nil
}

func (m *Model) dequantize(l Layer) (*tensor.Matrix, error) {
	w, err := m.dec.Weight(l.Name)
	var d *tensor.Matrix
	if err == nil {
		d = w.Dequantize()
	} else {
		dd, ok := m.dec.(DenseDecoder)
		if !ok || !errors.Is(err, ErrNotWeight) {
			return nil, err
		}
		if d, err = dd.Matrix(l.Name); err != nil {
			return nil, err
		}
	}
	for r := range d.Rows {
		if j := notFinite(d.Row(r)); j >= 0 {
			return nil, fmt.Errorf("%s: layer %q: weight [%d %d] is %g", m.path, l.Name, r, j, d.At(r, j))
		}
	}
	return d, nil
}

// Vector reads a one-dimensional tensor. NaN and infinities are errors.
func (m *Model) Vector(name string) ([]float32, error) {
	v, _, err := m.floats(name, 1)
	return v, err
}

func (m *Model) floats(name string, dims int) ([]float32, []int, error) {
	shape := make([]int, dims)
	for i := range shape {
		shape[i] = anyDim
	}
	v, err := readFloats(m.src, name, shape...)
	if err != nil {
		return nil, nil, err
	}
	if c, ok := m.changed[name]; ok {
		v = slices.Clone(c)
	}
	if i := notFinite(v); i >= 0 {
		return nil, nil, tensorError(m.src, name, "element %d is %g", i, v[i])
	}
	s, _ := m.src.Spec(name)
	return v, s.Shape, nil
}

// notFinite returns the index of the first NaN or infinity, or -1.
func notFinite(v []float32) int {
	const exponent = 0x7f800000
	for start := 0; start < len(v); start += 1024 {
		part := v[start:min(start+1024, len(v))]
		// Times 0 only NaN and infinities are not 0, and stay so in a sum.
		var a, b float32
		i := 0
		for ; i+1 < len(part); i += 2 {
			a += part[i] * 0
			b += part[i+1] * 0
		}
		if i < len(part) {
			a += part[i] * 0
		}
		if a+b == 0 {
			continue
		}
		for j, x := range part {
			if math.Float32bits(x)&exponent == exponent {
				return start + j
			}
		}
	}
	return -1
}
