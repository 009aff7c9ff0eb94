package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
	"github.com/golowbit/lowbit/internal/tokenizer/pattern"
)

func tinyLlama(t testing.TB) *Tokenizer {
	t.Helper()
	tk, err := Open(filepath.Join("testdata", "tinyllama-2m"))
	require.NoError(t, err)
	return tk
}

// spm is the small SentencePiece-style model of components.json, with the
// normalizers of Llama 2.
func spm(t testing.TB, override map[string]any) *Tokenizer {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "components.json"))
	require.NoError(t, err)
	var f componentsFile
	require.NoError(t, json.Unmarshal(data, &f))
	j := map[string]any{
		"model": f.Models["spm"],
		"normalizer": json.RawMessage(`{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},
			{"type":"Replace","pattern":{"String":" "},"content":"▁"}]}`),
		"added_tokens": json.RawMessage(`[{"id":1,"content":"<s>","special":true},{"id":2,"content":"</s>","special":true},
			{"id":9999,"content":"<extra>"}]`),
	}
	for k, v := range override {
		j[k] = v
	}
	text, err := json.Marshal(j)
	require.NoError(t, err)
	tk, err := Parse(text)
	require.NoError(t, err)
	return tk
}

func TestOpenErrors(t *testing.T) {
	const model = `"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}`
	for _, c := range []struct{ name, text, want string }{
		{"not json", `{"model":`, "unexpected end"},
		{"no model", `{}`, "model: missing"},
		{"version", `{"version":"2.0",` + model + `}`, `version is "2.0", want "1.0"`},
		{"type", `{"model":{"type":"Markov","vocab":{"a":0}}}`, `model: type "Markov" is not supported (supported: BPE, Unigram, WordPiece, WordLevel)`},
		{"unigram pair", `{"model":{"type":"Unigram","vocab":[["a"]]}}`, `model: vocab: ["a"] is not a ["token", score] pair`},
		{"unigram unk_id", `{"model":{"type":"Unigram","unk_id":1,"vocab":[["a",-0.5]]}}`, `model: unk_id is 1, want 0 to 0`},
		{"unigram without type", `{"model":{"vocab":[["a",true]]}}`, `is not a ["token", score] pair`},
		{"wordpiece", `{"model":{"type":"WordPiece","vocab":{"a":0}}}`, `model: unk_token "[UNK]" is not in the vocabulary`},
		{"wordlevel", `{"model":{"type":"WordLevel","unk_token":"?","vocab":{"a":0}}}`, `model: unk_token "?" is not in the vocabulary`},
		{"no merges", `{"model":{"type":"BPE","vocab":{"a":0}}}`, "vocab or merges missing"},
		{"bad merge", `{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b c"]}}`, `merge 0 is "a b c"`},
		{"bad pair", `{"model":{"type":"BPE","vocab":{"a":0},"merges":[["a"]]}}`, `merge 0 has 1 parts`},
		{"merges type", `{"model":{"type":"BPE","vocab":{"a":0},"merges":7}}`, `neither "a b" strings nor`},
		{"merge part", `{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}`, `merge 0 ("a", "b"): "b" is not in the vocabulary`},
		{"merge result", `{"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}}`, `"ab" is not in the vocabulary`},
		{"negative id", `{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}`, `token "a" has id -1`},
		{"huge id", `{"model":{"type":"BPE","vocab":{"a":2000000000},"merges":[]}}`, `token "a" has id 2000000000`},
		{"shared id", `{"model":{"type":"BPE","vocab":{"a":3,"b":3},"merges":[]}}`, `"a" and "b" share id 3`},
		{"unk", `{"model":{"type":"BPE","unk_token":"?","vocab":{"a":0},"merges":[]}}`, `unk_token "?" is not in the vocabulary`},
		{"normalizer", `{` + model + `,"normalizer":{"type":"Magic"}}`, `normalizer: type "Magic" is not supported (supported: Sequence, Prepend`},
		{"normalizer in sequence", `{` + model + `,"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"X"}]}}`, `normalizer.normalizers[1]: type "X"`},
		{"no type", `{` + model + `,"normalizer":{}}`, `normalizer: no "type"`},
		{"pre-tokenizer", `{` + model + `,"pre_tokenizer":{"type":"Magic"}}`, `pre_tokenizer: type "Magic" is not supported`},
		{"behavior", `{` + model + `,"pre_tokenizer":{"type":"Split","pattern":{"String":"a"},"behavior":"Gone"}}`, `behavior "Gone" is not known`},
		{"pattern", `{` + model + `,"pre_tokenizer":{"type":"Split","pattern":{},"behavior":"Isolated"}}`, `neither "String" nor "Regex"`},
		{"regex", `{` + model + `,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"a("},"behavior":"Isolated"}}`, `pre_tokenizer: pattern "a(": missing )`},
		{"intersection", `{` + model + `,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"[a&&b]"},"behavior":"Isolated"}}`, `class intersection && is not supported`},
		{"charsmap", `{` + model + `,"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAEAAA=="}}`, `normalizer: precompiled_charsmap: trie of 256 bytes in 0 bytes of data`},
		{"fixed length", `{` + model + `,"pre_tokenizer":{"type":"FixedLength","length":0}}`, `pre_tokenizer: length is 0, want at least 1`},
		{"metaspace", `{` + model + `,"pre_tokenizer":{"type":"Metaspace","replacement":"ab"}}`, `replacement is "ab", want one character`},
		{"scheme", `{` + model + `,"pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"last"}}`, `prepend_scheme is "last"`},
		{"contradiction", `{` + model + `,"pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"first","add_prefix_space":false}}`, `contradicts`},
		{"post-processor", `{` + model + `,"post_processor":{"type":"Magic"}}`, `post_processor: type "Magic" is not supported`},
		{"template without A", `{` + model + `,"post_processor":{"type":"TemplateProcessing","single":[]}}`, "does not hold the sequence A"},
		{"template token", `{` + model + `,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}}]}}`, `"<s>" is not among special_tokens`},
		{"template id", `{` + model + `,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"s"}},{"Sequence":{"id":"A"}}],"special_tokens":{"s":{"ids":[77]}}}}`, "id 77 is not in the vocabulary"},
		{"decoder", `{` + model + `,"decoder":{"type":"Magic"}}`, `decoder: type "Magic" is not supported`},
		{"nesting", `{` + model + `,"normalizer":` + strings.Repeat(`{"type":"Sequence","normalizers":[`, 20) + `{"type":"NFC"}` + strings.Repeat("]}", 20) + `}`, "nested deeper than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), fileName)
			require.NoError(t, os.WriteFile(path, []byte(c.text), 0o644))
			_, err := Open(path)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, path)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestOpenMissing(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(filepath.Join(dir, "nowhere"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Open(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, fileName)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.model"), nil, 0o644))
	_, err = Open(dir)
	require.ErrorContains(t, err, "tokenizer.model: no pieces")
}

func TestMergesAsPairs(t *testing.T) {
	lines, err := Parse([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"aba":3},"merges":["#version: 0.2","a b","ab a"]}}`))
	require.NoError(t, err)
	pairs, err := Parse([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"aba":3},"merges":[["a","b"],["ab","a"]]}}`))
	require.NoError(t, err)
	require.Equal(t, []int32{3, 2}, lines.Encode("abaab"))
	require.Equal(t, []int32{3, 2}, pairs.Encode("abaab"))
	require.Equal(t, [][2]string{{"a", "b"}, {"ab", "a"}}, pairs.Merges())
	require.Equal(t, lines.Merges(), pairs.Merges())
}

func TestInvalidUTF8(t *testing.T) {
	// Substitution of maximal subparts: table 3-8 of the Unicode standard.
	for in, want := range map[string]string{
		"a\x80b": "a\uFFFDb", "\xC2": "\uFFFD", "\xE0\x80\x80": "\uFFFD\uFFFD\uFFFD", "\xF0\x9F\x99x": "\uFFFDx",
		"\xED\xA0\x80": "\uFFFD\uFFFD\uFFFD", "\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42": "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA\uFFFD\uFFFDB",
		"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41": "\uFFFD\uFFFD\uFFFD\uFFFDA",
	} {
		require.Equal(t, want, chars.ValidUTF8(in), "%q", in)
	}
	tk := tinyLlama(t)
	require.Equal(t, tk.Encode("a\uFFFDb"), tk.Encode("a\x80b"))
	// A character cut in half by the list of ids.
	ids := tk.Encode("日")
	require.Equal(t, "\uFFFD", tk.Decode(ids[:1]))
}

func TestDecodeUnknownIDs(t *testing.T) {
	tk := tinyLlama(t)
	require.Equal(t, "", tk.Decode(nil))
	require.Equal(t, "a", tk.Decode([]int32{-1, 64, 1 << 30, int32(tk.VocabSize())}))
}

func TestIntrospectionByteLevel(t *testing.T) {
	tk := tinyLlama(t)
	require.Equal(t, ByteLevel, tk.Kind())
	require.Equal(t, 1024, tk.VocabSize())
	for _, role := range []func() (int32, bool){tk.BOS, tk.EOS, tk.Unknown} {
		id, ok := role()
		require.True(t, ok)
		require.Equal(t, int32(1023), id)
	}
	_, ok := tk.Padding()
	require.False(t, ok)
	require.False(t, tk.AddsBOS())
	require.False(t, tk.AddsEOS())
	require.Empty(t, tk.ChatTemplate())
	require.Empty(t, tk.SplitRegexes())
	tokens, types := tk.Vocab()
	require.Len(t, tokens, 1024)
	require.Equal(t, "!", tokens[0])
	require.Equal(t, "Ġ", tokens[220])
	require.Equal(t, Normal, types[220])
	require.Equal(t, "<|endoftext|>", tokens[1023])
	require.Equal(t, Control, types[1023])
	merges := tk.Merges()
	require.Len(t, merges, 767)
	require.Equal(t, [2]string{"Ġ", "t"}, merges[0])
	for id, s := range tokens {
		got, ok := tk.ID(s)
		require.True(t, ok)
		require.Equal(t, int32(id), got)
	}
	_, ok = tk.ID("no such token")
	require.False(t, ok)
	_, ok = tk.Token(1024)
	require.False(t, ok)
}

func TestIntrospectionSentencePiece(t *testing.T) {
	tk := spm(t, nil)
	require.Equal(t, SentencePiece, tk.Kind())
	tokens, types := tk.Vocab()
	require.Equal(t, Unknown, types[0])
	require.Equal(t, Control, types[1])
	require.Equal(t, "<0x00>", tokens[3])
	require.Equal(t, Byte, types[3])
	require.Equal(t, Byte, types[258])
	require.Equal(t, Normal, types[259])
	// An added token takes the next free id, whatever the file says.
	id, ok := tk.ID("<extra>")
	require.True(t, ok)
	require.Equal(t, len(tokens)-1, int(id))
	require.Equal(t, UserDefined, types[id])

	scores := tk.Scores()
	require.Len(t, scores, len(tokens))
	for rank, m := range tk.Merges() {
		id, ok := tk.ID(m[0] + m[1])
		require.True(t, ok)
		require.GreaterOrEqual(t, scores[id], -float32(rank))
		require.LessOrEqual(t, scores[id], float32(0))
	}
	require.Zero(t, scores[0])
	require.Zero(t, scores[3])
}

func TestSpecialTokens(t *testing.T) {
	const tok = `{"model":{"type":"BPE","vocab":{"<s>":0,"</s>":1,"<unk>":2,"a":3,"<pad>":4},"merges":[]},
		"added_tokens":[{"content":"<s>","special":true},{"content":"</s>","special":true}],
		"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"ids":[0]}}}}`
	for _, c := range []struct {
		name                 string
		conf, tokens, config string
		bos, eos, unk        int32 // -1: none
		adds                 bool
		template             string
	}{
		{name: "nothing", bos: -1, eos: -1, unk: -1},
		{name: "strings", conf: `{"bos_token":"<s>","eos_token":"</s>","unk_token":"<unk>","added_tokens_decoder":{}}`, bos: 0, eos: 1, unk: 2, adds: true},
		{name: "objects", conf: `{"bos_token":{"content":"<s>"},"eos_token":{"content":"</s>"}}`, bos: 0, eos: 1, unk: -1, adds: true},
		{name: "null counts", conf: `{"bos_token":null,"eos_token":"</s>","added_tokens_decoder":{}}`, tokens: `{"bos_token":"<s>"}`,
			config: `{"bos_token_id":0}`, bos: -1, eos: 1, unk: -1},
		{name: "map fills in null", conf: `{"bos_token":null}`, tokens: `{"bos_token":"<s>","eos_token":{"content":"</s>"}}`, bos: 0, eos: 1, unk: -1, adds: true},
		{name: "map alone", tokens: `{"bos_token":"<s>"}`, bos: 0, eos: -1, unk: -1, adds: true},
		{name: "config ids", config: `{"bos_token_id":0,"eos_token_id":[1,3]}`, bos: 0, eos: 1, unk: -1, adds: true},
		{name: "config id out of range", config: `{"bos_token_id":50}`, bos: -1, eos: -1, unk: -1},
		{name: "class default", conf: `{"tokenizer_class":"LlamaTokenizerFast"}`, bos: 0, eos: 1, unk: 2, adds: true},
		{name: "add_bos_token", conf: `{"bos_token":"<s>","add_bos_token":false,"chat_template":"{{ x }}"}`, bos: 0, eos: -1, unk: -1, template: "{{ x }}"},
		{name: "named templates", conf: `{"chat_template":[{"name":"tool","template":"t"},{"name":"default","template":"d"}]}`, bos: -1, eos: -1, unk: -1, template: "d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{fileName: tok, "tokenizer_config.json": c.conf, "special_tokens_map.json": c.tokens, "config.json": c.config} {
				if text != "" {
					require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
				}
			}
			tk, err := Open(dir)
			require.NoError(t, err)
			check := func(want int32, got func() (int32, bool)) {
				id, ok := got()
				require.Equal(t, want >= 0, ok)
				require.Equal(t, max(want, 0), id)
			}
			check(c.bos, tk.BOS)
			check(c.eos, tk.EOS)
			check(c.unk, tk.Unknown)
			require.Equal(t, c.adds, tk.AddsBOS())
			require.Equal(t, c.template, tk.ChatTemplate())
			require.Equal(t, []int32{0, 3}, tk.EncodeSpecial("a"))
		})
	}
	t.Run("damaged", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileName), []byte(tok), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(`{"bos`), 0o644))
		_, err := Open(dir)
		require.ErrorContains(t, err, "tokenizer_config.json")
	})
	t.Run("template file", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileName), []byte(tok), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte("jinja"), 0o644))
		tk, err := Open(dir)
		require.NoError(t, err)
		require.Equal(t, "jinja", tk.ChatTemplate())
		require.Equal(t, "jinja", tk.ToolTemplate())
		require.NoError(t, os.Mkdir(filepath.Join(dir, "additional_chat_templates"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "additional_chat_templates", "tool_use.jinja"), []byte("tools"), 0o644))
		tk, err = Open(dir)
		require.NoError(t, err)
		require.Equal(t, "jinja", tk.ChatTemplate())
		require.Equal(t, "tools", tk.ToolTemplate())
	})
	t.Run("template for tools", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileName), []byte(tok), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(`{"chat_template":[{"name":"default","template":"d"},{"name":"tool_use","template":"t"}]}`), 0o644))
		tk, err := Open(dir)
		require.NoError(t, err)
		require.Equal(t, "d", tk.ChatTemplate())
		require.Equal(t, "t", tk.ToolTemplate())
	})
}

