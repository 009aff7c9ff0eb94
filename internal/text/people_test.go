package text

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

func gzipped(t *testing.T, data string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(data))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}

func zstded(t *testing.T, data string) []byte {
	z, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	return z.EncodeAll([]byte(data), nil)
}

// TestPacked: files are unpacked by what they hold, whatever they are called, also from
// a reader, and the limit is of what is in them.
func TestPacked(t *testing.T) {
	const lines = "{\"text\": \"a\"}\n{\"text\": \"b\"}\n"
	want := []Passage{{Text: "a", One: true}, {Text: "b", One: true}}
	for kind, pack := range map[string]func(*testing.T, string) []byte{"gzip": gzipped, "zstd": zstded} {
		t.Run(kind, func(t *testing.T) {
			for _, name := range []string{"a.jsonl.gz", "a.txt", "a.zst", "a"} {
				path := filepath.Join(t.TempDir(), name)
				require.NoError(t, os.WriteFile(path, pack(t, lines), 0o666))
				got, err := passages(Source{Files: []string{path}})
				require.NoError(t, err, name)
				require.Equal(t, want, got)
			}
			got, err := passages(Source{Readers: []io.Reader{bytes.NewReader(pack(t, lines))}})
			require.NoError(t, err)
			require.Equal(t, want, got)

			path := filepath.Join(t.TempDir(), "large")
			require.NoError(t, os.WriteFile(path, pack(t, strings.Repeat("a", 1<<20)), 0o666))
			s := Source{Files: []string{path}, MaxBytes: 1<<20 - 1}
			_, err = passages(s)
			require.ErrorIs(t, err, disk.ErrTooLarge)
			require.ErrorContains(t, err, "--max-text")
			require.ErrorContains(t, err, path)
			s.MaxBytes++
			_, err = passages(s)
			require.NoError(t, err)
			require.Equal(t, int64(1<<20), s.Size())
		})
	}
}

// TestFolder: texts of a folder and those below it, by name; what is none is left out,
// and a folder without any is an error.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o666))
	}
	write("README.md", "no")
	write(".gitattributes.txt", "no")
	write(".cache/a.txt", "no")
	write("dataset_infos.json", "{}")
	_, err := passages(Source{Files: []string{dir}})
	require.ErrorContains(t, err, dir+": a folder without texts")
	write("b.txt", "b")
	write("a/2.JSONL", `{"text": "a2"}`)
	write("a/1.txt.gz", string(gzipped(t, "a1")))
	require.NoError(t, os.Symlink(filepath.Join(dir, "b.txt"), filepath.Join(dir, "c.txt")))
	s := Source{Files: []string{dir}}
	got, err := passages(s)
	require.NoError(t, err)
	require.Equal(t, []Passage{{Text: "a1"}, {Text: "a2", One: true}, {Text: "b"}, {Text: "b"}}, got)
	require.Greater(t, s.Size(), int64(15))
	write("z.json", `[{"a": 1}]`)
	_, err = passages(s)
	require.ErrorContains(t, err, filepath.Join(dir, "z.json")+": entry 1")
}

// TestTable: parquet tables that pyarrow wrote (testdata/tables.py): texts, messages with
// what stands beside them, and what is wrong with them.
func TestTable(t *testing.T) {
	render := func(p []Passage) (all []string) {
		tok := withTemplate(t, "{% for m in messages %}[{{ m | tojson }}]{% endfor %}{{ tools | tojson }}")
		tm, err := templateOf(tok, false)
		require.NoError(t, err)
		for _, p := range p {
			text := p.Text
			if p.Chat != nil {
				text, err = tm.Render(p.Chat)
				require.NoError(t, err)
			}
			all = append(all, text)
		}
		return all
	}
	for _, c := range []struct {
		file, field string
		want        []string
		err         string
	}{
		{"texts.parquet", "", []string{"Once upon", "a – time", ""}, ""},
		{"texts.parquet", "other", []string{"x", "y", "z"}, ""},
		{"texts.parquet", "n", nil, `row 1: "n" is 1, want a string, or an array of messages`},
		{"texts.parquet", "nothing", nil, `the table has no column ["nothing"]; it has ["text" "n" "other"]`},
		{"null.parquet", "", nil, `row 2: "text" is null`},
		{"chats.parquet", "", []string{
			`[{"role": "system", "content": "be"}][{"role": "user", "content": "hi ä"}][{"role": "assistant", "content": "yo"}][{"name": "f"}]`,
			`[{"role": "user", "content": "b"}]null`}, ""},
		{"sharegpt.parquet", "conversations", []string{`[{"role": "user", "content": "q"}][{"role": "assistant", "content": "a"}]null`}, ""},
	} {
		t.Run(c.file+c.field, func(t *testing.T) {
			path := filepath.Join("testdata", c.file)
			s := Source{Files: []string{path}, Field: c.field}
			got, err := passages(s)
			data, readErr := os.ReadFile(path)
			require.NoError(t, readErr)
			again, againErr := passages(Source{Readers: []io.Reader{bytes.NewReader(gzipped(t, string(data)))}, Field: c.field})
			if c.err != "" {
				require.ErrorContains(t, err, path+": "+c.err)
				require.ErrorContains(t, againErr, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, render(got))
			require.NoError(t, againErr)
			require.Equal(t, c.want, render(again))
			require.Positive(t, s.Size())
			_, err = passages(Source{Files: []string{path}, Field: c.field, MaxBytes: 30})
			require.ErrorIs(t, err, disk.ErrTooLarge)
		})
	}
}

// TestDamagedTable: any byte of a table may be wrong, and nothing worse comes of it than an
// error with the file's name.
func TestDamagedTable(t *testing.T) {
	data, err := os.ReadFile("testdata/chats.parquet")
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(t.TempDir(), "damaged")
	failed := 0
	for range 300 {
		damaged := slices.Clone(data)
		for range 1 + r.IntN(3) {
			damaged[r.IntN(len(damaged))] ^= byte(1 + r.IntN(255))
		}
		require.NoError(t, os.WriteFile(path, damaged[:len(damaged)-r.IntN(2)*r.IntN(len(damaged))], 0o666))
		s := Source{Files: []string{path}, MaxBytes: 1 << 20}
		s.Size()
		if _, err := passages(s); err != nil {
			require.ErrorContains(t, err, path)
			failed++
		}
	}
	require.Greater(t, failed, 100)
}

// withTemplate is the tiny model's tokenizer with a chat template.
func withTemplate(t *testing.T, template string) *tokenizer.Tokenizer {
	dir := t.TempDir()
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "config.json"} {
		data, err := os.ReadFile(filepath.Join("../../testdata/tinyllama-2m", name))
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o666))
	}
	if template != "" {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte(template), 0o666))
	}
	tok, err := tokenizer.Open(dir)
	require.NoError(t, err)
	return tok
}

