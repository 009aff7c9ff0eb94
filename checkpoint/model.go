package checkpoint

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/internal/coded"
	"github.com/golowbit/lowbit/checkpoint/internal/copied"
	"github.com/golowbit/lowbit/checkpoint/internal/hubcache"
	"github.com/golowbit/lowbit/checkpoint/internal/several"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/wire"
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
	path     string
	base     string // of an adapter, else ""
	config   json.RawMessage
	noConfig bool // config is empty because there is no file
	src      layout.Source
	format   layout.Format
	dec      layout.Decoder // nil if nothing is quantized

	layers []layout.Layer
	index  map[string]int    // layer by name
	part   map[string]string // layer a packed tensor belongs to
	dense  []string          // tensors that belong to no layer, in file order
	files  fs.FS
	notes  []string
	outIn  map[string]bool // tensors that are [out, in] whatever the architecture stores
}

const (
	maxConfig  = 64 << 20
	biasSuffix = ".bias"
)

// Open opens a model folder, or a model file of a format that is one file: also a folder
// with one such file and no other model, or any part of a model in several. A
// folder may hold safetensors files, PyTorch's (pytorch_model.bin), Mistral's or
// Meta's own (consolidated.*) or a LoRA adapter (see OpenAdapter); a model's
// folder in the cache of Hugging Face's hub stands for its newest snapshot, and
// so does its name (ORG/NAME) where there is no such path.
// Formats that Formats does not list are recognized if they are given.
func Open(path string, extra ...layout.Format) (*Model, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && hubcache.IsName(path) {
		if cached, cacheErr := hubcache.Find(hubcache.Dir(os.Getenv), path, ""); cacheErr == nil {
			return openAnyFolder(cached, withExtra(extra))
		}
	}
	if err != nil {
		return nil, err
	}
	formats := withExtra(extra)
	if !info.IsDir() {
		if err := disk.Regular(path); err != nil {
			return nil, err
		}
		return openFile(path, formats)
	}
	if snapshot, ok, err := hubcache.Resolve(path); err != nil {
		return nil, err
	} else if ok {
		path = snapshot
	}
	if IsAdapter(path) {
		return OpenAdapter(path, "", extra...)
	}
	return openAnyFolder(path, formats)
}

// OpenStored opens a model as it is stored: also one that is quantized in a way
// that is not known here, whose tensors then count as dense ones. unknown says
// why it cannot be opened otherwise; nil if it can.
func OpenStored(path string) (m *Model, unknown, err error) {
	m, unknown = Open(path)
	if unknown == nil {
		return m, nil, nil
	}
	config, err := readConfig(filepath.Join(path, layout.ConfigFile))
	if err != nil {
		return nil, nil, unknown
	}
	src, config, err := openFolder(path, config)
	if err != nil {
		return nil, nil, unknown
	}
	m, err = (&Model{path: path, config: config, src: src, format: dense.Format{}, files: os.DirFS(path)}).indexed()
	return m, unknown, err
}

func openFile(path string, formats []layout.Format) (*Model, error) {
	for _, f := range formats {
		file, ok := f.(layout.File)
		if !ok {
			continue
		}
		o, err := file.Read(path)
		if err != nil {
			return nil, err
		}
		if o != nil {
			m := &Model{path: several.PartsOf(path, formats)[0], config: o.Config, src: o.Source, format: f, dec: o.Decoder, files: o.Files}
			if m.files == nil {
				m.files = embed.FS{} // none
			}
			return m.indexed()
		}
	}
	if dir := filepath.Dir(path); copied.IsWeights(path) && !several.StandsAlone(path, formats) && isFile(filepath.Join(dir, layout.ConfigFile)) {
		return nil, fmt.Errorf("%s: one file of a model: give the folder that holds it, %s", path, dir)
	}
	return nil, fmt.Errorf("%s: neither a model folder nor a model file of a known format", path)
}

