package fitting

import (
	"cmp"
	"slices"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
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
