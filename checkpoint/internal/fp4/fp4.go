// Package fp4 is what the formats with floats of 4 bits share: which grids they have by
// name, and how codes and scales of those are stored.
package fp4

import (
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
)

// MX and NV are the names of the grids: a power of two for 32 weights, and a float of 8
// bits for 16.
const (
	MX = "mxfp4"
	NV = "nvfp4"
)

// Parse reads the name of a grid.
func Parse(name string) (string, error) {
	if n := strings.ToLower(name); n == MX || n == NV {
		return n, nil
	}
	return "", fmt.Errorf("unknown type %q of floats of 4 bits, want %s or %s", name, MX, NV)
}

// Grids are those of a format: of NV with a scale for the whole tensor or without one.
type Grids struct{ TensorScaled bool }

// Grid is that of a name, which Parse has read.
func (g Grids) Grid(name string) kquant.Grid {
	switch {
	case name == MX:
		return of(gguf.MXFP4)
	case g.TensorScaled:
		return kquant.TensorScaled()
	}
	return of(gguf.NVFP4)
}

func of(t gguf.Type) kquant.Grid {
	grid, ok := kquant.Of(t)
	if !ok {
		panic(fmt.Sprintf("fp4: no grid of %v", t))
	}
	return grid
}

// Name is the name of the grid of a scheme; ok is false for those of others.
func (g Grids) Name(s quant.Scheme) (name string, ok bool) {
	for _, name := range []string{MX, NV} {
		if s.Grid == g.Grid(name) {
			return name, true
		}
	}
	return "", false
}

// Main is layout.Mixer's for a format that is set to a grid; "" is none.
func (g Grids) Main(name string) (s quant.Scheme, ok bool) {
	if name == "" {
		return s, false
	}
	return g.Grid(name).Scheme(), true
}

// Mix is what layout.Mixer's gives then.
func (g Grids) Mix(name string) func(l layout.Layer) (quant.Scheme, string, error) {
	if name == "" {
		return nil
	}
	return func(l layout.Layer) (quant.Scheme, string, error) { return g.Typed(name, l.In) }
}

// Typed is layout.Typer's.
func (g Grids) Typed(name string, in int) (s quant.Scheme, remark string, err error) {
	if name, err = Parse(name); err != nil {
		return s, "", err
	}
	s = g.Grid(name).Scheme()
	if in%s.GroupSize != 0 {
		return s, "", layout.Unsupported("%d inputs are not a whole number of groups of %d of %s", in, s.GroupSize, name)
	}
	return s, "", nil
}

// Check accepts a layer on one of the grids.
func (g Grids) Check(format string, l layout.Layer) error {
	name, ok := g.Name(l.Scheme)
	if !ok {
		text, _ := l.Scheme.Grid.MarshalText() // for the message alone
		return layout.Unsupported("%s has no grid %s; use the format that has it (lowbit for those of int8 and OliVe), or dense", format, text)
	}
	own := g.Grid(name).Scheme()
	s := l.Scheme
	s.Grid, l.Scheme.Grid = nil, nil
	if err := layout.CheckInputGroups(format, l); err != nil {
		return err
	}
	switch {
	case l.GroupIndex:
		return layout.Unsupported("%s has no group index in %s; quantize with static groups", format, name)
	case s.GroupSize != own.GroupSize:
		return layout.Unsupported("%s has groups of %d in %s, not %d", format, own.GroupSize, name, s.GroupSize)
	case l.In%own.GroupSize != 0:
		return layout.Unsupported("%d inputs are not a whole number of groups of %d of %s", l.In, own.GroupSize, name)
	}
	return nil
}

// stored has for a byte of two codes what is stored of them, codes the reverse.
var stored, codes = func() (s, c [256]uint8) {
	for i := range 256 {
		u := uint8(i)
		s[i] = kquant.FP4(u&15) | kquant.FP4(u>>4)<<4
		c[i] = kquant.FP4Code(u) | kquant.FP4Code(u>>4)<<4
	}
	return s, c
}()

func mapped(words []uint32, by *[256]uint8) []uint32 {
	out := slices.Clone(words)
	for i, w := range out {
		out[i] = uint32(by[w&255]) | uint32(by[w>>8&255])<<8 | uint32(by[w>>16&255])<<16 | uint32(by[w>>24])<<24
	}
	return out
}

// Encode gives the stored words, 8 values each with the first in the lowest bits, and the
// bytes of the scales.
func (g Grids) Encode(w *quant.Weight) (words []uint32, scales []byte, err error) {
	name, ok := g.Name(w.Scheme)
	if !ok {
		return nil, nil, fmt.Errorf("a weight on no grid of %s or %s", MX, NV)
	}
	scales = make([]byte, len(w.Scales))
	if err := g.Grid(name).FP4Scales(scales, w.Scales); err != nil {
		return nil, nil, err
	}
	return mapped(w.Codes, &stored), scales, nil
}

// Decode makes a weight [out, in] of what Encode gives. An error wraps
// layout.ErrNotWeight.
func (g Grids) Decode(name string, out, in int, words []uint32, scales []byte) (*quant.Weight, error) {
	grid := g.Grid(name)
	w := quant.NewWeight(out, in, grid.Scheme())
	line, groups := make([]uint8, in), w.Groups()
	w.Codes = mapped(words, &codes)
	for i, b := range scales {
		if w.Scales[i] = grid.FP4Scale(b); w.Scales[i] != w.Scales[i] {
			return nil, fmt.Errorf("row %d: scale %#x is no number: %w", i/groups, b, layout.ErrNotWeight)
		}
	}
	for r := range out {
		if s := w.Scales[r*groups : (r+1)*groups]; slices.Contains(s, 0) {
			w.Line(line, r)
			grid.FP4Zeros(line, s)
			w.SetLine(r, line)
		}
	}
	if err := w.Validate(); err != nil {
		return nil, err
	}
	return w, nil
}
