package checkpoint

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// A real model through quantization, file and back, in both modes.
func TestRealModels(t *testing.T) {
	for _, name := range []string{"tinyllama-2m", "tinystories-260k", "tinystories-260k-bf16-sharded"} {
		t.Run(name, func(t *testing.T) {
			src := openModel(t, formattest.ModelFolder(t, name))
			weights := map[string]*quant.Weight{}
			var layers []layout.Layer
			for _, s := range src.Dense() {
				name, ok := layout.CutWeight(s.Name)
				if !ok || !strings.Contains(name, "_proj") {
					continue
				}
				m, err := src.Matrix(s.Name)
				require.NoError(t, err)
				scheme := quant.Scheme{Bits: 2 + len(layers)%7, GroupSize: 32, Axis: quant.Axis(len(layers) % 2)}
				q, err := quant.RTN{}.Quantize(t.Context(), m, scheme, nil)
				require.NoError(t, err)
				l := layout.LayerOf(name, q)
				l.DType = s.DType
				layers = append(layers, l)
				weights[name] = q
			}
			require.NotEmpty(t, layers)
			for _, direct := range []bool{false, true} {
				out := filepath.Join(t.TempDir(), "out")
				w, err := Create(WriterOptions{Out: out, Source: src, Format: native.Format{}, Layers: layers, Direct: direct})
				require.NoError(t, err)
				for name, q := range weights {
					require.NoError(t, w.Put(name, q, nil))
				}
				require.NoError(t, w.Finish(t.Context()))
				m := openModel(t, out)
				require.Len(t, m.Quantized(), len(layers))
				var stored, needed int64
				for _, l := range m.Layers() {
					q, err := m.Weight(l.Name)
					require.NoError(t, err)
					want := weights[l.Name]
					want.RowLoss = nil // not stored
					require.Equal(t, want, q)
					needed += q.StorageBits()
				}
				for _, l := range m.Layers() {
					for _, s := range m.LayerTensors(l.Name) {
						stored += 8 * s.Bytes()
					}
				}
				// The header, and the padding of each line to whole words.
				require.Greater(t, stored, needed)
				require.Less(t, float64(stored), 1.1*float64(needed))
				for _, s := range m.Dense() {
					require.Contains(t, src.Dense(), s)
				}
			}
		})
	}
}
