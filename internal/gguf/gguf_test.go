package gguf

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// everyKV has one entry of each value type.
var everyKV = []KV{
	{"general.architecture", "llama"},
	{"u8", uint8(200)}, {"i8", int8(-100)}, {"u16", uint16(60000)}, {"i16", int16(-30000)},
	{"u32", uint32(4e9)}, {"i32", int32(-2e9)}, {"f32", float32(1.5)}, {"bool", true}, {"no", false},
	{"u64", uint64(math.MaxUint64)}, {"i64", int64(math.MinInt64)}, {"f64", math.Pi},
	{"a.u8", []uint8{1, 2, 3}}, {"a.i8", []int8{-1, 2}}, {"a.u16", []uint16{1}}, {"a.i16", []int16{-1}},
	{"a.u32", []uint32{1, 2}}, {"a.i32", []int32{-1, 5000}}, {"a.f32", []float32{0.5, -2}},
	{"a.bool", []bool{true, false}}, {"a.str", []string{"", "é", "x\x00y"}},
	{"a.u64", []uint64{1}}, {"a.i64", []int64{-1}}, {"a.f64", []float64{2.5}}, {"a.none", []string{}},
}

func write(t testing.TB, kv []KV, tensors []Tensor, data map[string][]byte) string {
	path := filepath.Join(t.TempDir(), "x.gguf")
	w, err := Create(path, kv, tensors)
	require.NoError(t, err)
	for name, p := range data {
		for len(p) > 0 { // in pieces, as large tensors come
			n := min(7, len(p))
			require.NoError(t, w.Append(name, p[:n]))
			p = p[n:]
		}
	}
	require.NoError(t, w.Close())
	return path
}

func TestRoundTrip(t *testing.T) {
	tensors := []Tensor{
		{Name: "scalar", Type: F32},
		{Name: "blk.0.ffn_up.weight", Type: Q4_0, Dims: []int{64, 3}},
		{Name: "norm", Type: F32, Dims: []int{5}},
		{Name: "cube", Type: F16, Dims: []int{2, 3, 4, 1}},
	}
	data := map[string][]byte{}
	for i, tn := range tensors {
		data[tn.Name] = bytes.Repeat([]byte{byte(i + 1)}, int(tn.Bytes()))
	}
	for _, align := range []uint32{0, 1, 8, 32, 4096} {
		kv := everyKV
		if align > 0 {
			kv = append(kv[:len(kv):len(kv)], KV{"general.alignment", align})
		}
		f, err := Open(write(t, kv, tensors, data))
		require.NoError(t, err)
		require.Equal(t, kv, f.KV())
		require.Len(t, f.Tensors(), len(tensors))
		for i, tn := range f.Tensors() {
			require.Equal(t, tensors[i].Name, tn.Name)
			require.Equal(t, tensors[i].Type, tn.Type)
			require.Equal(t, tensors[i].Dims, tn.Dims)
			p := make([]byte, tn.Bytes())
			require.NoError(t, f.ReadAt(tn.Name, p, 0))
			require.Equal(t, data[tn.Name], p)
			require.NoError(t, f.ReadAt(tn.Name, p[:1], tn.Bytes()-1))
			require.Error(t, f.ReadAt(tn.Name, p, 1))
			require.Error(t, f.ReadAt(tn.Name, p[:0], tn.Bytes()+1))
			require.Error(t, f.ReadAt(tn.Name, p[:1], -1))
		}
		require.Error(t, f.ReadAt("none", nil, 0))
		require.NoError(t, f.Close())
	}
}

