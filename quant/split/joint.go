package split

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// clusterBits is what it takes to say in which cluster an element is.
const clusterBits = 2

// union is the grid whose values are those of three uniform ones. What a group has of each does not
// fit into a scale and a shift: the scale is the number of the group's entry in a table.
type union struct {
	each   quant.Grid // uniform
	bits   int
	bounds Boundaries
	table  *table
}

var _ quant.Grid = union{}

// table has what Fit has found; entries are numbered as they come, which is of no account.
type table struct {
	mu      sync.RWMutex
	entries []entry
}

// entry is the scales and zero-points of a group.
type entry struct{ scale, shift [Clusters]float32 }

func (t *table) add(e entry) float32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries = append(t.entries, e)
	return float32(len(t.entries))
}

func (t *table) at(scale float32) entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.entries[int(scale)-1]
}

// mostGroups is how many numbers float32 has.
const mostGroups = 1 << 24

// MarshalText implements quant.Grid.
func (u union) MarshalText() ([]byte, error) { return []byte("splitquant"), nil }

// Bits implements quant.Grid.
func (u union) Bits() int { return u.bits + clusterBits }

// Span implements quant.Grid.
func (u union) Span() int { return 1 }

// ParamBits implements quant.Grid.
func (u union) ParamBits(groups int) int64 { return Clusters * u.each.ParamBits(groups) }

// Fit implements quant.Grid: the grids that round-to-nearest finds for the three clusters.
func (u union) Fit(scale, shift, x, importance []float32, size int, clip quant.Clip) (int, error) {
	part := make([]float32, min(size, len(x)))
	for k, a := 0, 0; a < len(x); k, a = k+1, a+size {
		run := x[a:min(a+size, len(x))]
		imp := importance
		if imp != nil {
			imp = importance[a : a+len(run)]
		}
		var e entry
		for c := range Clusters {
			masked := part[:len(run)]
			copy(masked, run)
			u.bounds.mask(masked, c)
			if _, err := u.each.Fit(e.scale[c:c+1], e.shift[c:c+1], masked, imp, len(run), clip); err != nil {
				return k, err
			}
		}
		scale[k], shift[k] = u.table.add(e), 0
	}
	return 0, nil
}

// Store implements quant.Grid: nothing replaces what Fit has found.
func (u union) Store([]float32, []float64) {}

// Round implements quant.Grid.
func (u union) Round(codes []uint8, values, x, scale, shift []float32, size int) {
	var code [1]uint8
	var value [1]float32
	var e entry
	for i, v := range x {
		if i%size == 0 {
			e = u.table.at(scale[i/size])
		}
		least := float32(math.Inf(1))
		for c := range Clusters {
			u.each.Round(code[:], value[:], x[i:i+1], e.scale[c:c+1], e.shift[c:c+1], 1)
			if d := float32(math.Abs(float64(value[0] - v))); d < least {
				least, codes[i] = d, code[0]|uint8(c)<<u.bits
				if values != nil {
					values[i] = value[0]
				}
			}
		}
	}
}

// Values implements quant.Grid.
func (u union) Values(dst []float32, codes []uint8, scale, shift []float32, size int) {
	var e entry
	for i, code := range codes {
		if i%size == 0 {
			e = u.table.at(scale[i/size])
		}
		c := min(code>>u.bits, Clusters-1)
		u.each.Values(dst[i:i+1], []uint8{code & (1<<u.bits - 1)}, e.scale[c:c+1], e.shift[c:c+1], 1)
	}
}

// Slopes implements quant.Grid: values do not follow the scale.
func (u union) Slopes(dst []float32, _ []uint8, _ []float32, _ int) { clear(dst) }

// joint has the inner method put the weight on the union of the three grids, and takes it apart.
func (q Quantizer) joint(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration, b Boundaries) (*quant.Weight, error) {
	lines, length := s.Lines(w.Rows, w.Cols)
	if n := lines * s.Groups(length); n > mostGroups {
		return nil, fmt.Errorf("%w: SplitQuant: %d groups, want at most %d", quant.ErrScheme, n, mostGroups)
	}
	u := union{each: quant.GridOf(s), bits: s.Bits, bounds: b, table: new(table)}
	on := quant.Scheme{Bits: u.Bits(), GroupSize: s.GroupSize, Axis: s.Axis, Strided: s.Strided, Clip: s.Clip, ClipInput: s.ClipInput, Grid: u}
	from, err := q.inner().Quantize(ctx, w, on, cal)
	if err != nil {
		return nil, err
	}
	if from.RowScale != nil || from.InputScale != nil || from.GroupIndex != nil {
		return nil, fmt.Errorf("%w: %T gives a weight scales or groups of its own", quant.ErrScheme, q.inner())
	}
	out := take(from, u, s, 0)
	out.RowLoss, out.Notes = from.RowLoss, from.Notes
	for c := 1; c < Clusters; c++ {
		out.Summands = append(out.Summands, take(from, u, s, c))
	}
	return out, nil
}

// take is the summand of a cluster.
func take(from *quant.Weight, u union, s quant.Scheme, cluster int) *quant.Weight {
	out := quant.NewWeight(from.Out, from.In, s)
	for i, n := range from.Scales {
		e := u.table.at(n)
		out.SetParams(i, e.scale[cluster:cluster+1], e.shift[cluster:cluster+1])
	}
	codes, groups := make([]uint8, out.LineLen()), out.Groups()
	for l := range out.Lines() {
		from.Line(codes, l)
		for p, code := range codes {
			if int(code>>u.bits) == cluster {
				codes[p] = code & (1<<u.bits - 1)
			} else {
				codes[p] = out.Zeros[l*groups+out.Group(p)]
			}
		}
		out.SetLine(l, codes)
	}
	return out
}
