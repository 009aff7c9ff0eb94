// Package scratch reuses memory whose content does not matter.
package scratch

import "github.com/golowbit/lowbit/tensor"

// Slice returns n elements of undefined content, in the memory of buf if that
// is large enough.
func Slice[T any](buf []T, n int) []T {
	if cap(buf) < n {
		return make([]T, n)
	}
	return buf[:n]
}

// Matrix gives m the shape [rows, cols], its content undefined, in the memory
// that it has if that is large enough.
func Matrix(m *tensor.Matrix, rows, cols int) {
	m.Rows, m.Cols, m.Stride, m.Data = rows, cols, cols, Slice(m.Data, rows*cols)
}
