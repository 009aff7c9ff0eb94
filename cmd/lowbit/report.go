package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/report"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/faults"
	"github.com/golowbit/lowbit/internal/version"
)

// quantizeReport is what --report takes from the events of a run.
type quantizeReport struct {
	wanted bool
	memory *lowbit.MemoryPlan
	told   report.Told
}

// event returns an event as others are to see it: without what is for the report alone.
func (r *quantizeReport) event(e lowbit.Event) lowbit.Event {
	if !r.wanted {
		return e
	}
	switch e.Kind {
	case lowbit.EventPlan:
		r.memory = e.Plan.Memory
	case lowbit.EventWarning:
		r.told.Add(e.Name, e.Message)
	case lowbit.EventLayer:
		l := *e.Layer
		l.Channels = nil
		e.Layer = &l
	}
	return e
}

// reportFile is where a report on an output lies, less .json or .html.
func reportFile(output string) string { return filepath.Clean(output) + ".report" }

// writeReport writes both files of the report, and takes out of r what is for it alone.
func (a *app) writeReport(ctx context.Context, o lowbit.Options, r *lowbit.Report, told *quantizeReport) error {
	if !told.wanted {
		return nil
	}
	whole := *r
	whole.Layers = slices.Clone(r.Layers)
	for i := range r.Layers {
		r.Layers[i].Channels = nil
	}
	failed := func(err error) error { return fmt.Errorf("the report could not be written: %w", err) }
	source, err := lowbit.InspectAdapter(o.Model, o.Base)
	if err != nil {
		return failed(err)
	}
	// What cannot be drawn or counted is left out.
	output, _ := lowbit.Inspect(o.Output)
	if err := report.Complete(ctx, whole.Layers, report.Options{Path: o.Model, Base: o.Base, Workers: o.Workers}); err != nil {
		a.note(fmt.Sprintf("note: the report has no pictures of some layers: %s", faults.OneLine(err)))
	}
	page := report.New(report.Sources{Lowbit: strings.TrimSpace(version.Line()), Source: source, Output: output, Report: &whole, Memory: told.memory, Told: told.told})
	name := reportFile(o.Output)
	for ending, make := range map[string]func() ([]byte, error){".json": page.JSON, ".html": page.HTML} {
		data, err := make()
		if err == nil {
			err = disk.FS{}.WriteFile(name+ending, data)
		}
		if err != nil {
			return failed(err)
		}
	}
	a.note(fmt.Sprintf("report: %s.html and %s.json", name, filepath.Base(name)))
	return nil
}
