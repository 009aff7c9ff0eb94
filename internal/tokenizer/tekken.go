package tokenizer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
	"github.com/golowbit/lowbit/internal/tokenizer/model"
)

// loadTekken reads Mistral's tekken.json: byte-level BPE given by ranked byte strings.
// The special tokens come first, then the others by rank.
func loadTekken(dir folder, name string, _ *sideFiles) (*Tokenizer, error) {
	data, err := dir.read(name)
	if err != nil {
		return nil, err
	}
	t, err := parseTekken(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir.path(name), err)
	}
	return t, nil
}

type tekkenJSON struct {
	Config struct {
		Pattern  string `json:"pattern"`
		Size     int    `json:"default_vocab_size"`
		Specials int    `json:"default_num_special_tokens"`
	} `json:"config"`
	Vocab []struct {
		Rank  int    `json:"rank"`
		Bytes []byte `json:"token_bytes"`
	} `json:"vocab"`
	Special []struct {
		Rank int    `json:"rank"`
		Text string `json:"token_str"`
	} `json:"special_tokens"`
}

// tekkenSpecials are the special tokens of files from before they were listed.
var tekkenSpecials = []string{
	"<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
	"[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]",
	"[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
}

func parseTekken(data []byte) (*Tokenizer, error) {
	var f tekkenJSON
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	n := f.Config.Size - f.Config.Specials
	if f.Config.Specials < 0 || n < 256 || n > len(f.Vocab) {
		return nil, fmt.Errorf("default_vocab_size %d less %d special tokens, want 256 to %d, the size of vocab",
			f.Config.Size, f.Config.Specials, len(f.Vocab))
	}
	t := &Tokenizer{special: noSpecialTokens(), decode: decodeByteLevel}
	slices.SortStableFunc(f.Vocab, func(a, b struct {
		Rank  int    `json:"rank"`
		Bytes []byte `json:"token_bytes"`
	}) int {
		return cmp.Compare(a.Rank, b.Rank)
	})
	ids := make(map[string]int64, n)
	tokens, ranks := make([]string, n), make([]uint32, n)
	for i, v := range f.Vocab[:n] {
		if v.Rank != i || len(v.Bytes) == 0 {
			return nil, fmt.Errorf("vocab: rank %d with %d bytes at place %d", v.Rank, len(v.Bytes), i)
		}
		tokens[i], ranks[i] = chars.ToSymbols(string(v.Bytes)), uint32(i)
		ids[tokens[i]] = int64(f.Config.Specials + i)
	}
	if len(ids) != n {
		return nil, fmt.Errorf("vocab: %d of %d byte strings are there twice", n-len(ids), n)
	}
	vocab, err := model.NewVocab(ids)
	if err != nil {
		return nil, err
	}
	merges, mergeRanks := model.Pairs(tokens, ranks)
	if t.model, err = model.NewBPE(model.BPEConfig{Vocab: vocab, Merges: merges, Ranks: mergeRanks, IgnoreMerges: true}); err != nil {
		return nil, err
	}
	pre, err := json.Marshal(jsonObject{"type": "Sequence", "pretokenizers": []jsonObject{
		{"type": "Split", "pattern": jsonObject{"Regex": f.Config.Pattern}, "behavior": "Isolated", "invert": false},
		{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
	}})
	if err != nil {
		return nil, err
	}
	if t.pre, err = parsePreTokenizer(pre); err != nil {
		return nil, err
	}
	t.finish(nil)
	t.addTekkenSpecials(&f)
	t.own = map[string]string{"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
	yes := true
	t.wrap, t.special.addBOS = true, &yes
	return t, nil
}

func (t *Tokenizer) addTekkenSpecials(f *tekkenJSON) {
	texts := make([]string, f.Config.Specials)
	if len(f.Special) == 0 {
		copy(texts, tekkenSpecials)
	}
	for _, s := range f.Special {
		if s.Rank >= 0 && s.Rank < len(texts) {
			texts[s.Rank] = s.Text
		}
	}
	for id, s := range texts {
		if s == "" {
			s = fmt.Sprintf("<SPECIAL_%d>", id)
		}
		if _, ok := t.addedByStr[s]; !ok {
			t.add(addedJSON{Content: s, Special: true}, int32(id))
		}
	}
	t.indexAdded()
}
