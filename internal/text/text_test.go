package text

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

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
	tok, err := tokenizer.Open("../../testdata/tinyllama-2m")
	require.NoError(t, err)
	bos, ok := tok.BOS()
	require.True(t, ok)
	require.Equal(t, int32(1023), bos)
	const one, two = "Once upon a time\nthere was", "The end."
	texts := []string{one + "\n\n" + two + "\n", two}

	encode := func(e Encoding) []int32 {
		ids, err := e.Encode(tok, []Passage{{Text: texts[0]}, {Text: texts[1]}})
		require.NoError(t, err)
		return ids
	}
	var plain, want []int32
	for _, doc := range []string{one, two, two} {
		want = append(append(want, bos), tok.Encode(doc)...)
		plain = append(plain, tok.Encode(doc)...)
	}
	require.Equal(t, want, encode(Encoding{PerDocument: true, BOS: new(true)}))
	require.False(t, tok.AddsBOS())
	require.Equal(t, plain, encode(Encoding{PerDocument: true}))
	require.Equal(t, plain, encode(Encoding{PerDocument: true, BOS: new(false)}))
	require.Equal(t, slices.Concat(tok.Encode(texts[0]), tok.Encode(texts[1])), encode(Encoding{}))

	// A document that brings its own gets no second one; one passage is one document.
	name, _ := tok.Token(bos)
	ids, err := Encoding{PerDocument: true, BOS: new(true)}.Encode(tok, []Passage{{Text: name + one, One: true}, {Text: "a\n\nb", One: true}})
	require.NoError(t, err)
	require.Equal(t, slices.Concat([]int32{bos}, tok.Encode(one), []int32{bos}, tok.Encode("a\n\nb")), ids)
}

// TestWindows: windows are consecutive, do not overlap, and drop only the ragged end.
func TestWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.Int32Range(0, 1000), 0, 60).Draw(t, "ids")
		n := rapid.IntRange(1, 12).Draw(t, "n")
		w := Windows(ids, n)
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
	got := Spread(all, 64)
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
	for _, w := range Spread(all, 64)[:8] {
		first = append(first, w[0])
	}
	require.Equal(t, []int32{0, 2, 5, 8, 11, 14, 17, 20}, first)
	require.Len(t, Spread(all, 188), 188)
	require.Len(t, Spread(all, 500), 188)
}

// passages are all that a source has.
func passages(s Source) ([]Passage, error) {
	parts, err := s.Parts()
	var all []Passage
	for _, p := range parts {
		all = append(all, p.Passages...)
	}
	return all, err
}

