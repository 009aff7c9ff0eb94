package report

import (
	"fmt"
	"html/template"
	"math"
	"path/filepath"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/diagnosis"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/diagnose"
	"github.com/golowbit/lowbit/internal/disk"
)

// diagnosisPage is what is shown of a diagnosis.
type diagnosisPage struct {
	style
	Title, Path, Lowbit, Idle, Method string
	Facts                             []fact
	Texts                             []textRow
	Matrix                            []matrixRow
	Legend                            []swatch
	Curves                            []figure
	Maps                              []chart
}

type textRow struct {
	Name                                                                                                           string
	Tokens                                                                                                         int
	Separators, Largest, LargestAt, Kurtosis, MostKurtosis, MostKurtosisAt, Stream, StreamKurtosis, Features, Idle string
}

type matrixRow struct {
	Name             string
	Cells            []cell
	IC, Moved, Apart string
}

// Diagnosis is the page about texts.
func Diagnosis(program string, r *diagnose.Result) ([]byte, error) {
	p := &diagnosisPage{Title: filepath.Base(r.Model), Path: r.Model, Lowbit: program, Idle: fmt.Sprintf("%.0f %%", 100*r.Idle)}
	p.Facts = []fact{{"texts", fmt.Sprint(len(r.Texts))}, {"window", fmt.Sprintf("%d tokens", r.Window)}}
	if len(r.Texts) > 1 {
		p.Facts = append(p.Facts, fact{"outlier features of all texts", fmt.Sprint(r.Common())})
	}
	for i := range r.Texts {
		t := &r.Texts[i]
		s := t.Summary()
		p.Texts = append(p.Texts, textRow{
			t.Name, t.Windows * t.Window, fmt.Sprintf("%.0f %%", 100*t.Separators), sig(s.Largest), s.LargestAt, sig(s.Kurtosis), sig(s.MostKurtosis), s.MostKurtosisAt, sig(s.Stream), sig(s.StreamKurtosis),
			fmt.Sprintf("%d of %d", s.Features, t.Features.Width), fmt.Sprintf("%d of %d", s.IdleHeads, s.Heads),
		})
		p.Legend = append(p.Legend, swatch{lineClass(i), t.Name})
	}
	if q := r.Quantized; q != nil {
		p.Method = fmt.Sprintf("%s, %d bits", q.Method, q.Bits)
		p.Matrix = matrix(r)
	}
	p.Curves = depthCurves(r)
	for i := range r.Texts {
		p.Maps = append(p.Maps, headMap(&r.Texts[i]))
	}
	if q := r.Quantized; q != nil {
		for i := range r.Texts {
			p.Maps = append(p.Maps, axisMap(r.Texts[i].Name, q, i))
		}
	}
	return write("diagnosis.tmpl", p)
}

// WriteDiagnosis writes the page.
func WriteDiagnosis(file, program string, r *diagnose.Result) error {
	page, err := Diagnosis(program, r)
	if err == nil {
		err = disk.FS{}.WriteFile(file, page)
	}
	if err != nil {
		return fmt.Errorf("the report could not be written: %w", err)
	}
	return nil
}

// lineClass is the class of a text's lines; those beyond the last colour begin anew.
func lineClass(text int) string { return fmt.Sprintf("t%d", text%len(style{}.Lines())) }

// matrix are the perplexities, shaded by their distance from the best of a column.
func matrix(r *diagnose.Result) []matrixRow {
	q := r.Quantized
	full := matrixRow{Name: "(not quantized)"}
	for _, v := range q.Full {
		full.Cells = append(full.Cells, cell{Text: fmt.Sprintf("%.4g", v)})
	}
	rows := []matrixRow{full}
	for i := range r.Texts {
		row := matrixRow{r.Texts[i].Name, nil, fmt.Sprintf("%d of %d", q.IC(i), len(q.Layers)), fmt.Sprint(q.Moved[i]), fmt.Sprintf("%.3f", q.Apart(i))}
		for j, v := range q.Perplexities[i] {
			best := math.Inf(1)
			for k := range r.Texts {
				best = min(best, q.Perplexities[k][j])
			}
			more := math.Log(v / best)
			row.Cells = append(row.Cells, cell{fmt.Sprintf("ic s%d", shade(&more)), fmt.Sprintf("%.4g", v), fmt.Sprintf("%.1f %% more than the best", 100*(v/best-1))})
		}
		rows = append(rows, row)
	}
	return rows
}

