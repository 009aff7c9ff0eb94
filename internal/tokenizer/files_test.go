package tokenizer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// files is a folder of the given contents.
func files(contents map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range contents {
		if text != "" {
			fsys[name] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	return fsys
}

const letters = `{"model":{"type":"BPE","vocab":{"a":0,"b":1,"<":2,"|":3,"x":4,">":5},"merges":[]},
	"added_tokens":[{"id":6,"content":"<s>","special":true}]}`

func TestListedTokens(t *testing.T) {
	const decoder = `"added_tokens_decoder":{"6":{"content":"<s>"},"8":{"content":"<|x|>","special":true},"7":{"content":"ab","rstrip":true}}`
	for _, c := range []struct {
		name, conf, tokens, added, config string
		text                              string
		ids                               []int32
		eos                               int32
		fails                             string
	}{
		{name: "nothing", text: "<|x|>", ids: []int32{2, 3, 4, 3, 5}, eos: -1},
		{name: "decoder", conf: `{` + decoder + `,"eos_token":"<|x|>"}`, text: "a<|x|>ab b<s>", ids: []int32{0, 8, 7, 1, 6}, eos: 8},
		{name: "byte order mark", conf: "\uFEFF{" + decoder + `}`, text: "<|x|>", ids: []int32{8}, eos: -1},
		{name: "added_tokens.json", added: `{"<|x|>":7,"ab":8}`, tokens: `{"eos_token":"<|x|>"}`, text: "a<|x|>ab b", ids: []int32{0, 7, 8, 1}, eos: 7},
		{name: "gap", added: `{"<|x|>":9}`, text: "<|x|>", ids: []int32{9}, eos: -1},
		{name: "in the vocabulary", conf: `{"added_tokens_decoder":{"0":{"content":"b","special":true}}}`, text: "ab", ids: []int32{0, 1}, eos: -1},
		{name: "by role", conf: `{"eos_token":"<|x|>"}`, text: "a<|x|>b", ids: []int32{0, 7, 1}, eos: 7},
		{name: "by role, an object", conf: `{"eos_token":{"content":"<|x|>","lstrip":true}}`, text: "a <|x|>b", ids: []int32{0, 7, 1}, eos: 7},
		{name: "additional", conf: `{"additional_special_tokens":["<|x|>",{"content":"ab"}]}`, text: "ab<|x|>", ids: []int32{8, 7}, eos: -1},
		{name: "class default is not added", conf: `{"tokenizer_class":"LlamaTokenizer"}`, text: "<|x|>", ids: []int32{2, 3, 4, 3, 5}, eos: -1},
		{name: "vocab_size allows", conf: `{` + decoder + `}`, config: `{"vocab_size":9}`, text: "<|x|>", ids: []int32{8}, eos: -1},
		{name: "vocab_size", conf: `{` + decoder + `}`, config: `{"text_config":{"vocab_size":8}}`,
			fails: `tokenizer_config.json: token "<|x|>" has id 8, but vocab_size in config.json is 8: the model does not know it`},
		{name: "role beyond vocab_size", conf: `{"eos_token":"<|x|>"}`, config: `{"vocab_size":7}`, fails: `token "eos_token <|x|>" has id 7`},
		{name: "taken", added: `{"<|x|>":6}`, fails: `added_tokens.json: token "<|x|>" has id 6, which the tokenizer has for "<s>"`},
		{name: "negative", added: `{"<|x|>":-1}`, fails: `added_tokens.json: token "<|x|>" has id -1, want 0 to`},
		{name: "huge", added: `{"<|x|>":1000000000}`, fails: `has id 1000000000, want 0 to`},
		{name: "no id", conf: `{"added_tokens_decoder":{"x":{"content":"y"}}}`, fails: `tokenizer_config.json: added_tokens_decoder: "x" is no id`},
		{name: "no number", added: `{"<|x|>":"7"}`, fails: `added_tokens.json: "<|x|>": json`},
		{name: "no object", conf: `{"added_tokens_decoder":[1]}`, fails: `tokenizer_config.json: added_tokens_decoder: json`},
	} {
		t.Run(c.name, func(t *testing.T) {
			tk, err := OpenFS(files(map[string]string{
				fileName: letters, confName: c.conf, "special_tokens_map.json": c.tokens, addedName: c.added, modelName: c.config,
			}))
			if c.fails != "" {
				require.ErrorContains(t, err, c.fails)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.ids, tk.Encode(c.text))
			eos, ok := tk.EOS()
			require.Equal(t, c.eos >= 0, ok)
			require.Equal(t, max(c.eos, 0), eos)
		})
	}
}

func TestConfigID(t *testing.T) {
	tk, err := OpenFS(files(map[string]string{
		fileName: letters, confName: `{"bos_token":null}`, modelName: `{"bos_token_id":6,"text_config":{"pad_token_id":1},"unk_token_id":99}`,
		"generation_config.json": `{"bos_token_id":2,"eos_token_id":[4,5]}`,
	}))
	require.NoError(t, err)
	for role, want := range map[string]int32{"bos": 6, "eos": 4, "pad": 1} {
		id, ok := tk.ConfigID(role)
		require.True(t, ok, role)
		require.Equal(t, want, id, role)
	}
	_, ok := tk.ConfigID("unk") // not in the vocabulary
	require.False(t, ok)
	_, ok = tk.BOS() // null counts
	require.False(t, ok)
	eos, ok := tk.EOS()
	require.True(t, ok)
	require.Equal(t, int32(4), eos)
}

// TestSentencePieceFolder opens a model with other files beside it.
func TestSentencePieceFolder(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "trained", "sentencepiece-bpe-bytefallback", "tokenizer.model"))
	require.NoError(t, err)
	model := string(data)
	open := func(conf string) *Tokenizer {
		tk, err := OpenFS(files(map[string]string{"tokenizer.model": model, confName: conf}))
		require.NoError(t, err)
		return tk
	}
	alone := open("")
	require.Equal(t, SentencePiece, alone.Kind())
	require.Equal(t, []int32{1}, alone.Prefix())
	require.Empty(t, alone.Suffix())
	require.True(t, alone.AddsBOS())
	require.False(t, alone.AddsEOS())
	for role, want := range map[int32]func() (int32, bool){0: alone.Unknown, 1: alone.BOS, 2: alone.EOS} {
		id, ok := want()
		require.True(t, ok)
		require.Equal(t, role, id)
	}
	tokens, types := alone.Vocab()
	require.Equal(t, []TokenType{Unknown, Control, Control, Byte}, types[:4])
	require.Equal(t, Normal, types[300])
	require.Equal(t, "<0x00>", tokens[3])
	scores := alone.Scores()
	require.Zero(t, scores[0])
	require.Less(t, scores[400], scores[300])

	// Control pieces are text unless a file names them.
	require.NotContains(t, alone.Encode("a<s>a"), int32(1))
	a := alone.Encode("a")
	named := open(`{"bos_token":"<s>","add_bos_token":false,"add_eos_token":true,"eos_token":"</s>"}`)
	require.Equal(t, append(append(a[:1:1], 1), a...), named.Encode("a<s>a"))
	require.Empty(t, named.Prefix())
	require.Equal(t, []int32{2}, named.Suffix())
	// Only the start of the text is prefixed.
	later := open(`{"bos_token":"<s>","legacy":false}`)
	id, ok := later.ID("a")
	require.True(t, ok)
	require.Equal(t, []int32{a[0], 1, id}, later.Encode("a<s>a"))
	require.Equal(t, a, later.Encode("a"))
	// A token beyond the model.
	added := open(`{"added_tokens_decoder":{"900":{"content":"<|x|>","special":true}},"pad_token":"<|x|>"}`)
	require.Equal(t, []int32{a[0], 900}, added.Encode("a<|x|>"))
	require.Equal(t, 901, added.VocabSize())
	pad, ok := added.Padding()
	require.True(t, ok)
	require.Equal(t, int32(900), pad)
	require.Equal(t, "a<|x|>", added.Decode([]int32{a[0], 900}))
	// T5 ends with EOS.
	require.Equal(t, []int32{2}, open(`{"tokenizer_class":"T5Tokenizer"}`).Suffix())

	_, err = OpenFS(files(map[string]string{"tokenizer.model": model, confName: `{"tokenizer_class":"XLMRobertaTokenizer"}`}))
	require.ErrorContains(t, err, "a tokenizer of class XLMRobertaTokenizer has other ids than its SentencePiece model")
	_, err = OpenFS(files(map[string]string{"tokenizer.model": "IQ== 0\nIg== 1\n"}))
	require.ErrorContains(t, err, "tokenizer.model: a tiktoken vocabulary, no SentencePiece model: save it with transformers as tokenizer.json")
}

