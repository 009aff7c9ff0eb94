package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	compressedtensors "github.com/golowbit/lowbit/checkpoint/formats/compressed"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/checkpoint/rotation"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

const embedded = "tinyllama-2m"

// kind is a file to write: a model in a format. Bits 0 is the model as it is, in
// format gguf or "".
type kind struct {
	model     string // folder in testdata
	format    string
	bits      int
	group     int
	symmetric bool
	inInputs  bool   // groups inside input channels
	mixed     bool   // one linear of one block stays dense
	unlike    string // a rule for some of the layers
	grid      string // of a block type, alone, in format gguf, or floats of 4 bits
	scales    string // their type, "" for what is chosen
	fit       bool   // layers that the format does not hold stay dense
	chat      bool   // with a chat template
	rotated   bool   // of the model in other bases
	// int8Inputs says that inputs are rounded to 8 bits too when the model runs.
	int8Inputs bool
	older      bool // with the rotation's base where configurations had it before transformers 5
}

func (k kind) String() string {
	if k.grid != "" {
		return fmt.Sprintf("%s %s %s", k.model, k.format, k.grid)
	}
	if k.bits == 0 {
		return strings.TrimSuffix(k.model+" as it is, "+k.format, ", ")
	}
	s := fmt.Sprintf("%s %s %d bits, groups of %d", k.model, k.format, k.bits, k.group)
	if !k.symmetric {
		s += ", asymmetric"
	}
	if k.inInputs {
		s += ", inside inputs"
	}
	if k.scales != "" {
		s += ", " + k.scales
	}
	if k.mixed {
		s += ", a dense linear"
	}
	if k.rotated {
		s += ", rotated"
	}
	if k.unlike != "" {
		s += ", but " + k.unlike
	}
	return s
}

// written is a file, and what lowbit makes of it.
type written struct {
	source  string // the model that it is made of
	path    string
	refused error // why there is none
	ids     [][]int32
	logits  *tensor.Matrix // [tokens, vocabulary]
	notes   []layout.Note
	grid    string // of the layers, if the format has one of its own
	// modelType is config.json's, of the models that are not the embedded one.
	modelType string
}

// pureTypes are file types in which most linears have a grid.
var pureTypes = map[string]string{
	"Q2_K": "Q2_K", "Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S", "Q6_K": "Q6_K", "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS", "MXFP4": "MXFP4",
}

// gridFiles are files of each of pureTypes.
func gridFiles() []kind {
	var all []kind
	for _, name := range slices.Sorted(maps.Keys(pureTypes)) {
		g, _ := kquant.Named(name)
		all = append(all, kind{model: embedded, format: "gguf", bits: g.Bits(), group: g.Scheme().GroupSize, grid: name})
	}
	return all
}

// floats are files of floats of 4 bits, in MXFP4 and in NVFP4.
func floats(format string) []kind {
	return []kind{{model: embedded, format: format, bits: 4, group: 32, grid: "mxfp4"}, {model: embedded, format: format, bits: 4, group: 16, grid: "nvfp4"}}
}

// alone is the linear that stays dense.
var alone = regexp.MustCompile(`layers\.1\.self_attn\.o_proj$`)

// file writes a file, once.
func (b *bench) file(ctx context.Context, k kind) (*written, error) {
	if w, ok := b.files[k]; ok {
		return w, nil
	}
	w, err := write(ctx, k, filepath.Join(b.work, fmt.Sprintf("file-%d", len(b.files))))
	if err != nil {
		return nil, fmt.Errorf("%v: %w", k, err)
	}
	b.files[k] = w
	return w, nil
}

// options are what the file is quantized with.
func (k kind) options(source, out string) (o lowbit.Options, err error) {
	format, err := checkpoint.Lookup(k.format)
	if err != nil {
		return o, err
	}
	axis := lowbit.AxisOC
	if k.inInputs {
		axis = lowbit.AxisIC
	}
	o = lowbit.Options{
		Model: source, Output: out, Format: format, Method: quant.RTN{},
		Bits: k.bits, GroupSize: k.group, Symmetric: &k.symmetric, Axis: axis,
	}
	if k.grid != "" {
		o.Bits, o.GroupSize, o.Symmetric = 0, 0, nil
		switch k.format {
		case "gguf":
			o.Format = ggufmodel.Format{Type: k.grid, Dense: safetensors.F16} // a mixture
			if pure, ok := pureTypes[k.grid]; ok {
				o.Format = ggufmodel.Format{Type: pure, Pure: true, Dense: safetensors.F16}
			}
		case "bitsandbytes":
			o.Method = llmint8.Quantizer{}
		case "mlx":
			o.Format = mlx.Format{FP4: k.grid}
		case "compressed-tensors":
			o.Format = compressedtensors.Format{FP4: k.grid}
		}
	}
	if k.scales != "" {
		t, err := quant.ParseScaleType(k.scales)
		if err != nil {
			return o, err
		}
		o.ScaleType = &t
	}
	if k.fit {
		o.Fit = lowbit.FitOn
	}
	if k.mixed {
		o.Skip = []*regexp.Regexp{alone}
	}
	if k.unlike != "" {
		rule, err := fitting.ParseRule(k.unlike)
		if err != nil {
			return o, err
		}
		o.Rules = []lowbit.Rule{rule}
	}
	return o, nil
}

