package lowbit

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

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
		{Files: []string{file}}, {Readers: []io.Reader{bytes.NewReader(data)}}, {Strings: []string{string(data)}}, {IDs: [][]int32{tok.Encode(string(data))}},
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
