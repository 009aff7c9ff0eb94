package vocab

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

const (
	Prefix         = "tokenizer."
	keyModel       = "tokenizer.ggml.model"
	keyPre         = "tokenizer.ggml.pre"
	keyTokens      = "tokenizer.ggml.tokens"
	keyTypes       = "tokenizer.ggml.token_type"
	keyScores      = "tokenizer.ggml.scores"
	keyMerges      = "tokenizer.ggml.merges"
	keyAddBOS      = "tokenizer.ggml.add_bos_token"
	keyAddEOS      = "tokenizer.ggml.add_eos_token"
	keyPrefixSpace = "tokenizer.ggml.add_space_prefix"
	keyTemplate    = "tokenizer.chat_template"

	modelBPE    = "gpt2"
	modelSPM    = "llama"
	modelGemma4 = "gemma4"

	File           = "tokenizer.json"
	configFile     = "tokenizer_config.json"
	generationFile = "generation_config.json"
	templateFile   = "chat_template.jinja"
	templateFolder = "additional_chat_templates"
	templateExt    = ".jinja"
)

// The values of token_type.
const (
	typeNormal      int32 = 1
	typeUnknown     int32 = 2
	typeControl     int32 = 3
	typeUserDefined int32 = 4
	typeUnused      int32 = 5
	typeByte        int32 = 6
)

var tokenTypes = map[tokenizer.TokenType]int32{
	tokenizer.Normal: typeNormal, tokenizer.Unknown: typeUnknown, tokenizer.Control: typeControl,
	tokenizer.UserDefined: typeUserDefined, tokenizer.Unused: typeUnused, tokenizer.Byte: typeByte,
}

// mergesText writes each merge as two tokens with a space between, and a space
// inside a token as "Ġ".
func mergesText(t *tokenizer.Tokenizer) []string {
	merges := t.Merges()
	out := make([]string, len(merges))
	for i, m := range merges {
		out[i] = strings.ReplaceAll(m[0], " ", "Ġ") + " " + strings.ReplaceAll(m[1], " ", "Ġ")
	}
	return out
}

// Metadata is the tokenizer's metadata for a vocabulary of the given size. files lie
// beside the tokenizer.
func Metadata(t *tokenizer.Tokenizer, files fs.FS, vocab int) ([]gguf.KV, error) {
	tokens, types, err := paddedVocab(t, vocab)
	if err != nil {
		return nil, err
	}
	var kv []gguf.KV
	add := func(key string, v any) { kv = append(kv, gguf.KV{Key: key, Value: v}) }
	switch t.Kind() {
	case tokenizer.ByteLevel:
		pre, err := preTokenizerName(t)
		if err != nil {
			return nil, err
		}
		add(keyModel, modelBPE)
		add(keyPre, pre)
		add(keyTokens, tokens)
		add(keyTypes, types)
		add(keyMerges, mergesText(t))
	case tokenizer.SentencePiece:
		scores, err := spmScores(t, vocab)
		if err != nil {
			if m, pre, ok := rawModel(t); ok {
				add(keyModel, m)
				add(keyPre, pre)
				add(keyTokens, tokens)
				add(keyTypes, types)
				add(keyMerges, mergesText(t))
				break
			}
			return nil, err
		}
		add(keyModel, modelSPM)
		add(keyPre, preDefault)
		add(keyTokens, tokens)
		add(keyScores, scores)
		add(keyTypes, types)
		add(keyPrefixSpace, prefixesSpace(t))
	default:
		return nil, layout.Unsupported("a %v tokenizer, want byte-level or SentencePiece BPE", t.Kind())
	}
	for _, role := range tokenRoles {
		id, ok := role.get(t)
		if !ok { // then the one that config.json names
			id, ok = t.ConfigID(role.short)
		}
		if ok && int(id) < vocab {
			add(role.key, uint32(id))
		}
	}
	add(keyAddBOS, t.AddsBOS())
	add(keyAddEOS, t.AddsEOS())
	more, err := ends(t, files, vocab)
	if err != nil {
		return nil, err
	}
	kv = append(kv, more...)
	if s := t.ChatTemplate(); s != "" {
		add(keyTemplate, s)
	}
	named, err := namedTemplates(files)
	return append(kv, named...), err
}

