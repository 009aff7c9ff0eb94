// Package kquant has the grids of llama.cpp's block types: Q2_K to Q6_K, IQ4_NL,
// IQ4_XS, MXFP4 and NVFP4, whose scales are quantized in turn or whose values are not
// evenly spaced, and those of the plain types that take their place where a row is no
// whole number of their blocks.
//
// The values are those of ggml's dequantize_row functions bit by bit. How they
// are found is not ggml's way: the real scale and minimum of a group are searched
// for by the weighted error itself, the factors and integers of a block are then
// fitted together, and after codes have been chosen by GPTQ once more, under H
// (Grid.FitSpan).
package kquant

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/quant"
)

// Grid is the grid of a block type. It implements quant.SpanFitter.
type Grid struct {
	t gguf.Type
	// scaled says that all values are TensorScale times those of the type.
	scaled bool
}

// TensorScaled is the grid of NVFP4 with a scale for the whole tensor, TensorScale.
func TensorScaled() Grid { return Grid{gguf.NVFP4, true} }

// Of returns the grid of a type; ok is false for types that have none here.
func Of(t gguf.Type) (g Grid, ok bool) {
	g.t = t
	_, ok = kinds[g]
	return g, ok
}

// Named returns the grid of a type by its name.
func Named(name string) (g Grid, ok bool) {
	for g := range kinds {
		if g.String() == name {
			return g, true
		}
	}
	return g, false
}

// Names lists the types in alphabetical order.
func Names() []string {
	var names []string
	for g := range kinds {
		names = append(names, g.String())
	}
	slices.Sort(names)
	return names
}

// Type is the block type.
func (g Grid) Type() gguf.Type { return g.t }

// Uniform reports whether a uniform grid has the values of the type too.
func (g Grid) Uniform() bool { k := g.kind(); return k.span == 1 && !k.levels }

// Linear implements quant.Linear.
func (g Grid) Linear() (zero float32, ok bool) { k := g.kind(); return k.zero, !k.levels }

// Levels implements quant.Leveled.
func (g Grid) Levels() (levels [16]float32, ok bool) {
	k := g.kind()
	if !k.levels {
		return levels, false
	}
	for u := range levels {
		levels[u] = k.table.Level(uint8(u))
	}
	return levels, true
}

// Scheme is the scheme of a weight on the grid.
func (g Grid) Scheme() quant.Scheme {
	return quant.Scheme{Bits: g.Bits(), GroupSize: g.kind().group, Grid: g}
}

func (g Grid) kind() *kind { return kinds[g] }

// kind is how the values of a type follow from what is stored. A scale is a half
// float d times an integer c of its group, the shift a half float times an
// integer e.
type kind struct {
	bits, group, span int
	zero              float32 // the code that stands for 0, without minima and levels
	levels            bool
	min               bool     // value = scale*code - shift
	c, e              integers // of a group
	groupBits         int      // that c and e take
	zeros             []float32

	// What fitting tries: the range times 1+stretch, less step each, steps times.
	// bottom and ceiling are the values of the first and the last code under
	// scale 1, if there are no minima.
	stretch, step   float32
	steps           int
	bottom, ceiling float32
	name            string
	table           *kernel.Levels // of levels
	moves           []move
	scales          []float64 // all that can be stored, ascending, in place of a half float times c
	first           int       // the byte that the first of them is stored as
}

// integers are what the integers of a group can be, and which of them the
// largest of a block is tried as.
type integers struct {
	low, high int
	tries     []int
}

// chunk is how many elements are rounded at once.
const chunk = 512

// kinds by type. A scale's integer is never 0, which would help nothing: a code
// stands for 0, or for the minimum, under any scale.
var kinds = func() map[Grid]*kind {
	one := integers{1, 1, []int{1}}
	six := integers{1, 63, []int{63, 61, 59, 56, 52}}
	four := integers{1, 15, []int{15, 14, 13, 12, 11, 10}}
	signed := integers{-32, 31, []int{-32, 31, -31, 30, -29, 28}}
	from0 := func(i integers) integers { return integers{0, i.high, i.tries} }
	kinds := map[Grid]*kind{
		{t: gguf.Q2_K}:   {bits: 2, group: 16, span: 16, min: true, c: four, e: from0(four), groupBits: 8},
		{t: gguf.Q3_K}:   {bits: 3, group: 16, span: 16, zero: 4, c: signed, groupBits: 6},
		{t: gguf.Q4_K}:   {bits: 4, group: 32, span: 8, min: true, c: six, e: from0(six), groupBits: 12},
		{t: gguf.Q5_K}:   {bits: 5, group: 32, span: 8, min: true, c: six, e: from0(six), groupBits: 12},
		{t: gguf.Q6_K}:   {bits: 6, group: 16, span: 16, zero: 32, c: integers{-128, 127, []int{-128, 127, -122, 117}}, groupBits: 8},
		{t: gguf.IQ4_XS}: {bits: 4, group: 32, span: 8, levels: true, c: signed, groupBits: 6},
		{t: gguf.IQ4_NL}: {bits: 4, group: 32, span: 1, levels: true, c: one},
		{t: gguf.Q4_0}:   {bits: 4, group: 32, span: 1, zero: 8, c: one},
		{t: gguf.Q5_0}:   {bits: 5, group: 32, span: 1, zero: 16, c: one},
		{t: gguf.Q8_0}:   {bits: 8, group: 32, span: 1, zero: 128, c: one},
		{t: gguf.Q4_1}:   {bits: 4, group: 32, span: 1, min: true, c: one, e: one},
		{t: gguf.Q5_1}:   {bits: 5, group: 32, span: 1, min: true, c: one, e: one},
		{t: gguf.MXFP4}:  {bits: 4, group: 32, span: 1, levels: true, c: one, scales: powers(), groupBits: 8},
		{t: gguf.NVFP4}:  {bits: 4, group: 16, span: 1, levels: true, c: one, scales: eighths(1), first: 1, groupBits: 8},
		TensorScaled():   {bits: 4, group: 16, span: 1, levels: true, c: one, scales: eighths(TensorScale), first: 1, groupBits: 8},
	}
	for g, k := range kinds {
		k.name = g.String()
		k.bottom, k.ceiling = -k.zero, k.top()-k.zero
		if k.levels {
			values := gguf.Levels[:]
			if k.scales != nil {
				values = fp4[:]
			}
			k.bottom, k.ceiling = values[0], values[len(values)-1]
			k.table = kernel.NewLevels(values...)
		}
		k.stretch, k.step, k.steps = searches[k.bits].stretch, searches[k.bits].step, searches[k.bits].steps
		if k.span == 1 && k.min { // no integers follow that would undo what is gained
			k.step, k.steps = k.step/2, 2*k.steps
		}
		k.moves = k.movesOf()
		k.zeros = make([]float32, chunk)
		for i := range k.zeros {
			k.zeros[i] = k.zero
		}
	}
	return kinds
}()

