package checkpoint

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/autoawq"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/compressed"
	"github.com/golowbit/lowbit/checkpoint/formats/hqq"
	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
)

// TestCompressedTensorsIsGPTQTransposed holds the two layouts to the relation
// between them, on what the peers' packers made.
func TestCompressedTensorsIsGPTQTransposed(t *testing.T) {
	file, cases := formattest.Golden(t, "../testdata")
	for _, c := range cases {
		if !c.Trivial {
			continue
		}
		w := c.Weight(t, file)
		l := layout.LayerOf("x", w)
		g, err := autogptq.Format{Version: 2}.Encode(l, w)
		require.NoError(t, err)
		ct, err := compressed.Format{}.Encode(l, w)
		require.NoError(t, err)
		by := map[string]layout.Tensor{}
		for _, tn := range ct {
			by[strings.TrimPrefix(tn.Name, "x.")] = tn
		}
		words := func(tn layout.Tensor) []byte {
			return layout.Int32Tensor("", layout.Transposed(wire.Words(tn.Data), tn.Shape[0], tn.Shape[1])).Data
		}
		require.Equal(t, words(g[0]), by["weight_packed"].Data)
		scales := make([]uint16, len(g[2].Data)/2)
		for i := range scales {
			scales[i] = binary.LittleEndian.Uint16(g[2].Data[2*i:])
		}
		var data []byte
		for _, s := range layout.Transposed(scales, g[2].Shape[0], g[2].Shape[1]) {
			data = binary.LittleEndian.AppendUint16(data, s)
		}
		require.Equal(t, data, by["weight_scale"].Data)
		if !c.Sym {
			require.Equal(t, words(g[1]), by["weight_zero_point"].Data)
		}
	}
}

// BenchmarkPacked packs and reads a layer of [1024 4096]; bytes are those of
// its codes.
func BenchmarkPacked(b *testing.B) {
	w := formattest.RandomWeight(1, 1024, 4096, quant.Scheme{Bits: 4, GroupSize: 128}, false, false)
	l := layout.LayerOf("x", w)
	for _, f := range []formattest.FolderFormat{autogptq.Format{Version: 2}, compressed.Format{}, autoawq.Format{}, hqq.Format{}} {
		tensors, err := f.Encode(l, w)
		require.NoError(b, err)
		b.Run("encode/"+f.Name(), func(b *testing.B) {
			b.SetBytes(int64(4 * len(w.Codes)))
			for b.Loop() {
				if _, err := f.Encode(l, w); err != nil {
					b.Fatal(err)
				}
			}
		})
		d, err := f.Open(formattest.QuantizationOf(b, f, l), formattest.NewMemory(tensors...))
		require.NoError(b, err)
		b.Run("read/"+f.Name(), func(b *testing.B) {
			b.SetBytes(int64(4 * len(w.Codes)))
			for b.Loop() {
				if _, err := d.Weight(l.Name); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
