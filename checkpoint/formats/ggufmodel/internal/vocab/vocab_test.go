package vocab

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/internal/tokenizer/pattern"
)

// fileWithTokenizer writes a file that holds the tokenizer of a folder, and
// nothing of a model.
func fileWithTokenizer(t *testing.T, dir string, padding int) *gguf.File {
	tok, err := tokenizer.Open(dir)
	require.NoError(t, err)
	kv, err := Metadata(tok, os.DirFS(dir), tok.VocabSize()+padding)
	require.NoError(t, err)
	return fileOf(t, kv)
}

func fileOf(t testing.TB, kv []gguf.KV, tensors ...gguf.Tensor) *gguf.File {
	path := filepath.Join(t.TempDir(), "x.gguf")
	w, err := gguf.Create(path, kv, tensors)
	require.NoError(t, err)
	for _, tn := range tensors {
		require.NoError(t, w.Append(tn.Name, make([]byte, tn.Bytes())))
	}
	require.NoError(t, w.Close())
	f, err := gguf.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

// A tokenizer that went into a file and out again gives the same ids.
func TestGGUFTokenizerRoundTrip(t *testing.T) {
	for _, name := range []string{"tinyllama-2m", "tinystories-260k", "llama2", "llama3", "qwen2_5"} {
		t.Run(name, func(t *testing.T) {
			dir, golds := filepath.Join(formattest.ModuleRoot(t), "testdata", name), filepath.Join(formattest.ModuleRoot(t), "internal", "tokenizer", "testdata", "golden", name+".json")
			switch name {
			case "tinyllama-2m":
			case "tinystories-260k":
				dir, golds = formattest.ModelFolder(t, name), golden.Shared(t, filepath.Join("golden", "tokenizers", name+".json"))
			default:
				cache, err := os.UserCacheDir()
				if err != nil {
					cache = os.TempDir()
				}
				dir = filepath.Join(cache, "lowbit-tests", "tokenizer-"+name+"-3.7.2")
				if _, err := os.Stat(filepath.Join(dir, File)); err != nil {
					t.Skipf("needs the tokenizer of %s: run the tests of internal/tokenizer with LOWBIT_NPM=1 before", name)
				}
			}
			files, err := Files(fileWithTokenizer(t, dir, 3))
			require.NoError(t, err)
			out := t.TempDir()
			for name, data := range files {
				require.NoError(t, os.WriteFile(filepath.Join(out, name), data, 0o600))
			}
			was, err := tokenizer.Open(dir)
			require.NoError(t, err)
			is, err := tokenizer.Open(out)
			require.NoError(t, err)

			data, err := os.ReadFile(golds)
			require.NoError(t, err)
			type line struct {
				Text string  `json:"text"`
				IDs  []int32 `json:"ids"`
			}
			var lines []line
			if json.Unmarshal(data, &lines) != nil {
				var f struct{ Cases []line }
				require.NoError(t, json.Unmarshal(data, &f))
				lines = f.Cases
			}
			require.NotEmpty(t, lines)
			for _, l := range lines {
				require.Equal(t, append([]int32{}, l.IDs...), append([]int32{}, is.Encode(l.Text)...), "%q", l.Text)
				require.Equal(t, was.Decode(l.IDs), is.Decode(l.IDs))
			}
			require.Equal(t, was.Prefix(), is.Prefix())
			require.Equal(t, was.Suffix(), is.Suffix())
			require.Equal(t, was.AddsBOS(), is.AddsBOS())
			require.Equal(t, was.AddsEOS(), is.AddsEOS())
			require.Equal(t, was.ChatTemplate(), is.ChatTemplate())
			for _, role := range tokenRoles {
				id, ok := role.get(was)
				again, okAgain := role.get(is)
				require.Equal(t, ok, okAgain, role.role)
				require.Equal(t, id, again, role.role)
			}
			require.Equal(t, was.VocabSize(), is.VocabSize())
		})
	}
}

func TestPreTokenizerNames(t *testing.T) {
	with := `{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}`
	without := `{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}`
	split := func(regex string) string {
		return `{"type": "Split", "pattern": {"Regex": ` + jsonText(t, regex) + `}, "behavior": "Isolated", "invert": false}`
	}
	digits := func(individual string) string {
		return `{"type": "Digits", "individual_digits": ` + individual + `}`
	}
	seq := func(parts ...string) string {
		s := ""
		for i, p := range parts {
			if i > 0 {
				s += ", "
			}
			s += p
		}
		return `{"type": "Sequence", "pretokenizers": [` + s + `]}`
	}
	for _, c := range []struct{ name, pre, want string }{
		{"GPT-2", with, "gpt-2"},
		{"GPT-2 in a sequence", seq(with), "gpt-2"},
		{"digits", seq(digits("true"), with), "smollm"},
		{"llama 3 that always merges", seq(split(pattern.Llama3), without), "dbrx"},
		{"qwen 2 that composes nothing", seq(split(pattern.Qwen2), without), "stablelm2"},
		{"a pattern that does the same", seq(split(`(?:`+pattern.Qwen2+`)`), without), "stablelm2"},
		{"Falcon", seq(`{"type": "Punctuation", "behavior": "Contiguous"}`, with, digits("false"), split("[0-9][0-9][0-9]")), "falcon"},
		{"a space before", `{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}`, ""},
		{"no pattern", without, ""},
		{"runs of digits", seq(digits("false"), with), ""},
		{"another pattern", seq(split(`\w+`), without), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			k := readKinds(t)
			vocab := map[string]int{}
			for id, s := range k.Vocab {
				vocab[s] = id
			}
			file := `{"version": "1.0", "pre_tokenizer": ` + c.pre + `, "decoder": ` + with +
				`, "model": {"type": "BPE", "vocab": ` + jsonText(t, vocab) + `, "merges": ` + jsonText(t, k.Merges) + `}}`
			require.NoError(t, os.WriteFile(filepath.Join(dir, File), []byte(file), 0o600))
			tok, err := tokenizer.Open(dir)
			require.NoError(t, err)
			kv, err := Metadata(tok, os.DirFS(dir), len(vocab))
			if c.want == "" {
				require.ErrorIs(t, err, layout.ErrUnsupported)
				return
			}
			require.NoError(t, err)
			require.Contains(t, kv[:2], gguf.KV{Key: keyPre, Value: c.want})
		})
	}
}

