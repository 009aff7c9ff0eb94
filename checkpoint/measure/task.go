package measure

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/tensor"
)

// Question is one of multiple choice.
type Question struct {
	Context string
	Choices []string
	Answer  int // of Choices, the right one
}

// Answers is how a model does on questions, as lm-evaluation-harness counts.
type Answers struct {
	Questions int `json:"questions"`
	// Acc is the share of questions whose right choice has the largest log-likelihood behind
	// the context and a blank; AccNorm that of those where it is the largest by character.
	// The errors are standard errors.
	Acc          float64 `json:"acc"`
	AccError     float64 `json:"acc_stderr"`
	AccNorm      float64 `json:"acc_norm"`
	AccNormError float64 `json:"acc_norm_stderr"`
	// LogLikelihoods are those of all choices, by question.
	LogLikelihoods [][]float64 `json:"log_likelihoods"`
}

// maxTask is the most bytes that a file of questions may have.
const maxTask = 1 << 30

// ReadQuestions reads JSON lines: objects with the text that comes first under "context",
// "question", "query", "ctx" or "prompt", the choices under "choices" (an array of strings, or an
// object with an array "text" and perhaps one "label") or "endings", and under "answer",
// "gold", "label" or "answerKey" the right one: its index, its label or its letter.
func ReadQuestions(path string) ([]Question, error) {
	data, err := disk.ReadText(path, maxTask)
	if err != nil {
		return nil, err
	}
	var all []Question
	n := 0
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		n++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		q, err := question(line)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, n, err)
		}
		all = append(all, q)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no questions", path)
	}
	return all, nil
}

func question(line []byte) (q Question, err error) {
	var o map[string]json.RawMessage
	if err := json.Unmarshal(line, &o); err != nil {
		return q, fmt.Errorf("want a JSON object: %w", err)
	}
	first := func(keys ...string) (string, json.RawMessage, error) {
		for _, k := range keys {
			if v, ok := o[k]; ok {
				return k, v, nil
			}
		}
		return "", nil, fmt.Errorf("none of the fields %q", keys)
	}
	key, raw, err := first("context", "question", "query", "ctx", "prompt")
	if err != nil {
		return q, err
	}
	if err := json.Unmarshal(raw, &q.Context); err != nil {
		return q, fmt.Errorf("%q: want a string: %w", key, err)
	}
	if key, raw, err = first("choices", "endings"); err != nil {
		return q, err
	}
	var labeled struct{ Text, Label []string }
	if json.Unmarshal(raw, &q.Choices) != nil {
		if err := json.Unmarshal(raw, &labeled); err != nil {
			return q, fmt.Errorf("%q: want an array of strings: %w", key, err)
		}
		q.Choices = labeled.Text
	}
	if len(q.Choices) < 2 || slices.Contains(q.Choices, "") {
		return q, fmt.Errorf("%q: %q, want two or more that are not empty", key, q.Choices)
	}
	if key, raw, err = first("answer", "gold", "label", "answerKey"); err != nil {
		return q, err
	}
	if q.Answer = answer(raw, labeled.Label, len(q.Choices)); q.Answer < 0 {
		return q, fmt.Errorf("%q: %s, want the index, the label or the letter of one of %d choices", key, raw, len(q.Choices))
	}
	return q, nil
}

// answer is the choice that is named by its index, label or letter; -1 if none is.
func answer(raw json.RawMessage, labels []string, choices int) int {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		s = string(raw)
	} else if i := slices.Index(labels, s); i >= 0 {
		return i
	}
	i, err := strconv.Atoi(s)
	if err != nil && len(s) == 1 && unicode.IsUpper(rune(s[0])) {
		i, err = int(s[0]-'A'), nil
	}
	if err != nil || i < 0 || i >= choices {
		return -1
	}
	return i
}

// asked is a choice behind its context, as tokens.
type asked struct {
	question, choice int
	input            []int32
	targets          []int32 // of the last inputs
}

