package lowbit

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/internal/tokenizer"
)

func TestDocuments(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"\n\n \n", nil},
		{"a", []string{"a"}},
		{"a\nb", []string{"a\nb"}},
		{"a\n\nb\n", []string{"a", "b"}},
		{"\n\na\n\n\n\nb\nc\n\n", []string{"a", "b\nc"}},
		{"a\r\n\r\nb\r\nc", []string{"a", "b\nc"}},
		{"a\n \t\nb", []string{"a", "b"}},
		{"  a  \n\n b", []string{"  a  ", " b"}},
	} {
		require.Equal(t, c.want, documents(c.text), "%q", c.text)
	}
}

// TestStream: per document every document starts with the beginning-of-
// sequence token and its ids are those of the document alone; otherwise the
// text is encoded as it is.
func TestStream(t *testing.T) {
	tok, err := tokenizer.Open(embedded)
	require.NoError(t, err)
	bos, ok := tok.BOS()
	require.True(t, ok)
	require.Equal(t, int32(1023), bos)
	const one, two = "Once upon a time\nthere was", "The end."
	texts := []string{one + "\n\n" + two + "\n", two}

	var want []int32
	for _, doc := range []string{one, two, two} {
		want = append(want, bos)
		want = append(want, tok.Encode(doc)...)
	}
	require.Equal(t, want, stream(tok, texts, true))
	require.Equal(t, slices.Concat(tok.Encode(texts[0]), tok.Encode(texts[1])), stream(tok, texts, false))
	require.NotContains(t, stream(tok, texts, false), bos)
}

// TestWindows: windows are consecutive, do not overlap, and drop only the ragged end.
func TestWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.Int32Range(0, 1000), 0, 60).Draw(t, "ids")
		n := rapid.IntRange(1, 12).Draw(t, "n")
		w := windows(ids, n)
		require.Len(t, w, len(ids)/n)
		for _, v := range w {
			require.Len(t, v, n)
		}
		require.True(t, slices.Equal(ids[:len(ids)/n*n], slices.Concat(w...)))
	})
}

// TestSpread: the windows floor(i*N/n).
func TestSpread(t *testing.T) {
	all := make([][]int32, 140)
	for i := range all {
		all[i] = []int32{int32(i)}
	}
	got := spread(all, 64)
	require.Len(t, got, 64)
	for i, w := range got {
		require.Equal(t, int32(float64(i)*140/64), w[0])
	}
	// As in the protocol of testdata/golden/perplexity.json for 188 windows.
	all = append(all, make([][]int32, 48)...)
	for i := range all {
		all[i] = []int32{int32(i)}
	}
	var first []int32
	for _, w := range spread(all, 64)[:8] {
		first = append(first, w[0])
	}
	require.Equal(t, []int32{0, 2, 5, 8, 11, 14, 17, 20}, first)
	require.Len(t, spread(all, 188), 188)
	require.Len(t, spread(all, 500), 188)
}

func TestReadTexts(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	require.NoError(t, os.WriteFile(a, []byte("ä\r\n"), 0o666))
	require.NoError(t, os.WriteFile(b, []byte("\xff"), 0o666))
	got, err := readTexts([]string{a, a})
	require.NoError(t, err)
	require.Equal(t, []string{"ä\r\n", "ä\r\n"}, got) // no newline translation
	_, err = readTexts([]string{a, b})
	require.ErrorContains(t, err, b+": not UTF-8")
	_, err = readTexts([]string{filepath.Join(dir, "c")})
	require.ErrorIs(t, err, os.ErrNotExist)
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