func readConfig(path string) (json.RawMessage, error) {
	data, err := disk.ReadText(path, maxConfig)
	if err != nil {
		return nil, err
	}
	if _, err := layout.ParseObject(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

// quantizationConfig returns the quantization_config of a folder, or nil.
func quantizationConfig(dir string, config json.RawMessage, formats []layout.Format) (json.RawMessage, error) {
	o, err := layout.ParseObject(config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, layout.ConfigFile), err)
	}
	for _, key := range []string{layout.QuantizationKey, copied.OlderKey} {
		if v, ok := o.Get(key); ok && string(v) != "null" {
			return v, nil
		}
	}
	// mlx-lm's own key. What it writes under Hugging Face's has no quant_method.
	if v, ok := o.Get(copied.MLXKey); ok && (mlx.Format{}).Detect(v) {
		return v, nil
	}
	sidecars := []layout.Sidecar{coded.Sidecar{}}
	for _, f := range formats {
		if s, ok := f.(layout.Sidecar); ok {
			sidecars = append(sidecars, s)
		}
	}
	for _, s := range sidecars {
		path := filepath.Join(dir, s.Sidecar())
		data, err := readConfig(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		quantization, err := s.FromSidecar(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return quantization, nil
	}
	return nil, nil
}

func detect(quantization json.RawMessage, formats []layout.Format) (layout.Reader, error) {
	var names []string
	for _, f := range formats {
		if r, ok := f.(layout.Reader); ok && r.Detect(quantization) {
			return r, nil
		}
		names = append(names, f.Name())
	}
	if m := layout.QuantMethod(quantization); m != "" {
		return nil, fmt.Errorf("%s: quant_method %q cannot be read: known formats are %s", layout.QuantizationKey, m, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("%s of an unknown format: known formats are %s", layout.QuantizationKey, strings.Join(names, ", "))
}

// indexed finds the layers and tells the other tensors from theirs. It closes
// the source if they contradict each other.
func (m *Model) indexed() (*Model, error) {
	src, dec, path := m.src, m.dec, m.path
	m.index, m.part = map[string]int{}, map[string]string{}
	if dec != nil {
		m.layers = dec.Layers()
	}
	fallback := layout.ConfigDType(m.config)
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
		if base, ok := strings.CutSuffix(name, layout.WeightSuffix); ok {
			if _, twice := m.index[base]; twice {
				return nil, errors.Join(layout.TensorError(src, name, "the layer is there in packed form too"), src.Close())
			}
		}
		m.dense = append(m.dense, name)
	}
	return m, nil
}

// Plain is the model as one without a quantized layer, with a note of what its layers
// have been: itself if none is; where its format allows it the file read anew, with
// the floats that its codes stand for, and m is closed; else it shares the files of m,
// and shows layers as F32. On an error it is m, open.
func (m *Model) Plain() (*Model, error) {
	if len(m.layers) == 0 {
		return m, nil
	}
	var stored, weights int64
	for _, l := range m.layers {
		weights += int64(l.Out) * int64(l.In)
		for _, t := range m.LayerTensors(l.Name) {
			stored += t.Bytes()
		}
	}
	note := fmt.Sprintf("requantized from %s: %d layers of %.2f bits a weight, whose values are taken for the model's", m.format.Name(), len(m.layers), 8*float64(stored)/float64(weights))
	f, ok := m.format.(layout.Plainer)
	if !ok {
		return m.plain(note)
	}
	o, err := f.ReadPlain(m.path)
	if err != nil {
		return m, err
	}
	p, err := (&Model{path: m.path, config: o.Config, src: o.Source, format: m.format, dec: o.Decoder, files: o.Files}).indexed()
	if err != nil {
		return m, err
	}
	p.notes = []string{note}
	return p, m.Close()
}

// Notes say what whoever works on the model should know of it.
func (m *Model) Notes() []string { return slices.Clone(m.notes) }

// Close closes the model's files.
func (m *Model) Close() error { return m.src.Close() }

// Path is the path the model was opened with.
func (m *Model) Path() string { return m.path }

// Base is the path of the model that an adapter was merged into; "" for
// other models.
func (m *Model) Base() string { return m.base }

// Hub is the model's name on Hugging Face's hub and its commit, "" where it does not lie in
// a cache of the hub. Of an adapter that does not it is its base's.
func (m *Model) Hub() (name, commit string) {
	name, commit, ok := hubcache.Of(m.path)
	if !ok && m.base != "" {
		name, commit, _ = hubcache.Of(m.base)
	}
	return name, commit
}

// HasConfig reports whether there is a config.json, or metadata for one.
func (m *Model) HasConfig() bool { return !m.noConfig }

// Config is config.json as it was read, or as a container's metadata gives it;
// an empty object where there is none.
func (m *Model) Config() json.RawMessage { return m.config }

// Format is the format the model was found to be in; Dense if nothing in it
// is quantized.
func (m *Model) Format() layout.Format { return m.format }

// Coded tells what tensors are shown as the floats that their codes stand for, "FP8 (7
// tensors)"; "" if none are.
func (m *Model) Coded() string {
	if c, ok := m.src.(*coded.Source); ok {
		return c.Kinds()
	}
	return ""
}

// Files holds the files that belong to the model and are no tensors: the
// folder, or for a model in one file what its metadata says of the tokenizer,
// as the files that a folder would have.
func (m *Model) Files() fs.FS { return m.files }

// Source gives the tensors as they are stored.
func (m *Model) Source() layout.Source { return m.src }

// Layers describes the quantized layers in file order.
func (m *Model) Layers() []layout.Layer { return slices.Clone(m.layers) }

// Layer describes a quantized layer; ok is false if there is none of that name.
func (m *Model) Layer(name string) (l layout.Layer, ok bool) {
	i, ok := m.index[name]
	if !ok {
		return layout.Layer{}, false
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
func (m *Model) LayerTensors(name string) []layout.Spec {
	if m.dec == nil {
		return nil
	}
	var specs []layout.Spec
	for _, t := range m.dec.Tensors(name) {
		if s, ok := m.src.Spec(t); ok {
			specs = append(specs, s)
		}
	}
	return specs
}

// Dense describes the tensors that belong to no quantized layer, in file order.
func (m *Model) Dense() []layout.Spec {
	specs := make([]layout.Spec, len(m.dense))
	for i, name := range m.dense {
		specs[i], _ = m.src.Spec(name)
	}
	return specs
}

// Bytes is the size of all tensors as they are stored.
func (m *Model) Bytes() int64 {
	if c, ok := m.src.(*coded.Source); ok {
		return c.Stored() // less than what is shown
	}
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

// Names lists the tensors that can be read: the dense ones, and the weights of
// the quantized layers.
func (m *Model) Names() []string {
	var names []string
	for _, s := range m.Dense() {
		names = append(names, s.Name)
	}
	for _, l := range m.layers {
		names = append(names, l.Name+layout.WeightSuffix)
	}
	return names
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

func (m *Model) quantized(name string) (layout.Layer, bool) {
	base, ok := strings.CutSuffix(name, layout.WeightSuffix)
	if !ok {
		return layout.Layer{}, false
	}
	return m.Layer(base)
}

// QuantizedWeight reports whether a name, with ".weight", is that of a quantized
// layer, which Matrix gives as [out, in] whatever the architecture stores.
func (m *Model) QuantizedWeight(name string) bool {
	_, ok := m.quantized(name)
	return ok || m.outIn[name]
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

func (m *Model) dequantize(l layout.Layer) (*tensor.Matrix, error) {
	w, err := m.dec.Weight(l.Name)
	var d *tensor.Matrix
	if err == nil {
		d = w.Dequantize()
	} else {
		dd, ok := m.dec.(layout.DenseDecoder)
		if !ok || !errors.Is(err, layout.ErrNotWeight) {
			return nil, err
		}
		if d, err = dd.Matrix(l.Name); err != nil {
			return nil, err
		}
	}
	for r := range d.Rows {
		if j := wire.NotFinite(d.Row(r)); j >= 0 {
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
		shape[i] = layout.AnyDim
	}
	v, err := layout.ReadFloats(m.src, name, shape...)
	if err != nil {
		return nil, nil, err
	}
	if i := wire.NotFinite(v); i >= 0 {
		return nil, nil, notFiniteError(m.src, name, i, v[i])
	}
	s, _ := m.src.Spec(name)
	return v, s.Shape, nil
}
