package rotate

import (
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
)

// ErrUnsupported is wrapped by errors about a model that rotations do not fold into.
var ErrUnsupported = errors.New("rotations do not fold into this model")

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}

// Span is columns or rows of a matrix that are in a basis: a piece of its width after
// another. Width 0 is none.
type Span struct{ From, To, Width int }

// Edit is what becomes of a matrix [Out, In], stored as Place says.
type Edit struct {
	Linear        string // the name of the layer that it is, "" of others
	Place         program.Slice
	Out, In       int
	Gain          string // the tensor by which columns are multiplied first, "" for none
	PlusOne       bool   // it is one more than what is stored
	Columns, Rows Span   // the latter are those of the bias too
	Stream        bool   // the columns read the residual stream
}

// Plan is what becomes of a model's tensors.
type Plan struct {
	Width int // of the residual stream
	Edits []Edit
	Norms map[string]bool // gains that become ones; true: zeros, one more being meant

	// Untied is the head of a model with tied embeddings, if it has a gain before it.
	Untied *Edit

	done map[string]bool
}

// New plans the rotation of a model. Errors wrap ErrUnsupported and say what is in the way.
func New(m *decoder.Model) (*Plan, error) {
	p := &Plan{Width: m.Hidden, Norms: map[string]bool{}, done: map[string]bool{}}
	if err := p.outer(m); err != nil {
		return nil, err
	}
	if m.Beyond > 0 {
		return nil, unsupported("there are %d blocks behind the last that predict further tokens", m.Beyond)
	}
	for _, b := range m.Blocks {
		if err := p.block(b); err != nil {
			return nil, fmt.Errorf("block %d: %w", b.Index, err)
		}
	}
	return p, nil
}

// outer plans the tensors outside the blocks.
func (p *Plan) outer(m *decoder.Model) error {
	n, h := &m.Names, &m.Head
	all := Span{0, p.Width, p.Width}
	matrix := func(name string, rows int) Edit {
		return Edit{Place: program.Slice{Weight: name, Outputs: rows, Step: 1}, Out: rows, In: p.Width, Columns: all}
	}
	switch {
	case n.ProjectIn != "" || n.ProjectOut != "":
		return unsupported("the embedding is projected")
	case m.Embed.Norm != nil:
		return unsupported("the embedding is normalized (%s)", n.EmbedNorm)
	case !h.None && h.Norm.Layer:
		return unsupported("%s is a LayerNorm, which subtracts the mean over channels; RMSNorm commutes with rotations", n.FinalNorm)
	case !h.None && h.Norm.Bias:
		return unsupported("%s has a bias", n.FinalNorm)
	}
	p.Edits = append(p.Edits, matrix(n.Embedding, m.Vocab))
	if n.Positions != "" {
		p.Edits = append(p.Edits, matrix(n.Positions, m.MaxPosition+m.Embed.Offset))
	}
	head := matrix(n.Head, m.Vocab)
	if !h.None && !h.Norm.Plain {
		head.Gain, head.PlusOne = n.FinalNorm, h.Norm.PlusOne
		p.Norms[n.FinalNorm] = h.Norm.PlusOne
	}
	switch {
	case !m.Tied:
		p.Edits = append(p.Edits, head)
	case head.Gain != "":
		p.Untied = &head
	}
	return nil
}

