package arch_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/safetensors"
)

// TestQuiet: what a config.json says of softmax and gates is run, or refused by name, and so
// are gates that it says nothing of.
func TestQuiet(t *testing.T) {
	for name, c := range map[string]struct{ model, old, new, want string }{
		"other softmax": {"opt-clipped", "clipped(-.1:1.1)", "sparse", `"attn_softmax": "sparse"`},
		"short of one":  {"opt-clipped", "clipped(-.1:1.1)", "clipped(-.1:.9)", `"attn_softmax": "clipped(-.1:.9)"`},
		"no length":     {"opt-clipped-alpha", `"max_seq_length": 36,`, "", `"max_seq_length": 0`},
		"pooled":        {"opt-gated", "conditional_per_token", "conditional_per_head", `"attn_gate_type": "conditional_per_head"`},
		"no such start": {"opt-gated-mlp2", `"attn_gate_init": 0.25`, `"attn_gate_init": 2`, `"attn_gate_init": 2`},
		"gates unsaid":  {"opt-gated", `"attn_gate_type": "conditional_per_token"`, `"attn_gate_type": "none"`, "self_attn.alpha.0.weight"},
		"said, not there": {
			"opt", `"bos_token_id": 2,`, `"attn_gate_type": "unconditional_per_head",`, "self_attn.alpha",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("../../../testdata/architectures", c.model)
			data, err := os.ReadFile(filepath.Join(dir, "config.json"))
			require.NoError(t, err)
			require.Contains(t, string(data), c.old)
			folder, err := safetensors.OpenFolder(dir)
			require.NoError(t, err)
			defer folder.Close()
			changed := []byte(strings.Replace(string(data), c.old, c.new, 1))
			_, _, err = compute(fileWeights{folder}, changed, [][]int32{{1, 2, 3}}, nil)
			require.ErrorContains(t, err, c.want)
		})
	}
	// The authors' table has -.003 under this name.
	const dir = "../../../testdata/architectures/opt-clipped"
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	run := func(softmax string) []float32 {
		changed := []byte(strings.Replace(string(data), "clipped(-.1:1.1)", softmax, 1))
		out, _ := logits(t, dir, changed, [][]int32{{1, 2, 3, 4, 5, 6}})
		return out.Data
	}
	require.Equal(t, run("clipped(-.003:1.005)"), run("clipped(-.005:1.005)"))
	require.NotEqual(t, run("clipped(-.003:1.005)"), run("vanilla"))
}
