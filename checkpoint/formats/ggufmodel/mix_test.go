package ggufmodel_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// The type of every tensor is the one that llama-quantize gave it. The table was
// made with llama_model_quantize of node-llama-cpp 3.22.1 from models of the same
// shapes; a list has the type in each block, "weighted" is with an importance matrix.
func TestTypesAreLlamaQuantizes(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "llama_quantize.json"))
	require.NoError(t, err)
	var cases map[string]struct {
		Config map[string]any               `json:"config"`
		Types  map[string]map[string]string `json:"types"`
	}
	require.NoError(t, json.Unmarshal(data, &cases))
	require.NotEmpty(t, cases)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			modelType := "llama"
			if c.Config["num_local_experts"] != nil {
				modelType = "mixtral"
			}
			config := ggufmodel.SmallConfig(modelType, c.Config)
			blocks := int(c.Config["num_hidden_layers"].(float64))
			src := openModel(t, ggufFolder(t, config))
			require.Len(t, c.Types, len(ggufmodel.Types())-2+2) // MXFP4 and NVFP4 have a rule of their own
			for file, want := range c.Types {
				file, weighted := strings.CutSuffix(file, " weighted")
				got, err := ggufmodel.TypesOf(ggufmodel.Format{Type: file}, src, weighted || file == "Q2_K_S")
				require.NoError(t, err)
				seen := 0
				for tensor, types := range want {
					list := strings.Fields(types)
					if !strings.HasPrefix(tensor, "attn") && !strings.HasPrefix(tensor, "ffn") {
						seen++
						require.Equal(t, types, got[tensor].String(), "%s %s", file, tensor)
						continue
					}
					if len(list) == 1 {
						list = slices.Repeat(list, blocks)
					}
					for i, typ := range list {
						seen++
						require.Equal(t, typ, got[fmt.Sprintf("blk.%d.%s", i, tensor)].String(), "%s %d %s", file, i, tensor)
					}
				}
				require.Len(t, got, seen)
			}
		})
	}
}

// gridded puts the linears of a model on the grids of a file type.
func gridded(t testing.TB, src *checkpoint.Model, g ggufmodel.Format) (map[string]*quant.Weight, []layout.Layer) {
	t.Helper()
	mix, err := g.Mix(src, true)
	require.NoError(t, err)
	m, err := arch.ParseConfig(src.Config())
	require.NoError(t, err)
	weights := map[string]*quant.Weight{}
	var layers []layout.Layer
	for _, l := range m.Linears() {
		s, _, err := mix(layout.Layer{Name: l.Name, Out: l.Out, In: l.In})
		require.NoError(t, err)
		w, err := quant.RTN{}.Quantize(t.Context(), matrixOf(t, src, l.Name+layout.WeightSuffix), s, nil)
		require.NoError(t, err)
		weights[l.Name] = w
		layers = append(layers, layout.LayerOf(l.Name, w))
	}
	return weights, layers
}

