package main

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/pace"
	"github.com/golowbit/lowbit/internal/phases"
)

// progressMode is how progress is shown.
type progressMode string

// The modes of --progress.
const (
	progressAuto  progressMode = "auto"  // bar on a terminal, else plain
	progressBar   progressMode = "bar"   // one bar
	progressPlain progressMode = "plain" // lines
	progressJSON  progressMode = "json"  // events, one object a line; see stream
	progressNone  progressMode = "none"  // warnings only
)

func parseProgress(text string) (progressMode, error) {
	all := []progressMode{progressAuto, progressBar, progressPlain, progressJSON, progressNone}
	if m := progressMode(text); slices.Contains(all, m) {
		return m, nil
	}
	return "", fmt.Errorf("unknown progress %q, want auto, bar, plain, json or none", text)
}

// progress shows events.
type progress struct {
	app  *app
	mode progressMode
	now  func() time.Time

	bar    *progressbar.ProgressBar
	phase  string // of the last plain line
	turn   int    // phase of the bar
	layers bool   // layers are being quantized
	block  string
	warned map[string]map[string]bool // layers, by what is said of them
	last   time.Time                  // when the last plain line of a phase was written
	log    *slog.Logger               // nil without -v
	work   pace.Work
	timed  map[string]float64 // seconds by phase when the last block began
}

// progress is for one piece of work; quiet is what it is if --progress does not say.
func (a *app) progress(quiet bool) *progress {
	p := &progress{app: a, mode: a.mode, warned: map[string]map[string]bool{}, now: time.Now}
	switch {
	case a.stream != nil:
		p.mode = progressJSON
	case quiet && (a.mode == progressAuto || a.mode == ""):
		p.mode = progressNone
	case a.mode == progressAuto || a.mode == "":
		p.mode = progressPlain
		if a.terminal {
			p.mode = progressBar
		}
	}
	if a.verbose && a.stream == nil {
		p.log = slog.New(slog.NewTextHandler(lineWriter{p}, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: short}))
	}
	return p
}

// short writes numbers with four digits, which is what they are good for.
func short(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindFloat64 {
		a.Value = slog.StringValue(strconv.FormatFloat(a.Value.Float64(), 'g', 4, 64))
	}
	return a
}

// lineWriter writes lines with the bar out of the way.
type lineWriter struct{ p *progress }

func (w lineWriter) Write(line []byte) (int, error) {
	w.p.line(strings.TrimSuffix(string(line), "\n"))
	return len(line), nil
}

// event is an Options.Events function.
func (p *progress) event(e lowbit.Event) {
	p.work.Event(e, p.now())
	if e.Kind == lowbit.EventWrite && p.layers {
		return // while layers are quantized, what has been written is no news
	}
	if e.Kind == lowbit.EventPlan || e.Kind == lowbit.EventLayer {
		p.layers = e.Kind == lowbit.EventPlan || e.Done < e.Total
	}
	p.debug(e)
	if p.mode == progressJSON {
		p.app.stream.event(e, &p.work)
		return
	}
	if e.Kind == lowbit.EventWarning {
		p.warning(e.Name, e.Message)
		return
	}
	if p.mode == progressNone {
		return
	}
	p.show(e)
}

