package checkpoint

import (
	"fmt"
	"slices"
	"sync"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/safetensors"
)

// Part is the place of a linear layer in stored tensors that are transposed or
// hold several layers: the [in, out] matrices of GPT-2, all experts of a block,
// gate and up.
type Part struct {
	Layer   string // its own name, without ".weight"
	Out, In int
	// Weight and Bias name the stored tensors. Bias is "" where there is none or
	// it is stored under the layer's own name.
	Weight, Bias string
	Transposed   bool // the last two dimensions of Weight are [in, out]
	// Experts is the first of three dimensions of the weight, and of two of the
	// bias; Expert the index there. With Experts 0 they have two and one.
	Experts, Expert int
	// The stored tensors have this many outputs; the i-th of the layer is
	// Output0 + i*Step of them.
	Outputs, Output0, Step int
}

// piece is a tensor of a layer and where it lies in a stored one.
type piece struct {
	name, stack string
	part        Part
	in          int  // 1 for a bias
	bias        bool // the tensor has one dimension less
}

// pieces are the weight and the bias of a part.
func (p Part) pieces() []piece {
	list := []piece{{name: p.Layer + layout.WeightSuffix, stack: p.Weight, part: p, in: p.In}}
	if p.Bias != "" {
		list = append(list, piece{name: p.Layer + biasSuffix, stack: p.Bias, part: p, in: 1, bias: true})
	}
	return list
}

func (p piece) shape() []int {
	if p.bias {
		return []int{p.part.Out}
	}
	return []int{p.part.Out, p.in}
}

// stackShape is the shape of the stored tensor.
func (p piece) stackShape() []int {
	shape := []int{p.part.Outputs, p.in}
	switch {
	case p.bias:
		shape = shape[:1]
	case p.part.Transposed:
		shape[0], shape[1] = shape[1], shape[0]
	}
	if p.part.Experts > 0 {
		shape = append([]int{p.part.Experts}, shape...)
	}
	return shape
}

// matrix is the first element of the stored matrix that the piece lies in.
func (p piece) matrix() int { return p.part.Expert * p.part.Outputs * p.in }

// at is the place of element (o, i) in that matrix.
func (p piece) at(o, i int) int {
	row := p.part.Output0 + o*p.part.Step
	if p.part.Transposed && !p.bias {
		return i*p.part.Outputs + row
	}
	return row*p.in + i
}

// contiguous tells whether the piece is a run of bytes.
func (p piece) contiguous() bool { return p.part.Step == 1 && (p.bias || !p.part.Transposed) }

// Split shows the model with layers as tensors of their own, "LAYER.weight"
// [Out, In] and "LAYER.bias" [Out], in place of the stored tensors that they lie
// in. parts must have all layers of each of these. It shares the model's files;
// closing either closes both.
func (m *Model) Split(parts []Part) (*Model, error) {
	if len(parts) == 0 {
		return m, nil
	}
	if m.dec != nil {
		return nil, fmt.Errorf("%s: layers of a quantized model are not split", m.path)
	}
	s := &split{Source: m.src, pieces: map[string]piece{}, stacks: map[string][]string{}}
	for _, part := range parts {
		for _, p := range part.pieces() {
			spec, err := layout.Want(m.src, p.stack, p.stackShape(), layout.FloatTypes()...)
			if err != nil {
				return nil, err
			}
			_, twice := s.pieces[p.name]
			if _, there := m.src.Spec(p.name); twice || there && p.name != p.stack {
				return nil, layout.TensorError(m.src, p.stack, "%q in it is there twice", p.name)
			}
			s.pieces[p.name] = p
			s.stacks[spec.Name] = append(s.stacks[spec.Name], p.name)
		}
	}
	for _, name := range m.src.Names() {
		if inside, ok := s.stacks[name]; ok {
			s.names = append(s.names, inside...)
		} else {
			s.names = append(s.names, name)
		}
	}
	return (&Model{path: m.path, base: m.base, config: m.config, noConfig: m.noConfig, src: s, format: m.format, files: m.files}).indexed()
}

// split is a source with layers that lie in larger tensors under their own names.
type split struct {
	layout.Source
	pieces map[string]piece
	stacks map[string][]string // names of pieces by stored tensor
	names  []string

	mu   sync.Mutex
	kept []*gathered // the last used, so that reading in pieces is cheap
}

// gathered is a piece that is no run of bytes, put together.
type gathered struct {
	name string
	once sync.Once
	data []byte
	err  error
}

// mostGathered is how many are kept: one for each layer that is worked on at a time.
const mostGathered = 4

