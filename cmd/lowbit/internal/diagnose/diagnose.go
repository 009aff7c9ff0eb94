// Package diagnose compares texts by what a model computes on them, and by what becomes of the
// model when it is quantized on one and read on another.
package diagnose

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/diagnosis"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/text"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/quant"
)

// Random is the name of a text of tokens drawn at random.
const Random = "random"

// Options say what is compared.
type Options struct {
	Model, Base string
	Texts       []Text
	Samples     int     // windows of each text that are looked at, and as many that are measured on; 0 means 16
	SeqLen      int     // tokens a window; 0 means 512 or the model's context, if shorter
	Idle        float64 // what a head must spend on the first token, nothing and separators to be listed; see diagnosis.Seen.Idle
	// Method quantizes the model on each text, "gptq" or "rtn"; "" leaves that out.
	Method          string
	Bits, GroupSize int // as lowbit.Options has them
	Workers         int
	Memory          int64
	Events          func(lowbit.Event) // may be nil
}

// Text is a text under a name; that called Random has nothing else.
type Text struct {
	Name string
	lowbit.Text
}

// Apart are the files and readers of a text, each by itself, called what the file is.
func Apart(t lowbit.Text) ([]Text, error) {
	if len(t.Weights) > 0 {
		return nil, fmt.Errorf("%w: texts are compared, and have no weights", lowbit.ErrOptions)
	}
	var all []Text
	add := func(name string, files []string, readers []io.Reader) {
		one := t
		one.Files, one.Readers = files, readers
		all = append(all, Text{name, one})
	}
	for _, file := range t.Files {
		name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		if slices.ContainsFunc(all, func(t Text) bool { return t.Name == name }) || name == Random {
			name = file
		}
		add(name, []string{file}, nil)
	}
	for _, r := range t.Readers {
		add("standard input", nil, []io.Reader{r})
	}
	return all, nil
}

// Result is what came out.
type Result struct {
	Model  string  `json:"model"`
	Window int     `json:"window"` // tokens
	Idle   float64 `json:"idle_from"`
	Texts  []Seen  `json:"texts"`
	// Quantized is nil where that was left out.
	Quantized *Quantized `json:"quantized,omitempty"`
}

// Seen is what the model computes on a text.
type Seen struct {
	Name string `json:"name"`
	*diagnosis.Seen
	IdleHeads []Head `json:"idle_heads"`
}

// Head is one that spends its attention on what says nothing.
type Head struct {
	Block      int     `json:"block"`
	Head       int     `json:"head"`
	First      float64 `json:"first"`
	Separators float64 `json:"separators"`
	Nothing    float64 `json:"nothing"`
}

// Quantized is the model quantized on each text, AdaDim choosing between both axes for every layer.
type Quantized struct {
	Method    string `json:"method"`
	Bits      int    `json:"bits"`
	GroupSize int    `json:"group_size"` // as it was asked for
	// Full are the perplexities of the model itself, by text; Perplexities those of what was
	// quantized on a text (first index), on windows of another (second) that were not calibrated on.
	Full         []float64   `json:"full"`
	Perplexities [][]float64 `json:"perplexities"`
	Layers       []Layer     `json:"layers"`
	// Moved is by text how many layers have another axis than on the first.
	Moved []int `json:"moved"`
}

// Layer is a linear layer as it was decided about on each text.
type Layer struct {
	Name string   `json:"name"`
	Axes []string `json:"axes"`
	// Margins are ln(L_ic/L_oc), negative where groups inside input channels are better.
	Margins []float64 `json:"margins"`
}

// windows are those of a text.
type windows struct{ calibration, heldOut [][]int32 }