// tokenRoles are the special tokens GGUF names.
var tokenRoles = []struct {
	key, role, short string
	spm              int // what llama.cpp takes for a "llama" vocabulary that does not say
	get              func(*tokenizer.Tokenizer) (int32, bool)
}{
	{"tokenizer.ggml.bos_token_id", "bos_token", "bos", 1, (*tokenizer.Tokenizer).BOS},
	{"tokenizer.ggml.eos_token_id", "eos_token", "eos", 2, (*tokenizer.Tokenizer).EOS},
	{"tokenizer.ggml.unknown_token_id", "unk_token", "unk", 0, (*tokenizer.Tokenizer).Unknown},
	{"tokenizer.ggml.padding_token_id", "pad_token", "pad", -1, (*tokenizer.Tokenizer).Padding},
}

// paddedVocab gives every row of the embedding a token: the engine takes the
// vocabulary's size from the list. Gaps are named as llama.cpp's converter
// names them.
func paddedVocab(t *tokenizer.Tokenizer, vocab int) ([]string, []int32, error) {
	tokens, kinds := t.Vocab()
	if len(tokens) > vocab {
		beyond := tokens[vocab:]
		const most = 8
		more := ""
		if len(beyond) > most {
			beyond, more = beyond[:most], ", ..."
		}
		return nil, nil, layout.Unsupported("%d tokens, but vocab_size is %d: the model has no rows for %q%s; if no text has them they can be removed from %s", len(tokens), vocab, beyond, more, File)
	}
	types := make([]int32, vocab)
	seen := make(map[string]bool, vocab)
	for i, k := range kinds {
		if k == tokenizer.UserDefined && strings.HasPrefix(tokens[i], "<|") && strings.HasSuffix(tokens[i], "|>") {
			k = tokenizer.Control // as llama.cpp's converter has it; the engine would override it
		}
		types[i] = tokenTypes[k]
		if k != tokenizer.Unused {
			seen[tokens[i]] = true
		}
	}
	for i := range vocab {
		if i < len(tokens) && types[i] != typeUnused {
			continue
		}
		name := fmt.Sprintf("[PAD%d]", i)
		for seen[name] { // the engine wants every token once
			name = "[" + name + "]"
		}
		seen[name] = true
		if i < len(tokens) {
			tokens[i] = name
		} else {
			tokens = append(tokens, name)
		}
		types[i] = typeUnused
	}
	for i, s := range tokens {
		if types[i] == typeNormal && looksControl(s) {
			types[i] = typeUnused // see setControl
		}
	}
	return tokens, types, nil
}

// spmScores gives the scores by which the engine merges: the neighbours whose
// union scores highest first, of equals the leftmost. That is what merging by
// rank does only if a token's merges stand together in the list.
func spmScores(t *tokenizer.Tokenizer, vocab int) ([]float32, error) {
	best := map[string]int{}
	last := 0
	for rank, m := range t.Merges() {
		whole := m[0] + m[1]
		if _, ok := best[whole]; !ok {
			best[whole] = rank
		}
		if best[whole] < last {
			return nil, layout.Unsupported("merge %d makes %q, which an earlier merge makes before %d others: no scores give that order", rank, whole, rank-best[whole]-1)
		}
		last = best[whole]
	}
	scores := make([]float32, vocab)
	copy(scores, t.Scores())
	return scores, nil
}

// rawModel names the model and the pre-tokenizer for BPE on text whose spaces are
// "▁", merged by rank and over whole lines, where that gives the same ids.
func rawModel(t *tokenizer.Tokenizer) (model, pre string, ok bool) {
	raw, err := json.Marshal((&preTokenizer{}).json())
	if err != nil {
		return "", "", false
	}
	other, err := t.WithPreTokenizer(raw)
	if err != nil {
		return "", "", false
	}
	for _, s := range append(sampleTexts(), tokenTexts(t)...) {
		if t.Normalize(s) != strings.ReplaceAll(s, " ", "▁") || !slices.Equal(t.Encode(s), other.Encode(s)) {
			return "", "", false
		}
	}
	if t.AddsBOS() {
		return modelGemma4, preGemma4, true // the engine adds BOS whatever the file says
	}
	return modelBPE, preSarvam, true
}

// prefixesSpace says whether a text is read as if a space stood before it.
func prefixesSpace(t *tokenizer.Tokenizer) bool {
	ids := t.Encode("a")
	if len(ids) == 0 {
		return false
	}
	s, _ := t.Token(ids[0])
	return strings.HasPrefix(s, "▁")
}
