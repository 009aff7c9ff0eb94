// Package generation has models write text.
package generation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/generate"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/text"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

// Options say what is written.
type Options struct {
	Prompt string // how the text begins; "" is its beginning
	// Chat has Prompt be what somebody asks, by the model's chat template, behind System, what the
	// system is told ("" for nothing).
	Chat   bool
	System string

	MaxTokens   int     // that are written at most; fewer where the model's context ends
	Temperature float64 // 0: the likeliest token, always
	TopK        int     // drawn from the likeliest so many; 0: from all
	TopP        float64 // drawn from the likeliest that together have this probability; 0 or 1: from all
	Seed        uint64

	Tokenizer string // folder of the tokenizer; "" is the model's
	Memory    int64  // bytes that may be used; 0 means 80 % of what there is
	// Told is given the text piece by piece, whole characters only; an error of it ends the work.
	Told func(piece string) error
	Step func(done, total int) // called as blocks are loaded, if not nil
}

// Written is what came out.
type Written struct {
	Text         string  `json:"text"` // behind the prompt
	PromptTokens int     `json:"prompt_tokens"`
	Tokens       int     `json:"tokens"`         // written
	Ended        bool    `json:"ended"`          // the model has ended the text
	Loading      float64 `json:"load_seconds"`   // of the model
	First        float64 `json:"prompt_seconds"` // up to the first token
	Rest         float64 `json:"write_seconds"`  // from there on
}

// PerSecond is how many tokens were written a second, the first one aside; 0 if that is not known.
func (w *Written) PerSecond() float64 {
	if w.Tokens < 2 || w.Rest <= 0 {
		return 0
	}
	return float64(w.Tokens-1) / w.Rest
}

// ErrOptions is wrapped by errors about options that make no sense.
var ErrOptions = errors.New("invalid options")

func (o *Options) validate() error {
	switch {
	case o.MaxTokens < 1:
		return fmt.Errorf("%w: %d tokens to write, want at least 1", ErrOptions, o.MaxTokens)
	case !(o.Temperature >= 0 && o.Temperature <= 100):
		return fmt.Errorf("%w: temperature %g, want 0 to 100", ErrOptions, o.Temperature)
	case !(o.TopP >= 0 && o.TopP <= 1):
		return fmt.Errorf("%w: top-p %g, want 0 to 1", ErrOptions, o.TopP)
	case o.TopK < 0:
		return fmt.Errorf("%w: top-k %d, want a positive number or 0 for all", ErrOptions, o.TopK)
	case o.System != "" && !o.Chat:
		return fmt.Errorf("%w: what the system is told is for a chat", ErrOptions)
	}
	return nil
}

// Run has a model write, all of which is in memory: quantized layers packed, others in float32. What
// comes out depends on the seed alone. If ctx is cancelled what was written is returned beside the error.
func Run(ctx context.Context, m *measure.Model, o Options) (*Written, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	tok, err := measure.Tokenizer(m.Source(), o.Tokenizer)
	if err != nil {
		return nil, err
	}
	prompt, err := o.prompt(tok)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Name, err)
	}
	n := o.MaxTokens
	if most := m.Model.MaxPosition; most > 0 {
		if len(prompt) >= most {
			return nil, fmt.Errorf("%w: the prompt has %d tokens, the model's context %d", ErrOptions, len(prompt), most)
		}
		n = min(n, most-len(prompt))
	}
	for _, id := range prompt {
		if int(id) >= m.Model.Vocab {
			return nil, fmt.Errorf("%s: the tokenizer gives token %d, but the model knows only %d", m.Name, id, m.Model.Vocab)
		}
	}
	src := measure.PackedOf(m.Source())
	plan, err := memory.Generating(o.Memory, generate.Bytes(m.Model, src.Bytes, 1, len(prompt)+n))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Name, err)
	}
	defer plan.Hold()()
	begun := time.Now()
	e, err := generate.Load(ctx, m.Model, src, m.Runner, o.Step)
	if err != nil {
		return nil, err
	}
	w := &writing{tok: tok, told: o.Told, begun: time.Now()}
	w.PromptTokens, w.Loading = len(prompt), w.begun.Sub(begun).Seconds()
	how := generate.Sampler{Temperature: o.Temperature, TopK: o.TopK, TopP: o.TopP}
	w.Ended, err = e.Continue(ctx, prompt, n, how, o.Seed, ends(m, tok), w.add)
	if err == nil {
		err = w.flush(true)
	}
	w.Tokens = len(w.ids)
	w.Rest = time.Since(w.begun).Seconds() - w.First
	return &w.Written, err
}

// prompt encodes how the text begins.
func (o *Options) prompt(tok *tokenizer.Tokenizer) ([]int32, error) {
	if o.Chat {
		return text.Prompt(tok, o.System, o.Prompt)
	}
	ids := tok.Encode(o.Prompt)
	bos, ok := tok.BOS()
	if ok && (tok.AddsBOS() || len(ids) == 0) && (len(ids) == 0 || ids[0] != bos) {
		ids = append([]int32{bos}, ids...)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%w: no prompt, and the model has no token that a text begins with", ErrOptions)
	}
	return ids, nil
}

// ends are the tokens at which a text ends: those that the configuration, the tokenizer, which may be
// nil, and generation_config.json name.
func ends(m *measure.Model, tok *tokenizer.Tokenizer) []int32 {
	var all []int32
	for _, id := range m.Model.EOS {
		all = append(all, int32(id))
	}
	if tok != nil {
		if id, ok := tok.EOS(); ok {
			all = append(all, id)
		}
	}
	data, err := fs.ReadFile(m.Source().Files(), "generation_config.json")
	var one struct {
		ID int32 `json:"eos_token_id"`
	}
	var several struct {
		IDs []int32 `json:"eos_token_id"`
	}
	switch {
	case err != nil:
	case json.Unmarshal(data, &one) == nil && one.ID != 0:
		all = append(all, one.ID)
	case json.Unmarshal(data, &several) == nil:
		all = append(all, several.IDs...)
	}
	return all
}

// writing is a text that grows.
type writing struct {
	Written
	tok   *tokenizer.Tokenizer
	told  func(string) error
	begun time.Time
	ids   []int32
}

func (w *writing) add(id int32) error {
	if w.ids = append(w.ids, id); len(w.ids) == 1 {
		w.First = time.Since(w.begun).Seconds()
	}
	return w.flush(false)
}

// flush tells what is new. The bytes of a character may be several tokens: what ends in the
// middle of one waits for the rest, unless this is the last.
func (w *writing) flush(last bool) error {
	all := w.tok.Decode(w.ids)
	if !last && strings.HasSuffix(all, string(utf8.RuneError)) {
		return nil
	}
	piece, ok := strings.CutPrefix(all, w.Text)
	if !ok && !last {
		return nil // decoded otherwise beside what follows
	}
	w.Text = all
	if piece == "" || w.told == nil {
		return nil
	}
	return w.told(piece)
}
