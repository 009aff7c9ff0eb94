package coded

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/safetensors"
)

// open opens a file of testdata, without the values that are wanted: only hides them.
func open(t testing.TB, file string) (src layout.Source, config json.RawMessage) {
	t.Helper()
	f, err := safetensors.Open(filepath.Join("testdata", file))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return weights.Source{Tensors: weights.Safetensors(f, file)}, json.RawMessage(f.Metadata()["quantization_config"])
}

func floats32(t testing.TB, src layout.Source, name string) []float32 {
	t.Helper()
	s, ok := src.Spec(name)
	require.True(t, ok, name)
	v, err := layout.ReadFloats(src, name, s.Shape...)
	require.NoError(t, err)
	return v
}

// Every value is the one that the library makes of it in float32, bit for bit, but the sign of zeros (bitsandbytes has
// another in its table than in its kernel); see
// testdata/generate.py. Tensors shown as BF16 lose nothing by it.
func TestValues(t *testing.T) {
	bf16 := []string{"e8m0.weight", "bytes.weight", "powers.weight", "experts.down_proj", "b.weight of modelopt"}
	files, err := filepath.Glob("testdata/*.safetensors")
	require.NoError(t, err)
	require.Len(t, files, 5)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".safetensors")
		t.Run(name, func(t *testing.T) {
			src, config := open(t, filepath.Base(file))
			s, err := Show(config, src)
			require.NoError(t, err)
			require.NotNil(t, s)
			checked := 0
			for _, w := range src.Names() {
				x, ok := strings.CutPrefix(w, "want/")
				if !ok {
					continue
				}
				want, wantSpec := floats32(t, src, w), must(src.Spec(w))
				got, spec := floats32(t, s, x), must(s.Spec(x))
				require.Equal(t, wantSpec.Shape, spec.Shape, x)
				for i := range want {
					require.True(t, want[i] == got[i], "%s %d: %g, want %g", x, i, got[i], want[i])
				}
				exact := slices.Contains(bf16, x) || slices.Contains(bf16, x+" of "+name)
				require.Equal(t, typeFor(exact), spec.DType, x)
				inPieces(t, s, spec)
				checked++
			}
			require.Equal(t, len(s.tensors), checked)
			require.Len(t, s.Names(), 2*checked, "parts are shown: %v", s.Names())
		})
	}
}

func must(s layout.Spec, ok bool) layout.Spec {
	if !ok {
		panic("no tensor")
	}
	return s
}

// inPieces: bytes from anywhere are those of the whole.
func inPieces(t *testing.T, s *Source, spec layout.Spec) {
	t.Helper()
	whole := make([]byte, spec.Bytes())
	require.NoError(t, s.ReadAt(spec.Name, whole, 0))
	for _, step := range []int{1, 3, 4, 10, 333, len(whole)/2 + 1} {
		if step < 10 && len(whole) > 5000 {
			continue
		}
		got := make([]byte, len(whole))
		for at := 0; at < len(got); at += step {
			require.NoError(t, s.ReadAt(spec.Name, got[at:min(at+step, len(got))], int64(at)))
		}
		require.Equal(t, whole, got, "%s by %d", spec.Name, step)
	}
	require.Error(t, s.ReadAt(spec.Name, make([]byte, 1), spec.Bytes()))
	require.Error(t, s.ReadAt(spec.Name, make([]byte, 1), -1))
}

// memory is a source of tensors in memory.
type memory struct {
	names []string
	specs map[string]layout.Spec
	data  map[string][]byte
}

func (m *memory) add(name string, t safetensors.DType, data []byte, shape ...int) *memory {
	if m.specs == nil {
		m.specs, m.data = map[string]layout.Spec{}, map[string][]byte{}
	}
	m.names = append(m.names, name)
	m.specs[name] = layout.Spec{Name: name, DType: t, Shape: shape}
	if data == nil {
		data = make([]byte, m.specs[name].Bytes())
	}
	m.data[name] = data
	return m
}

func (m *memory) Names() []string                      { return m.names }
func (m *memory) Spec(name string) (layout.Spec, bool) { s, ok := m.specs[name]; return s, ok }
func (m *memory) File(string) string                   { return "model.safetensors" }
func (m *memory) Close() error                         { return nil }
func (m *memory) ReadAt(name string, p []byte, off int64) error {
	copy(p, m.data[name][off:])
	return nil
}

