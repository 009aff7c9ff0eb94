// Package formattest tests formats: listings, round trips, refusals, damage.
package formattest

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// WordsText prints little-endian words of 32 bits in hexadecimal.
func WordsText(data []byte) string {
	var s []string
	for _, w := range wire.Words(data) {
		s = append(s, fmt.Sprintf("%08X", w))
	}
	return strings.Join(s, ",")
}

// CheckPlan verifies that tensors are what Plan announces.
func CheckPlan(t require.TestingT, f layout.Folder, l layout.Layer, tensors []layout.Tensor) {
	specs, err := f.Plan(l)
	require.NoError(t, err)
	require.Len(t, tensors, len(specs))
	for i, s := range specs {
		require.Equal(t, s, tensors[i].Spec)
		require.EqualValues(t, s.Bytes(), len(tensors[i].Data))
	}
}

// ReadListing reads a listing of testdata: the bytes left of the bar of each
// tensor's lines.
func ReadListing(t testing.TB, path string) []layout.Tensor {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", path))
	require.NoError(t, err)
	var out []layout.Tensor
	for n, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if rest, ok := strings.CutPrefix(line, "tensor "); ok {
			name, rest, _ := strings.Cut(rest, " ")
			dtype, shape, _ := strings.Cut(rest, " ")
			tn := layout.Tensor{Spec: layout.Spec{Name: name, DType: safetensors.DType(dtype), Shape: []int{}}}
			for _, d := range strings.Fields(strings.Trim(shape, "[]")) {
				v, err := strconv.Atoi(d)
				require.NoError(t, err)
				tn.Shape = append(tn.Shape, v)
			}
			out = append(out, tn)
			continue
		}
		left, _, ok := strings.Cut(line, "|")
		require.True(t, ok, "%s:%d: no bar", path, n+1)
		data, err := hex.DecodeString(strings.ReplaceAll(left, " ", ""))
		require.NoError(t, err, "%s:%d", path, n+1)
		out[len(out)-1].Data = append(out[len(out)-1].Data, data...)
	}
	for _, tn := range out {
		require.Len(t, tn.Data, int(tn.Bytes()), "%s: %s", path, tn.Name)
	}
	return out
}

// ListingWeight is the weight that the listings of testdata describe.
func ListingWeight(out, in int, s quant.Scheme) *quant.Weight {
	w := quant.NewWeight(out, in, s)
	codes := make([]uint8, w.LineLen())
	for l := range w.Lines() {
		for p := range codes {
			codes[p] = uint8((l + p) % (s.MaxCode() + 1))
		}
		w.SetLine(l, codes)
		for k := range w.Groups() {
			w.Zeros[l*w.Groups()+k] = uint8(1 + (l+k)%s.MaxCode())
			w.Scales[l*w.Groups()+k] = float32(2+k) / float32(int(32)<<(l%4))
		}
	}
	return w
}

// FolderFormat is a format that is written to folders and read from them.
type FolderFormat interface {
	layout.Folder
	layout.Reader
}

// QuantizationOf is the quantization_config for one layer.
func QuantizationOf(t require.TestingT, f layout.Folder, l layout.Layer) json.RawMessage {
	c, err := f.Config(layout.Contents{Layers: []layout.Layer{l}, Config: json.RawMessage(`{"torch_dtype":"float16"}`)})
	require.NoError(t, err)
	return c.Quantization
}

// ReadBack opens tensors as a checkpoint of the format and reads its one layer.
func ReadBack(t require.TestingT, f layout.Reader, q json.RawMessage, tensors []layout.Tensor) (layout.Layer, *quant.Weight) {
	src := NewMemory(tensors...)
	d, err := f.Open(q, src)
	require.NoError(t, err)
	require.Len(t, d.Layers(), 1)
	l := d.Layers()[0]
	require.ElementsMatch(t, src.Names(), d.Tensors(l.Name))
	w, err := d.Weight(l.Name)
	require.NoError(t, err)
	require.Equal(t, layout.LayerOf(l.Name, w), l)
	return l, w
}

// RequireSame compares what the weights stand for, and how.
func RequireSame(t require.TestingT, want, got *quant.Weight) {
	require.Equal(t, want.Codes, got.Codes)
	require.Equal(t, want.Scales, got.Scales)
	require.Equal(t, want.Zeros, got.Zeros)
	require.Equal(t, want.GroupIndex, got.GroupIndex)
	require.Equal(t, want.Scheme.Bits, got.Scheme.Bits)
	require.Equal(t, want.Scheme.Axis, got.Scheme.Axis)
	require.Equal(t, want.Groups(), got.Groups())
	a, b := want.Dequantize(), got.Dequantize()
	require.Equal(t, a.Data, b.Data)
}

