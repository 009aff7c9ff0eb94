package generation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/generate"
	"github.com/golowbit/lowbit/internal/memory"
)

// Self is text that a model writes itself, to be calibrated on where there is no other: drawn at
// temperature 1, as LLM-QAT does it (Liu et al., arXiv 2305.17888, section 3.1).
type Self struct {
	Tokens  int      // how many; what is less than a window is filled up to one
	Prompts []string // that windows begin with, in turn; none: the token that a text begins with
	Seed    uint64
}

// Windows are how many windows of so many tokens are written.
func (s *Self) Windows(seqLen int) int { return (s.Tokens + seqLen - 1) / seqLen }

// Write has m write windows of seqLen tokens. They depend on model, prompts, seed and the kind of CPU alone. limit
// is of memory, 0 for 80 % of what there is. Step, if not nil, is called after every token.
//
// What is written is kept in the file keep, a JSON array of arrays of ids, unless that is "". With again such a
// file is taken, if it has as many windows, instead of writing them once more.
func (s *Self) Write(ctx context.Context, m *measure.Model, seqLen int, limit int64, keep string, again bool, step func(done, total int)) ([][]int32, error) {
	n := s.Windows(seqLen)
	if again && keep != "" {
		if w := kept(keep, n, seqLen, m.Model.Vocab); w != nil {
			return w, nil
		}
	}
	begin, prompts, end, err := s.beginning(m)
	if err != nil {
		return nil, err
	}
	together, bytes := size(m.Model, n, seqLen)
	plan, err := memory.Generating(limit, bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Name, err)
	}
	defer plan.Hold()()
	e, err := generate.Load(ctx, m.Model, m.Source(), m.Runner, nil)
	if err != nil {
		return nil, err
	}
	w, err := e.Write(ctx, n, seqLen, together, prompts, begin, end, s.Seed, step)
	if err != nil || keep == "" {
		return w, err
	}
	data, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	return w, disk.FS{}.WriteFile(keep, append(data, '\n'))
}

// size is how many windows are written together, and what memory that takes.
func size(m *decoder.Model, windows, seqLen int) (together int, bytes int64) {
	together = 1
	for together < min(windows, generate.Together) && generate.Past(m, 2*together, seqLen) <= 1<<30 {
		together *= 2
	}
	return together, generate.Bytes(m, nil, together, seqLen)
}

// Memory is about how many bytes it takes to have a model write so many windows.
func Memory(m *decoder.Model, windows, seqLen int) int64 {
	_, bytes := size(m, windows, seqLen)
	return bytes
}

// beginning is what windows begin with, and at which tokens a text ends; first is that at which one begins, or -1.
func (s *Self) beginning(m *measure.Model) (first int32, prompts [][]int32, end []int32, err error) {
	tok, err := measure.Tokenizer(m.Source(), "")
	if err != nil && (len(s.Prompts) > 0 || !errors.Is(err, fs.ErrNotExist)) {
		return 0, nil, nil, err
	}
	first, end = -1, ends(m, tok)
	if m.Model.BOS >= 0 && m.Model.BOS < m.Model.Vocab {
		first = int32(m.Model.BOS)
	}
	if tok != nil {
		if id, ok := tok.BOS(); ok {
			first = id
		}
	}
	for i, p := range s.Prompts {
		o := Options{Prompt: p}
		ids, err := o.prompt(tok)
		if err != nil {
			return 0, nil, nil, fmt.Errorf("prompt %d: %w", i+1, err)
		}
		prompts = append(prompts, ids)
	}
	if len(prompts) > 0 {
		return first, prompts, end, nil
	}
	switch {
	case first >= 0:
		return first, [][]int32{{first}}, end, nil
	case len(end) > 0 && int(end[0]) < m.Model.Vocab: // behind which the next text begins
		return first, [][]int32{{end[0]}}, end, nil
	}
	return 0, nil, nil, fmt.Errorf("%s: %w: the model has no token that a text begins or ends with: prompts are needed", m.Name, ErrOptions)
}

// kept are the windows of an earlier run, nil if there are none that fit.
func kept(file string, n, seqLen, vocab int) [][]int32 {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var w [][]int32
	if json.Unmarshal(data, &w) != nil || len(w) != n {
		return nil
	}
	for _, ids := range w {
		if len(ids) != seqLen {
			return nil
		}
		for _, id := range ids {
			if id < 0 || int(id) >= vocab {
				return nil
			}
		}
	}
	return w
}