// TestChat: a conversation is encoded as the template writes it: with the template's
// beginning-of-sequence token and no second one, and with none where it writes none,
// unless that is asked for.
func TestChat(t *testing.T) {
	line, err := json.Marshal(map[string]any{"messages": []map[string]string{{"role": "user", "content": "Once upon"}, {"role": "assistant", "content": "a time"}}})
	require.NoError(t, err)
	all, err := passages(Source{Readers: []io.Reader{bytes.NewReader(line)}})
	require.NoError(t, err)
	const turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
	const text = "user: Once upon\nassistant: a time\n"
	with, without := withTemplate(t, "{{ bos_token }}"+turns), withTemplate(t, turns)
	bos, ok := with.BOS()
	require.True(t, ok)
	bare := with.Encode(text)
	begun := slices.Concat([]int32{bos}, bare)
	for _, c := range []struct {
		tok  *tokenizer.Tokenizer
		e    Encoding
		want []int32
	}{
		{with, Encoding{}, begun},
		{with, Encoding{PerDocument: true}, begun},
		{with, Encoding{PerDocument: true, BOS: new(true)}, begun},
		{without, Encoding{}, bare},
		{without, Encoding{PerDocument: true}, bare},
		{without, Encoding{PerDocument: true, BOS: new(true)}, begun},
	} {
		ids, err := c.e.Encode(c.tok, all)
		require.NoError(t, err)
		require.Equal(t, c.want, ids, "%+v", c.e)
	}
	_, err = Encoding{}.Encode(withTemplate(t, ""), all)
	require.ErrorContains(t, err, "text 1: line 1: a conversation: the model has no chat template")
	_, err = Encoding{}.Encode(withTemplate(t, "{{ raise_exception('not so') }}"), all)
	require.EqualError(t, err, "text 1: line 1: chat template: not so")
}

// TestWeights: each part gets its share of the samples, what one is too short for the
// others give, and without weights windows are spread over all as one text.
func TestWeights(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for i, n := range []int{400, 4000} {
		files = append(files, filepath.Join(dir, fmt.Sprint(i)))
		require.NoError(t, os.WriteFile(files[i], []byte(strings.Repeat("Once upon a time. ", n)), 0o666))
	}
	open := func() (*tokenizer.Tokenizer, error) { return tokenizer.Open("../../testdata/tinyllama-2m") }
	s := Source{Files: files, Weights: []float64{3, 1}}
	shares, err := s.Tokens(open, Encoding{}, [][]int32{make([]int32, 640)}, "m", 1024)
	require.NoError(t, err)
	require.Len(t, shares, 3)
	all, picked := Sample(shares, 64, 20)
	require.Len(t, picked, 20)
	require.Equal(t, [3]int{12, 4, 4}, from(picked, shares, 64))
	total := 0
	for _, s := range shares {
		total += len(s.IDs) / 64
	}
	require.Len(t, all, total)
	s.Weights = nil
	shares, err = s.Tokens(open, Encoding{}, [][]int32{make([]int32, 640)}, "m", 1024)
	require.NoError(t, err)
	require.Len(t, shares, 1)
	s.Weights = []float64{1}
	_, err = s.Parts()
	require.ErrorContains(t, err, "1 weights for 2 files")

	rapid.Check(t, func(t *rapid.T) {
		shares := make([]Share, rapid.IntRange(1, 4).Draw(t, "shares"))
		have := 0
		for i := range shares {
			n := rapid.IntRange(0, 30).Draw(t, "windows")
			shares[i] = Share{rapid.Float64Range(0.1, 10).Draw(t, "weight"), make([]int32, 2*n)}
			have += n
		}
		samples := rapid.IntRange(1, 60).Draw(t, "samples")
		_, picked := Sample(shares, 2, samples)
		require.Len(t, picked, min(samples, have))
	})
}

// from counts the windows of every share.
func from(picked [][]int32, shares []Share, n int) (count [3]int) {
	for _, w := range picked {
		for i, s := range shares {
			for at := 0; at+n <= len(s.IDs); at += n {
				if &s.IDs[at] == &w[0] {
					count[i]++
				}
			}
		}
	}
	return count
}