// CheckListing holds Encode to a listing, and reads it.
func CheckListing(t *testing.T, f FolderFormat, path string, w *quant.Weight) []layout.Tensor {
	t.Helper()
	l := layout.LayerOf("x", w)
	l.DType = safetensors.F16
	listed := ReadListing(t, path)
	tensors, err := f.Encode(l, w)
	require.NoError(t, err)
	CheckPlan(t, f, l, tensors)
	byName := map[string]layout.Tensor{}
	for _, tn := range listed {
		byName[tn.Name] = tn
	}
	for _, tn := range tensors {
		require.Equal(t, byName[tn.Name], tn, "%s: %s", path, tn.Name)
	}
	_, back := ReadBack(t, f, QuantizationOf(t, f, l), tensors)
	RequireSame(t, w, back)
	return listed
}

// DrawHeld draws a weight that a format with the given limits holds.
func DrawHeld(t *rapid.T, f layout.Format, bits, groups []int, outStep, inStep int, axes ...quant.Axis) (layout.Layer, *quant.Weight) {
	s := quant.Scheme{
		Bits:      rapid.SampledFrom(bits).Draw(t, "bits"),
		GroupSize: rapid.SampledFrom(groups).Draw(t, "group"),
		Axis:      rapid.SampledFrom(axes).Draw(t, "axis"),
		Symmetric: rapid.Bool().Draw(t, "sym"),
		ScaleType: rapid.SampledFrom([]quant.ScaleType{quant.F16, quant.F16Short, quant.BF16}).Draw(t, "scale"),
		MinZero:   rapid.IntRange(0, 1).Draw(t, "minzero"),
	}
	s.Strided = s.Axis == quant.IC
	out := outStep * rapid.IntRange(1, 4).Draw(t, "out")
	in := inStep * rapid.IntRange(1, 4).Draw(t, "in")
	if s.Strided && s.GroupSize != quant.WholeLine && out%s.GroupSize != 0 {
		out *= s.GroupSize
	}
	seed := rapid.Uint64().Draw(t, "seed")
	w := RandomWeight(seed, out, in, s, false, false)
	l := layout.LayerOf("model.layers.3.mlp.up_proj", w)
	l.DType = rapid.SampledFrom([]safetensors.DType{safetensors.F16, safetensors.BF16, safetensors.F32}).Draw(t, "dtype")
	if err := f.Check(l); err != nil {
		require.ErrorIs(t, err, layout.ErrUnsupported)
		t.Skip(err.Error())
	}
	return l, w
}

// CheckRoundTrip packs a weight and reads it back.
func CheckRoundTrip(t *rapid.T, f FolderFormat, l layout.Layer, w *quant.Weight) []layout.Tensor {
	before := fmt.Sprint(w.Codes, w.Scales, w.Zeros, w.GroupIndex)
	tensors, err := f.Encode(l, w)
	require.NoError(t, err)
	require.Equal(t, before, fmt.Sprint(w.Codes, w.Scales, w.Zeros, w.GroupIndex))
	CheckPlan(t, f, l, tensors)
	q := QuantizationOf(t, f, l)
	back, got := ReadBack(t, f, q, tensors)
	RequireSame(t, w, got)
	if w.Scheme.Symmetric {
		require.True(t, back.Scheme.Symmetric)
	}
	if w.Scheme.ScaleType != quant.BF16 { // of which half floats may hold all too
		require.Equal(t, quant.F16, back.Scheme.ScaleType)
	}
	return tensors
}

// Refusal is a layer that Check must refuse.
type Refusal struct {
	Name string
	Set  func(l *layout.Layer)
	Want string
}

// CheckRefusals verifies that Check accepts base, and refuses each change of
// it before any tensor exists.
func CheckRefusals(t *testing.T, f layout.Format, base layout.Layer, refusals []Refusal) {
	require.NoError(t, f.Check(base))
	for _, r := range refusals {
		t.Run(r.Name, func(t *testing.T) {
			l := base
			r.Set(&l)
			err := f.Check(l)
			require.ErrorIs(t, err, layout.ErrUnsupported)
			require.ErrorContains(t, err, r.Want)
			if folder, ok := f.(layout.Folder); ok {
				_, err = folder.Plan(l)
				require.ErrorIs(t, err, layout.ErrUnsupported)
			}
		})
	}
}

// Damage is a change to a good checkpoint that reading must notice.
type Damage struct {
	Name   string
	Config string // replaces the config if not empty
	Edit   func(m *Memory)
	Want   string
}

