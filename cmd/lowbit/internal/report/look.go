package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/picture"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/text"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/internal/walk"
)

// Options are of a look at a model.
type Options struct {
	Path, Base string
	Text       lowbit.Text // to run the model on; empty: only weights are looked at
	Samples    int         // windows of it; 0 means 8
	Window     int         // tokens; 0 means 2048 or the model's context, if shorter
	Workers    int
	Step       func(done, total int) // called after every block, or matrix; may be nil
}

// Layer is a linear layer as it is looked at.
type Layer struct {
	Name     string
	Out, In  int
	Channels *lowbit.Channels
}

// defaultSamples are windows that tell enough of activations.
const defaultSamples = 8

// Look goes through a model's linear layers, one block in memory at a time. Where no decoder
// knows the model, matrices are its layers, and text is refused.
func Look(ctx context.Context, o Options) ([]Layer, error) {
	src, err := checkpoint.OpenMerged(o.Path, o.Base)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	given := len(o.Text.Files)+len(o.Text.Readers) > 0
	d, err := arch.Open(src)
	switch {
	case err != nil && given:
		return nil, fmt.Errorf("there is text, and the model cannot be run on it: %w", err)
	case err != nil:
		return matrices(ctx, src, &o)
	}
	m := measure.Of(src, d, false, o.Workers)
	l := &looker{workers: o.Workers, walk: &walk.Walk{Model: d, Weights: src, Runner: m.Runner, Alone: true, Store: streams.New(m.Runner, streams.Unlimited, nil)}}
	if given {
		windows, err := o.windows(m)
		if err != nil {
			return nil, err
		}
		l.walk.SeqLen = len(windows[0])
		all, err := l.walk.Start(ctx, windows, 1)
		if err != nil {
			return nil, err
		}
		l.x = all[0]
	}
	err = l.walk.Blocks(ctx, d.Layers, func(b *program.Block) error {
		defer o.step(b.Index+1, d.Layers)
		return l.block(ctx, b)
	})
	return l.layers, err
}

func (o *Options) step(done, total int) {
	if o.Step != nil {
		o.Step(done, total)
	}
}

// windows cuts the text.
func (o *Options) windows(m *measure.Model) ([][]int32, error) {
	n, context := o.Window, m.Model.MaxPosition
	switch {
	case context > 0 && n > context:
		return nil, fmt.Errorf("%w: window of %d tokens, but the model's context is %d", lowbit.ErrOptions, n, context)
	case n == 0:
		n = 2048
		if context > 0 {
			n = min(n, context)
		}
	}
	s := text.Source{Files: o.Text.Files, Weights: o.Text.Weights, Readers: o.Text.Readers, Field: o.Text.Field, MaxBytes: o.Text.MaxBytes}
	shares, err := s.Tokens(func() (*tokenizer.Tokenizer, error) { return measure.Tokenizer(m.Source(), "") },
		text.Encoding{PerDocument: o.Text.PerDocument, BOS: o.Text.BOS}, nil, o.Path, m.Model.Vocab)
	if err != nil {
		return nil, err
	}
	_, picked := text.Sample(shares, n, cmp.Or(o.Samples, defaultSamples))
	if len(picked) == 0 {
		return nil, fmt.Errorf("%s: %d tokens of text, want at least one window of %d", s.Name(0), text.Count(shares), n)
	}
	return picked, nil
}

type looker struct {
	walk    *walk.Walk
	x       *walk.Residual // nil without text
	workers int
	layers  []Layer
}