func TestRefusals(t *testing.T) {
	const w = "x.weight"
	for _, c := range []struct {
		name, want string
		config     string
		src        *memory
	}{
		{"no scale", `"x.weight": F8_E4M3 without "x.weight_scale_inv"`, "fp8", new(memory).add(w, safetensors.F8E4M3, nil, 4, 4)},
		{"scales of no blocks", `3 scales for 4 rows`, "fp8", new(memory).add(w, safetensors.F8E4M3, nil, 4, 4).add(w+"_scale_inv", safetensors.F32, nil, 3, 2)},
		{"a vector", `shape [4], want [.., out, in]`, "fp8", new(memory).add(w, safetensors.F8E4M3, nil, 4)},
		{"scales of another type", `dtype I32`, "fp8", new(memory).add(w, safetensors.F8E4M3, nil, 4, 4).add(w+"_scale", safetensors.I32, nil, 1)},
		{"too many scales", `shape [5], want`, "fp8", new(memory).add(w, safetensors.F8E4M3, nil, 4, 4).add(w+"_scale", safetensors.F32, nil, 5)},
		{"half a block", `want [experts, out, in/32, 16]`, "mxfp4", new(memory).add("e_blocks", safetensors.U8, nil, 1, 2, 1, 8).add("e_scales", safetensors.U8, nil, 1, 2, 1)},
		{"scales of other experts", `"e_scales": shape [2 2 1]`, "mxfp4", new(memory).add("e_blocks", safetensors.U8, nil, 1, 2, 1, 16).add("e_scales", safetensors.U8, nil, 2, 2, 1)},
		{"no whole groups", `shape [2 6], want [2 0]`, "modelopt", new(memory).add(w, safetensors.U8, nil, 2, 6).add(w+"_scale", safetensors.F8E4M3, nil, 2, 6).add(w+"_scale_2", safetensors.F32, nil)},
		{"bytes of another shape", `8 bytes, want 2 values a byte of [4 8]`, "bitsandbytes", new(memory).add(w, safetensors.U8, nil, 8, 1).
			add(w+stateKey+"nf4", safetensors.U8, []byte(`{"quant_type":"nf4","blocksize":64,"shape":[4,8]}`), 49)},
		{"no JSON", `"x.weight.quant_state.bitsandbytes__nf4"`, "bitsandbytes", new(memory).add(w, safetensors.U8, nil, 8, 1).add(w+stateKey+"nf4", safetensors.U8, []byte(`{`), 1)},
		{"no map", `no tensor "x.weight.quant_map"`, "bitsandbytes", new(memory).add(w, safetensors.U8, nil, 16, 1).
			add(w+stateKey+"nf4", safetensors.U8, []byte(`{"quant_type":"nf4","blocksize":64,"shape":[4,8]}`), 49)},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Show(json.RawMessage(`{"quant_method":"`+c.config+`"}`), c.src)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "model.safetensors")
		})
	}
}

// What is no coded model, or has nothing coded, is left alone.
func TestOthers(t *testing.T) {
	src := new(memory).add("x.weight", safetensors.BF16, nil, 4, 4).add("x.weight_packed", safetensors.I32, nil, 4, 4)
	for _, method := range []string{"gptq", "compressed-tensors", "fp8"} {
		s, err := Show(json.RawMessage(`{"quant_method":"`+method+`"}`), src)
		require.NoError(t, err)
		require.Nil(t, s)
	}
}

// fits agrees with rounding.
func TestFits(t *testing.T) {
	for _, bits := range []int{2, 3, 4, 6, 8} {
		for extra := 1; extra < 12; extra++ {
			s := float32(int(1)<<extra-1) / 1024 // so many significant bits
			code := float32(int(1)<<bits - 1)
			var b [2]byte
			wire.Encode(b[:], wire.BF16, []float32{s * code})
			var back [1]float32
			wire.Decode(back[:], wire.BF16, b[:])
			if fits([]float32{s}, bits) {
				require.Equal(t, s*code, back[0])
			}
			require.Equal(t, bits+extra <= 8 || extra == 1, fits([]float32{s}, bits), "%d bits, scale of %d", bits, extra)
		}
	}
	require.False(t, fits([]float32{1e38}, 2))
	require.True(t, fits([]float32{0, 1, -0.5}, 6))
}

func BenchmarkReadAt(b *testing.B) {
	const n = 2048
	m := new(memory).add("x.weight", safetensors.F8E4M3, nil, n, n).add("x.weight_scale_inv", safetensors.F32, nil, n/128, n/128)
	s, err := Show(json.RawMessage(`{"quant_method":"fp8","weight_block_size":[128,128]}`), m)
	require.NoError(b, err)
	p := make([]byte, must(s.Spec("x.weight")).Bytes())
	b.SetBytes(n * n)
	for b.Loop() {
		require.NoError(b, s.ReadAt("x.weight", p, 0))
	}
}
