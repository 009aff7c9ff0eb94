package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/internal/tokenizer/model"
)

const (
	typeBPE       = "BPE"
	typeUnigram   = "Unigram"
	typeWordPiece = "WordPiece"
	typeWordLevel = "WordLevel"
)

func parseModel(raw json.RawMessage) (model.Model, error) {
	const where = "model"
	if absent(raw) {
		return nil, fmt.Errorf("%s: missing", where)
	}
	typ, err := modelType(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	var m model.Model
	switch typ {
	case typeBPE:
		m, err = parseBPE(raw)
	case typeUnigram:
		m, err = parseUnigram(raw)
	case typeWordPiece:
		m, err = parseWordPiece(raw)
	case typeWordLevel:
		m, err = parseWordLevel(raw)
	default:
		return nil, unsupported(where, typ, typeBPE, typeUnigram, typeWordPiece, typeWordLevel)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return m, nil
}

// modelType reads the type. Files from before it was written are told by what they
// hold.
func modelType(raw json.RawMessage) (string, error) {
	var kind struct {
		Type    string          `json:"type"`
		Vocab   json.RawMessage `json:"vocab"`
		Merges  json.RawMessage `json:"merges"`
		Longest json.RawMessage `json:"max_input_chars_per_word"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return "", err
	}
	switch {
	case kind.Type != "":
		return kind.Type, nil
	case bytes.HasPrefix(bytes.TrimSpace(kind.Vocab), []byte("[")):
		return typeUnigram, nil
	case kind.Merges != nil:
		return typeBPE, nil
	case kind.Longest != nil:
		return typeWordPiece, nil
	}
	return typeWordLevel, nil
}

func parseBPE(raw json.RawMessage) (model.Model, error) {
	var c struct {
		Dropout      *float64         `json:"dropout"`
		Unknown      string           `json:"unk_token"`
		Prefix       string           `json:"continuing_subword_prefix"`
		Suffix       string           `json:"end_of_word_suffix"`
		FuseUnknown  bool             `json:"fuse_unk"`
		ByteFallback bool             `json:"byte_fallback"`
		IgnoreMerges bool             `json:"ignore_merges"`
		Vocab        map[string]int64 `json:"vocab"`
		Merges       mergesJSON       `json:"merges"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, err
	}
	if c.Vocab == nil || c.Merges == nil {
		return nil, errors.New("vocab or merges missing")
	}
	vocab, err := model.NewVocab(c.Vocab)
	if err != nil {
		return nil, err
	}
	// Dropout, random segmentation for training, is not applied.
	return model.NewBPE(model.BPEConfig{
		Vocab: vocab, Merges: c.Merges, Unknown: c.Unknown, Prefix: c.Prefix, Suffix: c.Suffix,
		FuseUnknown: c.FuseUnknown, IgnoreMerges: c.IgnoreMerges, ByteFallback: c.ByteFallback,
	})
}

func parseUnigram(raw json.RawMessage) (model.Model, error) {
	var c struct {
		Unknown      *int32        `json:"unk_id"`
		ByteFallback bool          `json:"byte_fallback"`
		Vocab        []scoredToken `json:"vocab"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, err
	}
	tokens, scores := make([]string, len(c.Vocab)), make([]float64, len(c.Vocab))
	for i, t := range c.Vocab {
		tokens[i], scores[i] = t.token, t.score
	}
	unknown := int32(-1)
	if c.Unknown != nil {
		if unknown = *c.Unknown; unknown < 0 || int(unknown) >= len(tokens) {
			return nil, fmt.Errorf("unk_id is %d, want 0 to %d", unknown, len(tokens)-1)
		}
	}
	return model.NewUnigram(model.UnigramConfig{
		Vocab: model.NewVocabList(tokens), Scores: scores, Unknown: unknown, ByteFallback: c.ByteFallback,
	})
}

// scoredToken is ["token", log-probability].
type scoredToken struct {
	token string
	score float64
}

func (t *scoredToken) UnmarshalJSON(data []byte) error {
	var pair [2]json.RawMessage
	if json.Unmarshal(data, &pair) != nil || json.Unmarshal(pair[0], &t.token) != nil || json.Unmarshal(pair[1], &t.score) != nil {
		return fmt.Errorf(`vocab: %.40s is not a ["token", score] pair`, data)
	}
	return nil
}

func parseWordPiece(raw json.RawMessage) (model.Model, error) {
	c := struct {
		Unknown string           `json:"unk_token"`
		Prefix  string           `json:"continuing_subword_prefix"`
		Longest int              `json:"max_input_chars_per_word"`
		Vocab   map[string]int64 `json:"vocab"`
	}{"[UNK]", "##", 100, nil}
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, err
	}
	vocab, err := model.NewVocab(c.Vocab)
	if err != nil {
		return nil, err
	}
	return model.NewWordPiece(vocab, c.Unknown, c.Prefix, c.Longest)
}

func parseWordLevel(raw json.RawMessage) (model.Model, error) {
	c := struct {
		Unknown string           `json:"unk_token"`
		Vocab   map[string]int64 `json:"vocab"`
	}{"<unk>", nil}
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, err
	}
	vocab, err := model.NewVocab(c.Vocab)
	if err != nil {
		return nil, err
	}
	return model.NewWordLevel(vocab, c.Unknown)
}