// block looks at the layers of a block, and runs it.
func (l *looker) block(ctx context.Context, b *program.Block) error {
	squares := make([][]float64, len(b.Stages))
	tokens := make([]int, len(b.Stages))
	if l.x != nil {
		err := l.walk.Pass(ctx, b, l.x, true, func(stage int, f *program.Frame) error {
			x, _ := f.Routed(&b.Stages[stage])
			if squares[stage] == nil {
				squares[stage] = make([]float64, b.Stages[stage].Width)
			}
			tokens[stage] += x.Rows
			for r := range x.Rows {
				for j, v := range x.Row(r) {
					squares[stage][j] += float64(v) * float64(v)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for i, linear := range b.Linears {
		w := b.Linear(i).Weight
		c := picture.Of(true, w, nil, nil, nil, l.workers)
		if s := squares[linear.Stage]; c != nil && tokens[linear.Stage] > 0 {
			sums := make([]float32, len(s))
			for j, v := range s {
				sums[j] = float32(v)
			}
			c.Inputs.Activation = picture.Activation(sums, tokens[linear.Stage])
		}
		l.layers = append(l.layers, Layer{linear.Name, w.Rows, w.Cols, c})
	}
	return nil
}

// matrices are the layers of a model that no decoder knows.
func matrices(ctx context.Context, src *checkpoint.Model, o *Options) ([]Layer, error) {
	var all []Layer
	tensors := src.Dense()
	for i, t := range tensors {
		o.step(i, len(tensors))
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(t.Shape) != 2 || !strings.HasSuffix(t.Name, layout.WeightSuffix) {
			continue
		}
		w, err := src.Matrix(t.Name)
		if err != nil {
			return nil, err
		}
		all = append(all, Layer{strings.TrimSuffix(t.Name, layout.WeightSuffix), w.Rows, w.Cols, picture.Of(true, w, nil, nil, nil, o.Workers)})
	}
	o.step(len(tensors), len(tensors))
	if len(all) == 0 {
		return nil, errors.New("no matrix found")
	}
	return all, nil
}

// Complete looks at the weights of layers of which nothing was collected.
func Complete(ctx context.Context, layers []lowbit.LayerReport, o Options) error {
	missing := map[string]*lowbit.LayerReport{}
	for i := range layers {
		if l := &layers[i]; !l.Dense && l.Channels == nil {
			missing[l.Name] = l
		}
	}
	if len(missing) == 0 {
		return nil
	}
	seen, err := Look(ctx, o)
	for _, s := range seen {
		if l := missing[s.Name]; l != nil {
			l.Channels = s.Channels
		}
	}
	return err
}

// ModelHTML is the page about a model as it is.
func ModelHTML(program string, info *lowbit.Info, layers []Layer) ([]byte, error) {
	m := ModelOf(info)
	p := &page{Title: filepath.Base(m.Path), Lowbit: program, Facts: modelFacts(m), Roles: roleRows(modelRoles(info))}
	p.Facts = append(p.Facts, fact{"format", info.Format}, fact{"files of weights", memory.Decimal(info.FileBytes)})
	if info.BitsPerWeight > 0 {
		p.Facts = append(p.Facts, fact{"bits a weight", fmt.Sprintf("%.3f in quantized layers", info.BitsPerWeight)})
	}
	names := make([]string, len(layers))
	active := false
	byBlock := map[string]int{}
	for i, l := range layers {
		names[i] = l.Name
		if l.Channels == nil {
			continue
		}
		active = active || l.Channels.Inputs.Activation != nil
		title := "others"
		if b := placeOf(l.Name).block; b >= 0 {
			title = fmt.Sprintf("block %d", b)
		}
		k, ok := byBlock[title]
		if !ok {
			k = len(p.Groups)
			byBlock[title] = k
			p.Groups = append(p.Groups, group{Title: title, Open: k == 0})
		}
		p.Groups[k].Layers = append(p.Groups[k].Layers, portraitOf(l.Name, fmt.Sprintf("%d × %d", l.Out, l.In), nil, l.Channels))
	}
	p.Maps = []chart{outlierMap(names, layers, active)}
	return p.write()
}

// modelRoles sums up what a model has.
func modelRoles(info *lowbit.Info) []Role {
	layers := make([]lowbit.LayerReport, len(info.Quantized))
	for i, l := range info.Quantized {
		layers[i] = lowbit.LayerReport{Name: l.Name, Out: l.Out, In: l.In, Bits: 8 * float64(l.Bytes) / float64(max(1, l.Out*l.In))}
	}
	return roles(layers, info)
}

// outlierMap shows where inputs have channels far from the others.
func outlierMap(names []string, layers []Layer, active bool) chart {
	c := newChart(names, func(of []int) cell {
		var most float64
		for _, i := range of {
			if layers[i].Channels != nil {
				most = max(most, farthest(layers[i].Channels))
			}
		}
		s := 0
		for v := most; v >= 2 && s < steps-1; v /= 2 {
			s++
		}
		return cell{fmt.Sprintf("ic s%d", s), sig(most), fmt.Sprintf("%s: the largest channel is %s times the median", layers[of[0]].Name, sig(most))}
	})
	what := "weights"
	if active {
		what = "activations"
	}
	c.Title = "Outliers among inputs"
	c.Note = fmt.Sprintf("By how much the largest input channel of a layer exceeds the median one, in %s; of experts the most. Groups inside input channels keep such a channel to itself.", what)
	c.Legend = []swatch{{"ic s0", "less than 2 times"}, {"ic s3", "8 times"}, {"ic s7", "128 times and more"}}
	return c
}
