package decoder

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

// Embedding turns token ids into the residual stream.
type Embedding struct {
	Weight *tensor.Matrix // [Vocab, Hidden], or of another width where it is projected

	spec       embedSpec
	project    *tensor.Matrix // [Hidden, width], or nil
	positions  *tensor.Matrix // [offset+positions, Hidden], or nil
	gain, bias []float32      // of the norm
}

// LoadEmbedding reads the embedding and what goes with it.
func (m *Model) LoadEmbedding(w program.Weights) (*Embedding, error) {
	e := &Embedding{spec: m.Embed}
	var err error
	if e.Weight, err = program.LoadMatrix(w, m.Names.Embedding, m.Vocab, m.embedWidth()); err != nil {
		return nil, err
	}
	if m.Names.ProjectIn != "" {
		if e.project, err = program.LoadMatrix(w, m.Names.ProjectIn, m.Hidden, m.embedWidth()); err != nil {
			return nil, err
		}
	}
	if m.Names.Positions != "" {
		if e.positions, err = program.LoadMatrix(w, m.Names.Positions, m.MaxPosition+m.Embed.Offset, m.Hidden); err != nil {
			return nil, err
		}
	}
	if m.Embed.Norm != nil {
		s := *m.Embed.Norm
		e.gain, e.bias, err = m.loadNorm(w, &s, m.Names.EmbedNorm)
		e.spec.Norm = &s
	}
	return e, err
}

// Embed writes the residual stream of the ids of one window, positions 0 to
// len(ids)-1, to dst [len(ids), Hidden]. An id outside the vocabulary is an error,
// and a window longer than the positions that the model has learned.
func (e *Embedding) Embed(dst *tensor.Matrix, ids []int32) error {
	width := e.Weight.Cols
	if e.project != nil {
		width = e.project.Rows
	}
	if dst.Rows != len(ids) || dst.Cols != width {
		panic("decoder: embedding of mismatched shapes")
	}
	if e.positions != nil && len(ids) > e.positions.Rows-e.spec.Offset {
		return fmt.Errorf("window of %d tokens: the model has learned %d positions", len(ids), e.positions.Rows-e.spec.Offset)
	}
	for i, id := range ids {
		if id < 0 || int(id) >= e.Weight.Rows {
			return fmt.Errorf("token id %d at %d: the model's vocabulary has %d", id, i, e.Weight.Rows)
		}
		e.token(dst.Row(i), int(id), i)
	}
	return nil
}

func (e *Embedding) token(row []float32, id, pos int) {
	if v := e.Weight.Row(id); e.project == nil {
		copy(row, v)
	} else {
		x := tensor.FromSlice(1, len(v), v)
		tensor.Gemm(false, true, 1, x, e.project, 0, tensor.FromSlice(1, len(row), row), 1)
	}
	if e.spec.Scale != 0 {
		kernel.Scale(row, float32(e.spec.Scale))
	}
	if e.positions != nil {
		kernel.Axpy(1, e.positions.Row(e.spec.Offset+pos), row)
	}
	if e.spec.Norm != nil {
		e.spec.Norm.Apply(row, row, e.gain, e.bias)
	}
}
