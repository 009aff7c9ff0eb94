package adadim

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Arm is one way to quantize a layer: an axis, and for each axis one kind of
// scale outside the groups that helps it. Its text is the axis with "+in" or
// "+row" for the scale: oc, oc+in, ic or ic+row. The zero value is oc.
type Arm struct {
	Axis quant.Axis
	// InputScale (axis OC) multiplies input channel j by (mean |x_j|)^α before
	// grouping (AWQ, arXiv 2306.00978). Under axis IC it would change nothing.
	InputScale bool
	// RowScale (axis IC) divides every output row by its root mean square to
	// the power β before grouping. Under axis OC it would change nothing.
	RowScale bool
}

// ArmOC has groups inside output channels and no scales.
func ArmOC() Arm { return Arm{Axis: quant.OC} }

// ArmOCInputScale has groups inside output channels and input scales.
func ArmOCInputScale() Arm { return Arm{Axis: quant.OC, InputScale: true} }

// ArmIC has groups inside input channels and no scales.
func ArmIC() Arm { return Arm{Axis: quant.IC} }

// ArmICRowScale has groups inside input channels and row scales.
func ArmICRowScale() Arm { return Arm{Axis: quant.IC, RowScale: true} }

// PaperArms are the two axes of the paper; AllArms adds the scaled ones.
func PaperArms() []Arm { return []Arm{ArmOC(), ArmIC()} }

// AllArms are all arms there are, in the order that settles ties.
func AllArms() []Arm { return []Arm{ArmOC(), ArmOCInputScale(), ArmIC(), ArmICRowScale()} }

// String returns the arm's text.
func (a Arm) String() string {
	s := a.Axis.String()
	if a.InputScale {
		s += "+in"
	}
	if a.RowScale {
		s += "+row"
	}
	return s
}

// ParseArms reads "paper", "all" or a list such as "oc,oc+in,ic,ic+row".
// Errors wrap ErrOptions.
func ParseArms(s string) ([]Arm, error) {
	switch s {
	case "paper":
		return PaperArms(), nil
	case "all":
		return AllArms(), nil
	}
	var arms []Arm
	for name := range strings.SplitSeq(s, ",") {
		a, ok := armNamed(name)
		if !ok {
			return nil, fmt.Errorf("%w: unknown arm %q, want paper, all, or a list of oc, oc+in, ic, ic+row", ErrOptions, name)
		}
		arms = append(arms, a)
	}
	return arms, nil
}

// ParseArm reads "oc", "oc+in", "ic" or "ic+row". Errors wrap ErrOptions.
func ParseArm(s string) (Arm, error) {
	if a, ok := armNamed(s); ok {
		return a, nil
	}
	return Arm{}, fmt.Errorf("%w: unknown arm %q, want oc, oc+in, ic or ic+row", ErrOptions, s)
}

func armNamed(name string) (Arm, bool) {
	for _, a := range AllArms() {
		if a.String() == name {
			return a, true
		}
	}
	return Arm{}, false
}