// Run looks at the model on all texts, and quantizes it.
func Run(ctx context.Context, o Options) (*Result, error) {
	o.Samples = cmp.Or(o.Samples, 16)
	if o.Events == nil {
		o.Events = func(lowbit.Event) {}
	}
	if o.Method != "" {
		q := o.quantization("", "out", [][]int32{{0, 0}})
		if err := q.Validate(); err != nil {
			return nil, err
		}
	}
	m, err := o.open()
	if err != nil {
		return nil, err
	}
	defer m.Close()
	r := &Result{Model: o.Model, Idle: o.Idle}
	all := make([]windows, len(o.Texts))
	for i, t := range o.Texts {
		if all[i], err = o.windows(m, t); err != nil {
			return nil, err
		}
	}
	apart := separators(m)
	for i, t := range o.Texts {
		seen, err := diagnosis.Look(ctx, m, diagnosis.Options{
			Windows: all[i].calibration, Separators: apart, Memory: o.Memory,
			Step: func(done, total int) { o.step(done, total, "looking at "+t.Name) },
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		r.Window = seen.Window
		r.Texts = append(r.Texts, Seen{t.Name, seen, idle(seen, o.Idle)})
	}
	if o.Method != "" {
		r.Quantized, err = o.quantize(ctx, m, all)
	}
	return r, err
}

func (o *Options) open() (*measure.Model, error) {
	src, err := checkpoint.OpenMerged(o.Model, o.Base)
	if err != nil {
		return nil, err
	}
	return measure.Open(src, false, o.Workers)
}

func (o *Options) step(done, total int, what string) {
	o.Events(lowbit.Event{Kind: lowbit.EventProgress, Done: done, Total: total, Message: what})
}

// windows are two of a kind: the even ones are looked at and calibrated on, the odd ones measured on.
func (o *Options) windows(m *measure.Model, t Text) (w windows, err error) {
	n, context := o.SeqLen, m.Model.MaxPosition
	if n == 0 {
		n = 512
		if context > 0 {
			n = min(n, context)
		}
	}
	if context > 0 && n > context {
		return w, fmt.Errorf("%w: windows of %d tokens, but the model's context is %d", lowbit.ErrOptions, n, context)
	}
	picked := random(2*o.Samples, n, m.Model.Vocab)
	if t.Name != Random {
		s := text.Source{Files: t.Files, Readers: t.Readers, Strings: t.Strings, Field: t.Field, MaxBytes: t.MaxBytes}
		shares, err := s.Tokens(func() (*tokenizer.Tokenizer, error) { return measure.Tokenizer(m.Source(), "") },
			text.Encoding{PerDocument: t.PerDocument, BOS: t.BOS}, t.IDs, o.Model, m.Model.Vocab)
		if err != nil {
			return w, err
		}
		if _, picked = text.Sample(shares, n, 2*o.Samples); len(picked) < 2 {
			return w, fmt.Errorf("%s: %d tokens of text, want at least two windows of %d", s.Name(0), text.Count(shares), n)
		}
	}
	for i, ids := range picked {
		if i%2 == 0 {
			w.calibration = append(w.calibration, ids)
		} else {
			w.heldOut = append(w.heldOut, ids)
		}
	}
	return w, nil
}

// random draws windows, always the same.
func random(windows, n, vocab int) [][]int32 {
	rng := rand.New(rand.NewPCG(2405, 20835))
	all := make([][]int32, windows)
	for i := range all {
		all[i] = make([]int32, n)
		for j := range all[i] {
			all[i][j] = int32(rng.IntN(vocab))
		}
	}
	return all
}

// separators are the tokens that only separate: of punctuation and blanks, and special ones. nil
// if the model has no tokenizer.
func separators(m *measure.Model) []bool {
	tok, err := measure.Tokenizer(m.Source(), "")
	if err != nil {
		return nil
	}
	_, types := tok.Vocab()
	all := make([]bool, len(types))
	for i, kind := range types {
		if kind == tokenizer.Control {
			all[i] = true
		} else if kind != tokenizer.Unused {
			all[i] = !strings.ContainsFunc(tok.Decode([]int32{int32(i)}), func(r rune) bool { return !unicode.IsPunct(r) && !unicode.IsSpace(r) })
		}
	}
	return all
}

// idle are the heads that spend as much on what says nothing, block by block.
func idle(s *diagnosis.Seen, from float64) []Head {
	all := []Head{}
	for i := range s.Heads {
		a := &s.Heads[i]
		for h := range a.First {
			if s.Idle(a, h) >= from {
				all = append(all, Head{a.Block, h, a.First[h], a.Separators[h], a.Nothing[h]})
			}
		}
	}
	return all
}

// quantize quantizes on one text after the other, and measures each result on all.
func (o *Options) quantize(ctx context.Context, m *measure.Model, all []windows) (*Quantized, error) {
	dir, err := os.MkdirTemp("", "lowbit-diagnose-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	q := &Quantized{Method: o.Method, Bits: o.Bits, GroupSize: o.GroupSize, Layers: []Layer{}}
	if q.Full, err = o.perplexities(ctx, m, all, "the model itself"); err != nil {
		return nil, err
	}
	for i, t := range o.Texts {
		out := filepath.Join(dir, fmt.Sprint(i))
		report, err := lowbit.Quantize(ctx, o.quantization(t.Name, out, all[i].calibration))
		if err != nil {
			return nil, fmt.Errorf("quantizing on %s: %w", t.Name, err)
		}
		q.decided(i, len(o.Texts), report)
		src, err := checkpoint.Open(out)
		if err != nil {
			return nil, err
		}
		result, err := measure.Open(src, false, o.Workers)
		if err != nil {
			return nil, err
		}
		row, err := o.perplexities(ctx, result, all, "quantized on "+t.Name)
		_ = result.Close()
		if err != nil {
			return nil, err
		}
		q.Perplexities = append(q.Perplexities, row)
		if err := os.RemoveAll(out); err != nil {
			return nil, err
		}
	}
	q.Moved = make([]int, len(o.Texts))
	for _, l := range q.Layers {
		for i, axis := range l.Axes {
			if axis != l.Axes[0] {
				q.Moved[i]++
			}
		}
	}
	return q, nil
}

// quantization is AdaDim as published, but that GPTQ itself decides where it is the method.
func (o *Options) quantization(name, out string, calibration [][]int32) lowbit.Options {
	q := lowbit.Options{
		Model: o.Model, Base: o.Base, Output: out, Preset: lowbit.Paper, Axis: lowbit.AxisAda, Bits: o.Bits, GroupSize: o.GroupSize,
		Calibration: lowbit.Calibration{Text: lowbit.Text{IDs: calibration}, Samples: len(calibration), SeqLen: len(calibration[0])},
		Workers:     o.Workers, Memory: o.Memory,
		Events: func(e lowbit.Event) {
			switch e.Kind {
			case lowbit.EventLayer:
				o.step(e.Done, e.Total, "quantizing on "+name)
			case lowbit.EventWarning:
				o.Events(e)
			}
		},
	}
	if o.Method == "rtn" {
		q.Method = quant.RTN{}
	} else {
		search := adadim.SearchMethod
		q.Search = &search
	}
	return q
}

// decided takes what was decided on text i of n.
func (q *Quantized) decided(i, n int, r *lowbit.Report) {
	for _, l := range r.Layers {
		if l.Dense || l.Margin == nil {
			continue
		}
		k := slices.IndexFunc(q.Layers, func(o Layer) bool { return o.Name == l.Name })
		if k < 0 {
			k = len(q.Layers)
			q.Layers = append(q.Layers, Layer{l.Name, make([]string, n), make([]float64, n)})
		}
		axis, _, _ := strings.Cut(l.Arm, "+")
		q.Layers[k].Axes[i], q.Layers[k].Margins[i] = axis, *l.Margin
	}
}

// perplexities are those of a model on what is held out of each text.
func (o *Options) perplexities(ctx context.Context, m *measure.Model, all []windows, what string) ([]float64, error) {
	row := make([]float64, len(all))
	for i, w := range all {
		j := &measure.Job{Models: []*measure.Model{m}, Windows: w.heldOut, Memory: o.Memory, Step: func(done, total int, _ string) {
			o.step(done, total, fmt.Sprintf("%s: reading %s", what, o.Texts[i].Name))
		}}
		e, err := j.Run(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.Texts[i].Name, err)
		}
		row[i] = e[0].Perplexity
	}
	return row, nil
}

// Summary is a text in a line of a table.
type Summary struct {
	Largest, Kurtosis, MostKurtosis float64 // of what layers read
	LargestAt, MostKurtosisAt       string
	Stream, StreamKurtosis          float64 // of the stream behind blocks: the largest infinity norm, the mean kurtosis
	Features, IdleHeads, Heads      int
}

// Summary sums a text up.
func (s *Seen) Summary() Summary {
	var r Summary
	for _, a := range s.Inputs {
		if a.Largest > r.Largest {
			r.Largest, r.LargestAt = a.Largest, a.Name
		}
		if a.Kurtosis > r.MostKurtosis {
			r.MostKurtosis, r.MostKurtosisAt = a.Kurtosis, a.Name
		}
		r.Kurtosis += a.Kurtosis / float64(len(s.Inputs))
	}
	for _, a := range s.Blocks {
		r.Stream = max(r.Stream, a.InfNorm)
		r.StreamKurtosis += a.Kurtosis / float64(len(s.Blocks))
	}
	r.Features, r.IdleHeads = len(s.Features.List), len(s.IdleHeads)
	for _, a := range s.Heads {
		r.Heads += len(a.First)
	}
	return r
}

// Common is how many outlier features are those of all texts.
func (r *Result) Common() int {
	count := map[int]int{}
	for _, t := range r.Texts {
		for _, f := range t.Features.List {
			count[f.Channel]++
		}
	}
	n := 0
	for _, c := range count {
		if c == len(r.Texts) {
			n++
		}
	}
	return n
}

// Apart is by text how far the margins of its layers lie from those of the first text: the mean
// magnitude of the difference.
func (q *Quantized) Apart(i int) float64 {
	var sum float64
	for _, l := range q.Layers {
		sum += math.Abs(l.Margins[i] - l.Margins[0])
	}
	return sum / float64(max(1, len(q.Layers)))
}

// IC is by text how many layers have groups inside input channels.
func (q *Quantized) IC(i int) int {
	n := 0
	for _, l := range q.Layers {
		if l.Axes[i] == quant.IC.String() {
			n++
		}
	}
	return n
}
