package vocab

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

// kindsFile is a vocabulary whose merges cross every boundary, so that its ids show
// where a text is split, and what llama.cpp (node-llama-cpp 3.22.1) makes of texts by
// the name of the pre-tokenizer. HF are the ids of Hugging Face's tokenizers 0.23.3 for
// the texts, by number, of which llama.cpp approximates the pattern that models of this
// kind have been trained with.
type kindsFile struct {
	Vocab, Merges, Texts []string
	Kinds                []struct {
		Names []string
		IDs   [][]int32
		HF    map[string][]int32
	}
}

func readKinds(t *testing.T) kindsFile {
	data, err := os.ReadFile(filepath.Join("testdata", "pretokenizers.json"))
	require.NoError(t, err)
	var k kindsFile
	require.NoError(t, json.Unmarshal(data, &k))
	return k
}

func (k *kindsFile) metadata(name string) []gguf.KV {
	types := make([]int32, len(k.Vocab))
	for i := range types {
		types[i] = typeNormal
	}
	n := len(k.Vocab)
	types[n-2], types[n-1] = typeControl, typeUserDefined
	return []gguf.KV{
		{Key: keyModel, Value: modelBPE}, {Key: keyPre, Value: name}, {Key: keyTokens, Value: k.Vocab}, {Key: keyTypes, Value: types},
		{Key: keyMerges, Value: k.Merges}, {Key: "tokenizer.ggml.bos_token_id", Value: uint32(n - 2)}, {Key: "tokenizer.ggml.eos_token_id", Value: uint32(n - 2)},
	}
}

// folderOf writes what a file's metadata gives and opens it.
func folderOf(t *testing.T, kv []gguf.KV) (string, *tokenizer.Tokenizer) {
	files, err := Files(fileOf(t, kv))
	require.NoError(t, err)
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, data, 0o600))
	}
	tok, err := tokenizer.Open(dir)
	require.NoError(t, err)
	return dir, tok
}

// Every pre-tokenizer of llama.cpp gives its ids, and what is written of the folder
// that was made gives them again.
func TestKinds(t *testing.T) {
	k := readKinds(t)
	recorded := 0
	for _, kind := range k.Kinds {
		for _, name := range kind.Names {
			t.Run(name, func(t *testing.T) {
				dir, tok := folderOf(t, k.metadata(name))
				kv, err := Metadata(tok, os.DirFS(dir), tok.VocabSize())
				require.NoError(t, err)
				_, again := folderOf(t, kv)
				for i, s := range k.Texts {
					want := kind.IDs[i]
					if hf, ok := kind.HF[strconv.Itoa(i)]; ok {
						want = hf
					}
					require.Equal(t, append([]int32{}, want...), append([]int32{}, tok.Encode(s)...), "%q", s)
					require.Equal(t, append([]int32{}, want...), append([]int32{}, again.Encode(s)...), "written again: %q", s)
				}
				require.Equal(t, tok.AddsBOS(), again.AddsBOS())
			})
		}
		recorded += len(kind.Names)
	}
	all := 0
	for _, p := range preTokenizers() {
		if !p.raw() {
			all += len(strings.Fields(p.names))
		}
	}
	require.Equal(t, all, recorded, "names without recorded ids")
}

// Whether whole pieces are tokens counts where merges do not make all of them.
func TestWholePieces(t *testing.T) {
	k := readKinds(t)
	kv := k.metadata("qwen2")
	for i := range kv {
		if kv[i].Key == keyMerges {
			kv[i].Value = k.Merges[:len(k.Merges)-1]
		}
	}
	dir, _ := folderOf(t, kv)
	path := filepath.Join(dir, File)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	text := strings.Replace(string(data), `"ignore_merges": false`, `"ignore_merges": true`, 1)
	require.NotEqual(t, string(data), text)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	tok, err := tokenizer.Open(dir)
	require.NoError(t, err)
	_, err = Metadata(tok, os.DirFS(dir), tok.VocabSize())
	require.ErrorContains(t, err, "ignore_merges")
}