// The file is what the specification says, byte by byte.
func TestBytes(t *testing.T) {
	path := write(t, []KV{{"k", uint16(7)}, {"a", []string{"z"}}},
		[]Tensor{{Name: "t", Type: F16, Dims: []int{1, 2}}, {Name: "u", Type: F32, Dims: []int{1}}},
		map[string][]byte{"t": {1, 2, 3, 4}, "u": {5, 6, 7, 8}})
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	le := binary.LittleEndian
	var want []byte
	str := func(s string) { want = append(le.AppendUint64(want, uint64(len(s))), s...) }
	want = le.AppendUint32(append(want, "GGUF"...), 3)
	want = le.AppendUint64(le.AppendUint64(want, 2), 2)
	str("k")
	want = le.AppendUint16(le.AppendUint32(want, 2), 7)
	str("a")
	want = le.AppendUint64(le.AppendUint32(le.AppendUint32(want, 9), 8), 1)
	str("z")
	str("t")
	want = le.AppendUint64(le.AppendUint64(le.AppendUint32(want, 2), 1), 2)
	want = le.AppendUint64(le.AppendUint32(want, 1), 0)
	str("u")
	want = le.AppendUint64(le.AppendUint32(want, 1), 1)
	want = le.AppendUint64(le.AppendUint32(want, 0), 32)
	for len(want)%32 != 0 {
		want = append(want, 0)
	}
	want = append(append(want, 1, 2, 3, 4), make([]byte, 28)...)
	want = append(append(want, 5, 6, 7, 8), make([]byte, 28)...)
	require.Equal(t, want, got)
}

func TestWriterRefuses(t *testing.T) {
	f32 := func(name string, dims ...int) Tensor { return Tensor{Name: name, Type: F32, Dims: dims} }
	for _, c := range []struct {
		name    string
		kv      []KV
		tensors []Tensor
		want    string
	}{
		{"key twice", []KV{{"a", true}, {"a", true}}, nil, "twice"},
		{"empty key", []KV{{"", true}}, nil, "empty"},
		{"value", []KV{{"a", 1}}, nil, "type int"},
		{"alignment", []KV{{"general.alignment", uint32(24)}}, nil, "power of two"},
		{"alignment type", []KV{{"general.alignment", "32"}}, nil, "want a uint32"},
		{"tensor twice", nil, []Tensor{f32("a", 1), f32("a", 1)}, "twice"},
		{"long name", nil, []Tensor{f32(strings.Repeat("x", 64), 1)}, "64 bytes"},
		{"zero dimension", nil, []Tensor{f32("a", 4, 0)}, "at least 1"},
		{"five dimensions", nil, []Tensor{f32("a", 1, 1, 1, 1, 1)}, "5 dimensions"},
		{"overflow", nil, []Tensor{f32("a", math.MaxInt, math.MaxInt)}, "overflow"},
		{"block", nil, []Tensor{{Name: "a", Type: Q4_0, Dims: []int{48, 2}}}, "blocks of 32"},
		{"block of a scalar", nil, []Tensor{{Name: "a", Type: Q4_0}}, "blocks of 32"},
		{"type", nil, []Tensor{{Name: "a", Type: 4, Dims: []int{32}}}, "unknown type 4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Create(filepath.Join(dir, "x"), c.kv, c.tensors)
			require.ErrorContains(t, err, c.want)
			left, _ := os.ReadDir(dir)
			require.Empty(t, left)
		})
	}
}

// An unfinished file leaves nothing, and nothing in place of an older file.
func TestWriterIsAtomic(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.gguf")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	start := func() *Writer {
		w, err := Create(path, nil, []Tensor{{Name: "t", Type: F32, Dims: []int{2}}})
		require.NoError(t, err)
		return w
	}
	w := start()
	require.ErrorContains(t, w.Append("u", nil), "announced")
	require.ErrorContains(t, w.Append("t", make([]byte, 9)), "8 bytes")
	require.NoError(t, w.Append("t", make([]byte, 4)))
	require.ErrorContains(t, w.Close(), "4 of 8 bytes")
	require.Error(t, w.Close())
	w = start()
	require.NoError(t, w.Abort())
	require.NoError(t, w.Abort())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
	old, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(old))
}

// sample is a small valid file to break.
func sample(t testing.TB) []byte {
	data, err := os.ReadFile(write(t, everyKV, []Tensor{
		{Name: "a", Type: Q8_0, Dims: []int{32, 2}}, {Name: "b", Type: F32, Dims: []int{3}},
	}, map[string][]byte{"a": make([]byte, 68), "b": make([]byte, 12)}))
	require.NoError(t, err)
	return data
}

