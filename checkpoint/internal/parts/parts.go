// Package parts has layers that lie in stored tensors which are transposed or
// hold several of them: it shows them as tensors of their own, and puts them
// back together.
package parts

import (
	"fmt"
	"maps"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/internal/kept"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/places"
	"github.com/golowbit/lowbit/safetensors"
)

// Part is checkpoint.Part, where the fields are described.
type Part places.Part

// Piece is a tensor of a layer and where it lies in a stored one.
type Piece struct {
	Name  string
	Bias  bool // the tensor has one dimension less
	part  Part
	stack string
	in    int // 1 for a bias
}

// Layer is the name of the layer that the tensor is of.
func (p Piece) Layer() string { return p.part.Layer }

// pieces are the weight and the bias of a part.
func (p Part) pieces() []Piece {
	list := []Piece{{Name: p.Layer + layout.WeightSuffix, stack: p.Weight, part: p, in: p.In}}
	if p.Bias != "" {
		list = append(list, Piece{Name: p.Layer + ".bias", stack: p.Bias, part: p, in: 1, Bias: true})
	}
	return list
}

func (p Piece) shape() []int {
	if p.Bias {
		return []int{p.part.Out}
	}
	return []int{p.part.Out, p.in}
}

// stackShape is the shape of the stored tensor.
func (p Piece) stackShape() []int {
	shape := []int{p.part.Outputs, p.in}
	switch {
	case p.Bias:
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
func (p Piece) matrix() int { return p.part.Expert * p.part.Outputs * p.in }

// at is the place of element (o, i) in that matrix.
func (p Piece) at(o, i int) int {
	row := p.part.Output0 + o*p.part.Step
	if p.part.Transposed && !p.Bias {
		return i*p.part.Outputs + row
	}
	return row*p.in + i
}

// contiguous tells whether the piece is a run of bytes.
func (p Piece) contiguous() bool { return p.part.Step == 1 && (p.Bias || !p.part.Transposed) }

// Split shows a source with layers as tensors of their own in place of the
// stored tensors that they lie in. parts must have all layers of each of these.
func Split(src layout.Source, parts []Part) (layout.Source, error) {
	s := &split{scattered: map[string]Piece{}}
	inside := map[string][]Place{}
	for _, part := range parts {
		for _, p := range part.pieces() {
			spec, err := layout.Want(src, p.stack, p.stackShape(), layout.FloatTypes()...)
			if err != nil {
				return nil, err
			}
			place := Place{Spec: layout.Spec{Name: p.Name, DType: spec.DType, Shape: p.shape()}, Stack: p.stack}
			if p.contiguous() {
				place.Off = int64(p.matrix()+p.at(0, 0)) * int64(spec.DType.Bits()/8)
			} else {
				s.scattered[p.Name] = p
			}
			inside[p.stack] = append(inside[p.stack], place)
		}
	}
	var err error
	if s.Inside, err = NewInside(src, inside); err != nil {
		return nil, err
	}
	return s, nil
}

// split is a source with layers that lie in larger tensors under their own names.
type split struct {
	*Inside
	scattered map[string]Piece // those that are no run of bytes

	gathered kept.Last[[]byte]
}

func (s *split) ReadAt(name string, b []byte, off int64) error {
	p, ok := s.scattered[name]
	if !ok {
		return s.Inside.ReadAt(name, b, off)
	}
	place := s.places[name]
	if err := s.check(place, len(b), off); err != nil {
		return err
	}
	data, err := s.gathered.Get(name, func() ([]byte, error) { return s.gather(p, place.DType) })
	if err != nil {
		return err
	}
	copy(b, data[off:])
	return nil
}

// gather puts a piece together, from a megabyte or so of the stored matrix at a
// time.
func (s *split) gather(p Piece, t safetensors.DType) ([]byte, error) {
	size := t.Bits() / 8
	rows, width := p.part.Outputs, p.in // of the stored matrix
	if p.part.Transposed && !p.Bias {
		rows, width = width, rows
	}
	data := make([]byte, p.part.Out*p.in*size)
	band := min(max(1, 1<<20/(width*size)), rows)
	buf := make([]byte, band*width*size)
	for r0 := 0; r0 < rows; r0 += band {
		r1 := min(r0+band, rows)
		b := buf[:(r1-r0)*width*size]
		if err := s.Source.ReadAt(p.stack, b, int64(p.matrix()+r0*width)*int64(size)); err != nil {
			return nil, err
		}
		if p.part.Transposed && !p.Bias {
			p.scatter(data, b, r0, r1, size)
			continue
		}
		for o := range p.part.Out {
			if r := p.part.Output0 + o*p.part.Step; r >= r0 && r < r1 {
				copy(data[o*width*size:(o+1)*width*size], b[(r-r0)*width*size:])
			}
		}
	}
	return data, nil
}

// scatter puts inputs i0 to i1 of a transposed matrix, the rows of b, to their
// places in data.
func (p Piece) scatter(data, b []byte, i0, i1, size int) {
	const block = 16 // inputs at a time: a line of the cache
	for j0 := i0; j0 < i1; j0 += block {
		j1 := min(j0+block, i1)
		for o := range p.part.Out {
			to := (o*p.in + j0) * size
			from := ((j0-i0)*p.part.Outputs + p.part.Output0 + o*p.part.Step) * size
			for range j1 - j0 {
				if size == 2 {
					data[to], data[to+1] = b[from], b[from+1]
				} else {
					copy(data[to:to+size], b[from:from+size])
				}
				to += size
				from += p.part.Outputs * size
			}
		}
	}
}

// Stack is a stored tensor that layers are put back into.
type Stack struct {
	Name   string
	pieces []Piece
}

// Stacks are the stored tensors of parts, by the names of their pieces.
func Stacks(parts []Part) (byPiece map[string]*Stack) {
	byName := map[string]*Stack{}
	byPiece = map[string]*Stack{}
	for _, part := range parts {
		for _, p := range part.pieces() {
			s := byName[p.stack]
			if s == nil {
				s = &Stack{Name: p.stack}
				byName[p.stack] = s
			}
			s.pieces = append(s.pieces, p)
			byPiece[p.Name] = s
		}
	}
	return byPiece
}

// Spec describes the tensor with elements of type t.
func (s *Stack) Spec(t safetensors.DType) layout.Spec {
	return layout.Spec{Name: s.Name, DType: t, Shape: s.pieces[0].stackShape()}
}

// Encode puts the pieces of the tensor back together, a matrix at a time. values
// gives each piece, write takes bytes of the tensor and where they begin.
func (s *Stack) Encode(t safetensors.DType, values func(p Piece) ([]float32, error), write func(data []byte, off int64) error) error {
	matrices := map[int][]Piece{}
	for _, p := range s.pieces {
		matrices[p.matrix()] = append(matrices[p.matrix()], p)
	}
	elems := s.pieces[0].part.Outputs * s.pieces[0].in
	all, data := make([]float32, elems), make([]byte, elems*t.Bits()/8)
	if want := s.Spec(t).Elems() / elems; len(matrices) != want {
		return fmt.Errorf("tensor %q: there are layers of %d of its matrices, want %d", s.Name, len(matrices), want)
	}
	for _, at := range slices.Sorted(maps.Keys(matrices)) {
		there := 0
		for _, p := range matrices[at] {
			v, err := values(p)
			if err != nil {
				return err
			}
			p.place(all, v)
			there += len(v)
		}
		if there != elems {
			return fmt.Errorf("tensor %q: the layers of matrix %d have %d elements, want %d", s.Name, at/elems, there, elems)
		}
		if err := safetensors.EncodeFloat32(data, t, all); err != nil {
			return err
		}
		if err := write(data, int64(at)*int64(t.Bits()/8)); err != nil {
			return err
		}
	}
	return nil
}

// place puts the values of the piece into the matrix that it lies in.
func (p Piece) place(matrix, values []float32) {
	for o := range p.part.Out {
		for i := range p.in {
			matrix[p.at(o, i)] = values[o*p.in+i]
		}
	}
}
