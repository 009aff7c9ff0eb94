package gptq

import (
	"context"
	"fmt"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

const (
	block    = 128 // columns between two matrix products, as in the published code
	subBlock = 16  // columns between two products inside a block
)

// solver carries one weight through the sweep. All matrices are transposed
// and in the order of quantization: row j is the j-th column quantized.
// Outputs are in an order in which groups of axis IC are neighbours.
type solver struct {
	ctx    context.Context
	scheme quant.Scheme
	f      *factor
	in     int
	out    int
	wt     *tensor.Matrix // [in, out] weights, dead columns 0
	et     *tensor.Matrix // [in, out] w - q
	codes  []uint8        // [in, out]
	loss   []float64      // per output

	gridded *quant.Weight // scales and zero-points; filled as found if dynamic
	dynamic bool
	cal     *quant.Calibration
	// axis OC: scale and zero-point by group and output, [groups, out]
	scale, zero []float32
	groupOf     []int // axis OC: group by position
}

func (q Quantizer) solve(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration, f *factor) (*quant.Weight, error) {
	sv := &solver{ctx: ctx, scheme: s, cal: cal, f: f, in: w.Cols, out: w.Rows}
	switch q.Groups {
	case GroupsAuto:
		sv.dynamic = s.Axis == quant.IC || q.Order == OrderNatural
	case GroupsDynamic:
		sv.dynamic = true
	}
	sv.wt = transposed(w, s, f, q.Workers)
	sv.et = tensor.New(sv.in, sv.out)
	sv.codes = make([]uint8, sv.in*sv.out)
	sv.loss = make([]float64, sv.out)
	if err := sv.prepareGrids(w, q.Workers); err != nil {
		return nil, err
	}
	rows := panelWidth(s, sv.out)
	panels := (sv.out + rows - 1) / rows
	if err := parallel.For(ctx, q.Workers, panels, func(p int) error {
		return sv.panel(p*rows, min((p+1)*rows, sv.out))
	}); err != nil {
		return nil, err
	}
	return sv.result(q.Workers), nil
}

// panelWidth is how many outputs a task takes through all columns: enough
// for products to run well, few enough to share the work, and a whole number
// of groups for axis IC, so that panels are independent of each other. It
// must not depend on the number of workers.
func panelWidth(s quant.Scheme, out int) int {
	const least, most = 64, 384
	n := min(max((out/8+least-1)/least*least, least), most)
	if s.Axis == quant.OC {
		return n
	}
	g := groupLen(s, out)
	return (n + g - 1) / g * g
}

// groupLen is the length of a full group in a line of n weights.
func groupLen(s quant.Scheme, n int) int {
	if s.GroupSize == quant.WholeLine || s.GroupSize > n {
		return n
	}
	return s.GroupSize
}

func (sv *solver) groupLen() int {
	_, n := sv.scheme.Lines(sv.out, sv.in)
	return groupLen(sv.scheme, n)
}

// outputOrder maps positions to output rows where groups are strided.
func outputOrder(s quant.Scheme, out int) []int {
	if !s.Strided {
		return nil
	}
	groups := s.Groups(out)
	order := make([]int, out)
	n := out / groups
	for r := range out {
		order[r%groups*n+r/groups] = r
	}
	return order
}

// transposed returns w as the sweep wants it.
func transposed(w *tensor.Matrix, s quant.Scheme, f *factor, workers int) *tensor.Matrix {
	t := tensor.New(w.Cols, w.Rows)
	order := outputOrder(s, w.Rows)
	const tile = 64
	_ = parallel.For(context.Background(), workers, (w.Cols+tile-1)/tile, func(b int) error {
		for r := range w.Rows {
			src := r
			if order != nil {
				src = order[r]
			}
			row := w.Row(src)
			for j := b * tile; j < min((b+1)*tile, w.Cols); j++ {
				if c := f.perm[j]; !f.dead[c] {
					t.Data[j*t.Stride+r] = row[c]
				}
			}
		}
		return nil
	})
	return t
}

// prepareGrids finds the static grids, or makes room for dynamic ones.
func (sv *solver) prepareGrids(w *tensor.Matrix, workers int) error {
	s := sv.scheme
	if sv.dynamic {
		sv.gridded = quant.NewWeight(sv.out, sv.in, s)
	} else {
		alive := w
		for j, dead := range sv.f.dead {
			if !dead {
				continue
			}
			if alive == w {
				alive = w.Clone()
			}
			for r := range alive.Rows {
				alive.Set(r, j, 0)
			}
		}
		var err error
		if sv.gridded, err = quant.Grids(sv.ctx, alive, s, sv.cal, workers); err != nil {
			return err
		}
	}
	if s.Axis == quant.IC {
		return nil
	}
	groups := sv.gridded.Groups()
	sv.scale = make([]float32, groups*sv.out)
	sv.zero = make([]float32, groups*sv.out)
	sv.groupOf = make([]int, sv.in)
	for j, c := range sv.f.perm {
		if sv.dynamic {
			c = j
		}
		sv.groupOf[j] = c / sv.groupLen()
	}
	if !sv.dynamic {
		for r := range sv.out {
			for k := range groups {
				sv.scale[k*sv.out+r] = sv.gridded.Scales[r*groups+k]
				sv.zero[k*sv.out+r] = float32(sv.gridded.Zeros[r*groups+k])
			}
		}
	}
	return nil
}

// panel sweeps all columns for the outputs [r0, r1).
func (sv *solver) panel(r0, r1 int) error {
	n := r1 - r0
	t := tensor.New(min(block, sv.in), n)
	deq, errs := make([]float32, n), make([]float32, n)
	var early *tensor.Matrix // weights as of the start of the block, for dynamic grids
	for b0 := 0; b0 < sv.in; b0 += block {
		if err := sv.ctx.Err(); err != nil {
			return err
		}
		b1 := min(b0+block, sv.in)
		tb := t.View(0, b1-b0, 0, n)
		sv.target(tb, b0, r0, r1)
		if sv.dynamic && sv.scheme.Axis == quant.OC {
			early = sv.unquantized(b0, r0, r1)
		}
		for s0 := b0; s0 < b1; s0 += subBlock {
			s1 := min(s0+subBlock, b1)
			for j := s0; j < s1; j++ {
				row := tb.Row(j - b0)
				if err := sv.column(j, b0, r0, row, deq, errs, early); err != nil {
					return err
				}
				e := sv.et.Row(j)[r0:r1]
				w := sv.wt.Row(j)[r0:r1]
				for r, v := range deq {
					e[r] = w[r] - v
				}
				if !sv.f.dead[sv.f.perm[j]] {
					sv.addLoss(j, r0, errs, e)
				}
				for k := j + 1; k < s1; k++ {
					kernel.Axpy(sv.f.ft.At(k, j), e, tb.Row(k-b0))
				}
			}
			if s1 < b1 {
				tensor.Gemm(false, false, 1, sv.f.ft.View(s1, b1, s0, s1), sv.et.View(s0, s1, r0, r1), 1, tb.View(s1-b0, b1-b0, 0, n), 1)
			}
		}
	}
	return nil
}

// addLoss adds what column j costs. The sweep's own sum is under the damped
// H; the damping's share of it is taken off again.
func (sv *solver) addLoss(j, r0 int, errs, e []float32) {
	d, lambda := sv.f.d[j], sv.f.lambda
	loss := sv.loss[r0 : r0+len(e)]
	for r, v := range errs {
		loss[r] += float64(d*float64(v))*float64(v) - float64(lambda*float64(e[r]))*float64(e[r])
	}
}

// target sets t to the columns from b0 on, corrected for the errors of the
// columns before b0, for the outputs [r0, r1).
func (sv *solver) target(t *tensor.Matrix, b0, r0, r1 int) {
	b1 := b0 + t.Rows
	t.CopyFrom(sv.wt.View(b0, b1, r0, r1))
	if b0 > 0 {
		tensor.Gemm(false, false, 1, sv.f.ft.View(b0, b1, 0, b0), sv.et.View(0, b0, r0, r1), 1, t, 1)
	}
}

// column quantizes column j, whose corrected weights are t, and sets deq to
// the result and errs to t - deq.
func (sv *solver) column(j, b0, r0 int, t, deq, errs []float32, early *tensor.Matrix) error {
	s := sv.scheme
	top := float32(s.MaxCode())
	codes := sv.codes[j*sv.out+r0 : j*sv.out+r0+len(t)]
	if s.Axis == quant.OC {
		k := sv.groupOf[j]
		if sv.dynamic && j%sv.groupLen() == 0 {
			if err := sv.dynamicGrids(j, b0, r0, early); err != nil {
				return err
			}
		}
		a := k*sv.out + r0
		kernel.QuantCols(codes, deq, errs, t, sv.scale[a:a+len(t)], sv.zero[a:a+len(t)], top)
		return nil
	}
	line := sv.f.perm[j]
	groups, g := sv.gridded.Groups(), sv.groupLen()
	for a := 0; a < len(t); a += g {
		b := min(a+g, len(t))
		i := line*groups + (r0+a)/g
		if sv.dynamic {
			grid, err := s.Grid(t[a:b], nil)
			if err != nil {
				return fmt.Errorf("input channel %d, group %d: %w", line, (r0+a)/g, err)
			}
			sv.gridded.Scales[i], sv.gridded.Zeros[i] = grid.Scale, grid.Zero
		}
		scale, zero := sv.gridded.Scales[i], float32(sv.gridded.Zeros[i])
		kernel.QuantRow(codes[a:b], t[a:b], scale, zero, top)
		kernel.Dequant(deq[a:b], codes[a:b], scale, zero)
	}
	for r, v := range t {
		errs[r] = v - deq[r]
	}
	return nil
}

// unquantized returns the columns of every group that starts in the block
// at b0 as the columns before b0 have left them: what GPTQ's weights are
// when it enters the block, and what the published code finds scales from.
// In this form of the sweep they follow by letting the columns from b0 on
// keep their corrected values instead of being quantized.
func (sv *solver) unquantized(b0, r0, r1 int) *tensor.Matrix {
	g := sv.groupLen()
	last := (min(b0+block, sv.in) - 1) / g * g // start of the last group that starts in the block
	end := max(min(b0+block, sv.in), min(last+g, sv.in))
	u := tensor.New(end-b0, r1-r0)
	sv.target(u, b0, r0, r1)
	if b0 == 0 {
		return u
	}
	e := make([]float32, r1-r0)
	for j := b0; j < end; j++ {
		row, w := u.Row(j-b0), sv.wt.Row(j)[r0:r1]
		for r, v := range row {
			e[r] = w[r] - v
		}
		for k := j + 1; k < end; k++ {
			kernel.Axpy(sv.f.ft.At(k, j), e, u.Row(k-b0))
		}
	}
	return u
}

// dynamicGrids finds the grids of the group that starts at position j.
func (sv *solver) dynamicGrids(j, b0, r0 int, early *tensor.Matrix) error {
	n := early.Cols
	end := min(j+sv.groupLen(), sv.in)
	x := make([]float32, end-j)
	var importance []float32
	if sv.scheme.ClipInput {
		importance = make([]float32, end-j)
		for i := range importance {
			c := sv.f.perm[j+i]
			importance[i] = sv.cal.H.At(c, c)
		}
	}
	k, groups := sv.groupOf[j], sv.gridded.Groups()
	for r := range n {
		for i := range x {
			x[i] = early.At(j-b0+i, r)
		}
		grid, err := sv.scheme.Grid(x, importance)
		if err != nil {
			return fmt.Errorf("output channel %d, group %d: %w", r0+r, k, err)
		}
		sv.scale[k*sv.out+r0+r], sv.zero[k*sv.out+r0+r] = grid.Scale, float32(grid.Zero)
		i := (r0+r)*groups + k
		sv.gridded.Scales[i], sv.gridded.Zeros[i] = grid.Scale, grid.Zero
	}
	return nil
}

// result packs the codes in the weight's own order.
func (sv *solver) result(workers int) *quant.Weight {
	w := sv.gridded
	if sv.scheme.Axis == quant.OC && sv.dynamic {
		index := make([]int32, sv.in)
		trivial := true
		for j, c := range sv.f.perm {
			index[c] = int32(sv.groupOf[j])
			trivial = trivial && sv.groupOf[j] == c/sv.groupLen()
		}
		if !trivial {
			w.GroupIndex = index
		}
	}
	pack(w, sv.codes, sv.f.perm, workers)
	w.RowLoss = make([]float64, sv.out)
	order := outputOrder(sv.scheme, sv.out)
	for r, l := range sv.loss {
		if order != nil {
			r = order[r]
		}
		w.RowLoss[r] = max(l, 0)
	}
	return w
}

// pack stores codes, [in, out] by position, in w.
func pack(w *quant.Weight, codes []uint8, perm []int, workers int) {
	if w.Scheme.Axis == quant.IC {
		order := outputOrder(w.Scheme, w.Out)
		_ = parallel.For(context.Background(), workers, w.In, func(j int) error {
			line := codes[j*w.Out : (j+1)*w.Out]
			if order != nil {
				moved := make([]uint8, w.Out)
				for r, c := range line {
					moved[order[r]] = c
				}
				line = moved
			}
			w.SetLine(perm[j], line)
			return nil
		})
		return
	}
	const tile = 64
	_ = parallel.For(context.Background(), workers, (w.Out+tile-1)/tile, func(b int) error {
		r0, r1 := b*tile, min((b+1)*tile, w.Out)
		lines := make([]uint8, (r1-r0)*w.In)
		for j, c := range perm {
			for r, u := range codes[j*w.Out+r0 : j*w.Out+r1] {
				lines[r*w.In+c] = u
			}
		}
		for r := r0; r < r1; r++ {
			w.SetLine(r, lines[(r-r0)*w.In:(r-r0+1)*w.In])
		}
		return nil
	})
}