// Every row of the embedding has a token of its own name.
func TestPaddedVocab(t *testing.T) {
	dir := t.TempDir()
	file := `{"version": "1.0", "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
		"added_tokens": [{"id": 4, "content": "<|x|>", "special": false}, {"id": 5, "content": "<tool>", "special": false}, {"id": 6, "content": "<s>", "special": true}],
		"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "[PAD8]": 2, "<|x|>": 4, "<tool>": 5, "<s>": 6}, "merges": []}}`
	require.NoError(t, os.WriteFile(filepath.Join(dir, File), []byte(file), 0o600))
	tok, err := tokenizer.Open(dir)
	require.NoError(t, err)
	tokens, types, err := paddedVocab(tok, 9)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "[PAD8]", "[PAD3]", "<|x|>", "<tool>", "<s>", "[PAD7]", "[[PAD8]]"}, tokens)
	require.Equal(t, []int32{1, 1, 1, 5, 3, 4, 3, 5, 5}, types)
	_, _, err = paddedVocab(tok, 6)
	require.ErrorContains(t, err, "7 tokens, but vocab_size is 6")
}

// Merges whose order no scores give are refused.
func TestScoresNeedOrder(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		merges string
		ok     bool
	}{
		{`["a b", "ab c"]`, true},
		{`["b c", "a b", "ab c", "a bc"]`, true},
		{`["ab c", "b c", "a bc", "a b"]`, false},
	} {
		file := `{"version": "1.0", "normalizer": {"type": "Prepend", "prepend": "▁"},
			"model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
			"vocab": {"<unk>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "bc": 5, "abc": 6, "▁": 7}, "merges": ` + c.merges + `}}`
		require.NoError(t, os.WriteFile(filepath.Join(dir, File), []byte(file), 0o600))
		tok, err := tokenizer.Open(dir)
		require.NoError(t, err)
		kv, err := Metadata(tok, os.DirFS(dir), 8)
		if !c.ok {
			require.ErrorIs(t, err, layout.ErrUnsupported)
			continue
		}
		require.NoError(t, err)
		require.Contains(t, kv, gguf.KV{Key: keyPrefixSpace, Value: true})
		require.Contains(t, kv, gguf.KV{Key: keyModel, Value: modelSPM})
	}
}

// Metadata from strangers.
func TestHostileTokenizer(t *testing.T) {
	good := map[string]any{
		keyModel: "gpt2", keyPre: "gpt-2", keyTokens: []string{"a", "b", "ab"},
		keyTypes: []int32{1, 1, 1}, keyMerges: []string{"a b"},
	}
	spm := map[string]any{
		keyModel: "llama", keyTokens: []string{"<unk>", "a", "b", "ab"}, keyTypes: []int32{2, 1, 1, 1},
		keyScores: []float32{0, 0, 0, 1},
	}
	for _, c := range []struct {
		name  string
		base  map[string]any
		key   string
		value any
		want  string
	}{
		{"good", good, "", nil, ""},
		{"good spm", spm, "", nil, ""},
		{"no types", good, keyTypes, nil, ""},
		{"model", good, keyModel, "bert", "bert"},
		{"model type", good, keyModel, uint32(1), "a uint32"},
		{"pre", good, keyPre, "of-mine", "of-mine"},
		{"tokens", good, keyTokens, []int32{1}, "a []int32"},
		{"no tokens", good, keyTokens, nil, "no key"},
		{"types", good, keyTypes, []int32{1}, "1 entries for 3 tokens"},
		{"UTF-8", good, keyTokens, []string{"a", "b", "\xff"}, "not UTF-8"},
		{"twice", good, keyTokens, []string{"a", "a", "ab"}, "has the ids 0 and 1"},
		{"merge", good, keyMerges, []string{"ab"}, "merge 0"},
		{"merge of nothing", good, keyMerges, []string{"b a"}, "merge 0"},
		{"bos", good, "tokenizer.ggml.bos_token_id", "x", "a string"},
		{"bos outside", good, "tokenizer.ggml.bos_token_id", uint32(9), ""},
		{"add", good, keyAddBOS, uint8(1), "want a bool"},
		{"scores", spm, keyScores, []float32{1}, "1 entries for 4 tokens"},
		{"unknown", spm, "tokenizer.ggml.unknown_token_id", uint32(4), "unknown token 4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var kv []gguf.KV
			for k, v := range c.base {
				if k != c.key {
					kv = append(kv, gguf.KV{Key: k, Value: v})
				}
			}
			if c.value != nil {
				kv = append(kv, gguf.KV{Key: c.key, Value: c.value})
			}
			files, err := Files(fileOf(t, kv))
			if c.want != "" {
				require.ErrorContains(t, err, c.want)
				return
			}
			require.NoError(t, err)
			dir := t.TempDir()
			for name, data := range files {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
			}
			tok, err := tokenizer.Open(dir)
			require.NoError(t, err)
			require.Contains(t, tok.Decode(tok.Encode("ab")), "ab")
		})
	}
}

func jsonText(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return string(data)
}