func (s *split) Names() []string { return slices.Clone(s.names) }

func (s *split) Spec(name string) (layout.Spec, bool) {
	if p, ok := s.pieces[name]; ok {
		spec, _ := s.Source.Spec(p.stack)
		return layout.Spec{Name: name, DType: spec.DType, Shape: p.shape()}, true
	}
	if _, ok := s.stacks[name]; ok {
		return layout.Spec{}, false
	}
	return s.Source.Spec(name)
}

func (s *split) File(name string) string {
	if p, ok := s.pieces[name]; ok {
		return s.Source.File(p.stack)
	}
	return s.Source.File(name)
}

func (s *split) ReadAt(name string, b []byte, off int64) error {
	p, ok := s.pieces[name]
	if !ok {
		return s.Source.ReadAt(name, b, off)
	}
	spec, _ := s.Spec(name)
	if n := spec.Bytes(); off < 0 || off > n || int64(len(b)) > n-off {
		return layout.TensorError(s, name, "bytes %d to %d of %d asked for", off, off+int64(len(b)), n)
	}
	if p.contiguous() {
		first := int64(p.matrix()+p.at(0, 0)) * int64(spec.DType.Bits()/8)
		return s.Source.ReadAt(p.stack, b, first+off)
	}
	g := s.gathered(name)
	g.once.Do(func() { g.data, g.err = s.gather(p, spec.DType) })
	if g.err != nil {
		return g.err
	}
	copy(b, g.data[off:])
	return nil
}

// gathered returns the place for a piece.
func (s *split) gathered(name string) *gathered {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.kept, func(g *gathered) bool { return g.name == name })
	g := &gathered{name: name}
	if i >= 0 {
		g = s.kept[i]
		s.kept = slices.Delete(s.kept, i, i+1)
	} else if len(s.kept) == mostGathered {
		s.kept = slices.Delete(s.kept, 0, 1)
	}
	s.kept = append(s.kept, g)
	return g
}

// gather puts a piece together.
func (s *split) gather(p piece, t safetensors.DType) ([]byte, error) {
	size := t.Bits() / 8
	matrix := make([]byte, p.part.Outputs*p.in*size)
	if err := s.Source.ReadAt(p.stack, matrix, int64(p.matrix())*int64(size)); err != nil {
		return nil, err
	}
	data := make([]byte, p.part.Out*p.in*size)
	if !p.part.Transposed {
		for o := range p.part.Out {
			copy(data[o*p.in*size:(o+1)*p.in*size], matrix[p.at(o, 0)*size:])
		}
		return data, nil
	}
	const band = 16 // outputs at a time: a line of the cache
	for o0 := 0; o0 < p.part.Out; o0 += band {
		for i := range p.in {
			for o := o0; o < min(o0+band, p.part.Out); o++ {
				from := p.at(o, i) * size
				copy(data[(o*p.in+i)*size:(o*p.in+i+1)*size], matrix[from:from+size])
			}
		}
	}
	return data, nil
}

// stack is a stored tensor that layers are put back into.
type stack struct {
	name   string
	pieces []piece
}

// stacksOf lists the stored tensors of parts; byPiece finds them.
func stacksOf(parts []Part) (byPiece map[string]*stack) {
	byName := map[string]*stack{}
	byPiece = map[string]*stack{}
	for _, part := range parts {
		for _, p := range part.pieces() {
			s := byName[p.stack]
			if s == nil {
				s = &stack{name: p.stack}
				byName[p.stack] = s
			}
			s.pieces = append(s.pieces, p)
			byPiece[p.name] = s
		}
	}
	return byPiece
}

// restack puts the pieces of a stored tensor back together. values gives each.
func (s *stack) restack(t safetensors.DType, values func(p piece) ([]float32, error)) ([]byte, error) {
	spec := layout.Spec{Name: s.name, DType: t, Shape: s.pieces[0].stackShape()}
	all := make([]float32, spec.Elems())
	there := 0
	for _, p := range s.pieces {
		v, err := values(p)
		if err != nil {
			return nil, err
		}
		m := all[p.matrix():]
		for o := range p.part.Out {
			for i := range p.in {
				m[p.at(o, i)] = v[o*p.in+i]
			}
		}
		there += len(v)
	}
	if there != len(all) {
		return nil, fmt.Errorf("tensor %q: its layers have %d elements, want %d", s.name, there, len(all))
	}
	data := make([]byte, spec.Bytes())
	return data, safetensors.EncodeFloat32(data, t, all)
}
