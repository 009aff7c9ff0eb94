package blocks

import (
	"encoding/binary"
	"fmt"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
)

// keepSquares keeps the sums of the squares of a stage's inputs, as they are without
// folded scales, also for a resumed run, which does not see them again.
func (r *run) keepSquares(stage int, c *quant.Collector) error {
	if !r.Squares {
		return nil
	}
	sums, tokens := c.Squares()
	if own := r.few.squares[stage]; own != nil {
		sums, tokens = own, r.few.routed[stage]
	}
	data := make([]byte, 8+4*len(sums))
	binary.LittleEndian.PutUint64(data, uint64(tokens))
	wire.Encode(data[8:], wire.F32, sums)
	return r.layers.Note(squaresNote(r.block.Program, stage), data)
}

func squaresNote(p *program.Program, stage int) string {
	return fmt.Sprintf("squares-%d-%d", p.Index, stage)
}

// EachSquares tells of every linear whose inputs were seen with Options.Squares, now or
// by the run that is resumed, the sums of their squares, [in], and how many there were.
func EachSquares(programs []*program.Program, layers Layers, tell func(layer string, sums []float32, tokens int)) error {
	for _, p := range programs {
		for i := range p.Stages {
			data, ok := layers.Noted(squaresNote(p, i))
			if !ok {
				continue
			}
			if want := 8 + 4*p.Stages[i].Width; len(data) != want {
				return fmt.Errorf("block %d: %d bytes of squares kept by the interrupted run, want %d", p.Index, len(data), want)
			}
			sums := make([]float32, p.Stages[i].Width)
			wire.Decode(sums, wire.F32, data[8:])
			for _, l := range p.Stages[i].Linears {
				tell(p.Linears[l].Name, sums, int(binary.LittleEndian.Uint64(data)))
			}
		}
	}
	return nil
}