func parse(data []byte) (*File, error) { return Parse(bytes.NewReader(data), int64(len(data))) }

// Every truncation is an error, except in the padding after the last tensor.
func TestTruncated(t *testing.T) {
	data := sample(t)
	f, err := parse(data)
	require.NoError(t, err)
	last := f.Tensors()[1]
	end := int(f.data + last.Offset + last.Bytes())
	for n := range data {
		_, err := parse(data[:n])
		if n < end {
			require.ErrorIs(t, err, ErrFormat, "%d bytes", n)
		} else {
			require.NoError(t, err, "%d bytes", n)
		}
	}
}

// raw assembles a file from a header and the given bytes.
func raw(version uint32, tensors, keys uint64, rest ...any) []byte {
	var b bytes.Buffer
	b.WriteString(Magic)
	putU32(&b, version)
	putU64(&b, tensors)
	putU64(&b, keys)
	for _, v := range rest {
		if s, ok := v.(string); ok {
			putString(&b, s)
			continue
		}
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	b.Write(make([]byte, 64))
	return b.Bytes()
}

func TestHostile(t *testing.T) {
	const huge = uint64(1) << 62
	one := func(name string, typ uint32, off uint64, dims ...uint64) []any {
		return []any{name, uint32(len(dims)), dims, typ, off}
	}
	cat := func(a ...[]any) (all []any) {
		for _, x := range a {
			all = append(all, x...)
		}
		return all
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"magic", []byte("GGML0000000000000000000000"), "GGML"},
		{"version 0", raw(0, 0, 0), "version 0"},
		{"version 1", raw(1, 0, 0), "version 1"},
		{"version 4", raw(4, 0, 0), "version 4"},
		{"big-endian", raw(3<<24, 0, 0), "or 3 big-endian"},
		{"tensors", raw(3, huge, 0), "tensors"},
		{"negative tensors", raw(3, math.MaxUint64, 0), "tensors"},
		{"keys", raw(3, 0, huge), "keys"},
		{"string", raw(3, 0, 1, huge), "string of"},
		{"empty key", raw(3, 0, 1, "", uint32(0), uint8(0)), "empty"},
		{"key twice", raw(3, 0, 2, "k", uint32(0), uint8(0), "k", uint32(0), uint8(0)), "twice"},
		{"value type", raw(3, 0, 1, "k", uint32(13)), "value type 13"},
		{"array type", raw(3, 0, 1, "k", uint32(9), uint32(13), uint64(1)), "unknown type 13"},
		{"array of arrays", raw(3, 0, 1, "k", uint32(9), uint32(9), uint64(1)), "array of arrays"},
		{"array length", raw(3, 0, 1, "k", uint32(9), uint32(10), huge), "array of"},
		{"array of strings", raw(3, 0, 1, "k", uint32(9), uint32(8), uint64(2), "x", huge), "element 1"},
		{"alignment 0", raw(3, 0, 1, alignmentKey, uint32(4), uint32(0)), "power of two"},
		{"alignment 3", raw(3, 0, 1, alignmentKey, uint32(4), uint32(3)), "power of two"},
		{"alignment type", raw(3, 0, 1, alignmentKey, uint32(10), uint64(32)), "want a uint32"},
		{"long name", raw(3, 1, 0, one(strings.Repeat("n", 64), 0, 0, 1)...), "64 bytes"},
		{"dimensions", raw(3, 1, 0, "t", uint32(5)), "5 dimensions"},
		{"zero dimension", raw(3, 1, 0, one("t", 0, 0, 1, 0)...), "dimension 1 is 0"},
		{"negative dimension", raw(3, 1, 0, one("t", 0, 0, math.MaxUint64)...), "overflows"},
		{"product", raw(3, 1, 0, one("t", 0, 0, 1<<32, 1<<32)...), "overflow"},
		{"type", raw(3, 1, 0, one("t", 5, 0, 32)...), "unknown type 5"},
		{"block", raw(3, 1, 0, one("t", 2, 0, 33)...), "blocks of 32"},
		{"offset", raw(3, 1, 0, one("t", 0, 32, 1)...), "offset 32, want 0"},
		{"negative offset", raw(3, 1, 0, one("t", 0, math.MaxUint64, 1)...), "overflows"},
		{"gap", raw(3, 2, 0, cat(one("t", 0, 0, 1), one("u", 0, 64, 1))...), "offset 64, want 32"},
		{"overlap", raw(3, 2, 0, cat(one("t", 0, 0, 1), one("u", 0, 0, 1))...), "offset 0, want 32"},
		{"tensor twice", raw(3, 2, 0, cat(one("t", 0, 0, 1), one("t", 0, 32, 1))...), "twice"},
		{"data", raw(3, 1, 0, one("t", 0, 0, 1<<40)...), "data ends at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse(c.data)
			require.ErrorIs(t, err, ErrFormat)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := parse(raw(2, 1, 1, cat([]any{"k", uint32(7), uint8(1)}, one("t", 0, 0, 1))...))
	require.NoError(t, err, "version 2")
}

// What a block holds, drawn by hand from ggml's structures.
func TestBlocks(t *testing.T) {
	var codes [BlockLen]uint8
	for j := range codes {
		codes[j] = uint8(j)
	}
	half := func(c [BlockLen]uint8, mask uint8) [BlockLen]uint8 {
		for j := range c {
			c[j] &= mask
		}
		return c
	}
	low := half(codes, 15)
	qs := make([]byte, 16)
	for j := range qs {
		qs[j] = byte(j | j<<4) // value j and value j+16, both j in their low four bits
	}
	const d, m = 0x3c00, 0xc000 // 1 and -2
	for _, c := range []struct {
		t     Type
		codes [BlockLen]uint8
		want  []byte
	}{
		{Q4_0, low, append([]byte{0, 0x3c}, qs...)},
		{Q4_1, low, append([]byte{0, 0x3c, 0, 0xc0}, qs...)},
		{Q5_0, codes, append([]byte{0, 0x3c, 0, 0, 0xff, 0xff}, qs...)},
		{Q5_1, codes, append([]byte{0, 0x3c, 0, 0xc0, 0, 0, 0xff, 0xff}, qs...)},
		{Q8_0, codes, append([]byte{0, 0x3c}, func() []byte {
			b := make([]byte, 32)
			for j := range b {
				b[j] = byte(j - 128)
			}
			return b
		}()...)},
	} {
		t.Run(c.t.String(), func(t *testing.T) {
			got := make([]byte, c.t.BlockBytes())
			c.t.PackBlock(got, d, m, &c.codes)
			require.Equal(t, c.want, got)
			var back [BlockLen]uint8
			gd, gm := c.t.UnpackBlock(got, &back)
			require.Equal(t, c.codes, back)
			require.EqualValues(t, d, gd)
			if c.t.HasMin() {
				require.EqualValues(t, m, gm)
			}
			w := make([]float32, BlockLen)
			require.NoError(t, c.t.Decode(w, got))
			for j, v := range c.codes {
				want := float32(v) - 2
				if !c.t.HasMin() {
					want = float32(v) - float32(int(1)<<(c.t.Bits()-1))
				}
				require.Equal(t, want, w[j])
			}
		})
	}
}

func TestFloats(t *testing.T) {
	values := []float32{0, 1, -1.5, 65504, 6.1035156e-05, 1e-7, 3.14159}
	for _, typ := range []Type{F32, F16, BF16} {
		b := make([]byte, typ.RowBytes(len(values)))
		require.NoError(t, typ.Encode(b, values))
		back := make([]float32, len(values))
		require.NoError(t, typ.Decode(back, b))
		for i, v := range values {
			require.InDelta(t, v, back[i], math.Abs(float64(v))/250+1e-7)
		}
		again := make([]byte, len(b))
		require.NoError(t, typ.Encode(again, back))
		require.Equal(t, b, again)
	}
	require.ErrorContains(t, F16.Encode(make([]byte, 4), []float32{1, 65520}), "does not fit")
	require.ErrorContains(t, BF16.Encode(make([]byte, 2), []float32{math.MaxFloat32}), "does not fit")
	inf := float32(math.Inf(1))
	require.NoError(t, F16.Encode(make([]byte, 2), []float32{inf}))
	q := make([]byte, 34)
	block := make([]float32, 32)
	require.NoError(t, Q8_0.Encode(q, block))
	require.Equal(t, make([]byte, 34), q)
	block[3] = inf
	require.Error(t, Q8_0.Encode(q, block))
	block[3] = 1e30
	require.ErrorContains(t, Q8_0.Encode(q, block), "does not fit")
	require.Error(t, Q4_0.Encode(q, block))
	require.ErrorContains(t, Type(15).Decode(block, q), "Q8_K")
}

// goldenBlock is blocks of a type, and what they stand for.
type goldenBlock struct {
	Hex    string    `json:"hex"`
	Values []float32 `json:"values"`
}

func (b goldenBlock) bytes(t *testing.T) []byte {
	src, err := hex.DecodeString(b.Hex)
	require.NoError(t, err)
	return src
}

// goldenBlocks are those in a file, by the name of the type.
func goldenBlocks(t *testing.T, file string) map[string]goldenBlock {
	data, err := os.ReadFile(filepath.Join("testdata", file))
	require.NoError(t, err)
	var cases map[string]goldenBlock
	require.NoError(t, json.Unmarshal(data, &cases))
	return cases
}

// Blocks of 256, and of IQ4_NL, as llama.cpp's gguf-py dequantizes them: random
// bytes, with half floats where those stand. Written again they are the same
// bytes.
func TestSuperBlocks(t *testing.T) {
	cases := goldenBlocks(t, "superblocks.json")
	types := []Type{Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS}
	require.Len(t, cases, len(types))
	for _, typ := range types {
		c, ok := cases[typ.String()]
		require.True(t, ok)
		src := c.bytes(t)
		got := make([]float32, 2*SuperLen)
		require.Len(t, src, typ.RowBytes(len(got)))
		require.NoError(t, typ.Decode(got, src))
		require.Equal(t, c.Values, got, typ.String())
		require.Equal(t, typ.Super(), typ != IQ4_NL)
		back := make([]byte, typ.BlockBytes())
		for n := typ.BlockBytes(); len(src) > 0; src = src[n:] {
			if typ.Super() {
				var s Super
				typ.UnpackSuper(src, &s)
				typ.PackSuper(back, &s)
			} else {
				var codes [BlockLen]uint8
				d, _ := typ.UnpackBlock(src, &codes)
				typ.PackBlock(back, d, 0, &codes)
			}
			require.Equal(t, src[:n], back, typ.String())
		}
	}
}

// Blocks of few levels, as the library of llama.cpp dequantizes them
// (dequantize_row_* of node-llama-cpp 3.22.1): random codes, scales of all sizes.
func TestLevels(t *testing.T) {
	cases := goldenBlocks(t, "levels.json")
	types := []Type{TQ1_0, TQ2_0, Q1_0, Q2_0, MXFP4, NVFP4}
	require.Len(t, cases, len(types))
	for _, typ := range types {
		c, ok := cases[typ.String()]
		require.True(t, ok)
		src := c.bytes(t)
		got := make([]float32, len(c.Values))
		require.Len(t, src, typ.RowBytes(len(got)))
		require.True(t, typ.Readable())
		require.NoError(t, typ.Decode(got, src))
		for i, v := range c.Values {
			require.Equal(t, v, got[i], "%v %d", typ, i)
		}
		group, bits, zero, ok := typ.Whole()
		require.True(t, ok)
		require.Zero(t, typ.Block()%group)
		levels, scales := make([]int8, typ.Block()), make([]float32, typ.Block()/group)
		typ.UnpackWhole(src, levels, scales)
		for i, v := range levels {
			require.Equal(t, got[i], float32(v)*scales[i/group])
			require.True(t, int(v)+zero >= 0 && int(v)+zero < 1<<bits || typ == TQ2_0 && v == 2, "%v: level %d", typ, v)
		}
	}
	_, _, _, ok := Q4_0.Whole()
	require.False(t, ok)
}

// Q8_0 keeps every value to half a step, and codes never leave ±127.
func TestQ8Error(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Float32Range(-6e4, 6e4), 64, 64).Draw(t, "v")
		b := make([]byte, Q8_0.RowBytes(64))
		if err := Q8_0.Encode(b, v); err != nil {
			t.Fatal(err)
		}
		back := make([]float32, 64)
		if err := Q8_0.Decode(back, b); err != nil {
			t.Fatal(err)
		}
		for i := range v {
			var most float64
			for _, x := range v[i/32*32:][:32] {
				most = max(most, math.Abs(float64(x)))
			}
			// Half a step, and what rounding the scale moves the largest code by.
			if e := math.Abs(float64(v[i] - back[i])); e > most/127*0.5+most/1024+6e-6 {
				t.Fatalf("value %g became %g in a block up to %g", v[i], back[i], most)
			}
		}
	})
}