// show shows what is no warning to people.
func (p *progress) show(e lowbit.Event) {
	switch e.Kind {
	case lowbit.EventPlan:
		if e.Plan != nil {
			p.line(settingsLine(e.Plan))
		}
		if p.mode == progressPlain {
			text := fmt.Sprintf("%d layers to quantize in %d blocks", e.Total, e.Blocks)
			if e.Kept > 0 {
				text += fmt.Sprintf(", %d of them finished by an earlier run", e.Kept)
			}
			p.line(text)
		}
	case lowbit.EventBlock:
		p.block = fmt.Sprintf("block %d of %d", e.Block+1, e.Blocks)
		if p.mode == progressBar {
			p.step(p.block)
		}
	case lowbit.EventLayer:
		p.layer(e)
	case lowbit.EventProgress:
		p.step(e.Message)
	case lowbit.EventWait:
		p.line(e.Message)
	case lowbit.EventTune:
		p.line(fmt.Sprintf("tuning: after %d of %d steps a divergence of %.4f on the text held out", e.Done, e.Total, e.KL))
	case lowbit.EventWrite:
		p.step("writing")
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
	l := e.Layer
	if p.mode == progressBar {
		_, name, _ := strings.Cut(l.Name, "layers.")
		if name == "" {
			name = l.Name
		}
		if p.block != "" {
			_, name, _ = strings.Cut(name, ".")
			name = p.block + ", " + name
		}
		p.step(name)
		return
	}
	what := "left dense"
	if !l.Dense {
		what = l.Arm
		if l.Loss != nil {
			what += fmt.Sprintf("  loss %.3g  %.2f s", *l.Loss, l.Seconds)
		}
	}
	p.line(fmt.Sprintf("%d/%d  %s  %s%s", e.Done, e.Total, l.Name, what, p.left("  ")))
}

// left says how long the phase at hand will take yet.
func (p *progress) left(before string) string {
	left, ok := p.work.Left()
	if !ok {
		return ""
	}
	return fmt.Sprintf("%sabout %v left", before, left.Round(time.Second))
}

// step moves the bar of the phase at hand; a new phase gets a new bar.
func (p *progress) step(what string) {
	w := &p.work
	if w.Total <= 0 {
		return
	}
	if p.mode == progressPlain {
		// One line every few seconds is enough in a log.
		if w.Phase != p.phase || p.now().Sub(p.last) > 5*time.Second {
			p.line(fmt.Sprintf("%s: %d %%%s", what, int(100*w.Share()), p.left("  ")))
			p.last = p.now()
		}
		p.phase = w.Phase
		return
	}
	if w.Turns != p.turn || p.bar == nil {
		p.clear()
		p.turn = w.Turns
		p.bar = progressbar.NewOptions(1000,
			progressbar.OptionSetWriter(p.app.stderr),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionFullWidth(),
			progressbar.OptionClearOnFinish(),
		)
	}
	p.bar.Describe(what + p.left(", "))
	_ = p.bar.Set(int(1000 * w.Share())) // a bar that cannot be drawn is no reason to stop
}

// line writes a line of its own, with the bar out of the way.
func (p *progress) line(text string) {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	fmt.Fprintln(p.app.stderr, text)
}

// clear ends the bar, if there is one.
func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}

// debug logs what -v asks for: layers with all that was tried, and of blocks what their time
// went to.
func (p *progress) debug(e lowbit.Event) {
	if p.log == nil {
		return
	}
	switch e.Kind {
	case lowbit.EventPlan:
		p.log.Debug("plan", "layers", e.Total, "blocks", e.Blocks, "kept", e.Kept)
	case lowbit.EventBlock:
		p.spent()
		p.log.Debug("block", "number", e.Block+1, "of", e.Blocks)
	case lowbit.EventLayer:
		p.log.Debug("layer", layerAttributes(e.Layer)...)
		if e.Done == e.Total {
			p.spent()
		}
	}
}

func layerAttributes(l *lowbit.LayerReport) []any {
	list := []any{"name", l.Name, "out", l.Out, "in", l.In}
	if l.Dense {
		return append(list, "dense", true)
	}
	list = append(list, "arm", l.Arm, "bits", l.Bits, "seconds", l.Seconds)
	if l.Loss != nil {
		list = append(list, "loss", *l.Loss)
	}
	if d := l.Decision; d != nil {
		for _, c := range d.Candidates {
			if c.Measured {
				list = append(list, "objective."+c.Arm.String(), c.Objective)
			}
		}
	}
	return list
}

// spent logs the time by phase since it was last called.
func (p *progress) spent() {
	now := map[string]float64{}
	var list []any
	for _, f := range p.app.clock.Phases() {
		now[f.Name] = f.Seconds
		if d := f.Seconds - p.timed[f.Name]; d > 0 && f.Name != phases.Preparation {
			list = append(list, f.Name, d)
		}
	}
	p.timed = now
	if len(list) > 0 {
		p.log.Debug("seconds", list...)
	}
}
