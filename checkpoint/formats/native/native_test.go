package native

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/quant/olive"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

var anyConfig = json.RawMessage(`{"quant_method":"lowbit","version":1}`)

func decodeLowbit(src layout.Source, name string) (*quant.Weight, error) {
	d, err := Format{}.Open(anyConfig, src)
	if err != nil {
		return nil, err
	}
	return d.Weight(name)
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := formattest.DrawWeight(t)
		if rapid.Bool().Draw(t, "columns") {
			w = formattest.WithColumns(rapid.Uint64().Draw(t, "which"), w)
		}
		if rapid.Bool().Draw(t, "int8") {
			onInt8(w)
		}
		l := layout.LayerOf("model.layers.0.x", w)
		tensors, err := Format{}.Encode(l, w)
		require.NoError(t, err)
		formattest.CheckPlan(t, Format{}, l, tensors)

		src := formattest.NewMemory(tensors...)
		d, err := Format{}.Open(anyConfig, src)
		require.NoError(t, err)
		require.Equal(t, []layout.Layer{l}, d.Layers())
		require.Len(t, d.Tensors(l.Name), len(tensors))
		back, err := d.Weight(l.Name)
		require.NoError(t, err)
		require.Equal(t, w, back)
	})
}

// onInt8 makes the codes of a weight those of 8 bits on the grid of LLM.int8().
func onInt8(w *quant.Weight) {
	s := quant.Scheme{Bits: 8, GroupSize: w.Scheme.GroupSize, Axis: w.Scheme.Axis, Strided: w.Scheme.Strided, Clip: w.Scheme.Clip, Grid: llmint8.Grid{}}
	q := quant.NewWeight(w.Out, w.In, s)
	codes := make([]uint8, w.LineLen())
	for l := range w.Lines() {
		w.Line(codes, l)
		q.SetLine(l, codes)
	}
	w.Scheme, w.Codes, w.Zeros, w.Shifts = s, q.Codes, nil, q.Shifts
}

// Every width, axis and kind of scale in a fixed table, so that none depends
// on what the property test happens to draw.
func TestEveryScheme(t *testing.T) {
	for bits := 2; bits <= 8; bits++ {
		for _, axis := range []quant.Axis{quant.OC, quant.IC} {
			for _, sym := range []bool{false, true} {
				for _, scale := range []quant.ScaleType{quant.F16, quant.F32, quant.F16Short} {
					for _, strided := range []bool{false, axis == quant.IC} {
						s := quant.Scheme{Bits: bits, Axis: axis, GroupSize: 16, Symmetric: sym, ScaleType: scale, Strided: strided}
						w := formattest.RandomWeight(uint64(bits), 48, 37, s, true, true)
						tensors, err := Format{}.Encode(layout.LayerOf("x", w), w)
						require.NoError(t, err)
						back, err := decodeLowbit(formattest.NewMemory(tensors...), "x")
						require.NoError(t, err)
						require.Equal(t, w, back)
						require.Equal(t, w.Dequantize(), back.Dequantize())
					}
				}
			}
		}
	}
}

// exampleWeight is the worked example of docs/format.md: 3 bits, axis ic,
// groups of 4 outputs, the second of each column short.
func exampleWeight() *quant.Weight {
	w := quant.NewWeight(6, 2, quant.Scheme{Bits: 3, GroupSize: 4, Axis: quant.IC})
	w.SetLine(0, []uint8{0, 1, 2, 3, 4, 5})
	w.SetLine(1, []uint8{7, 6, 5, 4, 3, 2})
	copy(w.Scales, []float32{0.5, 1, 0.25, 2})
	copy(w.Zeros, []uint8{3, 4, 1, 7})
	return w
}

// The bytes are written out in docs/format.md; the test reads them from
// there, so that the document and the code cannot part.
func TestExample(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/format.md")
	require.NoError(t, err)
	want := documentedTensors(t, string(doc))
	w := exampleWeight()
	tensors, err := Format{}.Encode(layout.LayerOf("fc", w), w)
	require.NoError(t, err)
	require.Len(t, want, len(tensors))
	for _, tn := range tensors {
		require.Equal(t, hex.EncodeToString(want[tn.Name]), hex.EncodeToString(tn.Data), tn.Name)
	}
	// And by hand, without the document: column 0 is 0.5*(u-3), then 1*(u-4).
	require.Equal(t, []float32{
		-1.5, 1.5,
		-1, 1.25,
		-0.5, 1,
		0, 0.75,
		0, -8,
		1, -10,
	}, w.Dequantize().Data)
}

