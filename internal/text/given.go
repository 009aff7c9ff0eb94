package text

import (
	"cmp"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"

	"github.com/golowbit/lowbit/internal/faults"
	"github.com/golowbit/lowbit/internal/memory"
)

// Text is what a model is calibrated or measured on: files, readers, strings,
// documents and token ids, one after another in this order. docs/texts.md says what
// files and readers may hold: UTF-8 text, JSON, conversations, tables, packed or not.
type Text struct {
	Files []string // or folders of such
	// Weights of Files, one each, say what share of the calibration windows comes from
	// where; all else that is given counts 1. Without them windows are spread evenly.
	Weights   []float64
	Readers   []io.Reader      // read to their end
	Strings   []string         // each is one document
	Documents iter.Seq[string] // as Strings
	IDs       [][]int32        // taken as they are; a model needs no tokenizer for them
	// Field is the key of the text or of a conversation's messages in JSON and tables; ""
	// means "text", else "messages", else "conversations".
	Field string
	// PerDocument encodes every document by itself, after a
	// beginning-of-sequence token (see BOS). Documents of plain text are what
	// lies between blank lines. Otherwise texts are encoded in one go, as they
	// are, without that token.
	PerDocument bool
	// BOS says whether, with PerDocument, documents get a beginning-of-sequence
	// token. nil means if the model's tokenizer adds one, and of conversations what the
	// chat template does. A document that starts with the token gets no second one.
	BOS      *bool
	MaxBytes int64 // how long each file or reader may be, also unpacked; 0 means 1 GiB
}

// Given reports whether there is any text.
func (t Text) Given() bool {
	return len(t.Files)+len(t.Readers)+len(t.Strings)+len(t.IDs) > 0 || t.Documents != nil
}

// Validate reports what makes no sense. Errors wrap faults.ErrOptions.
func (t Text) Validate() error {
	switch {
	case t.MaxBytes < 0:
		return faults.Options("texts of at most %d bytes", t.MaxBytes)
	case t.BOS != nil && !t.PerDocument:
		return faults.Options("a beginning-of-sequence token is for documents that are encoded by themselves (PerDocument)")
	case slices.Contains(t.Readers, nil):
		return faults.Options("a nil reader of text")
	case slices.Contains(t.Files, ""):
		return faults.Options("a text file without a name")
	case len(t.Weights) > 0 && len(t.Weights) != len(t.Files):
		return faults.Options("%d weights for %d files of text", len(t.Weights), len(t.Files))
	case slices.ContainsFunc(t.Weights, func(w float64) bool { return !(w > 0 && w <= math.MaxFloat32) }):
		return faults.Options("weights of texts %v, want positive numbers", t.Weights)
	}
	return nil
}

// String names the text in errors.
func (t Text) String() string { return From(t).Name(len(t.IDs)) }

// From is where the text that is not given as ids comes from.
func From(t Text) Source {
	return Source{
		Files: t.Files, Weights: t.Weights, Readers: t.Readers, Strings: t.Strings, Documents: t.Documents, Field: t.Field, MaxBytes: t.MaxBytes,
	}
}

// Reading is what memory the text takes while it is read and encoded.
func Reading(t Text, limit int64) (*memory.Plan, error) {
	p, err := memory.Reading(cmp.Or(limit, memory.Default()), Memory(From(t).Size()))
	if err != nil {
		return nil, fmt.Errorf("%v: %w", t, err)
	}
	return p, nil
}
