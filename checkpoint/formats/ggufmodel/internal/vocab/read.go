// Package vocab translates between Hugging Face's tokenizer files and what the
// metadata of a GGUF file says of a tokenizer.
package vocab

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
)

// jsonObject is a JSON object being made.
type jsonObject map[string]any

// prePattern is a pre-tokenizer of llama.cpp's as tokenizer.json has it.
type prePattern struct {
	names    []string
	patterns []string // Split, isolated, in order; then ByteLevel without its own
	// builtin uses ByteLevel's own pattern, digits splits digits before it.
	builtin, digits bool
	// What the name implies in llama.cpp (llama-vocab.cpp), and for Qwen in
	// the tokenizer the model was trained with.
	ignoreMerges, addBOS, nfc bool
}

const (
	gpt2Pattern   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2Pattern  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	tekkenPattern = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

func prePatterns() []prePattern {
	return []prePattern{
		{names: []string{"llama-bpe", "llama3", "llama-v3"}, patterns: []string{llama3Pattern}, ignoreMerges: true, addBOS: true},
		{names: []string{"qwen2", "deepseek-r1-qwen"}, patterns: []string{qwen2Pattern}, nfc: true},
		{names: []string{"tekken"}, patterns: []string{tekkenPattern}, ignoreMerges: true, addBOS: true},
		{names: []string{"gpt-2", "mpt", "olmo"}, builtin: true},
		{names: []string{"smollm", "starcoder", "refact"}, builtin: true, digits: true},
		{names: []string{"default"}, patterns: []string{`[\p{P}\$\+<=>\^~\|]+`, gpt2Pattern, `\p{N}+`, `[0-9][0-9][0-9]`}},
	}
}

// vocabulary is the vocabulary as the metadata has it.
type vocabulary struct {
	f      *gguf.File
	model  string
	tokens []string
	types  []int32
	scores []float32
	merges []string
}

// Files are tokenizer.json and tokenizer_config.json, made from a file's metadata.
func Files(f *gguf.File) (map[string][]byte, error) {
	v, err := readVocab(f)
	if err != nil {
		return nil, err
	}
	pre, out, err := v.components()
	if err != nil {
		return nil, err
	}
	added := []jsonObject{}
	for id, s := range v.tokens {
		special := v.types[id] == typeControl || v.types[id] == typeUnknown
		if special || v.types[id] == typeUserDefined {
			added = append(added, jsonObject{
				"id": id, "content": s, "special": special,
				"single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
			})
		}
	}
	out["version"] = "1.0"
	out["added_tokens"] = added
	config := jsonObject{"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": jsonObject{}}
	roles := map[string]string{}
	for _, role := range tokenRoles {
		id, err := f.Count(role.key, -1)
		if err != nil {
			return nil, err
		}
		if id >= 0 && id < len(v.tokens) {
			roles[role.role] = v.tokens[id]
			config[role.role] = v.tokens[id]
		}
	}
	addBOS, err := v.flag(keyAddBOS, v.model == modelSPM || pre.addBOS)
	if err != nil {
		return nil, err
	}
	addEOS, err := v.flag(keyAddEOS, false)
	if err != nil {
		return nil, err
	}
	config["add_bos_token"], config["add_eos_token"] = addBOS, addEOS
	out["post_processor"] = postProcessor(roles, v.tokens, addBOS, addEOS)
	if s, ok := f.Value(keyTemplate); ok {
		config["chat_template"] = s
	}
	files := map[string][]byte{}
	for name, o := range map[string]jsonObject{File: out, "tokenizer_config.json": config} {
		if files[name], err = json.MarshalIndent(o, "", "  "); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func readVocab(f *gguf.File) (*vocabulary, error) {
	v := &vocabulary{f: f}
	value := func(key string, dst any) error {
		found, ok := f.Value(key)
		if !ok {
			return nil
		}
		switch dst := dst.(type) {
		case *string:
			*dst, ok = found.(string)
		case *[]string:
			*dst, ok = found.([]string)
		case *[]int32:
			*dst, ok = found.([]int32)
		case *[]float32:
			*dst, ok = found.([]float32)
		}
		if !ok {
			return fmt.Errorf("key %q: a %T", key, found)
		}
		return nil
	}
	for _, e := range []struct {
		key string
		dst any
	}{{keyModel, &v.model}, {keyTokens, &v.tokens}, {keyTypes, &v.types}, {keyScores, &v.scores}, {keyMerges, &v.merges}} {
		if err := value(e.key, e.dst); err != nil {
			return nil, err
		}
	}
	if len(v.tokens) == 0 {
		return nil, fmt.Errorf("no key %q", keyTokens)
	}
	if v.types == nil {
		v.types = slices.Repeat([]int32{typeNormal}, len(v.tokens))
	}
	if len(v.types) != len(v.tokens) {
		return nil, fmt.Errorf("key %q: %d entries for %d tokens", keyTypes, len(v.types), len(v.tokens))
	}
	for i, s := range v.tokens {
		if !utf8.ValidString(s) {
			return nil, fmt.Errorf("token %d is not UTF-8: %q", i, s)
		}
	}
	return v, nil
}

func (v *vocabulary) flag(key string, missing bool) (bool, error) {
	found, ok := v.f.Value(key)
	if !ok {
		return missing, nil
	}
	b, ok := found.(bool)
	if !ok {
		return missing, fmt.Errorf("key %q: a %T, want a bool", key, found)
	}
	return b, nil
}

// vocab returns the tokens of the model by string; gaps are left out.
func (v *vocabulary) vocab() (map[string]int, error) {
	ids := make(map[string]int, len(v.tokens))
	for id, s := range v.tokens {
		if v.types[id] == typeUnused {
			continue
		}
		if _, twice := ids[s]; twice {
			return nil, fmt.Errorf("token %q has the ids %d and %d", s, ids[s], id)
		}
		ids[s] = id
	}
	return ids, nil
}

// components makes everything of tokenizer.json that depends on the kind.
func (v *vocabulary) components() (prePattern, jsonObject, error) {
	ids, err := v.vocab()
	if err != nil {
		return prePattern{}, nil, err
	}
	model := jsonObject{
		"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
		"fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": ids,
	}
	switch v.model {
	case modelBPE:
		pre, err := v.prePattern()
		if err != nil {
			return pre, nil, err
		}
		for i, m := range v.merges {
			a, b, ok := strings.Cut(m, " ")
			if _, known := ids[a+b]; !ok || !known {
				return pre, nil, fmt.Errorf("merge %d is %q, want two parts that make a token", i, m)
			}
		}
		model["ignore_merges"], model["merges"] = pre.ignoreMerges, v.merges
		out := jsonObject{"model": model, "pre_tokenizer": pre.json(), "decoder": byteLevel(true)}
		if pre.nfc {
			out["normalizer"] = jsonObject{"type": "NFC"}
		}
		return pre, out, nil
	case modelSPM:
		if len(v.scores) != len(v.tokens) {
			return prePattern{}, nil, fmt.Errorf("key %q: %d entries for %d tokens", keyScores, len(v.scores), len(v.tokens))
		}
		unk, err := v.f.Count("tokenizer.ggml.unknown_token_id", 0)
		if err != nil {
			return prePattern{}, nil, err
		}
		space, err := v.flag(keyPrefixSpace, true)
		if err != nil {
			return prePattern{}, nil, err
		}
		if unk >= len(v.tokens) {
			return prePattern{}, nil, fmt.Errorf("unknown token %d of %d", unk, len(v.tokens))
		}
		model["unk_token"], model["fuse_unk"], model["byte_fallback"] = v.tokens[unk], true, true
		model["merges"] = v.spmMerges(ids)
		return prePattern{}, sentencePiece(model, space), nil
	}
	return prePattern{}, nil, layout.Unsupported("a tokenizer of model %q is not read, only %q and %q", v.model, modelBPE, modelSPM)
}

func (v *vocabulary) prePattern() (prePattern, error) {
	found, _ := v.f.Value(keyPre)
	name, _ := found.(string)
	var known []string
	for _, p := range prePatterns() {
		if slices.Contains(p.names, name) {
			return p, nil
		}
		known = append(known, p.names...)
	}
	return prePattern{}, layout.Unsupported("pre-tokenizer %q is not read, only %s", name, strings.Join(known, ", "))
}

func byteLevel(pattern bool) jsonObject {
	return jsonObject{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": pattern}
}

func (p prePattern) json() jsonObject {
	var parts []jsonObject
	if p.digits {
		parts = append(parts, jsonObject{"type": "Digits", "individual_digits": true})
	}
	for _, s := range p.patterns {
		parts = append(parts, jsonObject{"type": "Split", "pattern": jsonObject{"Regex": s}, "behavior": "Isolated", "invert": false})
	}
	if parts = append(parts, byteLevel(p.builtin)); len(parts) == 1 {
		return parts[0]
	}
	return jsonObject{"type": "Sequence", "pretokenizers": parts}
}

// sentencePiece is Llama 2's form of tokenizer.json; prefix is whether a space is
// put before the text.
func sentencePiece(model jsonObject, prefix bool) jsonObject {
	space := jsonObject{"type": "Replace", "pattern": jsonObject{"String": " "}, "content": "▁"}
	normalizers := []jsonObject{space}
	decoders := []jsonObject{
		{"type": "Replace", "pattern": jsonObject{"String": "▁"}, "content": " "},
		{"type": "ByteFallback"}, {"type": "Fuse"},
	}
	if prefix {
		normalizers = []jsonObject{{"type": "Prepend", "prepend": "▁"}, space}
		decoders = append(decoders, jsonObject{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	return jsonObject{
		"model":      model,
		"normalizer": jsonObject{"type": "Sequence", "normalizers": normalizers},
		"decoder":    jsonObject{"type": "Sequence", "decoders": decoders},
	}
}

// spmMerges lists every pair of tokens that makes a token, best score first:
// merging by rank is then merging by score.
func (v *vocabulary) spmMerges(ids map[string]int) []string {
	type merge struct{ left, right, whole int }
	normal := func(s string) (int, bool) {
		id, ok := ids[s]
		return id, ok && v.types[id] == typeNormal
	}
	var merges []merge
	for id, s := range v.tokens {
		if v.types[id] != typeNormal {
			continue
		}
		for i := range s {
			left, ok := normal(s[:i])
			right, okRight := normal(s[i:])
			if ok && okRight {
				merges = append(merges, merge{left, right, id})
			}
		}
	}
	sort.SliceStable(merges, func(i, j int) bool {
		a, b := merges[i], merges[j]
		if v.scores[a.whole] != v.scores[b.whole] {
			return v.scores[a.whole] > v.scores[b.whole]
		}
		return a.whole < b.whole
	})
	out := make([]string, len(merges))
	for i, m := range merges {
		out[i] = v.tokens[m.left] + " " + v.tokens[m.right]
	}
	return out
}

// template puts BOS and EOS around a text.
func postProcessor(roles map[string]string, tokens []string, addBOS, addEOS bool) any {
	single := []jsonObject{}
	used := jsonObject{}
	special := func(add bool, role string) {
		s, ok := roles[role]
		if !add || !ok {
			return
		}
		single = append(single, jsonObject{"SpecialToken": jsonObject{"id": s, "type_id": 0}})
		used[s] = jsonObject{"id": s, "ids": []int{slices.Index(tokens, s)}, "tokens": []string{s}}
	}
	special(addBOS, "bos_token")
	single = append(single, jsonObject{"Sequence": jsonObject{"id": "A", "type_id": 0}})
	special(addEOS, "eos_token")
	if len(used) == 0 {
		return nil
	}
	pair := append(slices.Clone(single), jsonObject{"Sequence": jsonObject{"id": "B", "type_id": 1}})
	return jsonObject{"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": used}
}
