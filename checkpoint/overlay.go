package checkpoint

import (
	"bytes"
	"io"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/layout"
)

// overlay is a model some of whose vectors have other values than its files.
type overlay struct {
	*Model
	changed map[string][]float32
}

var _ layout.Origin = overlay{}

// Vector reads a one-dimensional tensor, or what it was changed to.
func (o overlay) Vector(name string) ([]float32, error) {
	if v, ok := o.changed[name]; ok {
		return slices.Clone(v), nil
	}
	return o.Model.Vector(name)
}

// section reads the bytes of a dense tensor, or of what it was changed to.
func (o overlay) section(s layout.Spec) (*io.SectionReader, error) {
	r := layout.ReaderOf(o.src, s)
	if v, ok := o.changed[s.Name]; ok {
		t, err := layout.FloatTensor(s.Name, s.DType, v, s.Shape...)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(t.Data)
	}
	return io.NewSectionReader(r, 0, s.Bytes()), nil
}
