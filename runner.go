package lowbit

import (
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/safetensors"
)

// newRunner returns what runs the blocks of src. bf16 is taken for a wish:
// products are rounded to bfloat16 only if every linear layer of the blocks
// is stored in it.
func newRunner(m *decoder.Model, src *checkpoint.Model, bf16 bool, workers int) *program.Runner {
	r := program.NewRunner(workers)
	r.BF16 = bf16 && bfloat16Weights(m, src)
	return r
}

// bfloat16Weights reports whether the linear layers of all blocks are dense
// bfloat16.
func bfloat16Weights(m *decoder.Model, src *checkpoint.Model) bool {
	if len(src.Quantized()) > 0 {
		return false
	}
	for _, l := range m.Linears() {
		if t, ok := src.DType(l.WeightName()); !ok || t != safetensors.BF16 {
			return false
		}
	}
	return true
}
