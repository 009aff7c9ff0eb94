package parts

import (
	"slices"

	"github.com/golowbit/lowbit/checkpoint/layout"
)

// Place is a tensor and the stored one that it lies in.
type Place struct {
	layout.Spec
	Stack string
	Off   int64 // of its bytes there, where they are a run
}

// Inside is a source with tensors under their own names in place of the stored ones that
// they lie in.
type Inside struct {
	layout.Source
	places map[string]Place
	stacks map[string]bool
	names  []string
}

// NewInside shows src with other tensors in place of some, by the names of these.
func NewInside(src layout.Source, inside map[string][]Place) (*Inside, error) {
	s := &Inside{Source: src, places: map[string]Place{}, stacks: map[string]bool{}}
	for _, name := range src.Names() {
		list, ok := inside[name]
		if !ok {
			s.names = append(s.names, name)
			continue
		}
		s.stacks[name] = true
		for _, p := range list {
			_, twice := s.places[p.Name]
			if _, there := src.Spec(p.Name); twice || there && p.Name != name {
				return nil, layout.TensorError(src, name, "%q in it is there twice", p.Name)
			}
			s.places[p.Name] = p
			s.names = append(s.names, p.Name)
		}
	}
	return s, nil
}

// Names implements layout.Source.
func (s *Inside) Names() []string { return slices.Clone(s.names) }

// Spec implements layout.Source.
func (s *Inside) Spec(name string) (layout.Spec, bool) {
	if p, ok := s.places[name]; ok {
		return p.Spec, true
	}
	if s.stacks[name] {
		return layout.Spec{}, false
	}
	return s.Source.Spec(name)
}

// Stored is the name of the stored tensor that a tensor lies in, or is.
func (s *Inside) Stored(name string) string {
	if p, ok := s.places[name]; ok {
		return p.Stack
	}
	return name
}

// File implements layout.Source.
func (s *Inside) File(name string) string { return s.Source.File(s.Stored(name)) }

// ReadAt implements layout.Source.
func (s *Inside) ReadAt(name string, b []byte, off int64) error {
	p, ok := s.places[name]
	if !ok {
		return s.Source.ReadAt(name, b, off)
	}
	if err := s.check(p, len(b), off); err != nil {
		return err
	}
	return s.Source.ReadAt(p.Stack, b, p.Off+off)
}

// check refuses bytes beyond a tensor.
func (s *Inside) check(p Place, n int, off int64) error {
	if size := p.Bytes(); off < 0 || off > size || int64(n) > size-off {
		return layout.TensorError(s, p.Name, "bytes %d to %d of %d asked for", off, off+int64(n), size)
	}
	return nil
}
