package gptq

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/internal/scratch"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// solver carries one weight through the sweep. Its matrices are transposed:
// row p is the column at position p of the factor, and the sweep goes from
// the last position down to the first. Outputs are in places in which groups
// of axis IC are neighbours. Outputs (for axis IC: spans of groups of outputs)
// do not influence each other, so panels of them are swept independently.
type solver struct {
	scheme quant.Scheme
	grid   quant.Grid
	f      *factor
	in     int
	out    int
	w      *tensor.Matrix // [out, in]
	order  []int          // output by place; nil if they are the same
	codes  []uint8        // [in, out]
	loss   []float64      // per output

	gridded           *quant.Weight // scales and shifts; filled as found if dynamic
	dynamic           bool
	neighbours        bool // axis OC: groups are runs of neighbours in any case
	cal               *quant.Calibration
	groupLen, spanLen int // weights of a line in a group, and in a span of groups
	// axis OC: scale and shift by group and output, [groups, out]
	scale, shift []float32
	groupOf      []int // axis OC: group by position

	rows *rowFeedback // nil without curvature; else there is one panel
}

func (q Quantizer) solve(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration, f *factor) (*quant.Weight, error) {
	_, length := s.Lines(w.Rows, w.Cols)
	sv := &solver{
		scheme: s, grid: quant.GridOf(s), cal: cal, f: f, in: w.Cols, out: w.Rows, w: w,
		neighbours: q.Order == OrderGroup, order: outputOrder(s, w.Rows), groupLen: s.GroupLen(length), spanLen: s.SpanLen(length),
	}
	switch q.Groups {
	case GroupsAuto:
		sv.dynamic = s.Axis == quant.IC || q.Order != OrderActivation
	case GroupsDynamic:
		sv.dynamic = true
	}
	buf := codesPool.Get().(*[]uint8)
	defer codesPool.Put(buf)
	*buf = scratch.Slice(*buf, sv.in*sv.out)
	sv.codes = *buf
	sv.loss = make([]float64, sv.out)
	if err := sv.prepareParams(ctx, q.Workers); err != nil {
		return nil, err
	}
	workers := parallel.Workers(q.Workers)
	width := panelFor(s, sv.out, sv.in, workers)
	var err error
	if sv.rows, err = q.feedback(cal, sv.order); err != nil {
		return nil, err
	}
	if sv.rows != nil {
		width = sv.out
	}
	panels := (sv.out + width - 1) / width
	inner := max(1, workers/panels)
	if err := parallel.For(ctx, workers, panels, func(i int) error {
		p := panelPool.Get().(*panel)
		defer panelPool.Put(p)
		return p.run(ctx, sv, i*width, min((i+1)*width, sv.out), inner)
	}); err != nil {
		return nil, err
	}
	return sv.result(q.Workers), nil
}

// A sweep needs much memory, and the page faults of fresh memory cost more
// than clearing old: it is reused.
var (
	codesPool = sync.Pool{New: func() any { return new([]uint8) }}
	panelPool = sync.Pool{New: func() any { return new(panel) }}
)

// panelFor is how many outputs a worker takes through all columns at once:
// enough for products to run well, few enough to stay small in memory, the
// same number of panels for every worker, and a whole number of spans of
// groups for axis IC. No code or scale depends on it.
func panelFor(s quant.Scheme, out, in, workers int) int {
	const unit = 32
	most := min(max((16<<20)/in, 256), 1024)
	rounds := (out + most*workers - 1) / (most * workers)
	n := (out + rounds*workers - 1) / (rounds * workers)
	n = (n + unit - 1) / unit * unit
	if s.Axis == quant.OC {
		return n
	}
	g := s.SpanLen(out)
	return (n + g - 1) / g * g
}

// panelWidth is a width of panels that does not depend on the workers.
func panelWidth(s quant.Scheme, out int) int {
	const least, most = 64, 384
	n := min(max((out/8+least-1)/least*least, least), most)
	if s.Axis == quant.OC {
		return n
	}
	g := s.GroupLen(out)
	return (n + g - 1) / g * g
}

// outputOrder maps places to output rows where groups are strided.
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

// row returns the output at a place.
func (sv *solver) row(place int) int {
	if sv.order == nil {
		return place
	}
	return sv.order[place]
}