// block plans the tensors of a block.
func (p *Plan) block(b *program.Program) error {
	w := &walk{Plan: p, b: b, steps: b.Steps(), in: map[program.Reg]bool{program.Stream: true}, gain: map[program.Reg]gain{}, columns: map[int]Edit{}, rows: map[int]Span{}}
	w.spread()
	for _, s := range w.steps {
		if err := w.step(s); err != nil {
			return err
		}
	}
	w.values()
	for i := range b.Linears {
		l := &b.Linears[i]
		e, read := w.columns[i]
		if _, written := w.rows[i]; !read && !written {
			continue
		}
		e.Linear, e.Place, e.Out, e.In, e.Rows = l.Name, l.Stored(), l.Out, l.In, w.rows[i]
		if err := p.add(e); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) add(e Edit) error {
	s := e.Place
	key := fmt.Sprintf("%s %d %d %d", s.Weight, s.Expert, s.Output0, s.Step)
	if p.done[key] {
		return unsupported("tensor %q is used twice", s.Weight)
	}
	p.done[key] = true
	p.Edits = append(p.Edits, e)
	return nil
}

// gain is what a register has been multiplied by since its norm.
type gain struct {
	tensor  string
	plusOne bool
}

// walk goes through a block.
type walk struct {
	*Plan
	b       *program.Program
	steps   []program.Step
	in      map[program.Reg]bool // registers in the basis of the stream
	gain    map[program.Reg]gain
	columns map[int]Edit // by linear: gain and columns
	rows    map[int]Span
}

// spread finds the registers in the basis of the stream: those that are added to it or
// copied from it, and norms of such.
func (w *walk) spread() {
	for more := true; more; {
		more = false
		for _, s := range w.steps {
			regs := append(s.Reads[:len(s.Reads):len(s.Reads)], s.Writes...)
			if !s.Even && s.Norm == nil {
				continue
			}
			any, all := false, true
			for _, r := range regs {
				any, all = any || w.in[r], all && w.in[r]
			}
			if s.Norm != nil {
				any = w.in[s.Reads[0]]
			}
			if any && !all {
				more = true
				for _, r := range regs {
					w.in[r] = true
				}
			}
		}
	}
}

// step plans what an operation reads and writes in the basis of the stream.
func (w *walk) step(s program.Step) error {
	reads, writes := false, false
	for _, r := range s.Reads {
		reads = reads || w.in[r]
	}
	for _, r := range s.Writes {
		writes = writes || w.in[r]
	}
	switch {
	case !reads && !writes:
		return nil
	case s.Even:
		return w.even(s)
	case s.Norm != nil:
		return w.norm(s)
	case s.Linear >= 0:
		return w.linear(s)
	case s.Onto != nil:
		if src := s.Reads[0]; w.in[src] {
			g := w.gain[src]
			for _, name := range s.Onto {
				shape, _ := w.b.Shape(name)
				e := Edit{Place: program.Slice{Weight: name, Outputs: shape[0], Step: 1}, Out: shape[0], In: w.Width, Gain: g.tensor, PlusOne: g.plusOne, Columns: Span{0, w.Width, w.Width}}
				if err := w.add(e); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return unsupported("the operation %q on the residual stream is none that rotations pass through", s.Name)
}

func (w *walk) even(s program.Step) error {
	for i, r := range s.Reads {
		if i > 0 && w.gain[r] != w.gain[s.Reads[0]] {
			return unsupported("what a norm with a gain gives is added to the residual stream (%s): gain and rotation do not commute", w.gain[r].tensor+w.gain[s.Reads[0]].tensor)
		}
	}
	for _, r := range s.Writes {
		g := gain{}
		if len(s.Reads) > 0 {
			g = w.gain[s.Reads[0]]
		}
		if r == program.Stream && g != (gain{}) {
			return unsupported("what a norm with a gain gives becomes the residual stream (%s): gain and rotation do not commute", g.tensor)
		}
		w.gain[r] = g
	}
	return nil
}

func (w *walk) norm(s program.Step) error {
	src, dst := s.Reads[0], s.Writes[0]
	switch {
	case !w.in[src]:
		return unsupported("%s normalizes what is added to the residual stream: gain and rotation do not commute", s.Gain)
	case s.Norm.Layer:
		return unsupported("%s is a LayerNorm, which subtracts the mean over channels; RMSNorm commutes with rotations", s.Gain)
	case s.Norm.Bias || w.gain[src] != (gain{}) || dst == program.Stream && s.Gain != "":
		return unsupported("the norm %s stands where its gain does not fold into what reads it", s.Gain)
	}
	w.gain[dst] = gain{s.Gain, s.Gain != "" && s.Norm.PlusOne}
	if s.Gain != "" {
		w.Norms[s.Gain] = s.Norm.PlusOne
	}
	return nil
}

func (w *walk) linear(s program.Step) error {
	all := Span{0, w.Width, w.Width}
	if src := s.Reads[0]; w.in[src] {
		g := w.gain[src]
		w.columns[s.Linear] = Edit{Gain: g.tensor, PlusOne: g.plusOne, Columns: all, Stream: true}
	}
	if dst := s.Writes[0]; w.in[dst] {
		if w.gain[dst] != (gain{}) {
			return unsupported("%s is added to what the norm %s gives", w.b.Linears[s.Linear].Path, w.gain[dst].tensor)
		}
		w.rows[s.Linear] = all
	}
	return nil
}

// values plans the rotation of the values of attention where one linear computes them, and
// one reads their means.
func (w *walk) values() {
	for _, st := range w.b.Stages {
		if st.Fold == nil || st.Fold.Before < 0 || len(st.Linears) != 1 {
			continue
		}
		reader := st.Linears[0]
		width := w.valuesOf(reader)
		e, v := w.columns[reader], st.Fold.Before
		if _, written := w.rows[v]; width == 0 || written || e.Columns.Width > 0 {
			continue
		}
		e.Columns = Span{0, st.Width, width}
		w.columns[reader] = e
		w.rows[v] = Span{st.Fold.Row0, st.Fold.Row0 + st.Fold.Channels, width}
	}
}

// valuesOf is the width of the heads whose means a linear reads as they are, 0 if it reads
// something else.
func (w *walk) valuesOf(linear int) int {
	var src program.Reg
	for i := len(w.steps) - 1; i >= 0; i-- {
		s := &w.steps[i]
		if s.Linear == linear {
			src = s.Reads[0]
		} else if src != program.Stream && s.Writes != nil && s.Writes[0] == src {
			return s.Values
		}
	}
	return 0
}
