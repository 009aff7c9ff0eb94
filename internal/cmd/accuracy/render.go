package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"math"
	"slices"
	"strings"
	"text/template"

	"github.com/golowbit/lowbit/quant"
)

//go:embed accuracy.md.tmpl
var page string

// render returns the page.
func render(rows rowSet, references referenceSet) ([]byte, error) {
	t := tables{rows, references}
	tmpl, err := template.New("accuracy").Funcs(template.FuncMap{
		"reproduced": t.reproduced, "grid": t.grid, "ablation": t.ablation, "arms": t.arms, "against": t.against, "gaps": t.gaps, "eight": t.eight, "papers": t.papers,
	}).Parse(page)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, nil); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// tables draws tables from measurements.
type tables struct {
	rows       rowSet
	references referenceSet
}

func table(head []string, body [][]string) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, cells := range body {
		line(cells)
	}
	return b.String()
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 20:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

var (
	bitWidths  = []int{2, 3, 4}
	groupSizes = []int{32, 64, 128}
)

// eachCell calls f for every bits/group cell.
func eachCell(f func(bits, group int)) {
	for _, b := range bitWidths {
		for _, g := range groupSizes {
			f(b, g)
		}
	}
}

// reproduced compares our runs of the published methods with the reference's.
func (t tables) reproduced(names ...string) string {
	head := []string{"bits / group", "method"}
	for _, n := range names {
		head = append(head, n+": published code", "lowbit", "difference")
	}
	var body [][]string
	eachCell(func(bits, group int) {
		for _, v := range methods {
			method, ok := v.reference()
			if !ok {
				continue
			}
			cells := []string{fmt.Sprintf("%d / %d", bits, group), method}
			found := false
			for _, n := range names {
				r, haveRef := t.references[key{n, method, bits, group}]
				o, haveOwn := t.rows[key{n, v.name, bits, group}]
				if !haveRef || !haveOwn {
					cells = append(cells, "", "", "")
					continue
				}
				found = true
				cells = append(cells, number(r.Perplexity), number(o.Perplexity), fmt.Sprintf("%+.2f %%", 100*(o.Perplexity/r.Perplexity-1)))
			}
			if found {
				body = append(body, cells)
			}
		}
	})
	return table(head, body)
}

// grid shows perplexity and KL of methods over all cells of a model.
func (t tables) grid(name string, list ...string) string {
	head := []string{"method"}
	eachCell(func(bits, group int) { head = append(head, fmt.Sprintf("%d / %d", bits, group)) })
	var body [][]string
	for _, m := range list {
		cells := []string{m}
		eachCell(func(bits, group int) {
			r, ok := t.rows[key{name, m, bits, group}]
			if !ok {
				cells = append(cells, "")
				return
			}
			cells = append(cells, fmt.Sprintf("%s (%.3f)", number(r.Perplexity), r.KL))
		})
		body = append(body, cells)
	}
	return table(head, body)
}

// papers shows methods at one cell, over all models, and the arms of their layers.
func (t tables) papers(bits, group int, list ...string) string {
	return t.cell(bits, group, "oc / ic", func(r row) string { return fmt.Sprintf("%d / %d", r.Arms["oc"], r.Arms["ic"]) }, list)
}

// ablation shows methods at one cell, over all models, and their time.
func (t tables) ablation(bits, group int, list ...string) string {
	return t.cell(bits, group, "seconds", func(r row) string { return fmt.Sprintf("%.1f", r.Seconds) }, list)
}

// cell shows methods at one cell, over all models, and one thing more of each.
func (t tables) cell(bits, group int, what string, more func(row) string, list []string) string {
	head := []string{"method"}
	for _, m := range models {
		head = append(head, m.name, "bits a weight", what)
	}
	var body [][]string
	for _, method := range list {
		cells := []string{method}
		for _, m := range models {
			r, ok := t.rows[key{m.name, method, bits, group}]
			if !ok {
				cells = append(cells, "", "", "")
				continue
			}
			cells = append(cells, fmt.Sprintf("%s (%.4f)", number(r.Perplexity), r.KL), fmt.Sprintf("%.2f", r.BPW), more(r))
		}
		body = append(body, cells)
	}
	return table(head, body)
}

