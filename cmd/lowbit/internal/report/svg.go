package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/internal/picture"
)

// svg is a picture in the making. Sizes are in its own units, which are pixels where it is as
// wide as it is meant to be.
type svg struct {
	b    strings.Builder
	w, h float64
}

func newSVG(w, h float64, label string) *svg {
	s := &svg{w: w, h: h}
	fmt.Fprintf(&s.b, `<svg viewBox="0 0 %s %s" role="img" aria-label="%s">`, num(w), num(h), html.EscapeString(label))
	return s
}

func (s *svg) done() template.HTML {
	s.b.WriteString("</svg>")
	return template.HTML(s.b.String()) //nolint:gosec // numbers, and text that is escaped
}

func (s *svg) text(x, y float64, class, text string) {
	fmt.Fprintf(&s.b, `<text x="%s" y="%s" class="%s">%s</text>`, num(x), num(y), class, html.EscapeString(text))
}

func (s *svg) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&s.b, `<line x1="%s" y1="%s" x2="%s" y2="%s" class="%s"/>`, num(x1), num(y1), num(x2), num(y2), class)
}

func (s *svg) dot(x, y, r float64, class, title string) {
	fmt.Fprintf(&s.b, `<circle cx="%s" cy="%s" r="%s" class="%s"><title>%s</title></circle>`, num(x), num(y), num(r), class, html.EscapeString(title))
}

func (s *svg) path(d, class string) { fmt.Fprintf(&s.b, `<path d="%s" class="%s"/>`, d, class) }

// num writes a coordinate.
func num(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// sig writes a number for people, with three digits.
func sig(v float64) string {
	if v >= 1000 && v < 1e6 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// curve is a line in a chart: a value for each block, NaN where there is none.
type curve struct {
	class, name string
	values      []float64
}

const (
	chartWidth  = 340
	chartHeight = 180
)

// depthChart draws values by block, by their logarithm; "" if there are none that have one.
func depthChart(label string, curves []curve) template.HTML {
	least, most, blocks := math.Inf(1), 0.0, 0
	for _, c := range curves {
		blocks = max(blocks, len(c.values))
		for _, v := range c.values {
			if v > 0 && !math.IsInf(v, 1) {
				least, most = min(least, v), max(most, v)
			}
		}
	}
	if most == 0 {
		return ""
	}
	lo, hi := math.Log10(least), math.Log10(most)
	if pad := 0.05 * (hi - lo); pad > 0.02 {
		lo, hi = lo-pad, hi+pad
	} else {
		lo, hi = lo-0.1, hi+0.1
	}
	const left, right, top, bottom = 46, chartWidth - 8, 8, chartHeight - 30
	x := func(b int) float64 { return left + (right-left)*float64(b)/float64(max(1, blocks-1)) }
	y := func(v float64) float64 { return bottom - (bottom-top)*(math.Log10(v)-lo)/(hi-lo) }
	s := newSVG(chartWidth, chartHeight, label)
	for _, v := range ticks(lo, hi) {
		s.line(left, y(v), right, y(v), "grid")
		s.text(left-5, y(v)+3.5, "tick end", sig(v))
	}
	step := max(1, (blocks+7)/8)
	for b := 0; b < blocks; b += step {
		s.text(x(b), bottom+14, "tick mid", strconv.Itoa(b))
	}
	s.text((left+right)/2, chartHeight-3, "tick mid", "block")
	for _, c := range curves {
		var d strings.Builder
		pen := false
		for b, v := range c.values {
			if !(v > 0) || math.IsInf(v, 1) {
				pen = false
				continue
			}
			if pen {
				fmt.Fprintf(&d, "L%s %s", num(x(b)), num(y(v)))
			} else {
				fmt.Fprintf(&d, "M%s %s", num(x(b)), num(y(v)))
			}
			if blocks <= 40 {
				s.dot(x(b), y(v), 1.8, "dot "+c.class, fmt.Sprintf("%s, block %d: %s", c.name, b, sig(v)))
			}
			pen = true
		}
		s.path(d.String(), "curve "+c.class)
	}
	return s.done()
}

// ticks are two to six numbers for an axis of logarithms: powers of ten, or with steps between.
func ticks(lo, hi float64) []float64 {
	for _, steps := range [][]float64{{1}, {1, 3}, {1, 2, 5}, {1, 1.5, 2, 3, 4, 5, 6, 8}} {
		var all []float64
		for e := math.Floor(lo); e <= math.Ceil(hi); e++ {
			for _, m := range steps {
				if v := m * math.Pow(10, e); math.Log10(v) >= lo && math.Log10(v) <= hi {
					all = append(all, v)
				}
			}
		}
		if len(all) > 2 {
			for len(all) > 6 {
				thin := all[:0]
				for i := 0; i < len(all); i += 2 {
					thin = append(thin, all[i])
				}
				all = thin
			}
			return all
		}
	}
	return []float64{math.Pow(10, lo), math.Pow(10, hi)}
}

// channelChart draws a series: the largest of every bin over its mean, outliers marked.
func channelChart(label, class string, series *picture.Series, channels int) template.HTML {
	const height, left, top, bottom = 92, 2, 18, 74
	const right = chartWidth - 2
	most := 0.0
	for _, v := range series.Max {
		most = max(most, v)
	}
	s := newSVG(chartWidth, height, label)
	s.text(left, 11, "tick", label)
	if !(most > 0) {
		s.text(right, 11, "tick end", "all zero")
		return s.done()
	}
	s.text(right, 11, "tick end", "most "+sig(most)+", median "+sig(series.Median))
	n := len(series.Max)
	x := func(k int) float64 { return left + (right-left)*float64(k)/float64(n) }
	y := func(v float64) float64 { return bottom - (bottom-top)*min(1, v/most) }
	for i, values := range [][]float64{series.Max, series.Mean} {
		var d strings.Builder
		fmt.Fprintf(&d, "M%s %s", num(left), num(bottom))
		for k, v := range values {
			fmt.Fprintf(&d, "V%sH%s", num(y(v)), num(x(k+1)))
		}
		fmt.Fprintf(&d, "V%sZ", num(bottom))
		s.path(d.String(), []string{"most ", "mean "}[i]+class)
	}
	s.line(left, bottom, right, bottom, "axis")
	for _, o := range series.Outliers {
		s.dot(left+(right-left)*(float64(o.Channel)+0.5)/float64(channels), y(o.Value), 2.5, "far", fmt.Sprintf("channel %d: %s, %.0f times the median", o.Channel, sig(o.Value), o.Value/series.Median))
	}
	s.text(left, height-6, "tick", "0")
	s.text(right, height-6, "tick end", strconv.Itoa(channels-1))
	if series.Far > 0 {
		what := fmt.Sprintf("%d beyond %d × the median, most: %d", series.Far, picture.Far, series.Outliers[0].Channel)
		if series.Far == 1 {
			what = fmt.Sprintf("channel %d is beyond %d × the median", series.Outliers[0].Channel, picture.Far)
		}
		s.text((left+right)/2, height-6, "tick mid marked", what)
	}
	return s.done()
}
