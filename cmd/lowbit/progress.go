package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/golowbit/lowbit"
)

// progress shows events: a bar on a terminal, plain lines elsewhere.
type progress struct {
	out      io.Writer
	terminal bool
	quiet    bool // warnings only

	bar    *progressbar.ProgressBar
	phase  string
	layers bool                       // layers are being quantized
	warned map[string]map[string]bool // layers, by what is said of them
	last   time.Time                  // when the last plain line of a phase was written
	now    func() time.Time
}

func (a *app) progress(quiet bool) *progress {
	return &progress{out: a.stderr, terminal: a.terminal, quiet: quiet, warned: map[string]map[string]bool{}, now: time.Now}
}

// event is an Options.Events function.
func (p *progress) event(e lowbit.Event) {
	if e.Kind == lowbit.EventWarning {
		p.warning(e.Message)
		return
	}
	if p.quiet {
		return
	}
	switch e.Kind {
	case lowbit.EventPlan:
		p.layers = true
		if !p.terminal {
			p.line(fmt.Sprintf("%d layers to quantize in %d blocks", e.Total, e.Blocks))
		}
	case lowbit.EventBlock:
		if p.terminal && p.bar != nil {
			p.bar.Describe(fmt.Sprintf("block %d of %d", e.Block+1, e.Blocks))
		}
	case lowbit.EventLayer:
		p.layer(e)
	case lowbit.EventProgress:
		p.step(e.Message, e.Done, e.Total)
	case lowbit.EventWrite:
		// While layers are quantized, what has been written is no news.
		if !p.layers {
			p.step("writing", e.Done, e.Total)
		}
	}
}

// warning shows what is said of a layer once; close counts the layers of
// which the same was said.
func (p *progress) warning(message string) {
	layer, text, ok := strings.Cut(message, ": ")
	if !ok {
		layer, text = "", message
	}
	if p.warned[text] == nil {
		p.warned[text] = map[string]bool{}
		p.line("warning: " + message)
	}
	p.warned[text][layer] = true
}

// close ends the bar and sums up the warnings.
func (p *progress) close() {
	p.clear()
	for _, text := range slices.Sorted(maps.Keys(p.warned)) {
		if n := len(p.warned[text]); n > 1 {
			p.line(fmt.Sprintf("warning: the same for %d layers in all: %s", n, text))
		}
	}
	clear(p.warned)
}

func (p *progress) layer(e lowbit.Event) {
	p.layers = e.Done < e.Total
	if p.terminal {
		p.step("quantizing", e.Done, e.Total)
		return
	}
	l := e.Layer
	what := "left dense"
	if !l.Dense {
		what = l.Arm
		if l.Decision != nil {
			what += fmt.Sprintf("  loss %.3g  %.2f s", l.Loss, l.Seconds)
		}
	}
	p.line(fmt.Sprintf("%d/%d  %s  %s", e.Done, e.Total, l.Name, what))
}

// step moves the bar of a phase; a new phase gets a new bar.
func (p *progress) step(phase string, done, total int) {
	if total <= 0 {
		return
	}
	if !p.terminal {
		// One line every few seconds is enough in a log.
		if phase != p.phase || p.now().Sub(p.last) > 5*time.Second {
			p.line(fmt.Sprintf("%s: %d %%", phase, 100*done/total))
			p.last = p.now()
		}
		p.phase = phase
		return
	}
	if phase != p.phase || p.bar == nil {
		p.clear()
		p.phase = phase
		p.bar = progressbar.NewOptions(total,
			progressbar.OptionSetWriter(p.out),
			progressbar.OptionSetDescription(phase),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionFullWidth(),
			progressbar.OptionClearOnFinish(),
		)
	}
	_ = p.bar.Set(done) // a bar that cannot be drawn is no reason to stop
}

// line writes a line of its own, with the bar out of the way.
func (p *progress) line(text string) {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	fmt.Fprintln(p.out, text)
}

// clear ends the bar, if there is one.
func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