// TestVocabFiles holds the older forms to the tokenizer.json they stand for.
func TestVocabFiles(t *testing.T) {
	var tiny struct {
		Model struct {
			Vocab  json.RawMessage
			Merges []string
		}
	}
	data, err := os.ReadFile(filepath.Join("testdata", "tinyllama-2m", fileName))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &tiny))
	merges := "#version: 0.2\n" + strings.Join(tiny.Model.Merges, "\r\n") + "\n"
	open := func(conf string) (*Tokenizer, error) {
		return OpenFS(files(map[string]string{"vocab.json": string(tiny.Model.Vocab), "merges.txt": merges, confName: conf}))
	}
	want := tinyLlama(t)
	got, err := open(`{"tokenizer_class":"GPT2Tokenizer"}`)
	require.NoError(t, err)
	require.Equal(t, ByteLevel, got.Kind())
	const text = "Once  upon a time<|endoftext|>it's é日\n\n12"
	require.Equal(t, want.Encode(text), got.Encode(text))
	require.Equal(t, text, got.Decode(got.Encode(text)))
	require.Equal(t, want.Encode(text), got.EncodeSpecial(text))
	qwen, err := open(`{"tokenizer_class":"Qwen2Tokenizer","add_prefix_space":false}`)
	require.NoError(t, err)
	require.NotEmpty(t, qwen.SplitRegexes())
	require.Equal(t, qwen.Encode("\u00e9"), qwen.Encode("e\u0301"))
	_, err = open(`{"tokenizer_class":"CLIPTokenizer"}`)
	require.ErrorContains(t, err, "vocab.json: how a tokenizer of class CLIPTokenizer reads it is not known here")

	dir := filepath.Join("testdata", "trained", "wordpiece-bert")
	bert, err := Open(dir)
	require.NoError(t, err)
	tokens, _ := bert.Vocab()
	vocab := strings.Join(tokens, "\n") + "\n"
	again, err := OpenFS(files(map[string]string{"vocab.txt": vocab, confName: `{"tokenizer_class":"BertTokenizer"}`}))
	require.NoError(t, err)
	require.Equal(t, WordPiece, again.Kind())
	const words = "The Quick [MASK] brown-fox, déjà 日本 vu"
	require.Equal(t, bert.EncodeSpecial(words), again.EncodeSpecial(words))
	cased, err := OpenFS(files(map[string]string{"vocab.txt": vocab, confName: `{"do_lower_case":false}`}))
	require.NoError(t, err)
	require.NotEqual(t, bert.Encode(words), cased.Encode(words))
	_, err = OpenFS(files(map[string]string{"vocab.txt": vocab, confName: `{"tokenizer_class":"EsmTokenizer"}`}))
	require.ErrorContains(t, err, "class EsmTokenizer")
}

