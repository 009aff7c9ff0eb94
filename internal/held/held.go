// Package held has the weights of experts in memory only while they are worked on: a block
// of many experts is larger than what a machine has, and few of them are needed at a time.
package held

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/program/product"
	"github.com/golowbit/lowbit/tensor"
)

// Set are weights of which those that were used last are in memory. It is for one
// goroutine at a time.
type Set struct {
	// Limit is how many bytes are kept, beside the weight in use.
	Limit int64
	// BF16 is program.Runner.BF16.
	BF16 bool

	list  []*Weight // in memory, the last used last
	bytes int64
	err   error
}

// Err is the first error of a weight that was needed for a product. What was computed
// since is of no use.
func (s *Set) Err() error {
	if s == nil {
		return nil
	}
	return s.err
}

// Weight is a matrix [out, in] of a Set, the product with which is that of the matrix.
type Weight struct {
	set  *Set
	load func() (*tensor.Matrix, error)
	m    *tensor.Matrix // nil if it is not in memory
}

// Add returns a weight that load reads whenever it is needed and not in memory. m is it,
// or nil.
func (s *Set) Add(m *tensor.Matrix, load func() (*tensor.Matrix, error)) *Weight {
	w := &Weight{set: s, load: load}
	if m != nil {
		s.keep(w, m)
	}
	return w
}

func (s *Set) keep(w *Weight, m *tensor.Matrix) {
	w.m = m
	s.list = append(s.list, w)
	s.bytes += size(m)
	for s.bytes > s.Limit && len(s.list) > 1 {
		s.drop(s.list[0])
	}
}

func (s *Set) drop(w *Weight) {
	s.bytes -= size(w.m)
	w.m = nil
	s.list = slices.DeleteFunc(s.list, func(o *Weight) bool { return o == w })
}

func size(m *tensor.Matrix) int64 { return 4 * int64(len(m.Data)) }

// Matrix is the weight, which is not to be changed.
func (w *Weight) Matrix() (*tensor.Matrix, error) {
	s, m := w.set, w.m
	if m != nil {
		s.drop(w)
	} else {
		var err error
		if m, err = w.load(); err != nil {
			return nil, err
		}
	}
	s.keep(w, m)
	return m, nil
}

// Replaced returns a weight of the same Set that takes the place of this one.
func (w *Weight) Replaced(m *tensor.Matrix, load func() (*tensor.Matrix, error)) *Weight {
	return w.set.Add(m, load)
}

// Times implements product.Product, with the sums of program's own products.
func (w *Weight) Times(dst, x *tensor.Matrix, add bool, workers int) {
	m, err := w.Matrix()
	if err != nil {
		if w.set.err == nil {
			w.set.err = err
		}
		return
	}
	var beta float32
	if add {
		beta = 1
	}
	if w.set.BF16 {
		tensor.GemmBF16(false, true, 1, x, m, beta, dst, workers)
		return
	}
	tensor.Gemm(false, true, 1, x, m, beta, dst, workers)
}

// Of returns the weight of a linear, if it is one of a Set.
func Of(l *program.Linear) (*Weight, bool) {
	w, ok := l.Product.(*Weight)
	return w, ok
}

// Matrix returns the weight of a linear, of a Set or not.
func Matrix(l *program.Linear) (*tensor.Matrix, error) {
	if w, ok := Of(l); ok {
		return w.Matrix()
	}
	return l.Weight, nil
}

// Source are weights of which those of experts belong to a Set.
type Source struct {
	program.Weights
	set     *Set
	experts map[string]program.LinearInfo
}

// Experts returns the weights of a model with these blocks so that those of experts are
// read when they are needed.
func (s *Set) Experts(w program.Weights, blocks []*program.Program) *Source {
	all := &Source{w, s, map[string]program.LinearInfo{}}
	for _, b := range blocks {
		for _, l := range b.Linears {
			if l.Expert >= 0 {
				all.experts[l.Name] = l
			}
		}
	}
	return all
}

// QuantizedWeight implements program.Quantized.
func (s *Source) QuantizedWeight(name string) bool {
	q, ok := s.Weights.(program.Quantized)
	return ok && q.QuantizedWeight(name)
}

// Product implements product.Source.
func (s *Source) Product(layer string) (product.Product, error) {
	p, err := product.Of(s.Weights, layer)
	l, ok := s.experts[layer]
	if err != nil || p != nil || !ok {
		return p, err
	}
	return s.set.Add(nil, func() (*tensor.Matrix, error) {
		m, err := program.LoadWeight(s.Weights, l)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", layer, err)
		}
		return m, nil
	}), nil
}
