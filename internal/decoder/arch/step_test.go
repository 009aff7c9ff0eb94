package arch_test

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/generate"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// TestSteps: tokens that go through a model a few at a time, after others, are predicted as in
// whole windows.
func TestSteps(t *testing.T) {
	for _, dir := range architectureDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			config, err := os.ReadFile(filepath.Join(dir, "config.json"))
			require.NoError(t, err)
			var ref struct {
				IDs [][]int32 `json:"input_ids"`
				Std float64   `json:"logits_std"`
			}
			data, err := os.ReadFile(filepath.Join(dir, "reference.json"))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(data, &ref))
			folder, err := safetensors.OpenFolder(dir)
			require.NoError(t, err)
			defer folder.Close()
			src := fileWeights{folder}
			want, _, err := compute(src, config, ref.IDs, nil)
			if err != nil {
				t.Skip(err)
			}
			m, err := arch.ParseConfig(config)
			require.NoError(t, err)
			require.NoError(t, m.Fit(src))
			ctx := context.Background()
			e, err := generate.Load(ctx, m, src, program.NewRunner(2), nil)
			require.NoError(t, err)
			n := len(ref.IDs[0])
			s := e.Start(len(ref.IDs), n)
			logits := tensor.New(len(ref.IDs), m.Vocab)
			worst := 0.0
			for from, size := 0, 5; from < n; from, size = from+size, 1+from%3 {
				to := min(n, from+size)
				next := make([][]int32, len(ref.IDs))
				for i, ids := range ref.IDs {
					next[i] = ids[from:to]
				}
				require.NoError(t, s.Feed(ctx, next, logits))
				for i := range next {
					for j, v := range want.Row(i*n + to - 1) {
						worst = max(worst, math.Abs(float64(v)-float64(logits.Row(i)[j])))
					}
				}
				size = to - from
			}
			t.Logf("largest difference %.2g of the standard deviation", worst/ref.Std)
			limit := 2e-4
			if filepath.Base(dir) == "minimax" {
				limit = 0.05 // its files have decays of whole blocks of tokens, rounded
			}
			require.Less(t, worst/ref.Std, limit)
		})
	}
}