// TestPassages: what is in files, readers and strings.
func TestPassages(t *testing.T) {
	dir, n := t.TempDir(), 0
	file := func(name, data string) string {
		n++
		name = filepath.Join(dir, fmt.Sprintf("%d-%s", n, name))
		require.NoError(t, os.WriteFile(name, []byte(data), 0o666))
		return name
	}
	text := func(s string) []Passage { return []Passage{{Text: s}} }
	docs := func(list ...string) []Passage {
		var all []Passage
		for _, s := range list {
			all = append(all, Passage{Text: s, One: true})
		}
		return all
	}
	for _, c := range []struct {
		name, data, field string
		want              []Passage
		err               string
	}{
		{"a.txt", "ä\nb", "", text("ä\nb"), ""},
		{"crlf.txt", "a\r\n\r\nb\rc", "", text("a\n\nb\rc"), ""},
		{"bom.txt", "\ufeffa \ufeff", "", text("a \ufeff"), ""},
		{"latin.txt", "\xff", "", nil, "not UTF-8"},
		{"a.jsonl", "{\"text\": \"a\\nb\"}\n\n{\"n\": 1, \"text\": \"c\"}\n", "", docs("a\nb", "c"), ""},
		{"strings.jsonl", "\"a\"\n\"b\"", "", docs("a", "b"), ""},
		{"lines.txt", "\ufeff{\"text\": \"a\"}\r\n{\"text\": \"b\"}", "", docs("a", "b"), ""},
		{"field.jsonl", `{"content": "a", "text": "b"}`, "content", docs("a"), ""},
		{"missing.txt", `{"prompt": "a", "answer": "b"}`, "", nil, `line 1: the JSON object has no "text"; it has ["answer" "prompt"], and neither messages nor conversations`},
		{"second.jsonl", "{\"text\": \"a\"}\nnext", "", nil, `line 2: want a JSON object`},
		{"number.jsonl", `{"text": 1}`, "", nil, `line 1: "text" is 1, want a string`},
		{"mixed.txt", "a header\n{\"text\": \"a\"}", "", nil, "line 2 is a JSON object"},
		{"other.txt", "like this:\n{\"a\": 1}\n", "", nil, "line 2 is a JSON object"},
		{"quoted.txt", "like this: {\"a\": 1}\nor this: {}\n{\nand so on", "", text("like this: {\"a\": 1}\nor this: {}\n{\nand so on"), ""},
		{"crlf.jsonl", "{\"text\": \"a\\r\\nb\"}\r\n", "", docs("a\r\nb"), ""},
		{"utf16.txt", "\xff\xfea\x00", "", nil, "UTF-16"},
		{"byte.txt", "a\n\nb\xe4", "", nil, "byte 0xe4 in line 3"},
		{"null.jsonl", `{"text": null}`, "", nil, `"text" is null`},
		{"object.jsonl", `{"text": {"a": 1}}`, "", nil, `"text" is an object`},
		{"field.json", `[{"text": "a"}]`, "body", nil, `entry 1: the JSON object has no "body"; it has ["text"]`},
		{"chat.jsonl", `{"messages": [{"role": "user"}]}`, "", nil, `line 1: "messages": message 1: no "content"`},
		{"strings.json", `{"text": ["a"]}`, "", nil, `"text": message 1: want an object`},
		{"a.parquet", "PAR2", "", nil, "no parquet table"},
		{"b.parquet", "PAR1 and so on PAR1", "", nil, "parquet: "},
		{"broken.gz", "\x1f\x8b\b\x00\x00\x00\x00\x00\x00\xff\xff\xff", "", nil, "unpacking"},
		{"broken.zst", "\x28\xb5\x2f\xfd\xff\xff\xff\xff\xff\xff\xff", "", nil, "unpacking"},
		{"array.json", `[{"text": "a"}, "b"]`, "", docs("a", "b"), ""},
		{"pretty.json", "{\n  \"text\": \"a\"\n}", "", docs("a"), ""},
		{"array.txt", "[\n{\"text\": \"a\"}\n]", "", docs("a"), ""},
		{"broken.json", `[{"text": "a"}`, "", nil, "unexpected end"},
		{"entry.json", `[{"text": "a"}, 5]`, "", nil, "entry 2: want a JSON object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := file(c.name, c.data)
			got, err := passages(Source{Files: []string{name}, Field: c.field})
			if c.err != "" {
				require.ErrorContains(t, err, name)
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	f, err := os.Open(file("r.jsonl", `{"text": "reader"}`))
	require.NoError(t, err)
	defer f.Close()
	got, err := passages(Source{
		Strings: []string{"s", "t\n\nu"}, Readers: []io.Reader{f, strings.NewReader("r\r\n")}, Files: []string{file("a", "f")},
		Documents: slices.Values([]string{"d"}),
	})
	require.NoError(t, err)
	require.Equal(t, slices.Concat(text("f"), docs("reader"), text("r\n"), docs("s", "t\n\nu", "d")), got)
	_, err = passages(Source{Files: []string{filepath.Join(dir, "c")}})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = passages(Source{Readers: []io.Reader{iotest.ErrReader(errors.New("broken pipe"))}})
	require.EqualError(t, err, "text 1: broken pipe")
	_, err = passages(Source{Strings: []string{"a", "\xff"}})
	require.ErrorContains(t, err, "string 2: not UTF-8")
}
