package checkpoint

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/rounding"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/scratch"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// A matrix in pieces, for callers that go through it without holding it.

// Rows reads the rows r0 <= r < r1 of a dense matrix, row-major, into dst's
// memory where that suffices; of a tensor of other dimensions the entries of the
// first. NaN and infinities are errors.
func (m *Model) Rows(name string, r0, r1 int, dst []float32) ([]float32, error) {
	dims := 2
	if s, ok := m.src.Spec(name); ok && len(s.Shape) > 0 {
		dims = len(s.Shape)
	}
	spec, err := m.floatsOf(name, r0, r1, 0, dims)
	if err != nil {
		return nil, err
	}
	cols := 1
	for _, n := range spec.Shape[1:] {
		cols *= n
	}
	dst = scratch.Slice(dst, (r1-r0)*cols)
	if err := layout.ReadFloatsAt(m.src, spec, r0*cols, dst); err != nil {
		return nil, err
	}
	if i := wire.NotFinite(dst); i >= 0 {
		return nil, notFiniteError(m.src, name, r0*cols+i, dst[i])
	}
	return dst, nil
}

// Halves reads the rows r0 <= r < r1 of a dense matrix of F16 or BF16 as the
// bits of its values, row-major, into dst's memory where that suffices. Nothing
// is checked: see CheckFinite.
func (m *Model) Halves(name string, r0, r1 int, dst []uint16) ([]uint16, error) {
	spec, err := m.dense2(name, r0, r1, 0)
	if err != nil {
		return nil, err
	}
	if spec.DType == safetensors.F32 {
		return nil, layout.TensorError(m.src, name, "dtype %v, want F16 or BF16", spec.DType)
	}
	cols := spec.Shape[1]
	dst = scratch.Slice(dst, (r1-r0)*cols)
	return dst, layout.ReadHalvesAt(m.src, spec, r0*cols, dst)
}

// Columns reads the columns c0 <= c < c1 of a dense matrix, [rows, cols], to
// the rows of dst, [c1-c0, rows], whose memory is used where it suffices.
// Nothing is checked: see CheckFinite.
func (m *Model) Columns(name string, c0, c1 int, dst *tensor.Matrix) error {
	spec, err := m.dense2(name, c0, c1, 1)
	if err != nil {
		return err
	}
	const band = 16 // rows at a time: a line of the cache of dst
	rows, cols, n := spec.Shape[0], spec.Shape[1], c1-c0
	dst.Rows, dst.Cols, dst.Stride, dst.Data = n, rows, rows, scratch.Slice(dst.Data, n*rows)
	part := make([]float32, band*n)
	var halves []uint16
	if spec.DType != safetensors.F32 {
		halves = make([]uint16, band*n)
	}
	file := layout.ReaderOf(m.src, spec)
	for r0 := 0; r0 < rows; r0 += band {
		r1 := min(r0+band, rows)
		for r := r0; r < r1; r++ {
			from, to, at := (r-r0)*n, (r-r0+1)*n, int64(r)*int64(cols)+int64(c0)
			if halves == nil {
				err = wire.ReadNumbers(file, 4*at, part[from:to])
			} else {
				err = wire.ReadNumbers(file, 2*at, halves[from:to])
			}
			if err != nil {
				return err
			}
		}
		switch used := (r1 - r0) * n; spec.DType {
		case safetensors.F16:
			tensor.F16ToF32(part[:used], halves[:used])
		case safetensors.BF16:
			tensor.BF16ToF32(part[:used], halves[:used])
		}
		kernel.Transpose(dst.Data[r0:], rows, part, n, r1-r0, n, 1)
	}
	return nil
}

// CheckFinite looks for the first NaN or infinity of a dense matrix. The error
// is that of Matrix.
func (m *Model) CheckFinite(name string) error {
	_, err := m.Largest(name)
	return err
}

// Largest is the greatest absolute value of a dense matrix, which is read in
// pieces. NaN and infinities are errors.
func (m *Model) Largest(name string) (float32, error) {
	spec, err := m.dense2(name, 0, 0, 0)
	if err != nil {
		return 0, err
	}
	step := max(1, 1<<20/max(1, spec.Shape[1]))
	var buf []float32
	var most float32
	for r := 0; r < spec.Shape[0]; r += step {
		if buf, err = m.Rows(name, r, min(r+step, spec.Shape[0]), buf); err != nil {
			return 0, err
		}
		if lo, hi := kernel.MinMax(buf); len(buf) > 0 {
			most = max(most, -lo, hi)
		}
	}
	return most, nil
}

// Round rounds tensor name [q.Out, q.In] to the nearest values of q's grid. All
// of q is overwritten; its memory is used (see [quant.Weight.Reset]). importance, [q.In]
// or nil, is how much errors at each input matter (see [quant.Weight.RoundWeighted]).
// workers share the lines of the tensor. Errors name tensor and element, wrap
// [quant.ErrNotFinite] or [quant.ErrScaleRange], or are ctx's.
func (m *Model) Round(ctx context.Context, q *quant.Weight, name string, importance []float32, workers int) error {
	if _, quantized := m.Layer(strings.TrimSuffix(name, layout.WeightSuffix)); quantized {
		w, err := m.Matrix(name)
		if err != nil {
			return err
		}
		return rounding.Matrix(q, name, w, importance)
	}
	t, _ := m.DType(name)
	err := rounding.Stored(ctx, q, m, name, t, importance, workers)
	if err != nil && ctx.Err() == nil {
		// Where a weight is not finite, the file and element say more.
		return cmp.Or(m.CheckFinite(name), err)
	}
	return err
}

// CheckTypes refuses tensors of types that are not read, as those of models in
// 8-bit floats. Of names that are not there, or of quantized layers, it says
// nothing. Errors name the tensor.
func (m *Model) CheckTypes(names []string) error {
	for _, name := range names {
		d, ok := m.DType(name)
		if !ok || m.QuantizedWeight(name) || slices.Contains(layout.FloatTypes(), d) {
			continue
		}
		scales := ""
		for _, suffix := range []string{"_scale_inv", "_scale", "_packed"} {
			if m.Has(name + suffix) {
				scales = fmt.Sprintf("; %q beside it says that the model is quantized already, and config.json has no quantization_config: dequantize it first", name+suffix)
				break
			}
		}
		return fmt.Errorf("tensor %q: dtype %s, want one of %v%s", name, d, layout.FloatTypes(), scales)
	}
	return nil
}

// dense2 describes a dense matrix of floats that has the rows (dim 0) or
// columns (dim 1) first to last.
func (m *Model) dense2(name string, first, last, dim int) (layout.Spec, error) {
	return m.floatsOf(name, first, last, dim, 2)
}

func (m *Model) floatsOf(name string, first, last, dim, dims int) (layout.Spec, error) {
	if _, packed := m.part[name]; packed {
		return layout.Spec{}, fmt.Errorf("%s: tensor %q is part of a quantized layer", m.path, name)
	}
	spec, err := layout.Want(m.src, name, slices.Repeat([]int{layout.AnyDim}, dims), layout.FloatTypes()...)
	if err == nil && (first < 0 || first > last || last > spec.Shape[dim]) {
		err = layout.TensorError(m.src, name, "%s %d to %d of %d asked for", []string{"rows", "columns"}[dim], first, last, spec.Shape[dim])
	}
	return spec, err
}

// notFiniteError is the one wording for a NaN or infinity in a file.
func notFiniteError(src layout.Source, name string, i int, v float32) error {
	return layout.TensorError(src, name, "element %d is %g", i, v)
}