// eight shows what 8 bits with a scale a row do, with more digits: they do little.
func (t tables) eight() string {
	head := []string{"method"}
	for _, m := range models {
		head = append(head, m.name, "KL", "bits a weight")
	}
	var body [][]string
	for _, v := range eightBits {
		cells := []string{v.name}
		for _, m := range models {
			r, ok := t.rows[key{m.name, v.name, 8, quant.WholeLine}]
			if !ok {
				cells = append(cells, "", "", "")
				continue
			}
			cells = append(cells, fmt.Sprintf("%.4f", r.Perplexity), fmt.Sprintf("%.6f", r.KL), fmt.Sprintf("%.2f", r.BPW))
		}
		body = append(body, cells)
	}
	return table(head, body)
}

// arms shows how many layers chose which arm.
func (t tables) arms(method string) string {
	names := []string{"oc", "oc+in", "ic", "ic+row"}
	var body [][]string
	for _, m := range models {
		eachCell(func(bits, group int) {
			r, ok := t.rows[key{m.name, method, bits, group}]
			if !ok {
				return
			}
			cells := []string{m.name, fmt.Sprintf("%d / %d", bits, group)}
			for _, n := range names {
				cells = append(cells, fmt.Sprint(r.Arms[n]))
			}
			body = append(body, cells)
		})
	}
	return table(append([]string{"model", "bits / group"}, names...), body)
}

// plainMethods are those that best is held against.
var plainMethods = []string{"RTN oc", "RTN ic", "RTN oc clip", "RTN ic clip", "GPTQ oc", "GPTQ ic", "GPTQ oc clip", "GPTQ ic clip"}

// against compares a method with the best plain one of each cell.
func (t tables) against(method string) string {
	var body [][]string
	for _, m := range models {
		eachCell(func(bits, group int) {
			r, ok := t.rows[key{m.name, method, bits, group}]
			best, name := math.Inf(1), ""
			for _, p := range plainMethods {
				if q, ok := t.rows[key{m.name, p, bits, group}]; ok && q.Perplexity < best {
					best, name = q.Perplexity, p
				}
			}
			if ok && name != "" {
				body = append(body, []string{m.name, fmt.Sprintf("%d / %d", bits, group), name, number(best), number(r.Perplexity), fmt.Sprintf("%+.1f %%", 100*(r.Perplexity/best-1))})
			}
		})
	}
	return table([]string{"model", "bits / group", "best plain method", "its perplexity", method, "difference"}, body)
}

// gaps compares gaps to the unquantized perplexity with those of the
// published AdaDim over GPTQ.
func (t tables) gaps(list ...string) string {
	head := []string{"model", "bits / group", "published"}
	for _, m := range list {
		head = append(head, m, "ratio")
	}
	var body [][]string
	for _, m := range models {
		base := t.references[key{m.name, "FP32", 32, 0}].Perplexity
		eachCell(func(bits, group int) {
			ref, ok := t.references[key{m.name, "GPTQ-ada(paper)", bits, group}]
			if !ok {
				return
			}
			cells := []string{m.name, fmt.Sprintf("%d / %d", bits, group), number(ref.Perplexity - base)}
			for _, method := range list {
				r, ok := t.rows[key{m.name, method, bits, group}]
				if !ok {
					cells = append(cells, "", "")
					continue
				}
				cells = append(cells, number(r.Perplexity-base), fmt.Sprintf("%.3f", (r.Perplexity-base)/(ref.Perplexity-base)))
			}
			body = append(body, cells)
		})
	}
	return table(head, body)
}
