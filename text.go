package lowbit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/text"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

// Text is what a model is calibrated or measured on: files, readers, strings
// and token ids, one after another in this order.
//
// Files and readers are UTF-8. A byte order mark at the beginning is dropped
// and lines that end in CR LF end in LF. JSON is never read as text: a file
// whose first line is a JSON object holds JSON lines, each an object with a
// text, and a file that is one JSON value is an array of such objects or of
// strings. Every such text is one document.
type Text struct {
	Files   []string
	Readers []io.Reader // read to their end
	Strings []string    // each is one document
	IDs     [][]int32   // taken as they are; a model needs no tokenizer for them
	// Field is the key of the text in JSON; "" means "text".
	Field string
	// PerDocument encodes every document by itself, after a
	// beginning-of-sequence token (see BOS). Documents of plain text are what
	// lies between blank lines. Otherwise texts are encoded in one go, as they
	// are, without that token.
	PerDocument bool
	// BOS says whether, with PerDocument, documents get a beginning-of-sequence
	// token. nil means if the model's tokenizer adds one. A document that
	// starts with the token already gets no second one.
	BOS *bool
	// MaxBytes is how long each file or reader may be; 0 means 1 GiB.
	MaxBytes int64
}

// given reports whether there is any text.
func (t Text) given() bool {
	return len(t.Files)+len(t.Readers)+len(t.Strings)+len(t.IDs) > 0
}

func (t Text) validate() error {
	switch {
	case t.MaxBytes < 0:
		return badOptions("texts of at most %d bytes", t.MaxBytes)
	case t.BOS != nil && !t.PerDocument:
		return badOptions("a beginning-of-sequence token is for documents that are encoded by themselves (PerDocument)")
	case slices.Contains(t.Readers, nil):
		return badOptions("a nil reader of text")
	case slices.Contains(t.Files, ""):
		return badOptions("a text file without a name")
	}
	return nil
}

// String names the text in errors.
func (t Text) String() string {
	names := slices.Clone(t.Files)
	for _, p := range []struct {
		n    int
		what string
	}{{len(t.Readers), "readers"}, {len(t.Strings), "strings"}, {len(t.IDs), "sequences of token ids"}} {
		if p.n > 0 {
			names = append(names, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return strings.Join(names, ", ")
}

// Calibration is the text that layers are observed on. It is cut into
// windows of SeqLen tokens, of which Samples are used, evenly spread.
type Calibration struct {
	Text
	Samples int // 0 means 128; fewer are used if the text has fewer
	SeqLen  int // tokens; 0 means 2048 or the model's context, if shorter
}

func (c Calibration) validate() error {
	if c.Samples < 0 || c.SeqLen < 0 {
		return badOptions("calibration of %d samples of %d tokens", c.Samples, c.SeqLen)
	}
	return c.Text.validate()
}

const (
	defaultSamples = 128
	defaultSeqLen  = 2048
)

// calibrationText is the windows of text that layers are observed on.
type calibrationText struct {
	seqLen  int
	windows [][]int32
	tuning  [][]int32 // those that the model is tuned on
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

func readCalibration(m *checkpoint.Model, cfg *decoder.Model, c Calibration, tuning Tuning, limit int64) (*calibrationText, error) {
	t := &calibrationText{seqLen: contextLength(cfg, c.SeqLen)}
	if cfg.MaxPosition > 0 && t.seqLen > cfg.MaxPosition {
		return nil, badOptions("calibration windows of %d tokens, but the model's context is %d", t.seqLen, cfg.MaxPosition)
	}
	ids, err := tokens(m, "", cfg, c.Text, limit)
	if err != nil {
		return nil, err
	}
	all := text.Windows(ids, t.seqLen)
	if len(all) == 0 {
		return nil, fmt.Errorf("%v: %d tokens of calibration text, want at least one window of %d", c.Text, len(ids), t.seqLen)
	}
	n := c.Samples
	if n == 0 {
		n = defaultSamples
	}
	t.windows = text.Spread(all, n)
	if t.tuning, err = tuning.windows(all, t.seqLen); err != nil {
		return nil, err
	}
	if len(t.windows) < len(all) && len(t.tuning) < len(all) { // the others need not stay
		for i, w := range t.windows {
			t.windows[i] = slices.Clone(w)
		}
		for i, w := range t.tuning {
			t.tuning[i] = slices.Clone(w)
		}
	}
	return t, nil
}

// openTokenizer opens the tokenizer in dir, or the model's own if dir is "".
func openTokenizer(m *checkpoint.Model, dir string) (*tokenizer.Tokenizer, error) {
	if dir != "" {
		return tokenizer.Open(dir)
	}
	t, err := tokenizer.OpenFS(m.Files())
	if err != nil {
		return nil, fmt.Errorf("%s: tokenizer: %w", m.Path(), err)
	}
	return t, nil
}

// source is where the text that is not given as ids comes from.
func (t Text) source() text.Source {
	return text.Source{Files: t.Files, Readers: t.Readers, Strings: t.Strings, Field: t.Field, MaxBytes: t.MaxBytes}
}

// reading is what memory the text takes while it is read and encoded.
func (t Text) reading(limit int64) (*memory.Plan, error) {
	p, err := memory.Reading(cmp.Or(limit, memory.Default()), text.Memory(t.source().Size()))
	if err != nil {
		return nil, fmt.Errorf("%v: %w", t, err)
	}
	return p, nil
}

// tokens encodes text for a model, with the tokenizer in dir, or the model's
// own if dir is "". limit is of memory, as in Options.
func tokens(m *checkpoint.Model, dir string, cfg *decoder.Model, t Text, limit int64) ([]int32, error) {
	p, err := t.reading(limit)
	if err != nil {
		return nil, err
	}
	if len(t.Readers) == 0 { // their size is not known
		defer p.Hold()()
	}
	ids, err := t.source().Tokens(func() (*tokenizer.Tokenizer, error) { return openTokenizer(m, dir) },
		text.Encoding{PerDocument: t.PerDocument, BOS: t.BOS}, t.IDs, m.Path(), cfg.Vocab)
	if errors.Is(err, text.ErrNoBOS) {
		err = badOptions("%w", err)
	}
	return ids, err
}
