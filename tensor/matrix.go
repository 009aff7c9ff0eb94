// Package tensor holds float32 matrices and the few dense operations that
// quantization needs: products, symmetric rank-k updates, factorizations and
// solvers, and half-precision conversion.
//
// Shape mismatches are bugs of the caller and panic with a constant text, as
// in gonum. Every operation gives the same bytes for any number of workers.
package tensor

import "github.com/golowbit/lowbit/internal/kernel"

// Matrix is a dense row-major float32 matrix. Element (i, j) is
// Data[i*Stride+j]. A Matrix may be a view of a larger one.
type Matrix struct {
	Rows, Cols int
	Stride     int
	Data       []float32
}

// New returns a zeroed rows x cols matrix.
func New(rows, cols int) *Matrix {
	if rows < 0 || cols < 0 {
		panic("tensor: negative dimension")
	}
	return &Matrix{Rows: rows, Cols: cols, Stride: cols, Data: make([]float32, rows*cols)}
}

// FromSlice returns a rows x cols matrix that uses data, which must hold
// exactly rows*cols elements.
func FromSlice(rows, cols int, data []float32) *Matrix {
	if len(data) != rows*cols {
		panic("tensor: slice length does not match the shape")
	}
	return &Matrix{Rows: rows, Cols: cols, Stride: cols, Data: data}
}

// Row returns row i; it shares the matrix's memory.
func (m *Matrix) Row(i int) []float32 {
	return m.Data[i*m.Stride : i*m.Stride+m.Cols : i*m.Stride+m.Cols]
}

// At returns element (i, j).
func (m *Matrix) At(i, j int) float32 { return m.Row(i)[j] }

// Set sets element (i, j).
func (m *Matrix) Set(i, j int, v float32) { m.Row(i)[j] = v }

// View returns the rows [r0, r1) and columns [c0, c1) of m, sharing its memory.
func (m *Matrix) View(r0, r1, c0, c1 int) *Matrix {
	if r0 < 0 || r1 < r0 || r1 > m.Rows || c0 < 0 || c1 < c0 || c1 > m.Cols {
		panic("tensor: view out of range")
	}
	v := &Matrix{Rows: r1 - r0, Cols: c1 - c0, Stride: m.Stride}
	if v.Rows > 0 && v.Cols > 0 {
		v.Data = m.Data[r0*m.Stride+c0 : (r1-1)*m.Stride+c1]
	}
	return v
}

// Clone returns a contiguous copy of m.
func (m *Matrix) Clone() *Matrix {
	c := New(m.Rows, m.Cols)
	c.CopyFrom(m)
	return c
}

// CopyFrom copies src, which must have the same shape, into m.
func (m *Matrix) CopyFrom(src *Matrix) {
	if m.Rows != src.Rows || m.Cols != src.Cols {
		panic("tensor: copy of a different shape")
	}
	for i := range m.Rows {
		copy(m.Row(i), src.Row(i))
	}
}

// Zero sets every element to 0.
func (m *Matrix) Zero() {
	for i := range m.Rows {
		clear(m.Row(i))
	}
}

// T returns a contiguous transposed copy of m.
func (m *Matrix) T() *Matrix {
	t := New(m.Cols, m.Rows)
	kernel.Transpose(t.Data, t.Stride, m.Data, m.Stride, m.Rows, m.Cols, 0)
	return t
}