func TestConcurrentUse(t *testing.T) {
	tk := tinyLlama(t)
	text, err := os.ReadFile(filepath.Join("testdata", "golden", "tinyllama-2m.json"))
	require.NoError(t, err)
	want := tk.Encode(string(text))
	var wg sync.WaitGroup
	got := make([][]int32, 4)
	for i := range got {
		wg.Go(func() { got[i] = tk.Encode(string(text)) })
	}
	wg.Wait()
	for _, ids := range got {
		require.Equal(t, want, ids)
	}
}

// TestLongWord merges a megabyte without a space; a quadratic method would not
// come to an end.
func TestLongWord(t *testing.T) {
	tk := tinyLlama(t)
	s := strings.Repeat("theandwas", 1<<20/9)
	ids := tk.Encode(s)
	require.Less(t, len(ids), len(s)/2)
	require.Equal(t, s, tk.Decode(ids))
	two := spm(t, nil)
	require.Less(t, len(two.Encode(s)), len(s))
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"model":{"type":"BPE","unk_token":"a","byte_fallback":true,"vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]},
		"added_tokens":[{"content":"<s>","lstrip":true,"single_word":true},{"content":"x","normalized":true,"rstrip":true}],
		"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Replace","pattern":{"Regex":"\\s+"},"content":" "}]},
		"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(?i:a|[^\\p{L}]++)(?!b)"},"behavior":"MergedWithNext","invert":true},
		"decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Strip","content":" ","start":1,"stop":1}]},
		"post_processor":{"type":"RobertaProcessing","cls":["a",0],"sep":["b",1]}}`))
	f.Add([]byte(`{"model":{"vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first"}}`))
	f.Add([]byte(`{"model":{"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["<unk>",0],["▁",-2],["a",-1.5],["ab",-1]]},
		"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"UnicodeScripts"},{"type":"FixedLength","length":3}]}}`))
	f.Add([]byte(`{"model":{"type":"WordPiece","unk_token":"u","continuing_subword_prefix":"##","max_input_chars_per_word":9,"vocab":{"u":0,"a":1,"##b":2}},
		"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
		"pre_tokenizer":{"type":"BertPreTokenizer"},"decoder":{"type":"WordPiece","prefix":"##","cleanup":true}}`))
	f.Add([]byte(`{"model":{"type":"WordLevel","unk_token":"u","vocab":{"u":0,"a":1}},"normalizer":{"type":"Precompiled","precompiled_charsmap":""},
		"pre_tokenizer":{"type":"Digits"},"decoder":{"type":"CTC","pad_token":"a"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tk, err := Parse(data)
		if err != nil {
			return
		}
		// A regular expression of the file may take exponential time, so texts stay short.
		ids := tk.EncodeSpecial(" aab x<s>é")
		for _, id := range ids {
			if _, ok := tk.Token(id); !ok {
				t.Fatalf("id %d is no token", id)
			}
		}
		tk.Decode(ids)
		tk.Vocab()
		tk.Scores()
		tk.Merges()
	})
}

func FuzzRoundTrip(f *testing.F) {
	tk := tinyLlama(f)
	for _, s := range []string{"Hello  world\r\n", "日本語🦙", "<|endoftext|>'s", "\x80\xff", strings.Repeat("a ", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ids := tk.Encode(s)
		want := chars.ValidUTF8(s)
		if utf8.ValidString(s) {
			require.Equal(t, s, want)
		}
		require.Equal(t, string(bytes.ToValidUTF8([]byte(want), nil)), want)
		require.Equal(t, want, tk.Decode(ids))
		require.LessOrEqual(t, len(ids), len(want))
	})
}

func benchText() string {
	// English-like text of 1 MB without repeating the very same line.
	words := strings.Fields("the quick brown fox jumps over a lazy dog while Lily's mom wasn't looking, and then 1234 birds sang: hello!")
	var b strings.Builder
	x := uint32(1)
	for b.Len() < 1<<20 {
		x = x*1664525 + 1013904223
		w := words[x>>16%uint32(len(words))]
		b.WriteString(w)
		if x>>28 == 0 {
			fmt.Fprintf(&b, "%x", x)
		}
		b.WriteByte(" \n"[x>>27&1&(x>>26)])
	}
	return b.String()
}

func benchEncode(b *testing.B, tk *Tokenizer, s string) {
	b.SetBytes(int64(len(s)))
	b.ReportAllocs()
	for b.Loop() {
		tk.Encode(s)
	}
}

func BenchmarkEncodeByteLevel(b *testing.B)     { benchEncode(b, tinyLlama(b), benchText()) }
func BenchmarkEncodeSentencePiece(b *testing.B) { benchEncode(b, spm(b, nil), benchText()) }
func BenchmarkEncodeLongWord(b *testing.B) {
	benchEncode(b, tinyLlama(b), strings.Repeat("theandwas", 1<<20/9))
}
func BenchmarkEncodePublished(b *testing.B) {
	for _, name := range []string{"llama2", "llama3", "qwen2_5"} {
		b.Run(name, func(b *testing.B) {
			tk, err := Open(published(b, name))
			require.NoError(b, err)
			benchEncode(b, tk, benchText())
		})
	}
}

// BenchmarkEncodeRegexp2 is the general way, without a hand-written splitter.
func BenchmarkEncodeRegexp2(b *testing.B) {
	tk := tinyLlama(b)
	re, err := pattern.Compile(`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s`)
	require.NoError(b, err)
	tk.pre = &preTokenizer{stages: []stage{cut(re.Find, isolated)}, bytes: true}
	benchEncode(b, tk, benchText())
}

func BenchmarkDecode(b *testing.B) {
	tk := tinyLlama(b)
	ids := tk.Encode(benchText())
	b.SetBytes(1 << 20)
	for b.Loop() {
		tk.Decode(ids)
	}
}

func TestOpenFS(t *testing.T) {
	fsys := fstest.MapFS{
		fileName:                {Data: []byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}`)},
		"tokenizer_config.json": {Data: []byte(`{"bos_token":"ab"}`)},
	}
	tk, err := OpenFS(fsys)
	require.NoError(t, err)
	require.Equal(t, []int32{2, 0}, tk.Encode("aba"))
	bos, ok := tk.BOS()
	require.True(t, ok)
	require.Equal(t, int32(2), bos)
	fsys["tokenizer_config.json"] = &fstest.MapFile{Data: []byte(`[`)}
	_, err = OpenFS(fsys)
	require.ErrorContains(t, err, "tokenizer_config.json: unexpected end")
	_, err = OpenFS(fstest.MapFS{})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.EqualError(t, err, "open tokenizer.json: file does not exist (nor tokenizer.model, spiece.model, tekken.json, vocab.json or vocab.txt)")
	_, err = OpenFS(fstest.MapFS{"vocab.json": {}})
	require.ErrorContains(t, err, "open merges.txt: file does not exist")

	tk, err = Parse(fsys[fileName].Data)
	require.NoError(t, err)
	_, ok = tk.BOS()
	require.False(t, ok)
}
