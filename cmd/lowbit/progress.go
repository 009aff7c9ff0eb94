package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
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

	started time.Time // when the work began
	before  int       // layers that an earlier run has finished
}

func (a *app) progress(quiet bool) *progress {
	return &progress{out: a.stderr, terminal: a.terminal, quiet: quiet, warned: map[string]map[string]bool{}, now: time.Now}
}

// event is an Options.Events function.
func (p *progress) event(e lowbit.Event) {
	if e.Kind == lowbit.EventWarning {
		p.warning(e.Name, e.Message)
		return
	}
	if p.quiet {
		return
	}
	switch e.Kind {
	case lowbit.EventPlan:
		p.layers, p.started, p.before = true, p.now(), e.Kept
		if e.Plan != nil {
			p.line(settingsLine(e.Plan))
		}
		if !p.terminal {
			text := fmt.Sprintf("%d layers to quantize in %d blocks", e.Total, e.Blocks)
			if e.Kept > 0 {
				text += fmt.Sprintf(", %d of them finished by an earlier run", e.Kept)
			}
			p.line(text)
		}
	case lowbit.EventBlock:
		if p.terminal && p.bar != nil {
			p.bar.Describe(fmt.Sprintf("block %d of %d", e.Block+1, e.Blocks))
		}
	case lowbit.EventLayer:
		p.layer(e)
	case lowbit.EventProgress:
		p.started = p.now() // the pace of layers is not that of what comes before them
		p.step(e.Message, e.Done, e.Total)
	case lowbit.EventTune:
		p.line(fmt.Sprintf("tuning: after %d of %d steps a divergence of %.4f on the text held out", e.Done, e.Total, e.KL))
	case lowbit.EventWrite:
		// While layers are quantized, what has been written is no news.
		if !p.layers {
			p.step("writing", e.Done, e.Total)
		}
	}
}

// warning shows what is said of a layer once; close counts the layers of
// which the same was said.
func (p *progress) warning(layer, text string) {
	if p.warned[text] == nil {
		p.warned[text] = map[string]bool{}
		message := text
		if layer != "" {
			message = layer + ": " + text
		}
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
		if l.Loss != nil {
			what += fmt.Sprintf("  loss %.3g  %.2f s", *l.Loss, l.Seconds)
		}
	}
	p.line(fmt.Sprintf("%d/%d  %s  %s%s", e.Done, e.Total, l.Name, what, p.left(e)))
}

// left says how long the layers still to do will take, at the pace of those
// that this run has done.
func (p *progress) left(e lowbit.Event) string {
	fresh := e.Done - p.before
	spent := p.now().Sub(p.started)
	if fresh <= 0 || e.Done == e.Total || spent < 10*time.Second {
		return ""
	}
	left := time.Duration(float64(spent) / float64(fresh) * float64(e.Total-e.Done))
	return fmt.Sprintf("  about %v left", left.Round(time.Second))
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
