package checkpoint_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// toy is a format from outside: 8 symmetric bits for whole rows, a byte for
// each code.
type toy struct{}

func (toy) Name() string { return "toy" }

func (toy) Check(l layout.Layer) error {
	s := l.Scheme
	if s.Bits != 8 || !s.Symmetric || s.Axis != quant.OC || s.GroupSize != quant.WholeLine || s.ScaleType != quant.F32 {
		return layout.Unsupported("toy holds symmetric 8 bits for whole rows with f32 scales")
	}
	return nil
}

func (f toy) Plan(l layout.Layer) ([]layout.Spec, error) {
	return []layout.Spec{
		{Name: l.Name + ".toy", DType: safetensors.U8, Shape: []int{l.Out, l.In}},
		{Name: l.Name + ".toy_scale", DType: safetensors.F32, Shape: []int{l.Out}},
	}, f.Check(l)
}

func (f toy) Encode(l layout.Layer, w *quant.Weight) ([]layout.Tensor, error) {
	specs, err := f.Plan(l)
	if err != nil {
		return nil, err
	}
	codes := make([]byte, l.Out*l.In)
	for r := range l.Out {
		w.Line(codes[r*l.In:(r+1)*l.In], r)
	}
	scales, err := layout.FloatTensor(specs[1].Name, safetensors.F32, w.Scales, l.Out)
	return []layout.Tensor{{Spec: specs[0], Data: codes}, scales}, err
}

func (toy) Config(layout.Contents) (layout.Config, error) {
	return layout.Config{Quantization: json.RawMessage(`{"quant_method":"toy"}`)}, nil
}

func (toy) Detect(q json.RawMessage) bool { return layout.QuantMethod(q) == "toy" }

func (toy) Open(_ json.RawMessage, src layout.Source) (layout.Decoder, error) {
	d := &layout.PackedDecoder{}
	for _, name := range src.Names() {
		base, ok := strings.CutSuffix(name, ".toy")
		if !ok {
			continue
		}
		spec, err := layout.Want(src, name, []int{layout.AnyDim, layout.AnyDim}, safetensors.U8)
		if err != nil {
			return nil, err
		}
		l := layout.Layer{Name: base, Out: spec.Shape[0], In: spec.Shape[1]}
		l.Scheme = quant.Scheme{Bits: 8, GroupSize: quant.WholeLine, Symmetric: true, ScaleType: quant.F32}
		read := func() (*quant.Weight, error) {
			w := quant.NewWeight(l.Out, l.In, l.Scheme)
			_, codes, err := layout.ReadBytes(src, name, spec.Shape, safetensors.U8)
			if err != nil {
				return nil, err
			}
			for r := range l.Out {
				w.SetLine(r, codes[r*l.In:(r+1)*l.In])
				w.Zeros[r] = layout.SymmetricZero(8)
			}
			w.Scales, err = layout.ReadFloats(src, base+".toy_scale", l.Out)
			return w, err
		}
		d.Add(layout.PackedLayer{Layer: l, Parts: []string{name, base + ".toy_scale"}, File: src.File(name), Read: read})
	}
	return d, nil
}

func (toy) Engines(layers []layout.Layer) []layout.Note {
	return []layout.Note{layout.Judge("toyengine", layers, layout.Always(true, fmt.Sprintf("all %d layers", len(layers))))}
}

// A format that this module does not know is written, read, converted and
// advised on like its own.
func TestFormatFromOutside(t *testing.T) {
	src, err := checkpoint.Open(filepath.Join("..", "testdata", "tinyllama-2m"))
	require.NoError(t, err)
	defer src.Close()
	const name = "model.layers.1.mlp.up_proj"
	x, err := src.Matrix(name + ".weight")
	require.NoError(t, err)
	s := quant.Scheme{Bits: 8, GroupSize: quant.WholeLine, Symmetric: true, ScaleType: quant.F32}
	w, err := quant.RTN{}.Quantize(t.Context(), x, s, nil)
	require.NoError(t, err)

	f, err := checkpoint.Lookup("toy", toy{})
	require.NoError(t, err)
	dir := t.TempDir()
	out := filepath.Join(dir, "toy")
	writer, err := checkpoint.Create(checkpoint.WriterOptions{Out: out, Source: src, Format: f, Layers: []layout.Layer{{Name: name}}})
	require.NoError(t, err)
	require.NoError(t, writer.Put(name, w, nil))
	require.NoError(t, writer.Finish(t.Context()))

	_, err = checkpoint.Open(out)
	require.ErrorContains(t, err, `quant_method "toy" cannot be read`)
	m, err := checkpoint.Open(out, toy{})
	require.NoError(t, err)
	defer m.Close()
	require.Equal(t, "toy", m.Format().Name())
	got, err := m.Weight(name)
	require.NoError(t, err)
	require.Equal(t, w.Dequantize().Data, got.Dequantize().Data)

	native, err := checkpoint.Lookup("lowbit")
	require.NoError(t, err)
	again := filepath.Join(dir, "lowbit")
	require.NoError(t, checkpoint.Convert(t.Context(), checkpoint.WriterOptions{Out: again, Source: m, Format: native}))
	converted, err := checkpoint.Open(again)
	require.NoError(t, err)
	defer converted.Close()
	got, err = converted.Weight(name)
	require.NoError(t, err)
	require.Equal(t, w.Dequantize().Data, got.Dequantize().Data)

	notes := checkpoint.Engines(toy{}, m.Layers())
	require.Equal(t, layout.Note{Engine: "toyengine", Accepted: true, Reason: "all 1 layers"}, notes[len(notes)-1])

	// A format that can be neither a folder nor a file is refused at once.
	_, err = checkpoint.Create(checkpoint.WriterOptions{Out: out + "2", Source: src, Format: nameOnly{}, Layers: []layout.Layer{{Name: name}}})
	require.ErrorContains(t, err, "format name cannot be written")
}

type nameOnly struct{}

func (nameOnly) Name() string             { return "name" }
func (nameOnly) Check(layout.Layer) error { return nil }