// documentedTensors reads the example: a line "fc.lowbit_x ...:" and after
// it lines "offset  bytes  comment".
func documentedTensors(t *testing.T, doc string) map[string][]byte {
	_, doc, ok := strings.Cut(doc, "```hexdump\n")
	require.True(t, ok, "docs/format.md has no hexdump")
	doc, _, ok = strings.Cut(doc, "```")
	require.True(t, ok)
	line := regexp.MustCompile(`^[0-9a-f]{4}  ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)`)
	tensors := map[string][]byte{}
	name := ""
	for s := range strings.Lines(doc) {
		s = strings.TrimRight(s, "\n")
		if m := line.FindStringSubmatch(s); m != nil {
			b, err := hex.DecodeString(strings.ReplaceAll(m[1], " ", ""))
			require.NoError(t, err)
			tensors[name] = append(tensors[name], b...)
		} else if s != "" {
			name, _, _ = strings.Cut(s, " ")
		}
	}
	return tensors
}

// Weights of OliVe and sums come back as they were, and what they cannot have is refused.
func TestOliVeAndSums(t *testing.T) {
	w := tensor.New(12, 22)
	for i := range w.Data {
		w.Data[i] = float32((i*37)%101-50) / 100
		if i%29 == 0 {
			w.Data[i] *= 20
		}
	}
	var weights []*quant.Weight
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		for _, bits := range []int{4, 8} {
			for n := olive.Adaptive; n <= olive.Flint && (bits == 4 || n == olive.Adaptive); n++ {
				q, err := olive.Quantizer{Normal: n}.Quantize(t.Context(), w, quant.Scheme{Bits: bits, GroupSize: 4, Axis: axis}, nil)
				require.NoError(t, err)
				weights = append(weights, q)
			}
		}
		for _, symmetric := range []bool{false, true} {
			s := quant.Scheme{Bits: 3, GroupSize: 8, Axis: axis, Symmetric: symmetric}
			q := formattest.RandomWeight(1, 12, 22, s, true, true)
			for seed := range uint64(2) {
				q.Summands = append(q.Summands, formattest.RandomWeight(2+seed, 12, 22, s, false, false))
			}
			weights = append(weights, q)
		}
	}
	for _, w := range weights {
		l := layout.LayerOf("x", w)
		tensors, err := Format{}.Encode(l, w)
		require.NoError(t, err)
		formattest.CheckPlan(t, Format{}, l, tensors)
		src := formattest.NewMemory(tensors...)
		back, err := decodeLowbit(src, "x")
		require.NoError(t, err)
		w.RowLoss = nil
		require.Equal(t, w, back)
		if len(w.Summands) > 0 {
			src.Tensors["x.lowbit_summand2"+suffixCodes].Data[3] ^= 1
			_, err = decodeLowbit(src, "x")
			require.ErrorContains(t, err, "the file is damaged")
		}
	}
	l := layout.LayerOf("x", weights[len(weights)-1])
	l.GroupIndex = true
	require.ErrorIs(t, Format{}.Check(l), layout.ErrUnsupported)
}

// reseal makes the checksums of a layer right again after a change.
func reseal(src *formattest.Memory, name string) {
	h := src.Tensors[name+suffixHeader].Data
	var sum uint32
	for _, s := range []string{suffixCodes, suffixScales, suffixZeros, suffixGroupIndex, suffixRowScale, suffixInputScale, suffixColumns, suffixValues} {
		if t, ok := src.Tensors[name+s]; ok {
			sum = crc32.Update(sum, castagnoli, t.Data)
		}
	}
	if len(h) >= headerLen {
		binary.LittleEndian.PutUint32(h[40:], sum)
		binary.LittleEndian.PutUint32(h[44:], crc32.Checksum(h[:44], castagnoli))
	}
}

