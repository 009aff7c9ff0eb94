package blocks

import (
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// collector returns what observes a stage of the block.
func (r *run) collector(stage int, paired bool) *quant.Collector {
	c := quant.NewCollector(r.block.Stages[stage].Width)
	if paired {
		c = quant.NewPairCollector(r.block.Stages[stage].Width)
	}
	c.BF16 = r.walk.Runner.BF16
	return c
}

// observe adds the inputs of a stage to its statistics; an expert may have none in a batch.
func (r *run) observe(c *quant.Collector, stage int, f *program.Frame) {
	own, filled := f.Routed(&r.block.Stages[stage])
	if own.Rows > 0 {
		c.Add(own, r.Workers)
	}
	r.few.add(r, c, stage, own, filled)
}

// watch tells, once, of a stage whose inputs half floats do not hold.
func (r *run) watch(stage int, f *program.Frame) {
	for _, x := range []*tensor.Matrix{f.X, f.Input(&r.block.Stages[stage])} {
		for i := 0; r.Overflow != nil && i < x.Rows; i++ {
			lo, hi := kernel.MinMax(x.Row(i))
			if most := max(-lo, hi); most > wire.MaxHalf {
				r.Overflow(r.block.Linears[r.block.Stages[stage].Linears[0]].Name, most)
				r.Overflow = nil
			}
		}
	}
}

func calibrations(collectors []*quant.Collector) []*quant.Calibration {
	cals := make([]*quant.Calibration, len(collectors))
	for s, c := range collectors {
		if c != nil {
			cals[s] = c.Calibration()
		}
	}
	return cals
}

// scaled returns the calibration of a stage as it is with the folded scales.
func (r *run) scaled(stage int, cal *quant.Calibration) *quant.Calibration {
	return r.scales.Calibration(stage, cal, r.ScaleInput)
}
