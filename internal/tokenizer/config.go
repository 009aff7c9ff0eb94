package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// The shapes of tokenizer.json that are read. Components are kept raw until
// their "type" is known, so that an unknown one can be named in the error.
type fileJSON struct {
	Version       *string         `json:"version"`
	AddedTokens   []addedJSON     `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         json.RawMessage `json:"model"`
}

type addedJSON struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// mergesJSON accepts both spellings of a merge: "a b" and ["a", "b"].
type mergesJSON [][2]string

func (m *mergesJSON) UnmarshalJSON(data []byte) error {
	var pairs [][]string
	if err := json.Unmarshal(data, &pairs); err == nil {
		out := make(mergesJSON, 0, len(pairs))
		for i, p := range pairs {
			if len(p) != 2 {
				return fmt.Errorf("merge %d has %d parts, want 2", i, len(p))
			}
			out = append(out, [2]string{p[0], p[1]})
		}
		*m = out
		return nil
	}
	var lines []string
	if err := json.Unmarshal(data, &lines); err != nil {
		return fmt.Errorf(`merges are neither "a b" strings nor ["a", "b"] pairs`)
	}
	out := make(mergesJSON, 0, len(lines))
	for i, line := range lines {
		// The header of a merges.txt may have been copied along.
		if strings.HasPrefix(line, "#version") {
			continue
		}
		a, b, ok := strings.Cut(line, " ")
		if !ok || strings.Contains(b, " ") {
			return fmt.Errorf("merge %d is %q, want two parts with one space between", i, line)
		}
		out = append(out, [2]string{a, b})
	}
	*m = out
	return nil
}

// patternJSON is {"String": "..."} or {"Regex": "..."}.
type patternJSON struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

// absent tells a missing component from a present one.
func absent(raw json.RawMessage) bool {
	b := bytes.TrimSpace(raw)
	return len(b) == 0 || string(b) == "null"
}

// componentType reads the "type" of a component.
func componentType(where string, raw json.RawMessage) (string, error) {
	var t struct {
		Type *string `json:"type"`
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return "", fmt.Errorf("%s: %w", where, err)
	}
	if t.Type == nil {
		return "", fmt.Errorf(`%s: no "type"`, where)
	}
	return *t.Type, nil
}

func unsupported(where, found string, supported ...string) error {
	return fmt.Errorf("%s: type %q is not supported (supported: %s)", where, found, strings.Join(supported, ", "))
}

// decodeInto unmarshals a component whose type is already known.
func decodeInto(where string, raw json.RawMessage, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	return nil
}

// maxNesting bounds Sequence inside Sequence.
const maxNesting = 16

func tooDeep(where string) error {
	return fmt.Errorf("%s: nested deeper than %d", where, maxNesting)
}

// oneRune reads a JSON string that must hold a single character.
func oneRune(where, field, s string) (rune, error) {
	rs := []rune(s)
	if len(rs) != 1 {
		return 0, fmt.Errorf("%s: %s is %q, want one character", where, field, s)
	}
	return rs[0], nil
}