func TestHostile(t *testing.T) {
	header := func(f func(h []byte)) func(m *formattest.Memory) {
		return func(m *formattest.Memory) {
			f(m.Tensors["x"+suffixHeader].Data)
			reseal(m, "x")
		}
	}
	replace := func(suffix string, dtype safetensors.DType, shape ...int) func(m *formattest.Memory) {
		return func(m *formattest.Memory) {
			tn := layout.Tensor{Spec: layout.Spec{Name: "x" + suffix, DType: dtype, Shape: shape}}
			tn.Data = make([]byte, tn.Bytes())
			m.Put(tn)
			reseal(m, "x")
		}
	}
	patch := func(suffix string, f func(data []byte)) func(m *formattest.Memory) {
		return func(m *formattest.Memory) {
			f(m.Tensors["x"+suffix].Data)
			reseal(m, "x")
		}
	}
	for name, c := range map[string]struct {
		change func(m *formattest.Memory)
		want   string
	}{
		"magic":          {header(func(h []byte) { h[0] = 'X' }), `header does not start with "LBQW"`},
		"version":        {header(func(h []byte) { h[4] = 2 }), "header version 2, want 1"},
		"length":         {header(func(h []byte) { h[6] = 40 }), "header of 48 bytes says it has 40"},
		"bits":           {header(func(h []byte) { h[8] = 9 }), "bits 9"},
		"axis":           {header(func(h []byte) { h[9] = 2 }), "unknown axis"},
		"flags":          {header(func(h []byte) { h[10] |= 0x80 }), "header flags"},
		"scale type":     {header(func(h []byte) { h[11] = 5 }), "unknown scale type"},
		"range":          {header(func(h []byte) { h[12] = 2 }), "unknown range"},
		"min zero":       {header(func(h []byte) { h[13] = 2 }), "smallest zero-point"},
		"grid":           {header(func(h []byte) { h[14] = 4 }), "byte 14: no grid 4 of 4 bits"},
		"grid of bits":   {header(func(h []byte) { h[8], h[14] = 3, 1 }), "byte 14: no grid 1 of 3 bits"},
		"two grids":      {header(func(h []byte) { h[8], h[11], h[14] = 8, typeInt8, 1 }), "byte 14: no grid 1 beside"},
		"summands":       {header(func(h []byte) { h[10], h[15] = 0, 1 }), `no tensor "x.lowbit_summand1.lowbit_codes"`},
		"many summands":  {header(func(h []byte) { h[15] = 3 }), "3 summands, want at most 2"},
		"out":            {header(func(h []byte) { h[16]++ }), `tensor "x.lowbit_codes": shape [24 3], want [25 3]`},
		"in":             {header(func(h []byte) { h[24] = 200 }), "shape [24 3], want [24 25]"},
		"no outputs":     {header(func(h []byte) { h[16] = 0 }), "weight of shape [0 20]"},
		"huge":           {header(func(h []byte) { h[23] = 0x80 }), "impossible"},
		"huge group":     {header(func(h []byte) { h[39] = 0x40 }), "impossible"},
		"group size":     {header(func(h []byte) { copy(h[32:], make([]byte, 8)) }), "group size 0"},
		"other groups":   {header(func(h []byte) { h[32] = 5 }), `tensor "x.lowbit_scales": shape [3 24], want [4 24]`},
		"strided oc":     {header(func(h []byte) { h[10] |= flagStrided }), "strided groups need axis ic"},
		"no rows":        {header(func(h []byte) { h[10] |= flagRowScale }), `no tensor "x.lowbit_row_scale"`},
		"short header":   {replace(suffixHeader, safetensors.U8, 47), "shape [47], want [48]"},
		"header type":    {replace(suffixHeader, safetensors.I8, 48), "dtype I8, want U8"},
		"codes type":     {replace(suffixCodes, safetensors.U32, 24, 3), "dtype U32, want I32"},
		"codes flat":     {replace(suffixCodes, safetensors.I32, 72), "shape [72], want [24 3]"},
		"scales type":    {replace(suffixScales, safetensors.F32, 3, 24), "dtype F32, want F16"},
		"zeros shape":    {replace(suffixZeros, safetensors.I32, 3, 1), "want [3 3]"},
		"no codes":       {func(m *formattest.Memory) { m.Drop("x" + suffixCodes) }, `no tensor "x.lowbit_codes"`},
		"no zeros":       {func(m *formattest.Memory) { m.Drop("x" + suffixZeros) }, `no tensor "x.lowbit_zeros"`},
		"infinite":       {patch(suffixScales, func(d []byte) { d[0], d[1] = 0, 0x7c }), "not finite"},
		"group index":    {patch(suffixGroupIndex, func(d []byte) { d[0] = 3 }), "group 3 of position 0"},
		"negative":       {patch(suffixGroupIndex, func(d []byte) { copy(d, "\xff\xff\xff\xff") }), "group -1 of position 0"},
		"damaged":        {func(m *formattest.Memory) { m.Tensors["x"+suffixCodes].Data[5] ^= 1 }, "the file is damaged"},
		"damaged head":   {func(m *formattest.Memory) { m.Tensors["x"+suffixHeader].Data[8] ^= 1 }, "header checksum"},
		"damaged scale":  {func(m *formattest.Memory) { m.Tensors["x"+suffixScales].Data[0] ^= 1 }, "the file is damaged"},
		"int8 of 4 bits": {header(func(h []byte) { h[11] = typeInt8 }), "bits 4, want 8 of the grid"},
		"columns":        {header(func(h []byte) { h[10] |= flagColumns }), `no tensor "x.lowbit_columns"`},
	} {
		t.Run(name, func(t *testing.T) {
			w := formattest.WithGroupIndex(3, formattest.RandomWeight(3, 24, 20, quant.Scheme{Bits: 4, GroupSize: 8}, false, false))
			tensors, err := Format{}.Encode(layout.LayerOf("x", w), w)
			require.NoError(t, err)
			src := formattest.NewMemory(tensors...)
			c.change(src)
			_, err = decodeLowbit(src, "x")
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "memory.safetensors: ")
		})
	}
}

