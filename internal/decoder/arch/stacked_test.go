package arch_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/safetensors"
)

// stackedWeights gives the experts of a folder as transformers 5 holds them: all of
// a block in mlp.experts.gate_up_proj [experts, 2*width, in] and down_proj.
type stackedWeights struct {
	fileWeights
	experts int
}

func (w stackedWeights) own(name string) bool { return strings.Contains(name, "mlp.experts.") }

func (w stackedWeights) parts(name string) []string {
	base, path, _ := strings.Cut(name, "mlp.experts.")
	var all []string
	for e := range w.experts {
		for _, part := range map[string][]string{"gate_up_proj": {"gate_proj", "up_proj"}, "down_proj": {"down_proj"}}[path] {
			all = append(all, base+"mlp.experts."+string(rune('0'+e))+"."+part+".weight")
		}
	}
	return all
}

func (w stackedWeights) Shape(name string) ([]int, bool) {
	if !w.own(name) {
		return w.fileWeights.Shape(name)
	}
	parts := w.parts(name)
	if len(parts) == 0 {
		return nil, false
	}
	shape, ok := w.fileWeights.Shape(parts[0])
	if !ok {
		return nil, false
	}
	return []int{w.experts, shape[0] * len(parts) / w.experts, shape[1]}, true
}

func (w stackedWeights) Has(name string) bool { _, ok := w.Shape(name); return ok }

func (w stackedWeights) Rows(name string, i0, i1 int, dst []float32) ([]float32, error) {
	if !w.own(name) {
		return w.fileWeights.Rows(name, i0, i1, dst)
	}
	parts := w.parts(name)
	each := len(parts) / w.experts
	var all []float32
	for _, part := range parts[i0*each : i1*each] {
		v, err := w.ReadFloat32(part, nil)
		if err != nil {
			return nil, err
		}
		all = append(all, v...)
	}
	return all, nil
}

// TestStackedExperts: a mixture is the same model with its experts as tensors of
// their own and stacked.
func TestStackedExperts(t *testing.T) {
	for _, name := range []string{"qwen2-moe", "deepseek-v3", "qwen3-next"} {
		dir := filepath.Join("../../../testdata/architectures", name)
		config, err := os.ReadFile(filepath.Join(dir, "config.json"))
		require.NoError(t, err)
		folder, err := safetensors.OpenFolder(dir)
		require.NoError(t, err)
		defer folder.Close()
		ids := [][]int32{{3, 1, 4, 1, 5, 9, 2, 6}}
		want, m, err := compute(fileWeights{folder}, config, ids, nil)
		require.NoError(t, err)
		got, s, err := compute(stackedWeights{fileWeights{folder}, m.Experts}, config, ids, nil)
		require.NoError(t, err)
		require.Equal(t, want.Data, got.Data, name)
		sliced := func(l program.LinearInfo) bool { return l.Slice != nil }
		require.False(t, slices.ContainsFunc(m.Linears(), sliced))
		require.True(t, slices.ContainsFunc(s.Linears(), sliced))
	}
}
