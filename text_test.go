package lowbit

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/generation"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/quant"
)

// TestSameTextAnyWay: files, readers, strings and ids give the same model.
func TestSameTextAnyWay(t *testing.T) {
	data, err := os.ReadFile(embeddedHeldout)
	require.NoError(t, err)
	data = data[:6000]
	file := filepath.Join(t.TempDir(), "text.txt")
	require.NoError(t, os.WriteFile(file, data, 0o666))
	tok, err := tokenizer.Open(embedded)
	require.NoError(t, err)
	var first string
	for _, text := range []Text{
		{Files: []string{file}}, {Readers: []io.Reader{bytes.NewReader(data)}}, {Strings: []string{string(data)}}, {Documents: slices.Values([]string{string(data)})}, {IDs: [][]int32{tok.Encode(string(data))}},
	} {
		o := quick(t)
		o.Calibration.Text = text
		o.Method = quant.RTN{}
		if len(text.IDs) > 0 {
			// The tokenizer is not asked.
			o.Model = filepath.Join(t.TempDir(), "model")
			require.NoError(t, os.CopyFS(o.Model, os.DirFS(embedded)))
			require.NoError(t, os.Remove(filepath.Join(o.Model, "tokenizer.json")))
		}
		_, err := Quantize(t.Context(), o)
		require.NoError(t, err)
		weights := folder(t, o.Output)["model.safetensors"]
		if first == "" {
			first = weights
		}
		require.True(t, first == weights, "%v", text)
	}
	o := quick(t)
	o.Calibration.Text = Text{IDs: [][]int32{{1, 2}, {3, -1}}}
	_, err = Quantize(t.Context(), o)
	require.ErrorContains(t, err, "token -1, but the model knows only 1024")
}

// TestTokenOutsideVocabulary: a tokenizer that knows more than the model.
func TestTokenOutsideVocabulary(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.CopyFS(dir, os.DirFS(embedded)))
	name := filepath.Join(dir, "tokenizer.json")
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	text := strings.Replace(string(data), `"added_tokens": [`, `"added_tokens": [{"id":1024,"content":"zebra","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":false},`, 1)
	if text == string(data) {
		text = strings.Replace(string(data), `"added_tokens":[`, `"added_tokens":[{"id":1024,"content":"zebra","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":false},`, 1)
	}
	require.NotEqual(t, string(data), text)
	require.NoError(t, os.WriteFile(name, []byte(text), 0o666))
	story := filepath.Join(dir, "story.txt")
	require.NoError(t, os.WriteFile(story, []byte("a zebra"), 0o666))
	_, err = Evaluate(t.Context(), EvalOptions{Model: dir, Text: Text{Files: []string{story}}})
	require.ErrorContains(t, err, `token "zebra" has id 1024, but the model knows only 1024`)
}

// TestChatTemplateIsResumed: a conversation needs the model's template, and an interrupted
// run notices that the template, the field or the weights are others than they were.
func TestChatTemplateIsResumed(t *testing.T) {
	data, err := os.ReadFile(embeddedHeldout)
	require.NoError(t, err)
	chats := filepath.Join(t.TempDir(), "chats.jsonl")
	var lines bytes.Buffer
	e := json.NewEncoder(&lines)
	for _, s := range strings.SplitN(string(data[:6000]), "\n", 12) {
		require.NoError(t, e.Encode(map[string]any{"messages": []map[string]string{{"role": "user", "content": s}}, "other": s}))
	}
	require.NoError(t, os.WriteFile(chats, lines.Bytes(), 0o666))
	o := quick(t)
	o.Model = copyModel(t)
	o.Calibration.Text = Text{Files: []string{chats}}
	_, err = Quantize(t.Context(), o)
	require.ErrorContains(t, err, chats+": line 1: a conversation: the model has no chat template")
	template := filepath.Join(o.Model, "chat_template.jinja")
	require.NoError(t, os.WriteFile(template, []byte("{% for m in messages %}Q: {{ m.content }}\n{% endfor %}"), 0o666))
	interrupt(t, o, 2)
	o.Resume = true
	for name, change := range map[string]func(o *Options){
		"template": func(*Options) {
			edit(t, template, func(b []byte) []byte { return bytes.Replace(b, []byte("Q:"), []byte("A:"), 1) })
		},
		"field": func(o *Options) { o.Calibration.Field = "other" },
		"text": func(o *Options) {
			edit(t, chats, func(b []byte) []byte { return bytes.Replace(b, []byte("the"), []byte("The"), 1) })
		},
	} {
		was, err := os.ReadFile(template)
		require.NoError(t, err)
		other := o
		change(&other)
		_, err = Quantize(t.Context(), other)
		require.ErrorIs(t, err, checkpoint.ErrResume, name)
		require.NoError(t, os.WriteFile(template, was, 0o666))
		require.NoError(t, os.WriteFile(chats, lines.Bytes(), 0o666))
	}
	_, err = Quantize(t.Context(), o)
	require.NoError(t, err)
}

// TestWeightsAreForCalibration: what is measured on counts alike.
func TestWeightsAreForCalibration(t *testing.T) {
	text := Text{Files: []string{embeddedHeldout}, Weights: []float64{2}}
	_, err := Evaluate(t.Context(), EvalOptions{Model: embedded, Text: text})
	require.ErrorIs(t, err, ErrOptions)
	o := quick(t)
	o.Evaluation.Text = text
	require.ErrorContains(t, o.Validate(), "weights of texts are for calibration")
	o.Evaluation.Text = Text{}
	o.Calibration.Text = text
	require.NoError(t, o.Validate())
	for _, w := range [][]float64{{0}, {-1}, {1, 2}, {math.NaN()}, {math.Inf(1)}} {
		o.Calibration.Weights = w
		require.ErrorContains(t, o.Validate(), "weights")
	}
}

// TestSelfWritten: text that the model writes is calibrated on as its ids are, lies beside the output, and is not
// written again by a run that goes on; of one that is only foreseen its size counts.
func TestSelfWritten(t *testing.T) {
	o := quick(t)
	o.Axis, o.Arms = AxisOC, []adadim.Arm{{}}
	o.Calibration.Text, o.Calibration.Self = Text{}, &generation.Self{Seed: 5}
	o.Calibration.Samples, o.Calibration.SeqLen = 3, 32
	interrupt(t, o, 3)
	data, err := os.ReadFile(o.Output + ".text.json")
	require.NoError(t, err)
	var ids [][]int32
	require.NoError(t, json.Unmarshal(data, &ids))
	require.Len(t, ids, 3)
	told := false
	o.Resume, o.Events = true, func(e Event) { told = told || e.Message == "writing text" }
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, 96, r.Tokens)
	require.False(t, told)

	given := o
	given.Output, given.Resume = filepath.Join(t.TempDir(), "out"), false
	given.Calibration.Self, given.Calibration.IDs = nil, ids
	_, err = Quantize(t.Context(), given)
	require.NoError(t, err)
	requireSameFolder(t, o.Output, given.Output)

	o.Output, o.Resume = filepath.Join(t.TempDir(), "out"), false
	p, err := Foresee(t.Context(), o)
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(p.Memory.Moments, func(m memory.Part) bool { return m.Name == "writing text" && m.Bytes > 10<<20 }))
	require.False(t, told)
	require.NoFileExists(t, o.Output+".text.json")
	o.Memory = 100 << 20
	_, err = Quantize(t.Context(), o)
	require.ErrorIs(t, err, ErrMemory)
	o.Calibration.Self = &generation.Self{Tokens: -1}
	require.ErrorIs(t, o.Validate(), ErrOptions)
}
