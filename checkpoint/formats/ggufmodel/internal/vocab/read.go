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

// vocabulary is the vocabulary as the metadata has it.
type vocabulary struct {
	f      *gguf.File
	model  string
	tokens []string
	types  []int32
	scores []float32
	merges []string
}

// Files are the files that a folder would have beside config.json: tokenizer.json,
// tokenizer_config.json, generation_config.json and chat templates, made from a file's
// metadata. A file without a tokenizer has none.
func Files(f *gguf.File) (map[string][]byte, error) {
	if m, ok := f.Value(keyModel); !ok || m == "none" || m == "no_vocab" {
		if _, ok := f.Value(keyTokens); !ok {
			return nil, nil
		}
	}
	v, err := readVocab(f)
	if err != nil {
		return nil, err
	}
	pre, out, err := v.components()
	if err != nil {
		return nil, err
	}
	out["version"] = "1.0"
	out["added_tokens"] = v.added()
	config := jsonObject{"tokenizer_class": "PreTrainedTokenizerFast"}
	roles, err := v.roles(config)
	if err != nil {
		return nil, err
	}
	addBOS, err := v.flag(keyAddBOS, v.model == modelSPM || pre.addBOS)
	if err != nil {
		return nil, err
	}
	addEOS, err := v.flag(keyAddEOS, false)
	if err != nil {
		return nil, err
	}
	addBOS = addBOS || v.model == modelGemma4 // whatever it says: so does the engine
	config["add_bos_token"], config["add_eos_token"] = addBOS, addEOS
	out["post_processor"] = postProcessor(roles, v.tokens, addBOS, addEOS)
	files := map[string][]byte{}
	if err := templates(f, files); err != nil {
		return nil, err
	}
	generation, err := generationConfig(f, v)
	if err != nil {
		return nil, err
	}
	for name, o := range map[string]jsonObject{File: out, configFile: config, generationFile: generation} {
		if len(o) == 0 {
			continue
		}
		if files[name], err = json.MarshalIndent(o, "", "  "); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// added lists the tokens that are found in a text before it is split.
func (v *vocabulary) added() []jsonObject {
	added := []jsonObject{}
	name, _ := v.f.Value("general.name")
	text, _ := name.(string)
	text = strings.ToLower(text)
	// As llama.cpp has it: the file does not say it otherwise.
	phi3 := strings.Contains(text, "phi-3") || strings.Contains(text, "phi3")
	for id, s := range v.tokens {
		special := v.types[id] == typeControl || v.types[id] == typeUnknown
		if special || v.types[id] == typeUserDefined {
			added = append(added, jsonObject{
				"id": id, "content": s, "special": special, "single_word": false, "lstrip": false,
				"rstrip": phi3 && s != "<unk>" && s != "<s>" && s != "<|endoftext|>", "normalized": false,
			})
		}
	}
	return added
}

// roles finds the tokens with a role, and notes them in tokenizer_config.json.
func (v *vocabulary) roles(config jsonObject) (map[string]string, error) {
	roles := map[string]string{}
	for _, role := range tokenRoles {
		missing := -1
		if v.model == modelSPM {
			missing = role.spm
		}
		id, err := v.f.Count(role.key, missing)
		if err != nil {
			return nil, err
		}
		if id >= 0 && id < len(v.tokens) {
			roles[role.role] = v.tokens[id]
			config[role.role] = v.tokens[id]
		}
	}
	return roles, nil
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
	v.types, v.tokens = slices.Clone(v.types), slices.Clone(v.tokens)
	if len(v.types) != len(v.tokens) {
		return nil, fmt.Errorf("key %q: %d entries for %d tokens", keyTypes, len(v.types), len(v.tokens))
	}
	for i, s := range v.tokens {
		if !utf8.ValidString(s) {
			return nil, fmt.Errorf("token %d is not UTF-8: %q", i, s)
		}
		if s == "" {
			v.tokens[i] = fmt.Sprintf("[EMPTY_%d]", i) // as llama.cpp names it
		}
	}
	v.setControl()
	return v, nil
}

// controlTexts are tokens that llama.cpp takes for control tokens, whatever type they
// have; those of FIM only where no key names the one of their kind.
var (
	endTexts = []string{
		"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
		"<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
		"<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
	}
	fimTexts = map[string][]string{
		"pre": {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"},
		"suf": {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"},
		"mid": {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"},
		"pad": {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"},
		"rep": {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"},
		"sep": {"<|file_sep|>"},
	}
)

// looksControl reports whether a text is one of controlTexts.
func looksControl(s string) bool {
	if slices.Contains(endTexts, s) {
		return true
	}
	for _, texts := range fimTexts {
		if slices.Contains(texts, s) {
			return true
		}
	}
	return false
}

// setControl gives tokens the types that llama.cpp gives them by their texts, but for those
// that are said to be unused: so are written those that are text to the tokenizer of the
// model, as "</s>" is in Qwen 2.5.
func (v *vocabulary) setControl() {
	ids := map[string]int{}
	for id, s := range v.tokens {
		ids[s] = id
	}
	_, toolResponse := ids["<|tool_response>"]
	control := func(s string) {
		if id, ok := ids[s]; ok && v.types[id] != typeUnknown && v.types[id] != typeUserDefined && v.types[id] != typeUnused {
			v.types[id] = typeControl
		}
	}
	for _, s := range endTexts {
		if s != "</s>" || !toolResponse {
			control(s)
		} else if id, ok := ids[s]; ok {
			v.types[id] = typeNormal
		}
	}
	for kind, texts := range fimTexts {
		if _, ok := v.f.Value("tokenizer.ggml.fim_" + kind + "_token_id"); ok {
			continue
		}
		for _, s := range texts {
			control(s)
		}
	}
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

// vocab returns the tokens of the model by string; what only fills gaps is left out.
func (v *vocabulary) vocab() (map[string]int, error) {
	ids := make(map[string]int, len(v.tokens))
	for id, s := range v.tokens {
		if v.types[id] == typeUnused && strings.Trim(s, "[]") == fmt.Sprintf("PAD%d", id) {
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
func (v *vocabulary) components() (preTokenizer, jsonObject, error) {
	var pre preTokenizer
	ids, err := v.vocab()
	if err != nil {
		return pre, nil, err
	}
	model := jsonObject{
		"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
		"fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": ids,
	}
	switch v.model {
	case modelBPE, modelGemma4:
		name, _ := v.f.Value(keyPre)
		text, _ := name.(string)
		if v.model == modelGemma4 {
			text = preGemma4
		}
		if pre, err = findPre(text); err != nil {
			return pre, nil, err
		}
		merges, err := v.mergePairs(ids)
		if err != nil {
			return pre, nil, err
		}
		model["ignore_merges"], model["merges"] = pre.ignoreMerges, merges
		if pre.raw() {
			if err := v.fallBack(model); err != nil {
				return pre, nil, err
			}
			out := sentencePiece(model, false)
			out["pre_tokenizer"] = pre.json()
			return pre, out, nil
		}
		out := jsonObject{"model": model, "pre_tokenizer": pre.json(), "decoder": byteLevel(true)}
		if pre.nfc {
			out["normalizer"] = jsonObject{"type": "NFC"}
		}
		return pre, out, nil
	case modelSPM:
		if len(v.scores) != len(v.tokens) {
			return pre, nil, fmt.Errorf("key %q: %d entries for %d tokens", keyScores, len(v.scores), len(v.tokens))
		}
		space, err := v.flag(keyPrefixSpace, true)
		if err != nil {
			return pre, nil, err
		}
		if err := v.fallBack(model); err != nil {
			return pre, nil, err
		}
		model["merges"] = v.spmMerges(ids)
		return pre, sentencePiece(model, space), nil
	}
	return pre, nil, layout.Unsupported("a tokenizer of model %q is not read, only %q, %q and %q", v.model, modelBPE, modelSPM, modelGemma4)
}

// fallBack spells by tokens for bytes what no token spells.
func (v *vocabulary) fallBack(model jsonObject) error {
	unk, err := v.f.Count("tokenizer.ggml.unknown_token_id", 0)
	if err != nil {
		return err
	}
	if unk >= len(v.tokens) {
		return fmt.Errorf("unknown token %d of %d", unk, len(v.tokens))
	}
	model["unk_token"], model["fuse_unk"], model["byte_fallback"] = v.tokens[unk], true, true
	return nil
}

// mergePairs are the merges, each as two tokens.
func (v *vocabulary) mergePairs(ids map[string]int) ([][2]string, error) {
	pairs := make([][2]string, len(v.merges))
	for i, m := range v.merges {
		_, first := utf8.DecodeRuneInString(m) // may be the space itself
		a, b, ok := strings.Cut(m[first:], " ")
		a = m[:first] + a
		if _, known := ids[a+b]; !ok || !known {
			return nil, fmt.Errorf("merge %d is %q, want two parts that make a token", i, m)
		}
		pairs[i] = [2]string{a, b}
	}
	return pairs, nil
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
		return id, ok && v.plain(id)
	}
	var merges []merge
	for id, s := range v.tokens {
		if !v.plain(id) {
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

// plain tells whether a token may come of merges.
func (v *vocabulary) plain(id int) bool {
	return v.types[id] == typeNormal || v.types[id] == typeUnused
}

// postProcessor puts BOS and EOS around a text.
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
