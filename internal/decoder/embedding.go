package decoder

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/program/stored"
	"github.com/golowbit/lowbit/tensor"
)

// Embedding turns token ids into the residual stream.
type Embedding struct {
	// Weight is [Vocab, Hidden], or of another width where it is projected; nil
	// if its rows are read as they are needed (see OpenEmbedding).
	Weight *tensor.Matrix

	vocab      int
	width      int
	weights    program.Weights
	name       string
	row        []float32
	spec       embedSpec
	project    *tensor.Matrix // [Hidden, width], or nil
	positions  *tensor.Matrix // [offset+positions, Hidden], or nil
	gain, bias []float32      // of the norm
}

// LoadEmbedding reads the embedding and what goes with it.
func (m *Model) LoadEmbedding(w program.Weights) (*Embedding, error) {
	e, err := m.newEmbedding(w)
	if err == nil {
		e.Weight, err = stored.LoadMatrix(w, m.Names.Embedding, m.Vocab, m.embedWidth())
	}
	return e, err
}

// OpenEmbedding is LoadEmbedding without the matrix in memory, unless it is
// quantized: it is read once, to see that it is finite, and then row by row when
// it is used. What it returns is for one goroutine at a time.
func (m *Model) OpenEmbedding(w program.Weights) (*Embedding, error) {
	if q, ok := w.(program.Quantized); ok && q.QuantizedWeight(m.Names.Embedding) {
		return m.LoadEmbedding(w)
	}
	e, err := m.newEmbedding(w)
	if err != nil {
		return nil, err
	}
	if err := stored.CheckShape(w, e.name, e.vocab, e.width); err != nil {
		return nil, err
	}
	step := max(1, 1<<20/e.width)
	for i := 0; i < e.vocab; i += step {
		if e.row, err = w.Rows(e.name, i, min(i+step, e.vocab), e.row); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// newEmbedding reads what goes with the embedding.
func (m *Model) newEmbedding(w program.Weights) (*Embedding, error) {
	e := &Embedding{spec: m.Embed, vocab: m.Vocab, width: m.embedWidth(), weights: w, name: m.Names.Embedding}
	var err error
	if m.Names.ProjectIn != "" {
		if e.project, err = stored.LoadMatrix(w, m.Names.ProjectIn, m.Hidden, m.embedWidth()); err != nil {
			return nil, err
		}
	}
	if m.Names.Positions != "" {
		if e.positions, err = stored.LoadMatrix(w, m.Names.Positions, m.MaxPosition+m.Embed.Offset, m.Hidden); err != nil {
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
func (e *Embedding) Embed(dst *tensor.Matrix, ids []int32) error { return e.EmbedFrom(dst, ids, 0) }

// EmbedFrom is Embed for ids whose first has a position of the window.
func (e *Embedding) EmbedFrom(dst *tensor.Matrix, ids []int32, first int) error {
	width := e.width
	if e.project != nil {
		width = e.project.Rows
	}
	if dst.Rows != len(ids) || dst.Cols != width {
		panic("decoder: embedding of mismatched shapes")
	}
	if e.positions != nil && first+len(ids) > e.positions.Rows-e.spec.Offset {
		return fmt.Errorf("window of %d tokens: the model has learned %d positions", first+len(ids), e.positions.Rows-e.spec.Offset)
	}
	for i, id := range ids {
		if id < 0 || int(id) >= e.vocab {
			return fmt.Errorf("token id %d at %d: the model's vocabulary has %d", id, i, e.vocab)
		}
		v, err := e.of(int(id))
		if err != nil {
			return err
		}
		e.token(dst.Row(i), v, first+i)
	}
	return nil
}

// of is the row of a token, valid until the next call.
func (e *Embedding) of(id int) ([]float32, error) {
	if e.Weight != nil {
		return e.Weight.Row(id), nil
	}
	var err error
	e.row, err = e.weights.Rows(e.name, id, id+1, e.row)
	return e.row, err
}

func (e *Embedding) token(row, v []float32, pos int) {
	if e.project == nil {
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
