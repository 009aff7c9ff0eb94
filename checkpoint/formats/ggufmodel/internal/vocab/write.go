package vocab

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
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

	modelBPE = "gpt2"
	modelSPM = "llama"

	File = "tokenizer.json"
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
		pre, err := preTokenizerName(t, files)
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
			return nil, err
		}
		add(keyModel, modelSPM)
		add(keyPre, "default")
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
	if s := t.ChatTemplate(); s != "" {
		add(keyTemplate, s)
	}
	return kv, nil
}

// tokenRoles are the special tokens GGUF names.
var tokenRoles = []struct {
	key, role, short string
	get              func(*tokenizer.Tokenizer) (int32, bool)
}{
	{"tokenizer.ggml.bos_token_id", "bos_token", "bos", (*tokenizer.Tokenizer).BOS},
	{"tokenizer.ggml.eos_token_id", "eos_token", "eos", (*tokenizer.Tokenizer).EOS},
	{"tokenizer.ggml.unknown_token_id", "unk_token", "unk", (*tokenizer.Tokenizer).Unknown},
	{"tokenizer.ggml.padding_token_id", "pad_token", "pad", (*tokenizer.Tokenizer).Padding},
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
	return tokens, types, nil
}

// preTokenizers are llama.cpp's names for byte-level pre-tokenizers, by the
// SHA-256 of the Split patterns of tokenizer.json joined in order (the same
// key that Ollama uses; llama.cpp's own converter needs a run of the original
// tokenizer).
var preTokenizers = map[string]string{
	"d98f9631be1e9607a9848c26c1f9eac1aa9fc21ac6ba82a2fc0741af9780a48f": "llama-bpe",
	"1ff7f41064896984db5d1bb6ff64fa4bc29007d08c1b439e505b7392777a319e": "qwen2",
	"03df5c5863ad70781dcfdef491ead25140f895fe8010964be0daefe27be32b02": "deepseek-llm",
	"21cde974d587f0d54dc8d56b183cc1e6239600172035c68fbd6d4b9f8da0576e": "deepseek-coder",
	"1d64a9a8eaf9f1bd80331984d81fdd514e7feafe8df83a525dd31472f275699a": "tekken",
}

// preTokenizerName finds the name. ByteLevel's built-in pattern, which is
// GPT-2's, is no Split: it is recognized by the pre-tokenizer's structure.
func preTokenizerName(t *tokenizer.Tokenizer, files fs.FS) (string, error) {
	patterns := t.SplitRegexes()
	if patterns != "" {
		sum := sha256.Sum256([]byte(patterns))
		if name, ok := preTokenizers[hex.EncodeToString(sum[:])]; ok {
			return name, nil
		}
		return "", layout.Unsupported("its Split patterns (SHA-256 %x) are of no pre-tokenizer whose name in llama.cpp is known here", sum)
	}
	data, err := fs.ReadFile(files, File)
	if err != nil {
		return "", err
	}
	var f struct {
		Pre json.RawMessage `json:"pre_tokenizer"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return "", err
	}
	parts, err := preTokenizerParts(f.Pre, 0)
	if err != nil {
		return "", err
	}
	switch strings.Join(parts, ", ") {
	case "ByteLevel":
		return "gpt-2", nil
	case "Digits, ByteLevel":
		return "smollm", nil
	}
	return "", layout.Unsupported("llama.cpp has no pre-tokenizer like %q", parts)
}

// preTokenizerParts lists the steps by type. What departs from the defaults
// that matter here is marked, so that it matches nothing.
func preTokenizerParts(data json.RawMessage, depth int) ([]string, error) {
	var p struct {
		Type       string            `json:"type"`
		Parts      []json.RawMessage `json:"pretokenizers"`
		UseRegex   *bool             `json:"use_regex"`
		Individual bool              `json:"individual_digits"`
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("pre_tokenizer: %w", err)
	}
	const deepest = 16
	switch {
	case p.Type == "Sequence" && depth < deepest:
		var parts []string
		for _, d := range p.Parts {
			more, err := preTokenizerParts(d, depth+1)
			if err != nil {
				return nil, err
			}
			parts = append(parts, more...)
		}
		return parts, nil
	case p.Type == "ByteLevel" && p.UseRegex != nil && !*p.UseRegex:
		return []string{"ByteLevel without pattern"}, nil
	case p.Type == "Digits" && !p.Individual:
		return []string{"Digits in runs"}, nil
	}
	return []string{p.Type}, nil
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

// prefixesSpace says whether a text is read as if a space stood before it.
func prefixesSpace(t *tokenizer.Tokenizer) bool {
	ids := t.Encode("a")
	if len(ids) == 0 {
		return false
	}
	s, _ := t.Token(ids[0])
	return strings.HasPrefix(s, "▁")
}