func write(ctx context.Context, k kind, out string) (*written, error) {
	source := filepath.Join("testdata", k.model)
	w := &written{}
	var err error
	if w.ids, err = tokens(source); err != nil {
		return nil, err
	}
	if k.older {
		if source, err = older(source, out+"-source"); err != nil {
			return nil, err
		}
	}
	if k.rotated {
		if source, err = rotated(ctx, source, out+"-source"); err != nil {
			return nil, err
		}
	}
	if k.chat {
		if source, err = withTemplate(source, out+"-source"); err != nil {
			return nil, err
		}
	}
	w.path, w.source = source, source
	if k.format == "gguf" {
		out += ".gguf"
	}
	if k.bits == 0 && k.format != "" {
		w.path = out
		if err := unquantized(ctx, source, out); err != nil {
			return nil, err
		}
	}
	if k.bits > 0 {
		w.path = out
		o, err := k.options(source, out)
		if err != nil {
			return nil, err
		}
		if _, err := lowbit.Quantize(ctx, o); errors.Is(err, layout.ErrUnsupported) {
			return &written{refused: err}, nil
		} else if err != nil {
			return nil, err
		}
	}
	m, err := checkpoint.Open(w.path)
	if err != nil {
		return nil, err
	}
	w.notes = m.Engines()
	if layers := m.Layers(); len(layers) > 0 && k.format != "gguf" && layers[0].Scheme.Grid != nil {
		text, err := layers[0].Scheme.Grid.MarshalText()
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		w.grid = string(text)
	}
	if k.model != embedded {
		var config struct {
			ModelType string `json:"model_type"`
		}
		if err := json.Unmarshal(m.Config(), &config); err != nil {
			return nil, errors.Join(err, m.Close())
		}
		w.modelType = config.ModelType
	}
	if err := m.Close(); err != nil {
		return nil, err
	}
	var inputs *float32
	if k.int8Inputs {
		inputs = new(float32(llmint8.DefaultThreshold))
	}
	w.logits, err = logits(ctx, w.path, w.ids, inputs)
	return w, err
}

// rotated writes a model in other bases, which predicts the same, and returns where to.
func rotated(ctx context.Context, source, dir string) (string, error) {
	_, _, err := lowbit.Rotate(ctx, lowbit.RotateOptions{Model: source, WriteOptions: rotation.WriteOptions{Output: dir, Kinds: []rotation.Kind{rotation.Hadamard}}})
	return dir, err
}

// older copies a model with what its "rope_parameters" hold beside them, and returns
// where to.
func older(source, dir string) (string, error) {
	if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
		return "", err
	}
	path := filepath.Join(dir, layout.ConfigFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	config, err := layout.ParseObject(data)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if v, ok := config.Get("rope_parameters"); ok {
		rope, err := layout.ParseObject(v)
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		for i, key := range rope.Keys {
			if key != "rope_type" {
				config.Set(key, rope.Values[i])
			}
		}
	}
	return dir, os.WriteFile(path, config.Bytes(), 0o600)
}

// unquantized writes a model as GGUF, in half floats.
func unquantized(ctx context.Context, source, out string) error {
	src, err := checkpoint.Open(source)
	if err != nil {
		return err
	}
	defer src.Close()
	w, err := checkpoint.Create(checkpoint.WriterOptions{Out: out, Source: src, Format: ggufmodel.Format{}})
	if err != nil {
		return err
	}
	return w.Finish(ctx)
}

// tokens are those that a model is run on: of its reference, or of a text.
func tokens(dir string) ([][]int32, error) {
	if dir != filepath.Join("testdata", embedded) {
		var reference struct {
			IDs [][]int32 `json:"input_ids"`
		}
		data, err := os.ReadFile(filepath.Join(dir, "reference.json"))
		if err != nil {
			return nil, err
		}
		return reference.IDs, json.Unmarshal(data, &reference)
	}
	t, err := tokenizer.Open(dir)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join("testdata", embedded+"-text", "heldout.txt"))
	if err != nil {
		return nil, err
	}
	const n = 64
	ids := t.Encode(string(text[:16*n]))
	return [][]int32{ids[:n], ids[n : 2*n]}, nil
}

// logits are lowbit's, in float32, of int8 with inputs in 8 bits too.
func logits(ctx context.Context, model string, ids [][]int32, int8Inputs *float32) (*tensor.Matrix, error) {
	var all *tensor.Matrix
	_, err := lowbit.Evaluate(ctx, lowbit.EvalOptions{
		Model: model, Text: lowbit.Text{IDs: ids}, Sequences: true, Int8Inputs: int8Inputs,
		Logits: func(window, first int, l *tensor.Matrix) error {
			n := len(ids[0])
			if all == nil {
				all = tensor.New(len(ids)*n, l.Cols)
			}
			copy(all.Data[(window*n+first)*l.Cols:], l.Data[:l.Rows*l.Cols])
			return nil
		},
	})
	return all, err
}