// BPE on text, as Gemma 4 has it.
func TestRawBPE(t *testing.T) {
	tokens := []string{"<pad>", "<bos>", "<unk>", "a", "b", "▁", "\n", "ab", "▁a", "▁ab", "\n\n", "b▁a", "<0xC3>", "<0xA9>"}
	types := []int32{3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 6, 6}
	for _, c := range []struct {
		model, pre string
		prefix     []int32
	}{{modelGemma4, preGemma4, []int32{1}}, {modelBPE, preSarvam, nil}} {
		kv := []gguf.KV{
			{Key: keyModel, Value: c.model}, {Key: keyTokens, Value: tokens}, {Key: keyTypes, Value: types}, {Key: keyPre, Value: c.pre},
			// no scores give this order
			{Key: keyMerges, Value: []string{"\n \n", "a b", "▁ab x", "▁ ab", "b ▁a", "▁ a"}[:2]},
			{Key: "tokenizer.ggml.bos_token_id", Value: uint32(1)}, {Key: "tokenizer.ggml.unknown_token_id", Value: uint32(2)}, {Key: keyAddBOS, Value: false},
		}
		kv[4].Value = []string{"\n \n", "▁a b", "a b", "▁ ab", "▁ a"}
		dir, tok := folderOf(t, kv)
		require.Equal(t, append(append([]int32{}, c.prefix...), 7, 9, 10, 12, 13), tok.EncodeSpecial("ab ab\n\né"))
		again, err := Metadata(tok, os.DirFS(dir), tok.VocabSize())
		require.NoError(t, err)
		require.Contains(t, again, gguf.KV{Key: keyModel, Value: c.model})
		require.Contains(t, again, gguf.KV{Key: keyPre, Value: c.pre})
		require.Contains(t, again, gguf.KV{Key: keyMerges, Value: kv[4].Value})
	}
}

// What a folder has beside the tokenizer goes into a file and out again.
func TestBesideTokenizer(t *testing.T) {
	k := readKinds(t)
	kv := append(k.metadata("gpt-2"),
		gguf.KV{Key: "tokenizer.ggml.eot_token_id", Value: uint32(7)}, gguf.KV{Key: "tokenizer.ggml.eom_token_id", Value: uint32(8)},
		gguf.KV{Key: keyTemplate, Value: "{{ a }}"}, gguf.KV{Key: keyTemplate + ".tool_use", Value: "{{ b }}"}, gguf.KV{Key: keyTemplate + "s", Value: []string{"tool_use"}},
		gguf.KV{Key: "general.sampling.temp", Value: float32(0.7)}, gguf.KV{Key: "general.sampling.top_k", Value: int32(20)},
	)
	dir, tok := folderOf(t, kv)
	require.Equal(t, "{{ a }}", tok.ChatTemplate())
	data, err := os.ReadFile(filepath.Join(dir, "additional_chat_templates", "tool_use.jinja"))
	require.NoError(t, err)
	require.Equal(t, "{{ b }}", string(data))
	data, err = os.ReadFile(filepath.Join(dir, generationFile))
	require.NoError(t, err)
	n := len(k.Vocab) - 2
	require.JSONEq(t, `{"bos_token_id": `+strconv.Itoa(n)+`, "eos_token_id": [`+strconv.Itoa(n)+`, 7, 8], "do_sample": true, "temperature": 0.7, "top_k": 20}`, string(data))
	again, err := Metadata(tok, os.DirFS(dir), tok.VocabSize())
	require.NoError(t, err)
	again = slices.DeleteFunc(again, func(e gguf.KV) bool { return e.Key == keyTokens || e.Key == keyMerges || e.Key == keyTypes })
	for _, e := range kv {
		if strings.HasSuffix(e.Key, "_token_id") || strings.HasPrefix(e.Key, keyTemplate) {
			require.Contains(t, again, e)
		}
	}
}