// TestColumns: indices that do not belong there, and a damaged value.
func TestColumns(t *testing.T) {
	for want, change := range map[string]func(m *formattest.Memory){
		"column 20":           func(m *formattest.Memory) { m.Tensors["x"+suffixColumns].Data[4*2] = 20; reseal(m, "x") },
		"behind column":       func(m *formattest.Memory) { m.Tensors["x"+suffixColumns].Data[0] = 19; reseal(m, "x") },
		"the file is damaged": func(m *formattest.Memory) { m.Tensors["x"+suffixValues].Data[7] ^= 1 },
		"shape [2 24], want [3 24]": func(m *formattest.Memory) {
			v := m.Tensors["x"+suffixValues]
			v.Shape, v.Data = []int{2, 24}, v.Data[:2*2*24]
			m.Put(v)
		},
		"dtype I8, want I32": func(m *formattest.Memory) {
			c := m.Tensors["x"+suffixColumns]
			c.DType, c.Data = safetensors.I8, c.Data[:3]
			m.Put(c)
		},
		"shape [30], want [1]": func(m *formattest.Memory) {
			c := m.Tensors["x"+suffixColumns]
			c.Shape, c.Data = []int{30}, make([]byte, 4*30)
			m.Put(c)
		},
	} {
		w := formattest.RandomWeight(3, 24, 20, quant.Scheme{Bits: 4, GroupSize: 8}, false, false)
		w.Columns, w.ColumnValues = []int32{1, 5, 7}, make([]float32, 3*24)
		tensors, err := Format{}.Encode(layout.LayerOf("x", w), w)
		require.NoError(t, err)
		m := formattest.NewMemory(tensors...)
		back, err := decodeLowbit(m, "x")
		require.NoError(t, err)
		require.Equal(t, w, back)
		change(m)
		_, err = decodeLowbit(m, "x")
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "memory.safetensors: ")
	}
}

