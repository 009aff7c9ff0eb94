package decoder

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/kernel"
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
func (m *Model) LoadEmbedding(w Weights) (*Embedding, error) {
	e := &Embedding{spec: m.embed}
	var err error
	if e.Weight, err = loadMatrix(w, m.names.embedding, m.Vocab, m.embedWidth()); err != nil {
		return nil, err
	}
	if m.names.projectIn != "" {
		if e.project, err = loadMatrix(w, m.names.projectIn, m.Hidden, m.embedWidth()); err != nil {
			return nil, err
		}
	}
	if m.names.positions != "" {
		if e.positions, err = loadMatrix(w, m.names.positions, m.MaxPosition+m.embed.offset, m.Hidden); err != nil {
			return nil, err
		}
	}
	if m.embed.norm != nil {
		s := *m.embed.norm
		e.gain, e.bias, err = m.loadNorm(w, &s, m.names.embedNorm)
		e.spec.norm = &s
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
	if e.positions != nil && len(ids) > e.positions.Rows-e.spec.offset {
		return fmt.Errorf("window of %d tokens: the model has learned %d positions", len(ids), e.positions.Rows-e.spec.offset)
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
	if e.spec.scale != 0 {
		kernel.Scale(row, float32(e.spec.scale))
	}
	if e.positions != nil {
		kernel.Axpy(1, e.positions.Row(e.spec.offset+pos), row)
	}
	if e.spec.norm != nil {
		e.spec.norm.apply(row, row, e.gain, e.bias)
	}
}