func TestTekken(t *testing.T) {
	make := func(change func(map[string]any)) (*Tokenizer, error) {
		var vocab []any
		add := func(s string) {
			vocab = append(vocab, map[string]any{"rank": len(vocab), "token_bytes": base64.StdEncoding.EncodeToString([]byte(s))})
		}
		for b := range 256 {
			add(string([]byte{byte(b)}))
		}
		for _, s := range []string{"th", "the", " t", " the", "é", "beyond"} {
			add(s)
		}
		f := map[string]any{
			"config":         map[string]any{"pattern": ` ?\p{L}+|\s+|.`, "default_vocab_size": 265, "default_num_special_tokens": 4},
			"vocab":          vocab,
			"special_tokens": []any{map[string]any{"rank": 1, "token_str": "<s>"}, map[string]any{"rank": 0, "token_str": "<unk>"}, map[string]any{"rank": 2, "token_str": "</s>"}},
		}
		change(f)
		data, err := json.Marshal(f)
		require.NoError(t, err)
		return OpenFS(files(map[string]string{"tekken.json": string(data)}))
	}
	tk, err := make(func(map[string]any) {})
	require.NoError(t, err)
	require.Equal(t, ByteLevel, tk.Kind())
	require.Equal(t, 265, tk.VocabSize())
	require.Equal(t, []int32{1, 261, 263, 264, 4 + 'b'}, tk.EncodeSpecial("the theéb"))
	require.Equal(t, []int32{4 + 'x', 2}, tk.Encode("x</s>"))
	require.Equal(t, "the theéb", tk.Decode([]int32{261, 263, 264, 4 + 'b'}))
	s, ok := tk.Token(3)
	require.True(t, ok)
	require.Equal(t, "<SPECIAL_3>", s)
	require.Equal(t, ` ?\p{L}+|\s+|.`, tk.SplitRegexes())
	for name, c := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"small":  {func(f map[string]any) { f["config"].(map[string]any)["default_vocab_size"] = 100 }, "default_vocab_size 100 less 4 special tokens"},
		"large":  {func(f map[string]any) { f["config"].(map[string]any)["default_vocab_size"] = 1000 }, "want 256 to 262"},
		"twice":  {func(f map[string]any) { f["vocab"].([]any)[5].(map[string]any)["token_bytes"] = "AA==" }, "1 of 261 byte strings are there twice"},
		"rank":   {func(f map[string]any) { f["vocab"].([]any)[5].(map[string]any)["rank"] = 7 }, "vocab: rank 6"},
		"regex":  {func(f map[string]any) { f["config"].(map[string]any)["pattern"] = "(" }, "missing )"},
		"base64": {func(f map[string]any) { f["vocab"].([]any)[5].(map[string]any)["token_bytes"] = "?" }, "illegal base64"},
	} {
		_, err := make(c.change)
		require.ErrorContains(t, err, c.want, name)
		require.ErrorContains(t, err, "tekken.json: ", name)
	}
}

// TestLongTexts encodes a text without a place to cut with every kind of tokenizer: a
// quadratic method would not come to an end.
func TestLongTexts(t *testing.T) {
	size := 1 << 18
	if testing.Short() {
		size = 1 << 15
	}
	dirs, err := filepath.Glob(filepath.Join("testdata", "trained", "*"))
	require.NoError(t, err)
	for _, dir := range dirs {
		tk, err := Open(dir)
		require.NoError(t, err)
		for _, s := range []string{"a", "ъ", " ", "▁", "日", "theandwas", "\u0301", "👩\u200d"} {
			require.NotPanics(t, func() { tk.Encode(strings.Repeat(s, size/len(s))) }, fmt.Sprintf("%s, %q", dir, s))
		}
	}
	// White space that an added token takes along is looked at once.
	tk, err := Parse([]byte(`{"model":{"type":"WordLevel","unk_token":"u","vocab":{"u":0}},
		"added_tokens":[{"content":"  ","rstrip":true},{"content":"\t","lstrip":true}]}`))
	require.NoError(t, err)
	require.Len(t, tk.Encode(strings.Repeat(" ", size)), size/2)
	require.Len(t, tk.Encode(strings.Repeat(" ", size)+"\t"), size/2)
}