// wide is a model whose rows are whole blocks of 256.
func wide(more map[string]any) map[string]any {
	c := map[string]any{"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32}
	maps.Copy(c, more)
	return ggufmodel.SmallConfig("llama", c)
}

// A file of each type has the values of its weights bit by bit, keeps them when
// it is written again, and can be made dense; no other format takes it for one of
// scales and zero-points.
func TestFileTypes(t *testing.T) {
	for _, file := range ggufmodel.Types() {
		t.Run(file, func(t *testing.T) {
			src := openModel(t, ggufFolder(t, wide(map[string]any{"tie_word_embeddings": false, "num_hidden_layers": 1, "intermediate_size": 256})))
			g := ggufmodel.Format{Type: file}
			weights, layers := gridded(t, src, g)
			require.NoError(t, g.CheckLayers(src, layers))
			path := writeGGUFModel(t, src, g, weights)
			m := openModel(t, path)
			for name, q := range weights {
				back, err := m.Weight(name)
				require.NoError(t, err)
				require.Equal(t, q.Dequantize(), back.Dequantize(), name)
				require.Equal(t, q.Dequantize(), matrixOf(t, m, name+layout.WeightSuffix), name)
			}
			f, err := gguf.Open(path)
			require.NoError(t, err)
			defer f.Close()
			want, err := ggufmodel.TypesOf(g, src, true)
			require.NoError(t, err)
			for _, tn := range f.Tensors() {
				if typ, ok := want[tn.Name]; ok {
					require.Equal(t, typ, tn.Type, tn.Name)
				}
			}
			number, _ := f.Value("general.file_type")
			require.Contains(t, []uint32{10, 11, 12, 13, 14, 15, 16, 17, 18, 21, 25, 30, 38, 39}, number)

			again := filepath.Join(t.TempDir(), "again.gguf")
			require.NoError(t, checkpoint.Convert(t.Context(), checkpoint.WriterOptions{Out: again, Source: m, Format: ggufmodel.Format{}}))
			b, err := gguf.Open(again)
			require.NoError(t, err)
			defer b.Close()
			require.Equal(t, f.Tensors(), b.Tensors())
			for _, tn := range f.Tensors() {
				x, y := make([]float32, tn.Elements()), make([]float32, tn.Elements())
				for v, file := range map[*[]float32]*gguf.File{&x: f, &y: b} {
					data := make([]byte, tn.Bytes())
					require.NoError(t, file.ReadAt(tn.Name, data, 0))
					require.NoError(t, tn.Type.Decode(*v, data))
				}
				require.Equal(t, x, y, tn.Name)
			}

			folder := filepath.Join(t.TempDir(), "dense")
			require.NoError(t, checkpoint.Convert(t.Context(), checkpoint.WriterOptions{Out: folder, Source: m, Format: dense.Format{}}))
			d := openModel(t, folder)
			for name, q := range weights {
				requireWithin(t, q.Dequantize(), matrixOf(t, d, name+layout.WeightSuffix), 500) // of F16
			}
			for _, other := range []layout.Format{native.Format{}, autogptq.Format{Version: 2}} {
				err := checkpoint.Convert(t.Context(), checkpoint.WriterOptions{Out: filepath.Join(t.TempDir(), "x"), Source: m, Format: other})
				require.ErrorIs(t, err, layout.ErrUnsupported)
				require.ErrorContains(t, err, "the grid ")
			}
		})
	}
}

// Embedding and head are of the type's own types, or of those asked for.
func TestOuterTypes(t *testing.T) {
	for name, c := range map[string]struct {
		config    map[string]any
		g         ggufmodel.Format
		embedding gguf.Type
	}{
		"tied":       {wide(nil), ggufmodel.Format{Type: "Q4_K_M"}, gguf.Q6_K},
		"pure":       {wide(nil), ggufmodel.Format{Type: "Q4_K_M", Pure: true}, gguf.Q4_K},
		"dense":      {wide(nil), ggufmodel.Format{Type: "Q4_K_M", Dense: safetensors.F16}, gguf.F16},
		"eight bits": {wide(nil), ggufmodel.Format{Type: "Q4_K_M", Q8Embeddings: true}, gguf.Q8_0},
		"narrow":     {ggufmodel.SmallConfig("llama", nil), ggufmodel.Format{Type: "Q4_K_M"}, gguf.Q8_0},
	} {
		t.Run(name, func(t *testing.T) {
			src := openModel(t, ggufFolder(t, c.config))
			weights, _ := gridded(t, src, c.g)
			f, err := gguf.Open(writeGGUFModel(t, src, c.g, weights))
			require.NoError(t, err)
			defer f.Close()
			e, ok := f.Tensor("token_embd.weight")
			require.True(t, ok)
			require.Equal(t, c.embedding, e.Type)
			data := make([]byte, e.Bytes())
			require.NoError(t, f.ReadAt(e.Name, data, 0))
			got := make([]float32, e.Elements())
			require.NoError(t, e.Type.Decode(got, data))
			var worst, most float64
			for i, v := range matrixOf(t, src, "model.embed_tokens.weight").Data {
				worst, most = max(worst, abs(got[i]-v)), max(most, abs(v))
			}
			require.Less(t, worst, most/12)
		})
	}
}

func abs(v float32) float64 { return float64(max(v, -v)) }

// Layers that no block fits stay dense, and what is no type is refused.
func TestMixRefuses(t *testing.T) {
	src := openModel(t, ggufFolder(t, ggufmodel.SmallConfig("llama", map[string]any{"intermediate_size": 100})))
	g := ggufmodel.Format{Type: "Q5_K_S"}
	mix, err := g.Mix(src, false)
	require.NoError(t, err)
	_, _, err = mix(layout.Layer{Name: "model.layers.0.mlp.down_proj", Out: 64, In: 100})
	require.ErrorIs(t, err, layout.ErrUnsupported)
	s, remark, err := mix(layout.Layer{Name: "model.layers.0.mlp.up_proj", Out: 100, In: 64})
	require.NoError(t, err)
	require.Equal(t, "Q5_1", fmt.Sprint(s.Grid))
	require.Contains(t, remark, "Q5_1")
	_, _, err = mix(layout.Layer{Name: "model.layers.7.mlp.up_proj", Out: 100, In: 64})
	require.ErrorContains(t, err, "no place")
	require.ErrorContains(t, ggufmodel.Format{Type: "Q9_K"}.CheckModel(src), "Q9_K")
	_, err = ggufmodel.ParseType("q4_k_m")
	require.NoError(t, err)
	_, err = ggufmodel.ParseType("q4_k_x")
	require.ErrorContains(t, err, "want Q2_K")
	none, err := ggufmodel.Format{}.Mix(src, false)
	require.NoError(t, err)
	require.Nil(t, none)

	grid, _ := kquant.Of(gguf.Q4_K)
	base := layout.Layer{Name: "model.layers.0.mlp.up_proj", Out: 64, In: 512, DType: safetensors.F16, Scheme: grid.Scheme()}
	require.NoError(t, g.Check(base))
	for want, change := range map[string]func(l *layout.Layer){
		"axis oc":       func(l *layout.Layer) { l.Scheme.Axis = quant.IC },
		"other scales":  func(l *layout.Layer) { l.InputScale = true },
		"group size 64": func(l *layout.Layer) { l.Scheme.GroupSize = 64 },
		"320 inputs":    func(l *layout.Layer) { l.In = 320 },
		"no linear":     func(l *layout.Layer) { l.Name = "model.decoder.layers.0.fc9" },
		"bits":          func(l *layout.Layer) { l.Scheme.Bits = 5 },
		"block type":    func(l *layout.Layer) { l.Scheme.Grid = odd{grid} },
	} {
		l := base
		change(&l)
		err := g.Check(l)
		require.ErrorIs(t, err, layout.ErrUnsupported, want)
		require.ErrorContains(t, err, want)
	}
}

// odd is a grid from elsewhere.
type odd struct{ quant.Grid }
