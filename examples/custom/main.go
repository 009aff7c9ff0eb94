// Command custom plugs a quantization method of one's own into lowbit and
// runs it over a whole model, alone and under AdaDim, without any change to
// lowbit: the method is one type with one function, and what more it can tell
// of itself.
//
//	go run ./examples/custom
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Shrunk rounds to nearest like quant.RTN, but tries a few smaller scales for
// every group and keeps the one whose error, weighted by how active the inputs
// are, is least. Exported fields are the method's parameters: a run that was
// interrupted is resumed only with the same.
type Shrunk struct {
	Least float32 `json:"least"` // the smallest factor of the scale
}

// NeedsCalibration implements quant.DataFree: alone the method can do without.
func (Shrunk) NeedsCalibration() bool { return false }

// Draft implements quant.Drafter: rounding ranks candidates well enough.
func (Shrunk) Draft() quant.Quantizer { return quant.RTN{} }

// Quantize implements quant.Quantizer for both axes.
func (m Shrunk) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	if err := s.CheckShape(w.Rows, w.Cols); err != nil {
		return nil, err
	}
	if s.Symmetric || s.Strided {
		return nil, fmt.Errorf("%+v: this method knows asymmetric groups of neighbours only", s)
	}
	q := quant.NewWeight(w.Rows, w.Cols, s)

	// A line is a row of w for axis OC and a column for axis IC; groups lie
	// inside lines. Under axis IC all weights of a line meet the same input.
	lines, activity := w, make([]float32, w.Cols)
	for j := range activity {
		activity[j] = 1
	}
	switch {
	case s.Axis == quant.IC:
		lines = w.T()
		activity = nil
	case cal != nil && cal.Tokens > 0:
		activity = cal.Diagonal()
	}
	codes, best := make([]uint8, q.LineLen()), make([]uint8, q.LineLen())
	for l := range q.Lines() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		line := lines.Row(l)
		for a := 0; a < len(line); {
			k := q.Group(a)
			b := a + 1
			for b < len(line) && q.Group(b) == k {
				b++
			}
			var weight []float32
			if activity != nil {
				weight = activity[a:b]
			}
			i := l*q.Groups() + k
			var err error
			if q.Scales[i], q.Zeros[i], err = m.group(best[a:b], codes[a:b], line[a:b], weight, s); err != nil {
				return nil, err
			}
			a = b
		}
		q.SetLine(l, best)
	}
	return q, nil
}

// group finds scale, zero-point and codes of one group.
func (m Shrunk) group(best, codes []uint8, x, weight []float32, s quant.Scheme) (scale float32, zero uint8, err error) {
	lo, hi := float32(0), float32(0)
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
	}
	if lo == hi {
		clear(best)
		return 1, 0, nil
	}
	top := float32(s.MaxCode())
	least := math.Inf(1)
	for shrink := float32(1); shrink >= m.Least; shrink -= 0.05 {
		// What is optimized must be what is stored.
		c, err := s.ScaleType.RoundScale((hi - lo) * shrink / top)
		if err != nil {
			return 0, 0, err
		}
		z := min(max(nearest(-lo*shrink/c), 0), top)
		var sum float64
		for i, v := range x {
			u := min(max(nearest(v/c)+z, 0), top)
			codes[i] = uint8(u)
			e := float64(c*(u-z) - v)
			if weight != nil {
				e *= math.Sqrt(float64(weight[i]))
			}
			sum += e * e
		}
		if sum < least {
			least, scale, zero = sum, c, uint8(z)
			copy(best, codes)
		}
	}
	return scale, zero, nil
}

func nearest(v float32) float32 { return float32(math.RoundToEven(float64(v))) }

func main() {
	dir := flag.String("model", "testdata/tinyllama-2m", "folder of the model")
	text := flag.String("text", "testdata/tinyllama-2m-text", "folder of calibration.txt and heldout.txt")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *dir, *text); err != nil {
		fmt.Fprintln(os.Stderr, "custom:", err)
		os.Exit(1)
	}
}

// run compares the method with plain rounding: alone, in one axis and without
// text, and under AdaDim.
func run(ctx context.Context, stdout io.Writer, model, text string) error {
	tmp, err := os.MkdirTemp("", "lowbit-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	alone := lowbit.Options{Axis: lowbit.AxisOC}
	adaDim := lowbit.Options{
		// The two axes, by the method itself and by the error relative to
		// each row of the output.
		Search: new(adadim.SearchMethod), Objective: new(adadim.ObjectiveRelative),
		Calibration: lowbit.Calibration{
			Text:    lowbit.Text{Files: []string{filepath.Join(text, "calibration.txt")}},
			Samples: 16, SeqLen: 256,
		},
	}
	for i, o := range []lowbit.Options{alone, adaDim} {
		perplexity := map[string]float64{}
		for _, method := range []quant.Quantizer{quant.RTN{}, Shrunk{Least: 0.7}} {
			name := fmt.Sprintf("%T", method)
			o.Model, o.Output, o.Bits, o.Method = model, filepath.Join(tmp, fmt.Sprint(name, i)), 3, method
			if perplexity[name], err = measure(ctx, stdout, name, o, filepath.Join(text, "heldout.txt")); err != nil {
				return err
			}
		}
		if !(perplexity["main.Shrunk"] < perplexity["quant.RTN"]) {
			return fmt.Errorf("the method is no better than rounding: perplexity %g against %g", perplexity["main.Shrunk"], perplexity["quant.RTN"])
		}
	}
	return nil
}

// measure quantizes a model and returns the perplexity of the result.
func measure(ctx context.Context, stdout io.Writer, name string, o lowbit.Options, heldout string) (float64, error) {
	report, err := lowbit.Quantize(ctx, o)
	if err != nil {
		return 0, err
	}
	arms := map[string]int{}
	for _, l := range report.Layers {
		arms[l.Arm]++
	}
	e, err := lowbit.Evaluate(ctx, lowbit.EvalOptions{Model: report.Output, Text: lowbit.Text{Files: []string{heldout}}, Window: 256})
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(stdout, "%-11s %v  %.3f bits a weight  perplexity %.3f\n", name, arms, report.BitsPerWeight, e.Perplexity)
	return e.Perplexity, nil
}