// prepareParams finds the static parameters, or makes room for dynamic ones.
func (sv *solver) prepareParams(ctx context.Context, workers int) error {
	s, w := sv.scheme, sv.w
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
		if sv.gridded, err = quant.Grids(ctx, alive, s, sv.cal, workers); err != nil {
			return err
		}
	}
	if s.Axis == quant.IC {
		return nil
	}
	groups := sv.gridded.Groups()
	sv.scale = make([]float32, groups*sv.out)
	sv.shift = make([]float32, groups*sv.out)
	sv.groupOf = make([]int, sv.in)
	for p, c := range sv.f.perm {
		if sv.dynamic && !sv.neighbours {
			c = sv.in - 1 - p // its turn
		}
		sv.groupOf[p] = c / sv.groupLen
	}
	if !sv.dynamic {
		for r := range sv.out {
			for k := range groups {
				sv.scale[k*sv.out+r] = sv.gridded.Scales[r*groups+k]
				sv.shift[k*sv.out+r] = sv.gridded.Shift(r*groups + k)
			}
		}
	}
	return nil
}

// result packs the codes in the weight's own order.
func (sv *solver) result(workers int) *quant.Weight {
	w := sv.gridded
	if sv.scheme.Axis == quant.OC && sv.dynamic {
		index := make([]int32, sv.in)
		trivial := true
		for p, c := range sv.f.perm {
			index[c] = int32(sv.groupOf[p])
			trivial = trivial && sv.groupOf[p] == c/sv.groupLen
		}
		if !trivial {
			w.GroupIndex = index
		}
	}
	pack(w, sv.codes, sv.f.perm, workers)
	if sv.rows != nil {
		return w // losses of rows are not known
	}
	w.RowLoss = make([]float64, sv.out)
	for i, l := range sv.loss {
		w.RowLoss[sv.row(i)] = max(l, 0)
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
	at := make([]int, w.In) // column -> position
	for p, c := range perm {
		at[c] = p
	}
	const tile, line = 64, 64 // outputs; bytes, so that rows begin in different cache sets
	stride := w.In + line
	_ = parallel.For(context.Background(), workers, (w.Out+tile-1)/tile, func(b int) error {
		r0, r1 := b*tile, min((b+1)*tile, w.Out)
		lines := make([]uint8, (r1-r0)*stride)
		transposeCodes(lines, stride, codes, w.Out, at, r0, r1)
		for r := r0; r < r1; r++ {
			w.SetLine(r, lines[(r-r0)*stride:(r-r0)*stride+w.In])
		}
		return nil
	})
}

// transposeCodes writes codes, rows of out bytes, to dst, rows of stride
// bytes: dst row r-r0, byte c is byte r of row at[c], for r from r0 to r1.
func transposeCodes(dst []uint8, stride int, codes []uint8, out int, at []int, r0, r1 int) {
	c := 0
	for ; c+8 <= len(at); c += 8 {
		var row [8][]uint8
		for i := range row {
			p := at[c+i]
			row[i] = codes[p*out+r0 : p*out+r1]
		}
		r := 0
		for ; r+8 <= r1-r0; r += 8 {
			var x [8]uint64
			for i := range x {
				x[i] = binary.LittleEndian.Uint64(row[i][r:])
			}
			transpose8(&x)
			for i, v := range x {
				binary.LittleEndian.PutUint64(dst[(r+i)*stride+c:], v)
			}
		}
		for ; r < r1-r0; r++ {
			for i := range row {
				dst[r*stride+c+i] = row[i][r]
			}
		}
	}
	for ; c < len(at); c++ {
		for r, u := range codes[at[c]*out+r0 : at[c]*out+r1] {
			dst[r*stride+c] = u
		}
	}
}

// transpose8 transposes 8 x 8 bytes: it swaps blocks of 4 x 4, of 2 x 2, of 1.
func transpose8(x *[8]uint64) {
	for i := range 4 {
		swapBits(&x[i], &x[i+4], 32, 0x00000000ffffffff)
	}
	for _, i := range [...]int{0, 1, 4, 5} {
		swapBits(&x[i], &x[i+2], 16, 0x0000ffff0000ffff)
	}
	for i := 0; i < 8; i += 2 {
		swapBits(&x[i], &x[i+1], 8, 0x00ff00ff00ff00ff)
	}
}

// swapBits swaps the bits mask<<shift of a with the bits mask of b.
func swapBits(a, b *uint64, shift uint, mask uint64) {
	t := (*a>>shift ^ *b) & mask
	*a ^= t << shift
	*b ^= t
}
