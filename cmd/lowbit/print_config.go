package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/golowbit/lowbit"
)

// printConfig prints what would be done, and does nothing.
func (a *app) printConfig(o lowbit.Options, asJSON bool) error {
	p, err := lowbit.Resolve(o)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.stdout, p)
	}
	return printPlan(a.stdout, p)
}

func printPlan(w io.Writer, p *lowbit.Plan) error {
	var t table
	t.add("setting", "value", "from")
	for _, s := range p.Settings {
		t.add(s.Name, s.Text(), s.From)
	}
	if err := t.write(w); err != nil {
		return err
	}
	t = table{}
	t.add("\nlayer", "shape", "scheme", "arms", "notes")
	for _, l := range p.Layers {
		scheme, arms := "dense", "-"
		if !l.Dense {
			scheme, arms = schemeText(l.Scheme), armsText(l)
		}
		t.add(l.Name, fmt.Sprintf("[%d %d]", l.Out, l.In), scheme, arms, strings.Join(l.Notes, "; "))
	}
	if err := t.write(w); err != nil {
		return err
	}
	text := "\n"
	for _, n := range p.Notes {
		text += n + "\n"
	}
	if p.NeedsText {
		text += "needs calibration text\n"
	}
	for _, n := range p.Engines {
		text += fmt.Sprintf("%v [%s]\n", n, n.Evidence())
	}
	_, err := io.WriteString(w, text)
	return err
}

// armsText lists what is chosen from in a layer.
func armsText(l lowbit.LayerPlan) string {
	names := make([]string, len(l.Arms))
	for i, a := range l.Arms {
		names[i] = a.String()
	}
	text := strings.Join(names, ",")
	if l.Folded {
		text += " (a scale of its input is folded)"
	}
	return text
}

// settingsLine is the effective settings on one line.
func settingsLine(p *lowbit.Plan) string {
	var parts []string
	for _, s := range p.Settings {
		if text := s.Text(); text != "" && s.Name != "parameters" {
			parts = append(parts, s.Name+" "+text)
		}
	}
	return "settings: " + strings.Join(parts, ", ")
}
