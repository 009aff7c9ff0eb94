package checkpoint

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/safetensors"
)

// TestColumnsRefused: of all formats lowbit and dense alone take columns in 16 bits, on
// whatever grid of theirs; others say what does.
func TestColumnsRefused(t *testing.T) {
	schemes := []quant.Scheme{llmint8.Grid{}.Scheme()}
	for _, bits := range []int{2, 3, 4, 8} {
		for _, group := range []int{quant.WholeLine, 32, 64, 128} {
			for _, symmetric := range []bool{false, true} {
				schemes = append(schemes, quant.Scheme{Bits: bits, GroupSize: group, Symmetric: symmetric})
			}
		}
	}
	held := map[string]int{}
	for _, f := range Formats() {
		for _, s := range schemes {
			l := layout.Layer{Name: "model.layers.0.mlp.down_proj", Out: 256, In: 256, Scheme: s, DType: safetensors.F16}
			if f.Check(l) != nil {
				continue
			}
			held[f.Name()]++
			l.Columns = 3
			err := f.Check(l)
			if f.Name() == "lowbit" || f.Name() == "dense" {
				require.NoError(t, err, "%s %v", f.Name(), s)
				continue
			}
			require.ErrorIs(t, err, layout.ErrUnsupported, "%s %v", f.Name(), s)
			require.ErrorContains(t, err, "use format lowbit or dense")
		}
	}
	for _, f := range Formats() {
		require.Positive(t, held[f.Name()], "%s takes none of the layers without columns", f.Name())
	}
}
