package checkpoint

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/autoawq"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/compressed"
	"github.com/golowbit/lowbit/checkpoint/formats/hqq"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// quantizedFolder writes a lowbit folder whose layers all have the scheme.
func quantizedFolder(t *testing.T, s quant.Scheme) (string, map[string]*quant.Weight) {
	t.Helper()
	source := openModel(t, writeModel(t, safetensors.BF16))
	out := filepath.Join(t.TempDir(), "lowbit")
	w, err := Create(WriterOptions{Out: out, Source: source, Format: native.Format{}, Layers: layerNames()})
	require.NoError(t, err)
	weights := map[string]*quant.Weight{}
	for i, l := range testLinears {
		weights[l.name] = formattest.RandomWeight(uint64(i), l.out, l.in, s, false, false)
		require.NoError(t, w.Put(l.name, weights[l.name], nil))
	}
	require.NoError(t, w.Finish(t.Context()))
	require.NoError(t, w.Close())
	return out, weights
}

// TestConvertAmongAll converts a folder from lowbit to each format, from each
// back and to each other, and reads what comes out.
func TestConvertAmongAll(t *testing.T) {
	packed := []layout.Format{autogptq.Format{}, autogptq.Format{Version: 1}, autogptq.Format{Version: 2}, compressed.Format{}, autoawq.Format{}, hqq.Format{}}
	for _, c := range []struct {
		name    string
		scheme  quant.Scheme
		formats []layout.Format
		each    bool // to each
	}{
		{"asymmetric", quant.Scheme{Bits: 4, GroupSize: 32, MinZero: 1}, packed, true},
		{"symmetric", quant.Scheme{Bits: 4, GroupSize: 32, Symmetric: true}, packed, false},
		{"whole rows", quant.Scheme{Bits: 4, GroupSize: quant.WholeLine, Symmetric: true}, []layout.Format{hqq.Format{}, autogptq.Format{}, autoawq.Format{}, compressed.Format{}}, true},
		{"3 bits", quant.Scheme{Bits: 3, GroupSize: 32, MinZero: 1}, []layout.Format{autogptq.Format{Version: 1}, autogptq.Format{}, compressed.Format{}, hqq.Format{}}, false},
		{"axis ic", quant.Scheme{Bits: 2, GroupSize: 16, Axis: quant.IC, Strided: true}, []layout.Format{hqq.Format{}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, weights := quantizedFolder(t, c.scheme)
			check := func(dir string, f layout.Format) *Model {
				m := openModel(t, dir)
				if f.Name() != "gptq" && f.Name() != "gptq_v1" {
					require.Equal(t, f, m.Format())
				}
				require.Len(t, m.Layers(), len(weights))
				for name, w := range weights {
					got, err := m.Weight(name)
					require.NoError(t, err)
					require.Equal(t, w.Dequantize().Data, got.Dequantize().Data, name)
				}
				return m
			}
			lowbit := check(path, native.Format{})
			for _, from := range c.formats {
				first := filepath.Join(t.TempDir(), "first")
				require.NoError(t, Convert(t.Context(), WriterOptions{Out: first, Source: lowbit, Format: from}), from.Name())
				m := check(first, from)
				var config struct {
					Type string `json:"torch_dtype"`
				}
				require.NoError(t, json.Unmarshal(m.Config(), &config))
				require.Equal(t, "float16", config.Type)
				_, err := os.Stat(filepath.Join(first, "quantize_config.json"))
				_, isGPTQ := from.(autogptq.Format)
				require.Equal(t, isGPTQ, err == nil)
				others := []layout.Format{native.Format{}}
				if c.each {
					others = append(others, c.formats...)
				}
				for _, to := range others {
					second := filepath.Join(t.TempDir(), "second")
					require.NoError(t, Convert(t.Context(), WriterOptions{Out: second, Source: m, Format: to}), "%s to %s", from.Name(), to.Name())
					check(second, to)
				}
			}
		})
	}
}

// TestConvertRefuses converts to formats that cannot hold the layers, and
// expects nothing to be written.
func TestConvertRefuses(t *testing.T) {
	path, _ := quantizedFolder(t, quant.Scheme{Bits: 4, GroupSize: 32, Axis: quant.IC})
	m := openModel(t, path)
	for _, f := range []layout.Format{autogptq.Format{}, autogptq.Format{Version: 1}, autogptq.Format{Version: 2}, compressed.Format{}, autoawq.Format{}, hqq.Format{}} {
		out := filepath.Join(t.TempDir(), "out")
		err := Convert(t.Context(), WriterOptions{Out: out, Source: m, Format: f})
		require.ErrorIs(t, err, layout.ErrUnsupported, f.Name())
		require.ErrorContains(t, err, "model.layers.0.self_attn.q_proj")
		require.NoFileExists(t, out)
		require.NoFileExists(t, out+PartialSuffix)
	}
}