// Task has a model score the choices of questions. The tokenizer is the model's own, or that in a
// folder. Step, if not nil, is called as blocks are done.
func Task(ctx context.Context, m *Model, tokenizerDir string, questions []Question, memory int64, step func(done, total int, model string)) (*Answers, error) {
	tok, err := Tokenizer(m.src, tokenizerDir)
	if err != nil {
		return nil, err
	}
	var all []asked
	j := &Job{Models: []*Model{m}, Memory: memory, Step: step}
	a := &Answers{Questions: len(questions), LogLikelihoods: make([][]float64, len(questions))}
	for i, q := range questions {
		a.LogLikelihoods[i] = make([]float64, len(q.Choices))
		for c, text := range q.Choices {
			x, err := ask(tok, q.Context, " "+text, m.Model.MaxPosition)
			if err == nil {
				err = known(slices.Concat(x.input, x.targets), m.Model.Vocab)
			}
			if err != nil {
				return nil, fmt.Errorf("question %d, choice %d: %w", i+1, c+1, err)
			}
			x.question, x.choice = i, c
			all = append(all, x)
			j.Windows = append(j.Windows, x.input)
		}
	}
	j.Logits = func(window, first int, logits *tensor.Matrix) error {
		x := all[window]
		begin := len(x.input) - len(x.targets)
		for r := range logits.Rows {
			if t := first + r - begin; t >= 0 {
				a.LogLikelihoods[x.question][x.choice] -= decoder.NLL(logits.Row(r), x.targets[t])
			}
		}
		return nil
	}
	if _, err := j.Run(ctx); err != nil {
		return nil, err
	}
	a.count(questions)
	return a, nil
}

// ask encodes a context and what continues it, together: blanks at the end of the context
// belong to what continues it. Of more than most tokens the last are taken.
func ask(tok *tokenizer.Tokenizer, context, continuation string, most int) (asked, error) {
	trimmed := strings.TrimRightFunc(context, unicode.IsSpace)
	continuation = context[len(trimmed):] + continuation
	var whole []int32
	n := 1 // tokens of the context
	if trimmed == "" {
		bos, ok := tok.BOS()
		if !ok {
			if bos, ok = tok.EOS(); !ok {
				return asked{}, fmt.Errorf("no context, and the model has no token that a text begins or ends with")
			}
		}
		whole = append([]int32{bos}, tok.Encode(continuation)...)
	} else {
		whole, n = begun(tok, trimmed+continuation), len(begun(tok, trimmed))
	}
	if n >= len(whole) {
		return asked{}, fmt.Errorf("%q adds no token to the context", continuation)
	}
	targets := whole[n:]
	if most > 0 && len(whole) > most+1 {
		whole = whole[len(whole)-most-1:]
	}
	if len(targets) >= len(whole) {
		return asked{}, fmt.Errorf("%d tokens, but the model's context is %d", len(targets), most)
	}
	return asked{input: whole[:len(whole)-1], targets: targets}, nil
}

// begun encodes text with the token that the tokenizer begins one with, if the text does
// not.
func begun(tok *tokenizer.Tokenizer, text string) []int32 {
	ids := tok.Encode(text)
	bos, ok := tok.BOS()
	if ok && tok.AddsBOS() && (len(ids) == 0 || ids[0] != bos) {
		ids = append([]int32{bos}, ids...)
	}
	return ids
}

func known(ids []int32, vocab int) error {
	for _, id := range ids {
		if id < 0 || int(id) >= vocab {
			return fmt.Errorf("token %d, but the model knows only %d", id, vocab)
		}
	}
	return nil
}

// count says how many questions are answered right.
func (a *Answers) count(questions []Question) {
	var right, norm float64
	for i, q := range questions {
		byLength := make([]float64, len(q.Choices))
		for c, v := range a.LogLikelihoods[i] {
			byLength[c] = v / float64(utf8.RuneCountInString(q.Choices[c]))
		}
		if largest(a.LogLikelihoods[i]) == q.Answer {
			right++
		}
		if largest(byLength) == q.Answer {
			norm++
		}
	}
	n := float64(len(questions))
	a.Acc, a.AccNorm = right/n, norm/n
	if n > 1 {
		a.AccError, a.AccNormError = math.Sqrt(a.Acc*(1-a.Acc)/(n-1)), math.Sqrt(a.AccNorm*(1-a.AccNorm)/(n-1))
	}
}

// largest is the first of the largest.
func largest(v []float64) int { return slices.Index(v, slices.Max(v)) }