// CheckDamage verifies that each change makes Open or Weight fail with a
// message that names the file.
func CheckDamage(t *testing.T, f layout.Reader, q json.RawMessage, tensors []layout.Tensor, damages []Damage) {
	for _, d := range damages {
		t.Run(d.Name, func(t *testing.T) {
			src := NewMemory(tensors...)
			if d.Edit != nil {
				d.Edit(src)
			}
			config := q
			if d.Config != "" {
				config = json.RawMessage(d.Config)
			}
			err := OpenAll(f, config, src)
			require.ErrorContains(t, err, d.Want)
			if d.Config == "" {
				require.ErrorContains(t, err, "memory.safetensors")
			}
		})
	}
}

// OpenAll opens a checkpoint and reads every layer.
func OpenAll(f layout.Reader, q json.RawMessage, src layout.Source) error {
	d, err := f.Open(q, src)
	if err != nil {
		return err
	}
	for _, l := range d.Layers() {
		w, err := d.Weight(l.Name)
		if dense, ok := d.(layout.DenseDecoder); ok && errors.Is(err, layout.ErrNotWeight) {
			m, err := dense.Matrix(l.Name)
			if err != nil {
				return err
			}
			if m.Rows != l.Out || m.Cols != l.In {
				return errors.New("matrix of another shape")
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := w.Validate(); err != nil {
			return fmt.Errorf("a weight was read that is not valid: %w", err)
		}
	}
	return nil
}

// Edits of a tensor.

// SetSpec gives a tensor another type and shape.
func SetSpec(name string, t safetensors.DType, shape ...int) func(*Memory) {
	return func(m *Memory) {
		tn := m.Tensors[name]
		tn.DType, tn.Shape = t, shape
		data := make([]byte, tn.Bytes())
		copy(data, tn.Data)
		tn.Data = data
		m.Put(tn)
	}
}

// SetBytes changes bytes of a tensor.
func SetBytes(name string, at int, bytes ...byte) func(*Memory) {
	return func(m *Memory) {
		tn := m.Tensors[name]
		tn.Data = slices.Clone(tn.Data)
		copy(tn.Data[at:], bytes)
		m.Put(tn)
	}
}

// DropTensor takes a tensor away.
func DropTensor(name string) func(*Memory) { return func(m *Memory) { m.Drop(name) } }

// FuzzFormat mutates the config and the tensors of a good checkpoint: reading
// must give an error or valid weights.
func FuzzFormat(f *testing.F, format FolderFormat, layers ...*quant.Weight) {
	var tensors []layout.Tensor
	var c layout.Contents
	for i, w := range layers {
		l := layout.LayerOf(fmt.Sprintf("model.layers.%d.mlp.up_proj", i), w)
		l.DType = safetensors.F16
		more, err := format.Encode(l, w)
		require.NoError(f, err)
		tensors = append(tensors, more...)
		c.Layers = append(c.Layers, l)
	}
	good, err := format.Config(c)
	require.NoError(f, err)
	f.Add([]byte(good.Quantization), []byte{})
	f.Add([]byte(good.Quantization), []byte{0, 0, 1, 2, 0, 3, 2, 7, 200, 3, 1, 0})
	f.Add([]byte(`{"quant_method":"gptq","bits":3,"group_size":-1,"dynamic":{"-:a":{}},"meta":{"quantizer":"gptqmodel:1"}}`), []byte{1, 1, 9})
	types := []safetensors.DType{safetensors.I32, safetensors.F16, safetensors.BF16, safetensors.F32, safetensors.U8, safetensors.I8, safetensors.I64}
	f.Fuzz(func(t *testing.T, config, edits []byte) {
		if !json.Valid(config) {
			config = good.Quantization
		}
		src := NewMemory(tensors...)
		reshape := func(name string, dtype safetensors.DType, shape ...int) {
			if n := (layout.Spec{DType: dtype, Shape: shape}).Bytes(); n >= 0 && n < 1<<16 {
				SetSpec(name, dtype, shape...)(src)
			}
		}
		for n := 0; n < 8 && len(edits) >= 4; n++ {
			name := tensors[int(edits[0])%len(tensors)].Name
			a, b := int(edits[2]), int(edits[3])
			tn, ok := src.Tensors[name]
			if ok {
				switch edits[1] % 5 {
				case 0:
					src.Drop(name)
				case 1:
					reshape(name, types[a%len(types)], tn.Shape...)
				case 2:
					shape := slices.Clone(tn.Shape)
					if len(shape) > 0 {
						shape[a%len(shape)] = b
					}
					reshape(name, tn.DType, shape...)
				case 3:
					if len(tn.Data) > 0 {
						SetBytes(name, a*7%len(tn.Data), byte(b))(src)
					}
				case 4:
					reshape(name, tn.DType, append(slices.Clone(tn.Shape), b%3)...)
				}
			}
			edits = edits[4:]
		}
		if err := OpenAll(format, config, src); err != nil && strings.Contains(err.Error(), "not valid") {
			t.Fatal(err)
		}
	})
}
