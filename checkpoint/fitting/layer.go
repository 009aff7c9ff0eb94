package fitting

import (
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// Layer is what will be done with one linear.
type Layer struct {
	// Layer is the linear and its grid, whose axis is that of the arm; see With.
	// Dense says that it stays as it is.
	layout.Layer
	Arms  []adadim.Arm // what is chosen from
	Folds bool         // a scale of its input is chosen beforehand and folded
	Notes []string     // why it is not as it was asked for
	// Method is Rule.Method of the rule that counts, "" if there is none or it says nothing.
	Method string
	// Silent says that the notes are no warnings: nobody asked for what is not
	// done.
	Silent bool
	// Other says that it is no linear, by its name.
	Other bool
	// Outer says that it is the embedding or the head; see Plan.AddOuter.
	Outer bool

	remark  string // of Rules.Mix,
	unfit   error  // and that there is no grid
	refused error  // by Rules.Method
}

// With describes the linear quantized by an arm.
func (l *Layer) With(a adadim.Arm) layout.Layer {
	d := l.Layer
	d.Scheme.Axis = a.Axis
	d.Scheme.Strided = d.Scheme.Strided && a.Axis == quant.IC
	d.RowScale, d.InputScale = a.RowScale, a.InputScale
	return d
}

// First describes the linear quantized by the first of its arms; with one arm
// that is certain.
func (l *Layer) First() layout.Layer { return l.With(l.Arms[0]) }

// As describes the linear as it came out.
func (l *Layer) As(q *quant.Weight) layout.Layer {
	d := layout.LayerOf(l.Name, q)
	d.Bias, d.DType = l.Bias, l.DType
	return d
}

func (l *Layer) leaveDense(why string) {
	l.Dense = true
	l.note("left dense: %s", why)
}

func (l *Layer) note(format string, args ...any) {
	l.Notes = append(l.Notes, fmt.Sprintf(format, args...))
}

// admit sets the arms that the format holds for the layer. If some allows that,
// arms that it does not hold are dropped; otherwise one is an error.
func (l *Layer) admit(f layout.Format, arms []adadim.Arm, some bool) error {
	l.Arms, l.Notes = nil, nil
	l.Scheme.Strided = false
	var refused []armError
	strided := false
	for _, a := range arms {
		d := l.With(a)
		err := check(f, d)
		if err != nil && a.Axis == quant.IC {
			// Some containers hold groups of an input channel only strided.
			d.Scheme.Strided = true
			if check(f, d) == nil {
				strided, err = true, nil
			}
		}
		if err != nil {
			refused = append(refused, armError{a, err})
			continue
		}
		l.Arms = append(l.Arms, a)
	}
	l.Scheme.Strided = strided
	switch {
	case len(refused) == 0:
	case len(l.Arms) == 0:
		return plainest(refused).err // a matter of the layer, not of the arms
	case !some:
		return refused[0]
	}
	l.Notes = without(refused)
	return nil
}

func check(f layout.Format, l layout.Layer) error {
	if err := l.Scheme.CheckShape(l.Out, l.In); err != nil {
		return err
	}
	return f.Check(l)
}

// armError says why a format does not hold an arm.
type armError struct {
	arm adadim.Arm
	err error
}

func (e armError) Error() string { return fmt.Sprintf("arm %v: %v", e.arm, e.err) }
func (e armError) Unwrap() error { return e.err }

// plainest is the refusal of the arm that asks for least.
func plainest(refused []armError) armError {
	i := slices.IndexFunc(refused, func(e armError) bool { return e.arm == adadim.Arm{Axis: quant.OC} })
	return refused[max(i, 0)]
}

// without says which arms a layer has to do without, each reason once.
func without(refused []armError) []string {
	var reasons []string
	arms := map[string][]string{}
	for _, e := range refused {
		text := reason(e.err)
		if arms[text] == nil {
			reasons = append(reasons, text)
		}
		arms[text] = append(arms[text], e.arm.String())
	}
	for i, text := range reasons {
		reasons[i] = fmt.Sprintf("without %s: %s", strings.Join(arms[text], ","), text)
	}
	return reasons
}
