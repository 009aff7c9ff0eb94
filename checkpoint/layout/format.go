package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

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
	// Columns is how many inputs have weights in 16 bits beside their codes; 1 before
	// work starts, if the method may keep some.
	Columns int
	// Summands is how many further weights are added to it (quant.Weight.Summands).
	Summands int
	// Bias says that the linear has a bias. It stays a dense tensor, which
	// the writer copies; formats do not encode it.
	Bias bool
	// DType is the floating-point type of the model's dense tensors: for a
	// layer quantized from a dense model, of the weight it came from.
	DType safetensors.DType
	// Dense says that the linear is not quantized. Only an Advisor is told of
	// such layers.
	Dense bool
}

// LayerOf describes a weight that has been quantized.
func LayerOf(name string, w *quant.Weight) Layer {
	return Layer{
		Name: name, Out: w.Out, In: w.In, Scheme: w.Scheme,
		RowScale: w.RowScale != nil, InputScale: w.InputScale != nil, GroupIndex: w.GroupIndex != nil,
		Columns:  len(w.Columns),
		Summands: len(w.Summands),
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
// for concurrent use. A Format also implements Folder or File; if it can be
// read from a folder, Reader.
type Format interface {
	// Name is the name on the command line, e.g. "gptq".
	Name() string

	// Check reports whether the format and the engines that read it can hold
	// the layer. The error wraps ErrUnsupported and suggests what would fit;
	// it need not name the layer.
	Check(l Layer) error
}

// Folder is a Format that keeps layers as tensors in the safetensors files of
// a model folder.
type Folder interface {
	Format

	// Plan returns the tensors that Encode will produce for the layer, in
	// the order of Encode. It fails only where Check does.
	Plan(l Layer) ([]Spec, error)

	// Encode packs the layer that l describes. The tensors have the names,
	// types and shapes that Plan(l) announces. Encode does not modify w and
	// may share its memory.
	Encode(l Layer, w *quant.Weight) ([]Tensor, error)

	// Config returns what is recorded beside the tensors.
	Config(c Contents) (Config, error)
}

// Reader is a Folder that can be read back.
type Reader interface {
	Format

	// Detect reports whether a quantization_config is of this format. It is
	// true for one format only.
	Detect(quantization json.RawMessage) bool

	// Open finds the quantized layers. It reads headers and small tensors
	// only. An error says what is wrong with which file and tensor.
	Open(quantization json.RawMessage, src Source) (Decoder, error)
}

// Sidecar is a Reader some of whose folders keep the quantization_config in a
// file of its own and have none in config.json.
type Sidecar interface {
	// Sidecar names the file. It is not copied to other models.
	Sidecar() string
	// FromSidecar makes a quantization_config of what the file holds.
	FromSidecar(data []byte) (json.RawMessage, error)
}

// File is a Format that is one file, recognized by itself.
type File interface {
	Format

	// CheckModel reports, before any work, whether the format holds the model,
	// from its configuration, its tokenizer and the names and shapes of its
	// tensors. The error wraps ErrUnsupported if it does not.
	CheckModel(o Origin) error

	// Read opens path, a regular file. It returns nil, with no error, if the
	// file is not of this format.
	Read(path string) (*Opened, error)

	// Write makes the complete model at path, which does not exist. layers
	// describes the quantized layers in model order and weight reads each;
	// weight is safe for concurrent use and may be called more than once.
	Write(ctx context.Context, path string, o Origin, layers []Layer, weight func(name string) (*quant.Weight, error)) error
}

// Parted is a File of which a model may lie in several, all in one folder.
type Parted interface {
	// Parts lists the files of the model of which path is one, by its name alone, first
	// the one that stands for all; it is path itself where the model is one file.
	Parts(path string) []string
	// Ending is what the names of all files of the format end in.
	Ending() string
}

// LayerChecker is a File that holds some layers only together with others.
type LayerChecker interface {
	// CheckLayers reports, before any work, whether the format holds the model
	// with these layers quantized. The error wraps ErrUnsupported if it does not.
	CheckLayers(o Origin, layers []Layer) error
}

// Sizer is a File that says, before any work, how many bytes its tensors take
// with these layers quantized.
type Sizer interface {
	Size(o Origin, layers []Layer) (int64, error)
}

// Mixer is a Format that can choose the grid of each layer itself.
type Mixer interface {
	// Main is the scheme that most layers have; ok is false if the format is not
	// set to choose.
	Main() (s quant.Scheme, ok bool)
	// Mix gives the scheme of a layer, and a remark if it is not the one that such
	// a layer would have in other shapes; nil if the format is not set to choose. A
	// layer for which there is none gives an error that wraps ErrUnsupported, and
	// stays dense. weighted says that errors will be weighed by the inputs.
	Mix(o Origin, weighted bool) (scheme func(l Layer) (s quant.Scheme, remark string, err error), err error)
}

// Typer is a Format that has grids by name.
type Typer interface {
	// Typed gives the scheme of a layer with so many inputs in the type of that name,
	// with a remark if these make it another type. An unknown name is an error; inputs
	// that no type holds give one that wraps ErrUnsupported, and 0 inputs fit all.
	Typed(name string, in int) (s quant.Scheme, remark string, err error)
}

// Gridder is a Format that stores of a group something else than a scale and an
// integer zero-point, and so has grids beside the uniform ones.
type Gridder interface {
	// Own gives the scheme by which a layer is quantized for the format where s is
	// asked for: on a grid of the format's own with the same bits and groups, or s
	// itself.
	Own(s quant.Scheme) quant.Scheme
}

// Stacker is a Folder that holds some tensors of layers together in one.
type Stacker interface {
	// Stacks says for a model with this config.json in which tensor of one
	// dimension more a tensor lies, of those that Plan gives or that are dense, and
	// which of that dimension it is; nil if there are none. Together they are all of
	// it, of one type and shape.
	Stacks(config json.RawMessage) func(name string) (stack string, at int, ok bool)
}

// Unstacker is a Reader that shows such tensors one by one.
type Unstacker interface {
	// Unstack gives src with the tensors that others have in their places.
	Unstack(src Source) (Source, error)
}

// Plainer is a File that can show its quantized layers as the floats that they stand
// for.
type Plainer interface {
	File

	// ReadPlain is Read without a quantized layer.
	ReadPlain(path string) (*Opened, error)
}

// Opened is a model in one file.
type Opened struct {
	// Config is a config.json as Hugging Face would have it, made from the
	// file's own metadata.
	Config json.RawMessage
	// Source names tensors as Hugging Face does. Closing it closes the file.
	Source Source
	// Decoder reads the quantized layers; nil if there are none.
	Decoder Decoder
	// Files holds what would lie beside config.json in a folder, as far as
	// the file has it: tokenizer.json and its companions. What is an OwnFiles is
	// written beside a model that is made of this one.
	Files fs.FS
}

// OwnFiles are the files that a format makes of what a model in one file says.
type OwnFiles interface {
	fs.FS
	// Names lists them, paths with slashes; an error that they cannot be made.
	Names() ([]string, error)
}

// Origin is the model that quantized layers came from, as a File sees it.
// Names are those of Hugging Face. It is safe for concurrent use.
type Origin interface {
	// Path is where the model lies, for messages and its name.
	Path() string
	// Config is config.json.
	Config() json.RawMessage
	// Files holds the files that belong to the model and are no tensors.
	Files() fs.FS
	// Dense describes the tensors that belong to no quantized layer.
	Dense() []Spec
	// Shape is the shape of a tensor or of the weight of a quantized layer.
	Shape(name string) ([]int, bool)
	// Vector reads a one-dimensional tensor; NaN and infinities are errors.
	Vector(name string) ([]float32, error)
	// Rows reads the rows r0 <= r < r1 of a dense matrix into dst's memory
	// where that suffices; NaN and infinities are errors.
	Rows(name string, r0, r1 int, dst []float32) ([]float32, error)
	// Source gives the tensors as they are stored, for a format that passes
	// on what it has read itself. A vector may have other values by now:
	// Vector has them.
	Source() Source
}

// Advisor is implemented by formats that know what the engines that read them
// take.
type Advisor interface {
	// Engines says which engines load a checkpoint with these layers, which
	// have passed Check or are dense. Engines it does not speak of were not checked.
	Engines(layers []Layer) []Note
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

// Unsupported returns an error that wraps ErrUnsupported.
func Unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}

// Blocker is a Format whose groups are blocks of a size of its own.
type Blocker interface {
	// BlockSize is how many inputs share stored parameters: larger groups save nothing.
	BlockSize() int
}

// GroupSize is the block size of a format, or otherwise if it has none.
func GroupSize(f Format, otherwise int) int {
	if b, ok := f.(Blocker); ok {
		return b.BlockSize()
	}
	return otherwise
}