// MarshalText implements encoding.TextMarshaler.
func (a Arm) MarshalText() ([]byte, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	return []byte(a.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Arm) UnmarshalText(text []byte) error {
	got, err := ParseArm(string(text))
	if err == nil {
		*a = got
	}
	return err
}

// Validate reports an arm that does not exist. Errors wrap ErrOptions.
func (a Arm) Validate() error {
	if _, ok := armNamed(a.String()); !ok {
		return fmt.Errorf("%w: arm %v: input scales need axis oc, row scales axis ic", ErrOptions, a)
	}
	return nil
}

// Scaled reports whether the arm has scales outside the groups.
func (a Arm) Scaled() bool { return a.InputScale || a.RowScale }

// powers are the exponents tried for input scales (α) and row scales (β).
// Exponent 0 is no scale at all.
func (a Arm) powers() []float64 {
	switch {
	case a.InputScale:
		return []float64{0, 0.25, 0.5, 0.75}
	case a.RowScale:
		return []float64{0, 0.5, 1}
	}
	return []float64{0}
}

// problem is a weight to quantize, after an arm's scales are taken out of it.
type problem struct {
	w     *tensor.Matrix
	cal   *quant.Calibration
	row   []float32 // factor per output that the result gets back, or nil
	input []float32 // factor per input that the result gets back, or nil
}

// scaled takes the scales of arm a with the given exponent out of w.
func (a Arm) scaled(w *tensor.Matrix, cal *quant.Calibration, power float64) problem {
	p := problem{w: w, cal: cal}
	switch {
	case power == 0:
	case a.RowScale:
		if p.row = RowScales(w, power); p.row != nil {
			p.w = w.Clone()
			for r := range w.Rows {
				row := p.w.Row(r)
				for j := range row {
					row[j] /= p.row[r]
				}
			}
			if cal.Output != nil {
				p.cal = cal.WithOutput(ScaleOutput(cal.Output, p.row))
			}
		}
	case a.InputScale:
		if p.input = InputScales(cal.MeanAbs, power); p.input != nil {
			p.w, p.cal = ScaleInputs(w, cal, p.input)
		}
	}
	return p
}

// InputScales returns, for the mean absolute inputs of a layer, the factors
// 1/s_j with s_j = (mean |x_j|)^power, normalized so that the largest and
// the smallest are reciprocal, rounded to half floats. It returns nil if
// there is nothing to gain: no inputs, or all alike.
func InputScales(meanAbs []float32, power float64) []float32 {
	return normalized(len(meanAbs), func(j int) float64 {
		return math.Pow(float64(meanAbs[j]), -power)
	})
}

// RowScales returns the root mean square of every row of w to the given
// power, normalized and rounded as InputScales does, or nil if all rows are alike.
func RowScales(w *tensor.Matrix, power float64) []float32 {
	return normalized(w.Rows, func(r int) float64 {
		var sum float64
		for _, v := range w.Row(r) {
			sum += float64(v) * float64(v)
		}
		return math.Pow(sum/float64(w.Cols), power/2)
	})
}

// normalized rounds the scales f(0 … n-1) to half floats; a channel that is
// 0 or not finite gets 1.
func normalized(n int, f func(int) float64) []float32 {
	s := make([]float64, n)
	lo, hi := math.Inf(1), 0.0
	for i := range s {
		s[i] = f(i)
		if s[i] > 0 && !math.IsInf(s[i], 0) {
			lo, hi = min(lo, s[i]), max(hi, s[i])
		}
	}
	if hi <= lo {
		return nil
	}
	mid := math.Sqrt(lo) * math.Sqrt(hi)
	out := make([]float32, n)
	for i, v := range s {
		out[i] = 1
		if v > 0 && !math.IsInf(v, 0) {
			// Half floats: stay clear of overflow and of subnormals.
			out[i] = tensor.RoundF16(float32(min(max(v/mid, 1.0/16384), 16384)))
		}
	}
	return out
}

// ScaleInputs returns w and cal as they are once every input channel j is
// multiplied by factor[j]: columns of w are divided by it, so that the
// function of the layer is the same.
func ScaleInputs(w *tensor.Matrix, cal *quant.Calibration, factor []float32) (*tensor.Matrix, *quant.Calibration) {
	sw := w.Clone()
	for r := range sw.Rows {
		row := sw.Row(r)
		for j, f := range factor {
			row[j] /= f
		}
	}
	return sw, ScaleCalibration(cal, factor)
}

// ScaleCalibration returns cal as it is once every input channel j is
// multiplied by factor[j].
func ScaleCalibration(cal *quant.Calibration, factor []float32) *quant.Calibration {
	n := len(factor)
	c := &quant.Calibration{Tokens: cal.Tokens, Output: cal.Output}
	// scale multiplies columns, and with both set rows too.
	scale := func(src *tensor.Matrix, both bool) *tensor.Matrix {
		if src == nil {
			return nil
		}
		dst := tensor.New(src.Rows, n)
		for i := range src.Rows {
			f := float32(1)
			if both {
				f = factor[i]
			}
			to, from := dst.Row(i), src.Row(i)
			for j, g := range factor {
				to[j] = from[j] * f * g
			}
		}
		return dst
	}
	c.H, c.Cross, c.Residual = scale(cal.H, true), scale(cal.Cross, true), scale(cal.Residual, false)
	for i, half := range cal.Halves {
		if half != nil {
			c.Halves[i] = ScaleCalibration(half, factor)
		}
	}
	if cal.MeanAbs != nil {
		c.MeanAbs = make([]float32, len(factor))
		for j, f := range factor {
			c.MeanAbs[j] = cal.MeanAbs[j] * f
		}
	}
	if cal.AbsMax != nil {
		c.AbsMax = make([]float32, len(factor))
		for j, f := range factor {
			c.AbsMax[j] = cal.AbsMax[j] * max(f, -f)
		}
	}
	return c
}

// ScaleOutput returns the curvature at outputs [out, out] as it is for a weight whose
// row r is divided by factor[r].
func ScaleOutput(o *tensor.Matrix, factor []float32) *tensor.Matrix {
	s := o.Clone()
	for i, f := range factor {
		row := s.Row(i)
		for j, g := range factor {
			row[j] *= f * g
		}
	}
	return s
}

// quantize runs the method on the problem and puts the scales back.
func (p problem) quantize(ctx context.Context, method quant.Quantizer, s quant.Scheme) (*quant.Weight, error) {
	q, err := method.Quantize(ctx, p.w, s, p.cal)
	if err != nil {
		return nil, err
	}
	return p.restore(q)
}

// finish makes the method's result of what its draft has made of the problem,
// with the scales put back. It is the draft itself if nothing is left to do.
func (p problem) finish(ctx context.Context, method quant.Quantizer, s quant.Scheme, draft *quant.Weight) (*quant.Weight, error) {
	d := *draft
	if p.row != nil || p.input != nil {
		d.RowScale, d.InputScale, d.RowLoss = nil, nil, nil
	}
	q, err := quant.Finish(ctx, method, p.w, s, p.cal, &d)
	switch {
	case err != nil:
		return nil, err
	case q == &d:
		return draft, nil
	}
	return p.restore(q)
}

// restore puts the scales back into a weight without any.
func (p problem) restore(q *quant.Weight) (*quant.Weight, error) {
	if p.row == nil && p.input == nil {
		return q, nil
	}
	if q.RowScale != nil || q.InputScale != nil || q.Columns != nil {
		return nil, fmt.Errorf("%w: they do not compose with an arm's", ErrOwnScales)
	}
	c := *q
	c.RowScale, c.InputScale = p.row, p.input
	if p.row != nil && q.RowLoss != nil {
		c.RowLoss = make([]float64, len(q.RowLoss))
		for r, l := range q.RowLoss {
			c.RowLoss[r] = l * float64(p.row[r]) * float64(p.row[r])
		}
	}
	return &c, nil
}
