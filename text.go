package lowbit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/generation"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/text"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

// Text is what a model is calibrated or measured on.
type Text = text.Text

// Calibration is the text that layers are observed on. It is cut into
// windows of SeqLen tokens, of which Samples are used, evenly spread.
type Calibration struct {
	Text
	// Self, if not nil, has the model write text itself, beside what else is given; of 0 Tokens
	// Samples windows. It lies as token ids beside the output, in the file Output+".text.json".
	Self    *generation.Self
	Samples int // 0 means 128; fewer are used if the text has fewer
	SeqLen  int // tokens; 0 means 2048 or the model's context, if shorter
	// RouteAll has every expert of a mixture see all tokens; for statistics only.
	RouteAll bool
}

// given reports whether there is any text.
func (c Calibration) given() bool { return c.Self != nil || c.Text.Given() }

func (c Calibration) validate() error {
	if c.Samples < 0 || c.SeqLen < 0 {
		return badOptions("calibration of %d samples of %d tokens", c.Samples, c.SeqLen)
	}
	if c.Self != nil && c.Self.Tokens < 0 {
		return badOptions("%d tokens of text that the model writes", c.Self.Tokens)
	}
	return c.Text.Validate()
}

const (
	defaultSamples = 128
	defaultSeqLen  = 2048
)

// calibrationText is the windows of text that layers are observed on.
type calibrationText struct {
	seqLen   int
	routeAll bool
	windows  [][]int32
	tuning   [][]int32 // those that the model is tuned on
}

func (c *calibrationText) tokens() int { return len(c.windows) * c.seqLen }

// contextLength is n, or if that is 0 what suits the model.
func contextLength(cfg *decoder.Model, n int) int {
	if n == 0 {
		n = defaultSeqLen
		if cfg.MaxPosition > 0 {
			n = min(n, cfg.MaxPosition)
		}
	}
	return n
}

// written is what there is to calibrate on, with the text that the model writes itself; of that nothing but
// the size counts where a run is only foreseen.
func (j *job) written(ctx context.Context, o *Options) (Calibration, error) {
	c := o.Calibration
	if c.Self == nil {
		return c, nil
	}
	self, seqLen := *c.Self, contextLength(j.model, c.SeqLen)
	self.Tokens = cmp.Or(self.Tokens, cmp.Or(c.Samples, defaultSamples)*seqLen)
	ids := [][]int32{make([]int32, self.Windows(seqLen)*seqLen)}
	if !j.foreseen {
		var err error
		m := measure.Of(j.src, j.model, o.BF16, o.Workers)
		ids, err = self.Write(ctx, m, seqLen, o.Memory, filepath.Clean(o.Output)+".text.json", o.Resume, func(done, total int) {
			j.event(Event{Kind: EventProgress, Done: done, Total: total, Message: "writing text"})
		})
		if errors.Is(err, generation.ErrOptions) {
			err = badOptions("%w", err)
		}
		if err != nil {
			return c, err
		}
	}
	c.IDs = append(slices.Clip(c.IDs), ids...)
	return c, nil
}

func readCalibration(m *checkpoint.Model, cfg *decoder.Model, c Calibration, tuning Tuning, limit int64) (*calibrationText, error) {
	t := &calibrationText{seqLen: contextLength(cfg, c.SeqLen), routeAll: c.RouteAll}
	if cfg.MaxPosition > 0 && t.seqLen > cfg.MaxPosition {
		return nil, badOptions("calibration windows of %d tokens, but the model's context is %d", t.seqLen, cfg.MaxPosition)
	}
	shares, err := tokens(m, "", cfg, c.Text, limit)
	if err != nil {
		return nil, err
	}
	all, picked := text.Sample(shares, t.seqLen, cmp.Or(c.Samples, defaultSamples))
	if len(all) == 0 {
		return nil, fmt.Errorf("%v: %d tokens of calibration text, want at least one window of %d", c.Text, text.Count(shares), t.seqLen)
	}
	t.windows = picked
	if t.tuning, err = tuning.Windows(all, t.seqLen); err != nil {
		return nil, err
	}
	text.Detach(len(all), t.windows, t.tuning)
	return t, nil
}

// tokens encodes text for a model, with the tokenizer in dir, or the model's
// own if dir is "". limit is of memory, as in Options.
func tokens(m *checkpoint.Model, dir string, cfg *decoder.Model, t Text, limit int64) ([]text.Share, error) {
	p, err := text.Reading(t, limit)
	if err != nil {
		return nil, err
	}
	if len(t.Readers) == 0 && t.Documents == nil { // their size is not known
		defer p.Hold()()
	}
	shares, err := text.From(t).Tokens(func() (*tokenizer.Tokenizer, error) { return measure.Tokenizer(m, dir) },
		text.Encoding{PerDocument: t.PerDocument, BOS: t.BOS}, t.IDs, m.Path(), cfg.Vocab)
	if errors.Is(err, text.ErrNoBOS) {
		err = badOptions("%w", err)
	}
	return shares, err
}