// searches by bits.
var searches = map[int]struct {
	stretch, step float32
	steps         int
}{
	2: {0.1, 0.1, 8},
	3: {0.06, 0.04, 14},
	4: {0.03, 0.045, 8},
	5: {0.02, 0.025, 6},
	6: {0.01, 0.01, 6},
	8: {0, 0.004, 3},
}

func (k *kind) top() float32 { return float32(int(1)<<k.bits - 1) }

// MarshalText implements quant.Grid: the name of the type.
func (g Grid) MarshalText() ([]byte, error) {
	if g.kind() == nil {
		return nil, fmt.Errorf("no grid of type %v", g.t)
	}
	return []byte(g.String()), nil
}

// String is the name of the type.
func (g Grid) String() string {
	if g.scaled {
		return g.t.String() + "/256"
	}
	return g.t.String()
}

// Bits implements quant.Grid.
func (g Grid) Bits() int { return g.kind().bits }

// Span implements quant.Grid: the groups of a block.
func (g Grid) Span() int { return g.kind().span }

// ParamBits implements quant.Grid.
func (g Grid) ParamBits(groups int) int64 {
	k := g.kind()
	halves := 1
	if k.scales != nil {
		return int64(groups * k.groupBits)
	}
	if k.min {
		halves = 2
	}
	return int64(groups*k.groupBits) + int64((groups+k.span-1)/k.span*halves*16)
}

// Shifted implements quant.SpanFitter.
func (g Grid) Shifted() bool { return g.kind().min }

// Round implements quant.Grid.
func (g Grid) Round(codes []uint8, values, x, scale, shift []float32, size int) {
	k := g.kind()
	if size > 1 {
		for i, a := 0, 0; a < len(x); i, a = i+1, a+size {
			b := min(a+size, len(x))
			k.roundRun(codes[a:b], x[a:b], scale[i], shift[i])
		}
		if values != nil {
			g.Values(values, codes, scale, shift, size)
		}
		return
	}
	var moved, deq [chunk]float32
	for a := 0; a < len(x); a += chunk {
		b := min(a+chunk, len(x))
		s, part := scale[a:b], x[a:b]
		switch {
		case k.levels:
			for i, v := range part {
				codes[a+i] = k.table.Code(v / s[i])
			}
		case k.min:
			m := moved[:b-a]
			for i, v := range part {
				m[i] = v + shift[a+i]
			}
			kernel.QuantCols(codes[a:b], deq[:b-a], m, s, k.zeros[:b-a], k.top())
		default:
			kernel.QuantCols(codes[a:b], deq[:b-a], part, s, k.zeros[:b-a], k.top())
		}
		if values != nil {
			g.Values(values[a:b], codes[a:b], s, shift[a:b], 1)
		}
	}
}

// roundRun rounds a run of weights that share a scale and a shift.
func (k *kind) roundRun(codes []uint8, x []float32, scale, shift float32) {
	switch {
	case k.levels:
		for i, v := range x {
			codes[i] = k.table.Code(v / scale)
		}
	case k.min:
		var moved [chunk]float32
		for a := 0; a < len(x); a += chunk {
			b := min(a+chunk, len(x))
			m := moved[:b-a]
			for i, v := range x[a:b] {
				m[i] = v + shift
			}
			kernel.QuantRow(codes[a:b], m, scale, 0, k.top())
		}
	default:
		kernel.QuantRow(codes, x, scale, k.zero, k.top())
	}
}

// Values implements quant.Grid.
func (g Grid) Values(dst []float32, codes []uint8, scale, shift []float32, size int) {
	k := g.kind()
	for i, a := 0, 0; a < len(codes); i, a = i+1, a+size {
		b := min(a+size, len(codes))
		s, m, to := scale[i], shift[i], dst[a:b]
		switch {
		case k.levels:
			for j, u := range codes[a:b] {
				to[j] = s * k.table.Level(u)
			}
		case k.min:
			for j, u := range codes[a:b] {
				to[j] = float32(s*float32(u)) - m
			}
		default:
			for j, u := range codes[a:b] {
				to[j] = s * (float32(u) - k.zero)
			}
		}
	}
}

// Slopes implements quant.Grid.
func (g Grid) Slopes(dst []float32, codes []uint8, _ []float32, _ int) {
	k := g.kind()
	if k.levels {
		for i, u := range codes {
			dst[i] = k.table.Level(u)
		}
		return
	}
	for i, u := range codes {
		dst[i] = float32(u) - k.zero
	}
}
