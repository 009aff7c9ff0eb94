// Package stored reads a model's tensors as they lie in files, and says what is wrong with them.
package stored

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/program/near"
	"github.com/golowbit/lowbit/tensor"
)

// Weights gives a model's tensors by name, finite.
type Weights interface {
	Matrix(name string) (*tensor.Matrix, error) // two dimensions, dense float32
	Vector(name string) ([]float32, error)      // one dimension
	// Rows are the entries i0 <= i < i1 of the first dimension of a tensor of any
	// dimensions, one after the other, in dst's memory where that suffices.
	Rows(name string, i0, i1 int, dst []float32) ([]float32, error)
	Has(name string) bool
	Shape(name string) ([]int, bool)
}

// Quantized is implemented by Weights that hold some layers quantized: it tells
// whether Matrix gives a weight, name, as [Out, In] although the architecture
// stores it otherwise (see Slice).
type Quantized interface{ QuantizedWeight(name string) bool }

// TensorShape is a tensor that a model needs.
type TensorShape struct {
	Name  string
	Shape []int
}

// Slice is the place of a linear layer in stored tensors that are transposed or
// hold several layers: matrices [in, out] (the Conv1D of GPT-2), all experts of
// a block, gate and up. A checkpoint that holds the layer quantized has it under
// its own Name as [Out, In], whatever its Slice was.
type Slice struct {
	Weight, Bias string // names of the stored tensors; Bias is "" if there is none
	Transposed   bool   // the last two dimensions of the weight are [in, out]
	// Experts is the first of three dimensions of the weight, and of two of the
	// bias; Expert the index there. With Experts 0 they have two and one.
	Experts, Expert int
	// Optional says that the layer may also be a tensor of its own, and is expected
	// to be where neither is there. After Model.Fit only what is there is left.
	Optional bool
	// The stored tensors have this many outputs; the i-th of the layer is
	// Output0 + i*Step of them.
	Outputs, Output0, Step int
}

// WeightShape and BiasShape are the shapes of the stored tensors of a layer with
// so many inputs.
func (s Slice) WeightShape(in int) []int {
	shape := []int{s.Outputs, in}
	if s.Transposed {
		shape = []int{in, s.Outputs}
	}
	return s.stacked(shape...)
}

func (s Slice) BiasShape() []int { return s.stacked(s.Outputs) }

func (s Slice) stacked(shape ...int) []int {
	if s.Experts > 0 {
		return append([]int{s.Experts}, shape...)
	}
	return shape
}

// Whole reports whether a weight is the matrix as it is stored.
func (s Slice) Whole(out int) bool {
	return !s.Transposed && s.Outputs == out && s.Output0 == 0 && s.Step == 1
}

// CheckShape compares the shape of a tensor with what is wanted.
func CheckShape(w Weights, name string, want ...int) error {
	got, ok := w.Shape(name)
	if !ok {
		return fmt.Errorf("tensor %q: missing, want shape %v%s", name, want, near.Beside(w, name))
	}
	same := len(got) == len(want)
	for i := 0; same && i < len(want); i++ {
		same = got[i] == want[i]
	}
	if !same {
		return fmt.Errorf("tensor %q: shape %v, want %v", name, got, want)
	}
	return nil
}

// LoadParam reads a tensor of one dimension or more as a matrix: a vector is a row, and dimensions after
// the first are one.
func LoadParam(w Weights, name string, shape []int) (*tensor.Matrix, error) {
	switch {
	case len(shape) == 2:
		return LoadMatrix(w, name, shape[0], shape[1])
	case len(shape) > 2:
		if err := CheckShape(w, name, shape...); err != nil {
			return nil, err
		}
		v, err := w.Rows(name, 0, shape[0], nil)
		if err != nil {
			return nil, err
		}
		return tensor.FromSlice(shape[0], len(v)/shape[0], v), nil
	}
	v, err := LoadVector(w, name, shape[0])
	if err != nil {
		return nil, err
	}
	return tensor.FromSlice(1, len(v), v), nil
}

// LoadMatrix reads a matrix, rows x cols.
func LoadMatrix(w Weights, name string, rows, cols int) (*tensor.Matrix, error) {
	if err := CheckShape(w, name, rows, cols); err != nil {
		return nil, err
	}
	m, err := w.Matrix(name)
	if err != nil {
		return nil, err
	}
	if m.Rows != rows || m.Cols != cols {
		return nil, fmt.Errorf("tensor %q: shape [%d %d], want [%d %d]", name, m.Rows, m.Cols, rows, cols)
	}
	return m, nil
}

// LoadSlice reads a stored matrix of a shape: a tensor, or one of the experts in it.
func LoadSlice(w Weights, s Slice, shape []int) (*tensor.Matrix, error) {
	if s.Experts == 0 {
		return LoadMatrix(w, s.Weight, shape[0], shape[1])
	}
	if err := CheckShape(w, s.Weight, shape...); err != nil {
		return nil, err
	}
	v, err := w.Rows(s.Weight, s.Expert, s.Expert+1, nil)
	if err != nil {
		return nil, err
	}
	return tensor.FromSlice(shape[1], shape[2], v), nil
}

// LoadPart reads a layer's weight as [out, in] from where it lies.
func LoadPart(w Weights, s Slice, out, in int) (*tensor.Matrix, error) {
	all, err := LoadSlice(w, s, s.WeightShape(in))
	if err != nil || s.Whole(out) {
		return all, err
	}
	m := tensor.New(out, in)
	for i := range m.Rows {
		o := s.Output0 + i*s.Step
		if !s.Transposed {
			copy(m.Row(i), all.Row(o))
			continue
		}
		for j := range m.Row(i) {
			m.Data[i*m.Stride+j] = all.Data[j*all.Stride+o]
		}
	}
	return m, nil
}

// LoadVector reads a vector of n elements.
func LoadVector(w Weights, name string, n int) ([]float32, error) {
	if err := CheckShape(w, name, n); err != nil {
		return nil, err
	}
	v, err := w.Vector(name)
	if err != nil {
		return nil, err
	}
	if len(v) != n {
		return nil, fmt.Errorf("tensor %q: %d elements, want %d", name, len(v), n)
	}
	return v, nil
}

// CheckNoEffect fails if a vector is there and not all zeros.
func CheckNoEffect(w Weights, name string) error {
	if !w.Has(name) {
		return nil
	}
	v, err := w.Vector(name)
	if err != nil {
		return err
	}
	for _, x := range v {
		if x != 0 {
			return fmt.Errorf("tensor %q: not foreseen by config.json, but present and not zero", name)
		}
	}
	return nil
}
