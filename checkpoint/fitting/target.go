package fitting

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Target is the first of an engine's formats and schemes that it loads with the bits,
// the group size (0 where none are given) and the symmetry that are given, and in the
// format that is given, if any; the engine's first choice if it loads none so. An
// engine that is not known is an error.
func Target(engine string, format layout.Format, bits, groupSize int, symmetric *bool) (checkpoint.Target, error) {
	all, err := checkpoint.TargetsFor(engine)
	if err != nil {
		return checkpoint.Target{}, err
	}
	for _, t := range all {
		l := layout.Layer{Out: 1024, In: 1024, Scheme: t.Scheme}
		l.Scheme.Bits = cmp.Or(bits, l.Scheme.Bits)
		l.Scheme.GroupSize = cmp.Or(groupSize, l.Scheme.GroupSize)
		if symmetric != nil {
			l.Scheme.Symmetric = *symmetric
		}
		f := format
		if f == nil {
			if f, err = checkpoint.Lookup(t.Format); err != nil {
				return t, err
			}
		} else if f.Name() != t.Format {
			continue
		}
		loads := func(n layout.Note) bool { return n.Engine == engine && n.Accepted }
		if f.Check(l) == nil && slices.ContainsFunc(checkpoint.Engines(f, []layout.Layer{l}), loads) {
			return t, nil
		}
	}
	return all[0], nil
}

// Mixed is the scheme of most layers where the format or the method (nil for GPTQ) chooses
// the grids, and who decided that; without a grid if neither does. Bits that are given (or
// 0) must be those of the scheme, and nothing else may be asked of grids: plain. Format
// gguf in 2 or 3 bits is one of Q2_K or Q3_K where nothing asks for groups of another kind: its
// plain types have no fewer than 4 bits; the format that counts is returned.
func Mixed(f layout.Format, m quant.Quantizer, bits int, plain bool) (layout.Format, quant.Scheme, string, error) {
	by, chooser := "format "+f.Name(), "format "+f.Name()
	own, gridded := quant.OwnScheme(m)
	if g, ok := f.(ggufmodel.Format); ok && g.Type == "" && plain && (bits == 2 || bits == 3) && !gridded {
		g.Type, g.Pure = map[int]string{2: "Q2_K", 3: "Q3_K_S"}[bits], true
		if g.Dense == "" && !g.Q8Embeddings {
			g.Dense = safetensors.F16
		}
		f = g
		by += fmt.Sprintf(" in %d bits", bits)
	}
	var main quant.Scheme
	chooses := false
	if mixer, ok := f.(layout.Mixer); ok {
		main, chooses = mixer.Main()
	}
	switch {
	case chooses && gridded && main.Grid != own.Grid:
		return f, own, by, fmt.Errorf("format %s chooses the grid of each layer, and method %T has its own", f.Name(), m)
	case gridded:
		main, by, chooser = own, "method", fmt.Sprintf("method %T", m)
	case !chooses:
		return f, quant.Scheme{}, "", nil
	}
	switch {
	case !plain:
		return f, main, by, fmt.Errorf("%s chooses the grid of each layer: group size, symmetry, range, scale type and least zero-point go with plain types only", chooser)
	case bits != 0 && bits != main.Bits:
		return f, main, by, fmt.Errorf("%d bits are given beside a type of %d in %s", bits, main.Bits, chooser)
	}
	return f, main, by, nil
}
