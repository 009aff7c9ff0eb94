package lowbit

import (
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/llama"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// newRunner returns what runs the blocks of src. bf16 is taken for a wish:
// products are rounded to bfloat16 only if every linear layer of the blocks
// is stored in it.
func newRunner(cfg *llama.Config, src *checkpoint.Model, bf16 bool, workers int) (*llama.Runner, error) {
	r, err := llama.NewRunner(cfg, workers)
	if err != nil {
		return nil, err
	}
	r.BF16 = bf16 && halfWeights(cfg, src)
	return r, nil
}

// halfWeights reports whether the linear layers of all blocks are dense
// bfloat16.
func halfWeights(cfg *llama.Config, src *checkpoint.Model) bool {
	if len(src.Quantized()) > 0 {
		return false
	}
	for b := range cfg.Layers {
		for _, l := range cfg.Linears(b) {
			if t, ok := src.DType(l.WeightName()); !ok || t != safetensors.BF16 {
				return false
			}
		}
	}
	return true
}

// collector returns what observes an input of the block.
func (r *blockRun) collector(in llama.Input, paired bool) *quant.Collector {
	c := quant.NewCollector(r.width(in))
	if paired {
		c = quant.NewPairCollector(r.width(in))
	}
	c.BF16 = r.fwd.BF16
	return c
}
