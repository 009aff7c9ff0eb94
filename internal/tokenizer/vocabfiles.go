package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/golowbit/lowbit/internal/tokenizer/pattern"
)

// jsonObject is a JSON object being made.
type jsonObject map[string]any

// loadVocabMerges reads GPT-2's form: vocab.json with merges.txt beside it, byte-level
// BPE whose other parts the class in tokenizer_config.json implies.
func loadVocabMerges(dir folder, name string, side *sideFiles) (*Tokenizer, error) {
	vocab, err := dir.read(name)
	if err != nil {
		return nil, err
	}
	text, err := dir.read("merges.txt")
	if err != nil {
		return nil, err
	}
	var merges []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" && !strings.HasPrefix(line, "#version") {
			merges = append(merges, line)
		}
	}
	prefixSpace := false
	if b := side.conf.bool("add_prefix_space"); b != nil {
		prefixSpace = *b
	}
	byteLevel := func(split bool) jsonObject {
		return jsonObject{"type": "ByteLevel", "add_prefix_space": prefixSpace, "trim_offsets": true, "use_regex": split}
	}
	f := jsonObject{
		"model":         jsonObject{"type": typeBPE, "vocab": json.RawMessage(vocab), "merges": append([]string{}, merges...)},
		"pre_tokenizer": byteLevel(true), "decoder": byteLevel(true),
	}
	switch class := strings.TrimSuffix(side.class, "Fast"); class {
	case "", "GPT2Tokenizer", "CodeGenTokenizer", "PreTrainedTokenizer", "BartTokenizer", "RobertaTokenizer":
	case "Qwen2Tokenizer":
		f["normalizer"] = jsonObject{"type": "NFC"}
		f["pre_tokenizer"] = jsonObject{"type": "Sequence", "pretokenizers": []jsonObject{
			{"type": "Split", "pattern": jsonObject{"Regex": pattern.Qwen2}, "behavior": "Isolated", "invert": false},
			byteLevel(false),
		}}
	default:
		return nil, fmt.Errorf("%s: how a tokenizer of class %s reads it is not known here: save it with transformers as %s", dir.path(name), side.class, fileName)
	}
	t, err := parseObject(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir.path(name), err)
	}
	t.wrap = true
	t.special.addBOS, t.special.addEOS = defaultWrap(side.class)
	return t, nil
}

// loadVocabText reads BERT's form: vocab.txt, a token in each line.
func loadVocabText(dir folder, name string, side *sideFiles) (*Tokenizer, error) {
	if class := strings.TrimSuffix(side.class, "Fast"); class != "" && class != "BertTokenizer" && class != "DistilBertTokenizer" {
		return nil, fmt.Errorf("%s: how a tokenizer of class %s reads it is not known here: save it with transformers as %s", dir.path(name), side.class, fileName)
	}
	data, err := dir.read(name)
	if err != nil {
		return nil, err
	}
	vocab := map[string]int{}
	id := 0
	for line := range bytes.Lines(data) {
		vocab[string(bytes.TrimRight(line, "\r\n"))] = id
		id++
	}
	flag := func(key string, unset any) any {
		if b := side.conf.bool(key); b != nil {
			return *b
		}
		return unset
	}
	f := jsonObject{
		"model": jsonObject{"type": typeWordPiece, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
		"normalizer": jsonObject{
			"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": flag("tokenize_chinese_chars", true),
			"strip_accents": flag("strip_accents", nil), "lowercase": flag("do_lower_case", true),
		},
		"pre_tokenizer": jsonObject{"type": "BertPreTokenizer"},
		"decoder":       jsonObject{"type": "WordPiece", "prefix": "##", "cleanup": true},
	}
	var added []jsonObject
	for _, s := range []string{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} {
		if _, ok := vocab[s]; ok {
			added = append(added, jsonObject{"content": s, "special": true})
		}
	}
	f["added_tokens"] = added
	cls, hasCLS := vocab["[CLS]"]
	sep, hasSEP := vocab["[SEP]"]
	if hasCLS && hasSEP {
		f["post_processor"] = jsonObject{"type": "BertProcessing", "cls": []any{"[CLS]", cls}, "sep": []any{"[SEP]", sep}}
	}
	t, err := parseObject(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir.path(name), err)
	}
	return t, nil
}

func parseObject(f jsonObject) (*Tokenizer, error) {
	data, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	return Parse(data)
}
