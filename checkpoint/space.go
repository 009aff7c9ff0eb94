package checkpoint

import (
	"github.com/golowbit/lowbit/checkpoint/internal/partial"
	"github.com/golowbit/lowbit/checkpoint/internal/space"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/safetensors"
)

// ErrSpace is wrapped by the error for a disk that is too small for the result.
var ErrSpace = space.ErrTooLittle

// Space is what a run takes of the disk, and what there is.
type Space = space.Space

// SpaceFor says what a Writer with these options takes of the disk. It fails
// where Create would for another reason than what lies at Out.
func SpaceFor(o WriterOptions) (*Space, error) {
	w, err := newWriter(o)
	if err != nil {
		return nil, err
	}
	return w.space()
}

// space is known as far as the schemes of the layers are. Of those that may come
// out in another arm the codes alone are certain.
func (w *Writer) space() (*Space, error) {
	layers, err := w.inOrder(func(name string) (layout.Layer, error) { return w.layers[name], nil })
	if err != nil || len(layers) > 0 && layers[0].Scheme.Bits == 0 {
		return nil, err
	}
	s := &Space{Scratch: w.o.Scratch, Free: space.Free(w.disk, w.o.Out, w.partial.Path())}
	codes := space.Codes(layers)
	if !w.o.Direct {
		if s.Kept, err = partial.Size(layers); err != nil {
			return nil, err
		}
		s.Least = codes
	}
	if w.file != nil {
		if f, ok := w.file.(layout.Sizer); ok {
			s.Output, err = f.Size(w.o.Source, layers)
		}
		s.Least += s.Output
		return s, err
	}
	p, plan, err := w.layOut(layers)
	if err != nil {
		return nil, err
	}
	if s.Output, err = safetensors.PlanSize(plan, w.shards()); err != nil {
		return nil, err
	}
	if s.Least += p.total; !w.o.Direct && w.stacks == nil {
		for _, specs := range p.planned {
			s.Least -= space.Bytes(specs)
		}
		s.Least += codes
	}
	return s, nil
}

// checkSpace refuses, before anything is written, a result that the disk has no
// room for.
func (w *Writer) checkSpace() error {
	s, err := w.space()
	if err != nil || s == nil {
		return err
	}
	warning, err := s.Check(w.o.Out)
	if warning != "" && w.o.Warn != nil {
		w.o.Warn(warning)
	}
	return err
}
