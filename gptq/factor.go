package gptq

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"

	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// ErrNotFinite is returned when the calibration statistics hold NaN or Inf.
var ErrNotFinite = errors.New("calibration statistics are not finite")

// factor is H = (I+F) D (I+F)ᵀ. Positions count against the order of
// quantization: the column at the last position comes first. H in the order
// of positions is then Lᵤ D Lᵤᵀ with Lᵤ unit lower triangular, an ordinary
// Cholesky factorization, and F is Lᵤ read backwards.
type factor struct {
	perm    []int          // position -> column
	l       *tensor.Matrix // Lᵤ; only what is below the diagonal means anything
	d       []float64      // D by position
	lambda  float64        // what damping added to the diagonal
	dead    []bool         // by column: no input ever
	damping float64        // fraction reached
	raised  bool           // it had to be raised
}

type factorKey struct {
	damping     float64
	order       Order
	group, span int // of OrderGroup: columns in a group, and in a span of groups
}

// factor returns the factorization of cal.H, shared by all who ask for the
// same order and damping.
func (q Quantizer) factor(cal *quant.Calibration, s quant.Scheme) (*factor, error) {
	key := factorKey{damping: q.damping(), order: q.Order}
	if key.order == OrderGroup {
		if s.Axis == quant.IC {
			key.order = OrderActivation
		} else {
			key.group, key.span = s.GroupLen(cal.H.Rows), s.SpanLen(cal.H.Rows)
		}
	}
	type result struct {
		f   *factor
		err error
	}
	r := cal.Memo(key, func() any {
		f, err := newFactor(cal.H, key, q.Workers)
		return result{f, err}
	}).(result)
	return r.f, r.err
}

func newFactor(h *tensor.Matrix, key factorKey, workers int) (*factor, error) {
	n := h.Rows
	f := &factor{dead: make([]bool, n), d: make([]float64, n)}
	diag := make([]float32, n)
	var mean float64
	for j := range n {
		diag[j] = h.At(j, j)
		if diag[j] <= 0 {
			f.dead[j] = true
			diag[j] = 1
		}
		mean += float64(diag[j]) / float64(n)
	}
	if math.IsNaN(mean) || math.IsInf(mean, 0) {
		return nil, ErrNotFinite
	}
	f.perm = key.columns(diag)
	slices.Reverse(f.perm)
	f.l = padded(n, n)
	reached, ok := tensor.CholeskyDamped(f.l, key.damping, func(damping float64) {
		f.lambda = mean * damping
		f.permuted(h, diag, workers)
	}, workers)
	if !ok {
		return nil, ErrNotFinite
	}
	f.damping, f.raised = reached, reached != key.damping
	inv := make([]float32, n)
	for j := range n {
		p := float64(f.l.At(j, j))
		f.d[j] = p * p
		inv[j] = float32(1 / p)
	}
	f.eachRow(workers, func(i int) {
		row := f.l.Row(i)[:i]
		for j, v := range inv[:i] {
			row[j] *= v
		}
	})
	return f, nil
}

// padded returns a matrix whose rows do not begin in the same cache sets.
func padded(rows, cols int) *tensor.Matrix {
	const line = 16 // floats
	stride := (cols+line-1)/line*line + line
	m := tensor.New(rows, stride)
	m.Cols = cols
	return m
}

// eachRow calls fn for all positions, in any order.
func (f *factor) eachRow(workers int, fn func(i int)) {
	const few = 16
	n := len(f.perm)
	// For(…) cannot fail: nothing in it returns an error.
	_ = parallel.For(context.Background(), workers, (n+few-1)/few, func(t int) error {
		// The last rows first: they are the longest.
		end := n - t*few
		for i := max(end-few, 0); i < end; i++ {
			fn(i)
		}
		return nil
	})
}

// permuted writes the lower triangle of the damped H, in the order of
// positions, to f.l.
func (f *factor) permuted(h *tensor.Matrix, diag []float32, workers int) {
	f.eachRow(workers, func(i int) {
		src, dst := h.Row(f.perm[i]), f.l.Row(i)[:i+1]
		for j, c := range f.perm[:i] {
			dst[j] = src[c]
		}
		dst[i] = float32(float64(diag[f.perm[i]]) + f.lambda)
	})
}

// columns returns the columns in the order in which they are quantized.
func (k factorKey) columns(diag []float32) []int {
	perm := make([]int, len(diag))
	for i := range perm {
		perm[i] = i
	}
	switch k.order {
	case OrderActivation:
		descending(perm, diag)
	case OrderGroup:
		return k.grouped(perm, diag)
	}
	return perm
}

// descending sorts indices by descending value; ties keep their order.
func descending(index []int, value []float32) {
	slices.SortStableFunc(index, func(a, b int) int { return cmp.Compare(value[b], value[a]) })
}

// grouped orders whole spans, and the columns of their groups.
func (k factorKey) grouped(columns []int, diag []float32) []int {
	var spans []int
	var largest []float32
	for span := range slices.Chunk(columns, k.span) {
		spans = append(spans, len(spans))
		if largest = append(largest, 0); len(span) == k.span {
			for _, c := range span {
				largest[len(largest)-1] = max(largest[len(largest)-1], diag[c])
			}
		}
	}
	descending(spans, largest)
	perm := make([]int, 0, len(columns))
	for _, s := range spans {
		for group := range slices.Chunk(columns[s*k.span:min((s+1)*k.span, len(columns))], k.group) {
			descending(group, diag)
			perm = append(perm, group...)
		}
	}
	return perm
}