// depthCurves are norms and kurtosis by block: of the stream, and of what each kind of layer reads.
func depthCurves(r *diagnose.Result) []figure {
	const most = 16 // kinds of layers
	blocks := len(r.Texts[0].Blocks)
	if blocks < 2 {
		return nil
	}
	var all []figure
	add := func(title, note string, of func(t *diagnose.Seen) []diagnosis.Activation) {
		for _, what := range []struct {
			name  string
			value func(a *diagnosis.Activation) float64
		}{
			{"‖x‖∞", func(a *diagnosis.Activation) float64 { return a.InfNorm }},
			{"kurtosis", func(a *diagnosis.Activation) float64 { return a.Kurtosis }},
		} {
			var lines []curve
			for i := range r.Texts {
				values := make([]float64, blocks) // 0, where there is nothing, is not drawn
				for _, a := range of(&r.Texts[i]) {
					values[a.Block] = max(values[a.Block], what.value(&a))
				}
				lines = append(lines, curve{lineClass(i), r.Texts[i].Name, values})
			}
			if svg := depthChart(what.name+" by block, "+title, lines); svg != template.HTML("") {
				all = append(all, figure{Title: title + ", " + what.name, Note: note, SVG: svg})
			}
		}
	}
	add("residual stream", "as it leaves each block", func(t *diagnose.Seen) []diagnosis.Activation { return t.Blocks })
	var roles []string
	for _, a := range r.Texts[0].Inputs {
		if role := placeOf(a.Name).role; !slices.Contains(roles, role) {
			roles = append(roles, role)
		}
	}
	for _, role := range roles[:min(len(roles), most)] {
		add("what "+role+" reads", "", func(t *diagnose.Seen) []diagnosis.Activation {
			return slices.DeleteFunc(slices.Clone(t.Inputs), func(a diagnosis.Activation) bool { return placeOf(a.Name).role != role })
		})
	}
	return all
}

// headMap shows which heads are idle on a text.
func headMap(t *diagnose.Seen) chart {
	c := chart{
		Title: "Idle heads on " + t.Name,
		Note:  "The share of its attention, in percent, that a head spends on the first token, on nothing, and on separators beyond their share of the tokens: means over the tokens behind the first. Point at a cell for each.",
		Legend: []swatch{
			{"ic s0", "little"}, {"ic s7", "all"},
		},
	}
	heads := 0
	for _, a := range t.Heads {
		heads = max(heads, len(a.First))
	}
	for h := range heads {
		c.Columns = append(c.Columns, column{fmt.Sprint(h), fmt.Sprintf("head %d", h)})
	}
	for i := range t.Heads {
		a := &t.Heads[i]
		row := mapRow{Name: fmt.Sprint(a.Block)}
		for h := range heads {
			x := cell{Class: "none"}
			if h < len(a.First) {
				v := t.Idle(a, h)
				x = cell{
					fmt.Sprintf("ic s%d", min(steps-1, int(v*steps))), fmt.Sprintf("%.0f", 100*v),
					fmt.Sprintf("block %d, head %d: first token %.1f %%, separators %.1f %%, nothing %.1f %%", a.Block, h, 100*a.First[h], 100*a.Separators[h], 100*a.Nothing[h]),
				}
			}
			row.Cells = append(row.Cells, x)
		}
		c.Rows = append(c.Rows, row)
	}
	return c
}

// axisMap shows the axes that a text led to.
func axisMap(name string, q *diagnose.Quantized, text int) chart {
	names := make([]string, len(q.Layers))
	for i, l := range q.Layers {
		names[i] = l.Name
	}
	c := newChart(names, func(layers []int) cell {
		l := q.Layers[layers[0]]
		margin, axis := l.Margins[text], l.Axes[text]
		for _, i := range layers[1:] {
			margin += q.Layers[i].Margins[text]
		}
		margin /= float64(len(layers))
		if len(layers) > 1 { // experts: what they have in the mean
			axis = "oc"
			if margin < 0 {
				axis = "ic"
			}
		}
		label := axis
		if axis != "" && l.Axes[0] != axis {
			label += " *"
		}
		return cell{fmt.Sprintf("%s s%d", axis, shade(&margin)), label, fmt.Sprintf("%s: margin %+.3f", l.Name, margin)}
	})
	c.Title = "Axis of every layer, quantized on " + name
	c.Note = "The deeper the shade, the more the other axis would have lost; * marks what is another than on the first text."
	c.Legend = []swatch{{"oc s6", "oc: groups inside output channels"}, {"ic s6", "ic: groups inside input channels"}}
	return c
}
