package layout

import (
	"fmt"

	"github.com/golowbit/lowbit/quant"
)

// CheckScheme refuses a scheme that does not fit the shape of its layer, and a
// grid that is not uniform, which a format of scales and zero-points cannot hold.
func CheckScheme(l Layer) error {
	if g := l.Scheme.Grid; g != nil {
		text, _ := g.MarshalText() // for the message alone
		return Unsupported("the grid %s is not one of scales and zero-points; use the format that has it (lowbit for those of int8 and OliVe), or dense", text)
	}
	if l.Summands > 0 {
		return Unsupported("the weight is a sum of %d quantized ones (SplitQuant); use format lowbit or dense", 1+l.Summands)
	}
	return CheckShape(l)
}

// CheckShape refuses a scheme that does not fit the shape of its layer, and columns in 16
// bits, which most formats have no place for.
func CheckShape(l Layer) error {
	if l.Columns > 0 {
		return Unsupported("columns in 16 bits, which outlier features have, are held by format lowbit only; quantize without text or with no outliers, or use format lowbit or dense")
	}
	if err := l.Scheme.CheckShape(l.Out, l.In); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return nil
}

// CheckInputGroups is the part of Check that is common to formats whose
// groups are consecutive inputs of an output row: all of it but the scales' type.
func CheckInputGroups(format string, l Layer) error {
	s := l.Scheme
	if err := CheckScheme(l); err != nil {
		return err
	}
	switch {
	case s.Axis == quant.IC:
		return Unsupported("%s keeps the scales of groups of inputs, so axis ic does not fit; use axis oc, or format hqq (with strided groups) or lowbit", format)
	case l.RowScale:
		return Unsupported("%s has no row scales, and folding them into the scales would round; quantize without them, or use format lowbit or dense", format)
	case l.InputScale:
		return Unsupported("%s has no input scales, and they belong to no group; quantize without them, or use format lowbit or dense", format)
	}
	return nil
}

// CheckHalfScales refuses scales that are not stored as F16.
func CheckHalfScales(format string, s quant.Scheme) error {
	switch s.ScaleType {
	case quant.F32:
		return Unsupported("%s stores scales as f16; quantize with scale type f16, or use format lowbit or dense", format)
	case quant.BF16:
		return Unsupported("%s stores scales as f16; quantize with scale type f16, or use format compressed-tensors, lowbit or dense", format)
	}
	return nil
}

// CheckWholeGroups refuses a short last group.
func CheckWholeGroups(format string, l Layer) error {
	g := l.Scheme.GroupSize
	if g == quant.WholeLine || l.In%g == 0 {
		return nil
	}
	return Unsupported("%s needs groups that divide the inputs, and %d does not divide %d; %s, or use format lowbit or dense",
		format, g, l.In, SuggestGroup(l.In, g))
}

// SuggestGroup names a group size that divides n, at most max.
func SuggestGroup(n, most int) string {
	for g := 1 << 10; g >= 16; g /= 2 {
		if g <= most && n%g == 0 {
			return fmt.Sprintf("use groups of %d or whole rows", g)
		}
	}
	return "use whole rows (group size -1)"
}

// CheckWeight refuses a weight that is not what Check and Plan were asked for.
func CheckWeight(f Format, l Layer, w *quant.Weight) error {
	if err := f.Check(l); err != nil {
		return err
	}
	if err := w.Validate(); err != nil {
		return err
	}
	got := LayerOf(l.Name, w)
	if got.Out != l.Out || got.In != l.In || got.RowScale != l.RowScale || got.InputScale != l.InputScale || got.GroupIndex != l.GroupIndex || got.Columns != l.Columns ||
		got.Scheme.Bits != l.Scheme.Bits || got.Scheme.GroupSize != l.Scheme.GroupSize || got.Scheme.Axis != l.Scheme.Axis ||
		got.Summands > l.Summands || got.Scheme.Symmetric != l.Scheme.Symmetric || got.Scheme.Strided != l.Scheme.Strided {
		return fmt.Errorf("layer %q: the weight is %+v, planned was %+v", l.Name, got, l)
	}
	if l.Scheme.Symmetric && !AllEqual(w.Zeros, SymmetricZero(l.Scheme.Bits)) {
		return fmt.Errorf("layer %q: a symmetric weight has zero-points other than %d", l.Name, SymmetricZero(l.Scheme.Bits))
	}
	return nil
}
