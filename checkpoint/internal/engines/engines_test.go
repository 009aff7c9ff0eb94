package engines

import (
	"bytes"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/verified"
	"github.com/golowbit/lowbit/quant"
)

var update = flag.Bool("update", false, "write docs/engines.md")

// TestDocument holds the page to the data.
func TestDocument(t *testing.T) {
	const page = "../../../docs/engines.md"
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(Markdown()), 0o644))
	}
	data, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, Markdown(), string(data), "go test ./checkpoint/internal/engines -update writes it")
}

// TestTable: every row can be reached and says why not.
func TestTable(t *testing.T) {
	for i, r := range Table {
		require.NotEmpty(t, r.Formats, "row %d", i)
		require.True(t, r.Loads || r.Note != "", "row %d refuses without a reason", i)
		for _, earlier := range Table[:i] {
			all := earlier.Engine == r.Engine && slices.Equal(earlier.Formats, r.Formats) &&
				len(earlier.Bits) == 0 && len(earlier.Groups) == 0 && earlier.Symmetry == AnyGrid && earlier.Index == AnyIndex
			require.False(t, all, "row %d (%s, %v) is behind one that speaks of everything", i, r.Engine, r.Formats)
		}
	}
}

// TestResults: what the checks found is what the table says, and every result
// is of a file that the table speaks of.
func TestResults(t *testing.T) {
	for _, v := range verified.Results() {
		l := layerOf(v)
		i := index(v.Engine, v.Format, l)
		require.GreaterOrEqual(t, i, 0, "%+v", v)
		require.NotEmpty(t, v.Version)
		layers := []layout.Layer{l}
		if v.Mixed {
			like, dense := l, l
			like.Name, dense.Name, dense.Dense = "model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj", true
			layers = append(layers, like, dense)
		}
		if v.Model != tried && hasExperts(t, v.Model) {
			expert := l
			expert.Name = "model.layers.0.mlp.experts.0.up_proj"
			layers = append(layers, expert)
		}
		n := ForModel(v.Format, v.Type, layers, []layout.Note{judge(v.Engine, v.Format, layers)})[0]
		require.Equal(t, v.Loads, n.Accepted && !n.GPU && (n.Versions == "" || strings.HasPrefix(v.Version, n.Versions+".")), "%+v", v)
	}
}

// hasExperts tells whether a tiny model has any, by the names of its tensors.
func hasExperts(t *testing.T, model string) bool {
	data, err := os.ReadFile("../../../testdata/" + model + "/model.safetensors")
	require.NoError(t, err)
	return bytes.Contains(data, []byte(".experts.")) || bytes.Contains(data, []byte(".block_sparse_moe."))
}

// TestVerified: a note says so of what was tried only.
func TestVerified(t *testing.T) {
	judged := func(bits int) layout.Note {
		return judge(layout.EngineTransformers, "compressed-tensors", []layout.Layer{{Name: "x", Out: 256, In: 512, Scheme: quant.Scheme{Bits: bits, GroupSize: 64, Symmetric: true}}})
	}
	require.Contains(t, judged(4).Verified, "5.24.0")
	other := layout.Layer{Name: "x", Out: 256, In: 512, Scheme: quant.Scheme{Bits: 4, GroupSize: 16, Symmetric: true}}
	require.Empty(t, judge(layout.EngineTransformers, "compressed-tensors", []layout.Layer{other}).Verified, "groups of 16")
}

// TestModels: every exception was seen in the models of testdata/architectures.
func TestModels(t *testing.T) {
	for _, m := range Models {
		note := layout.Note{Engine: m.Engine, Accepted: true, Reason: "needs a package"}
		for _, modelType := range m.Types {
			layers := []layout.Layer{{Name: "x.experts.0.y"}}
			n := ForModel(m.Formats[0], modelType, layers, []layout.Note{note})[0]
			require.Equal(t, m.Others != "", n.Accepted, modelType)
			require.Contains(t, n.Reason, m.Note)
			require.NotEmpty(t, m.seen(modelType, m.Only, false), "%s in %s", modelType, m.Engine)
			if m.Only != "" {
				old := note
				old.Versions = m.Only
				require.False(t, ForModel(m.Formats[0], modelType, layers, []layout.Note{old})[0].Accepted)
			}
		}
	}
	note := layout.Note{Engine: layout.EngineTransformers, Accepted: true}
	require.Equal(t, note, ForModel("compressed-tensors", "llama", []layout.Layer{{Name: "x"}}, []layout.Note{note})[0])
	require.Equal(t, note, ForModel("compressed-tensors", "gpt_oss", []layout.Layer{{Name: "self_attn.q_proj"}}, []layout.Note{note})[0], "without experts")
}

// TestOwnAttention: no engine is said to load a model whose softmax or gates it does not know.
func TestOwnAttention(t *testing.T) {
	accepted := []layout.Note{{Engine: layout.EngineTransformers, Accepted: true}, {Engine: layout.EngineVLLM, Accepted: true}}
	for config, loads := range map[string]bool{
		`{"model_type": "opt"}`: true, `{"model_type": "opt", "attn_softmax": "vanilla", "attn_gate_type": "none"}`: true, `{"model_type": "llama", "alpha": 2}`: true,
		`{"model_type": "opt", "attn_softmax": "clipped(-.1:1)"}`: false, `{"model_type": "opt", "alpha": 4}`: false, `{"model_type": "opt", "attn_gate_type": "conditional_per_token"}`: false,
	} {
		for _, n := range ForModel("compressed-tensors", TypeOf([]byte(config)), nil, accepted) {
			require.Equal(t, loads, n.Accepted, config)
			require.Equal(t, !loads, n.Reason != "", config)
		}
	}
}
