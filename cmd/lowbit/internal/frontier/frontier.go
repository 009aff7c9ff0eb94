// Package frontier finds, among variants of a model, those that none is both smaller and
// nearer to the model than, and draws all of them.
package frontier

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Point is a variant.
type Point struct {
	Name  string
	Bytes int64
	KL    float64 // nats a token
}

// alike are sizes that differ by less: names and settings in a file's header make as much.
const alike = 1.001

// Of says of each point whether it is on the frontier: nothing that is no larger has a
// smaller divergence, and of equals it is the smallest, or the first.
func Of(points []Point) []bool {
	on := make([]bool, len(points))
	for i, p := range points {
		on[i] = true
		for j, q := range points {
			nearer := q.KL < p.KL && float64(q.Bytes) <= alike*float64(p.Bytes)
			equal := q.KL == p.KL && (q.Bytes < p.Bytes || q.Bytes == p.Bytes && j < i)
			if nearer || equal {
				on[i] = false
			}
		}
	}
	return on
}

// SVG draws divergence against size, the frontier as a line. Divergences must be positive:
// they are drawn by their logarithm.
func SVG(title string, points []Point) ([]byte, error) {
	p := plot.New()
	p.Title.Text, p.Title.Padding = title, vg.Points(8)
	p.X.Label.Text, p.Y.Label.Text = "size of the weights, MB", "mean KL divergence, nats a token"
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, ticks{}
	on := Of(points)
	var line, rest plotter.XYs
	labels := plotter.XYLabels{}
	for i, pt := range points {
		if !(pt.KL > 0) || math.IsInf(pt.KL, 0) {
			return nil, fmt.Errorf("%s: divergence %g, want a positive number", pt.Name, pt.KL)
		}
		xy := plotter.XY{X: float64(pt.Bytes) / 1e6, Y: pt.KL}
		if on[i] {
			line = append(line, xy)
		} else {
			rest = append(rest, xy)
		}
		labels.XYs, labels.Labels = append(labels.XYs, xy), append(labels.Labels, pt.Name)
	}
	slices.SortFunc(line, func(a, b plotter.XY) int { return cmp.Compare(a.X, b.X) })
	blue, grey := color.RGBA{0x1f, 0x6f, 0xb4, 0xff}, color.RGBA{0x99, 0x99, 0x99, 0xff}
	l, dots, err := plotter.NewLinePoints(line)
	if err != nil {
		return nil, err
	}
	l.Color, dots.Color, dots.Shape = blue, blue, draw.CircleGlyph{}
	p.Add(plotter.NewGrid(), l, dots)
	if len(rest) > 0 {
		others, err := plotter.NewScatter(rest)
		if err != nil {
			return nil, err
		}
		others.Color, others.Shape = grey, draw.CircleGlyph{}
		p.Add(others)
	}
	names, err := plotter.NewLabels(labels)
	if err != nil {
		return nil, err
	}
	names.Offset = vg.Point{X: vg.Points(5), Y: vg.Points(4)}
	for i := range names.TextStyle {
		names.TextStyle[i].Font.Size = font.Length(8)
	}
	p.Add(names)
	// Room for names at the right.
	p.X.Max += 0.35 * max(p.X.Max-p.X.Min, 0.1*p.X.Max)
	p.Y.Min, p.Y.Max = p.Y.Min/1.2, p.Y.Max*1.3
	w, err := p.WriterTo(18*vg.Centimeter, 12*vg.Centimeter, "svg")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = w.WriteTo(&b)
	return b.Bytes(), err
}

// ticks are at 1, 2 and 5 times the powers of ten.
type ticks struct{}

// Ticks is what plot asks for.
func (ticks) Ticks(least, most float64) []plot.Tick {
	var all []plot.Tick
	for e := math.Floor(math.Log10(least)); e <= math.Ceil(math.Log10(most)); e++ {
		for _, m := range []float64{1, 2, 5} {
			if v := m * math.Pow(10, e); v >= least && v <= most {
				all = append(all, plot.Tick{Value: v, Label: fmt.Sprintf("%.3g", v)})
			}
		}
	}
	return all
}