func TestEncodeRefuses(t *testing.T) {
	s := quant.Scheme{Bits: 4, GroupSize: 8}
	for name, c := range map[string]struct {
		change func(w *quant.Weight)
		want   string
	}{
		"scale":      {func(w *quant.Weight) { w.Scales[0] = 0.1 }, "not exact in F16"},
		"big scale":  {func(w *quant.Weight) { w.Scales[0] = 1e6 }, "too large for F16"},
		"row scale":  {func(w *quant.Weight) { w.RowScale[1] = 1.0001 }, "lowbit_row_scale"},
		"zero-point": {func(w *quant.Weight) { w.Zeros[0] = 16 }, "zero-point 16"},
		"symmetric":  {func(w *quant.Weight) { w.Scheme.Symmetric, w.Zeros[3] = true, 7 }, "of a symmetric weight, want 8"},
		"codes":      {func(w *quant.Weight) { w.Codes = w.Codes[1:] }, "words of codes"},
	} {
		t.Run(name, func(t *testing.T) {
			w := formattest.RandomWeight(1, 8, 24, s, true, false)
			if name == "symmetric" {
				w = formattest.RandomWeight(1, 8, 24, quant.Scheme{Bits: 4, GroupSize: 8, Symmetric: true}, true, false)
			}
			c.change(w)
			_, err := Format{}.Encode(layout.LayerOf("x", w), w)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestConfig(t *testing.T) {
	c, err := Format{}.Config(layout.Contents{Layers: []layout.Layer{
		{Scheme: quant.Scheme{Bits: 4, GroupSize: 128}},
		{Scheme: quant.Scheme{Bits: 3, GroupSize: 128, Axis: quant.IC}},
	}, Method: json.RawMessage(`{"name":"gptq"}`)})
	require.NoError(t, err)
	require.JSONEq(t, `{"quant_method":"lowbit","version":1,"bits":[3,4],"group_size":[128],
		"axes":{"oc":1,"ic":1},"sym":[false],"method":{"name":"gptq"}}`, string(c.Quantization))
	require.True(t, Format{}.Detect(c.Quantization))
	require.False(t, Format{}.Detect(json.RawMessage(`{"quant_method":"gptq"}`)))

	_, err = Format{}.Open(json.RawMessage(`{"quant_method":"lowbit","version":2}`), formattest.NewMemory())
	require.ErrorContains(t, err, "lowbit version 2, want 1")
}

// FuzzRead feeds a header and payloads that fit it in size: no panic, no
// large allocation, and what decodes encodes to the same bytes where it is
// canonical (padding bits zero).
func FuzzRead(f *testing.F) {
	for i, w := range []*quant.Weight{
		exampleWeight(),
		formattest.RandomWeight(1, 5, 33, quant.Scheme{Bits: 5, GroupSize: 7, Symmetric: true}, true, true),
		formattest.WithGroupIndex(2, formattest.RandomWeight(2, 6, 20, quant.Scheme{Bits: 2, GroupSize: 4, ScaleType: quant.F32}, false, false)),
		formattest.RandomWeight(3, 8, 3, quant.Scheme{Bits: 8, GroupSize: 4, Axis: quant.IC, Strided: true}, false, true),
	} {
		tensors, err := Format{}.Encode(layout.LayerOf("x", w), w)
		require.NoError(f, err)
		var payload []byte
		for _, t := range tensors[1:] {
			payload = append(payload, t.Data...)
		}
		f.Add(tensors[0].Data, payload, i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, head, payload []byte, fixed bool) {
		head = bytes.Clone(head)
		src := formattest.NewMemory(layout.Tensor{Spec: layout.Spec{Name: "x" + suffixHeader, DType: safetensors.U8, Shape: []int{len(head)}}, Data: head})
		if fixed {
			reseal(src, "x") // past the header's own checksum
		}
		if l, _, err := parseHeader(head); err == nil {
			l.Name = "x"
			specs, err := Format{}.Plan(l)
			require.NoError(t, err)
			for _, s := range specs[1:] {
				n := s.Bytes()
				if n < 0 || n > int64(len(payload)) {
					break // the tensor is missing
				}
				src.Put(layout.Tensor{Spec: s, Data: payload[:n]})
				payload = payload[n:]
			}
			if fixed {
				reseal(src, "x")
			}
		}
		w, err := decodeLowbit(src, "x")
		if err != nil {
			return
		}
		require.NoError(t, w.Validate())
		tensors, err := Format{}.Encode(layout.LayerOf("x", w), w)
		require.NoError(t, err)
		back, err := decodeLowbit(formattest.NewMemory(tensors...), "x")
		require.NoError(t, err)
		if len(w.Scales) < 1000 {
			require.Equal(t, fmt.Sprint(w), fmt.Sprint(back)) // NaN-free, but -0 and 0 differ
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	w := formattest.RandomWeight(1, 4096, 4096, quant.Scheme{Bits: 4, GroupSize: 128}, false, false)
	l := layout.LayerOf("x", w)
	b.SetBytes(int64(4 * len(w.Codes)))
	for b.Loop() {
		if _, err := (Format{}).Encode(l, w); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	w := formattest.RandomWeight(1, 4096, 4096, quant.Scheme{Bits: 4, GroupSize: 128}, false, false)
	tensors, err := Format{}.Encode(layout.LayerOf("x", w), w)
	require.NoError(b, err)
	d, err := Format{}.Open(anyConfig, formattest.NewMemory(tensors...))
	require.NoError(b, err)
	b.SetBytes(int64(4 * len(w.Codes)))
	for b.Loop() {
		if _, err := d.Weight("x"); err != nil {
			b.Fatal(err)
		}
	}
}
