package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// ErrUnsupported is wrapped by every error that says a format, or the
// engines that read it, cannot hold a layer.
var ErrUnsupported = errors.New("not supported by the format")

// ErrNotWeight is wrapped by Decoder.Weight when a layer is readable but is
// no quant.Weight, for example because its zero-points are not integers. Such
// a Decoder also implements DenseDecoder.
var ErrNotWeight = errors.New("layer has no exact packed form here")

// Layer is what a format must know of a quantized linear before work starts.
type Layer struct {
	// Name is the linear's name without ".weight",
	// e.g. "model.layers.0.self_attn.q_proj".
	Name string
	// Out and In are the shape of the weight.
	Out, In int
	// Scheme is the grid.
	Scheme quant.Scheme
	// RowScale, InputScale and GroupIndex say that the weight has them.
	RowScale, InputScale, GroupIndex bool
	// Bias says that the linear has a bias. It stays a dense tensor, which
	// the writer copies; formats do not encode it.
	Bias bool
	// DType is the floating-point type of the model's dense tensors: for a
	// layer quantized from a dense model, of the weight it came from.
	DType safetensors.DType
}

// LayerOf describes a weight that has been quantized.
func LayerOf(name string, w *quant.Weight) Layer {
	return Layer{
		Name: name, Out: w.Out, In: w.In, Scheme: w.Scheme,
		RowScale: w.RowScale != nil, InputScale: w.InputScale != nil, GroupIndex: w.GroupIndex != nil,
	}
}

// Spec announces a tensor. Scalars have an empty Shape.
type Spec struct {
	Name  string
	DType safetensors.DType
	Shape []int
}

// Tensor is a tensor ready to be written: little-endian, row-major, as in
// a safetensors file.
type Tensor struct {
	Spec
	Data []byte
}

// Contents describes a whole checkpoint to Format.Config.
type Contents struct {
	// Layers are the quantized layers, in the order of the model's tensors.
	Layers []Layer
	// Dense names the other two-dimensional ".weight" tensors, without
	// ".weight" (lm_head, embeddings, skipped linears), in the same order.
	Dense []string
	// Config is the source's config.json.
	Config json.RawMessage
	// Method describes how the codes were found, for formats that record it:
	// the JSON object the caller gave to the writer, or nil.
	Method json.RawMessage
}

// Config is what a format wants recorded beside the tensors.
type Config struct {
	// Quantization is the value of "quantization_config" in config.json. The
	// key is removed if it is nil.
	Quantization json.RawMessage
	// Set holds further top-level keys of config.json to set, by name.
	Set map[string]json.RawMessage
	// Files holds further files of the folder, by name.
	Files map[string][]byte
}

// Format is a checkpoint format. Implementations are stateless values, safe
// for concurrent use.
type Format interface {
	// Name is the name on the command line, e.g. "gptq".
	Name() string

	// Check reports whether the format and the engines that read it can hold
	// the layer. The error wraps ErrUnsupported and suggests what would fit;
	// it need not name the layer.
	Check(l Layer) error

	// Plan returns the tensors that Encode will produce for the layer, in
	// the order of Encode. It fails only where Check does.
	Plan(l Layer) ([]Spec, error)

	// Encode packs the layer that l describes. The tensors have the names,
	// types and shapes that Plan(l) announces. Encode does not modify w and
	// may share its memory.
	Encode(l Layer, w *quant.Weight) ([]Tensor, error)

	// Config returns what is recorded beside the tensors.
	Config(c Contents) (Config, error)

	// Detect reports whether a quantization_config is of this format. It is
	// true for one format only; formats that cannot be recognized so (dense,
	// GGUF) return false.
	Detect(quantization json.RawMessage) bool

	// Open finds the quantized layers. It reads headers and small tensors
	// only. An error says what is wrong with which file and tensor.
	Open(quantization json.RawMessage, src Source) (Decoder, error)
}

// Decoder reads the quantized layers of an opened checkpoint. It is safe for
// concurrent use.
type Decoder interface {
	// Layers describes the quantized layers, in file order. DType may be
	// left empty: the model fills it from its configuration.
	Layers() []Layer

	// Tensors names the tensors of the source that make up the layer with
	// the given name, so that they do not count as dense ones. A bias is not
	// among them.
	Tensors(name string) []string

	// Weight reads a layer. The result has passed quant.Weight.Validate.
	Weight(name string) (*quant.Weight, error)
}

// DenseDecoder is implemented by decoders that can dequantize layers which
// no quant.Weight can hold: those whose Weight fails with ErrNotWeight.
type DenseDecoder interface {
	// Matrix reads and dequantizes a layer to [out, in].
	Matrix(name string) (*tensor.Matrix, error)
}

// Assembler is implemented by formats that are no folder of safetensors
// files. Check, Plan and Config still answer before work starts; Plan may
// return the specs that the tensors would have, or none.
type Assembler interface {
	// Assemble writes the complete model to path, which does not exist, as a
	// file or as a folder. src is the model the layers came from (for its
	// dense tensors, config and tokenizer files); layers describes the
	// quantized layers in model order and weight reads each. weight is safe
	// for concurrent use and may be called more than once.
	Assemble(ctx context.Context, path string, src *Model, layers []Layer, weight func(name string) (*quant.Weight, error)) error
}

// Container is implemented by formats that are recognized by the file itself.
type Container interface {
	// OpenFile opens path, a regular file, if it is of this format. ok is
	// false, with no error, if it is not. config is a config.json as Hugging
	// Face would have it, made from the file's own metadata; the source
	// names tensors as Hugging Face does.
	OpenFile(path string) (config json.RawMessage, src Source, dec Decoder, ok bool, err error)
}

// Formats lists the formats in the order in which they are tried and shown.
func Formats() []Format { return formats() }

// Lookup finds a format by name.
func Lookup(name string) (Format, error) {
	var names []string
	for _, f := range formats() {
		if f.Name() == name {
			return f, nil
		}
		names = append(names, f.Name())
	}
	return nil, fmt.Errorf("unknown checkpoint format %q: want one of %v", name, names)
}

// Unsupported returns an error that wraps ErrUnsupported.
func Unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}