// Codes and half floats come back from every block type.
func TestBlockRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom([]Type{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL}).Draw(t, "type")
		codes := [BlockLen]uint8(rapid.SliceOfN(rapid.Uint8Range(0, uint8(1<<typ.Bits()-1)), BlockLen, BlockLen).Draw(t, "codes"))
		d, m := rapid.Uint16().Draw(t, "d"), rapid.Uint16().Draw(t, "m")
		b := make([]byte, typ.BlockBytes())
		typ.PackBlock(b, d, m, &codes)
		var back [BlockLen]uint8
		gd, gm := typ.UnpackBlock(b, &back)
		if back != codes || gd != d || typ.HasMin() && gm != m {
			t.Fatalf("%v: %v %x %x became %v %x %x", typ, codes, d, m, back, gd, gm)
		}
	})
}

// FuzzParse: no input panics or allocates without bound, and what opens can
// be written again to the same metadata.
func FuzzParse(f *testing.F) {
	f.Add(sample(f))
	f.Add(raw(3, 0, 0))
	f.Add(raw(2, 1, 1, "k", uint32(7), uint8(1), "t", uint32(1), uint64(1), uint32(0), uint64(0)))
	f.Add(raw(3, 1, 1, alignmentKey, uint32(4), uint32(64), "t", uint32(2), uint64(32), uint64(1), uint32(2), uint64(0)))
	f.Add(raw(3, 0, 1, "k", uint32(9), uint32(8), uint64(2), "x", "y"))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := parse(data)
		if err != nil {
			require.ErrorIs(t, err, ErrFormat)
			return
		}
		for _, tn := range g.Tensors() {
			p := make([]byte, tn.Bytes())
			require.NoError(t, g.ReadAt(tn.Name, p, 0))
			if tn.Type.Readable() {
				require.NoError(t, tn.Type.Decode(make([]float32, tn.Elements()), p))
			}
		}
		head, _, _, err := layout(g.KV(), g.Tensors())
		require.NoError(t, err)
		again, err := Parse(bytes.NewReader(append(head, data...)), int64(len(head)+len(data)+1<<20))
		if err == nil { // data is only a stand-in: compare what the header says
			require.Equal(t, len(g.KV()), len(again.KV()))
			require.Equal(t, g.Tensors(), again.Tensors())
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, typ := range []Type{F16, Q4_0, Q5_0, Q8_0} {
		b.Run(typ.String(), func(b *testing.B) {
			const n = 1 << 16
			src, dst := make([]byte, typ.RowBytes(n)), make([]float32, n)
			b.SetBytes(4 * n)
			for b.Loop() {
				if err := typ.Decode(dst, src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
