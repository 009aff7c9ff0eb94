package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/golowbit/lowbit/internal/tokenizer/model"
)

// addListed registers the tokens that only tokenizer_config.json's
// added_tokens_decoder or added_tokens.json lists, as transformers does when it opens
// a tokenizer, each at the id that is listed for it.
func (t *Tokenizer) addListed(dir folder, side *sideFiles) error {
	var decoder map[string]addedJSON
	if raw, ok := side.conf["added_tokens_decoder"]; ok && !absent(raw) {
		if err := json.Unmarshal(raw, &decoder); err != nil {
			return fmt.Errorf("%s: added_tokens_decoder: %w", dir.path(confName), err)
		}
	}
	list := make([]addedJSON, 0, len(decoder))
	for key, a := range decoder {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil {
			return fmt.Errorf("%s: added_tokens_decoder: %q is no id", dir.path(confName), key)
		}
		a.ID = id
		list = append(list, a)
	}
	if err := t.placeAll(dir, confName, side, list); err != nil {
		return err
	}
	special := side.specialTokens()
	list = list[:0]
	for content, raw := range side.added {
		a := addedJSON{Content: content, Special: special[content], Normalized: !special[content]}
		if err := json.Unmarshal(raw, &a.ID); err != nil {
			return fmt.Errorf("%s: %q: %w", dir.path(addedName), content, err)
		}
		list = append(list, a)
	}
	if err := t.placeAll(dir, addedName, side, list); err != nil {
		return err
	}
	t.indexAdded()
	return nil
}

// specialTokens are the tokens that the files name for a role or as additional ones.
func (s *sideFiles) specialTokens() map[string]bool {
	out := make(map[string]bool)
	for _, role := range roleNames {
		content, _ := s.role(role)
		out[content] = true
	}
	for _, content := range s.additional() {
		out[content] = true
	}
	delete(out, "")
	return out
}

// additional are the additional_special_tokens, in order.
func (s *sideFiles) additional() []string {
	var out []string
	for _, f := range []fields{s.conf, s.tokens} {
		var list []json.RawMessage
		_ = json.Unmarshal(f["additional_special_tokens"], &list) // not a list: none
		for _, raw := range list {
			if content, _ := (fields{"": raw}).token(""); content != "" {
				out = append(out, content)
			}
		}
	}
	return out
}

// placeAll registers those of the list, from a file, that are not added tokens yet.
func (t *Tokenizer) placeAll(dir folder, file string, side *sideFiles, list []addedJSON) error {
	slices.SortFunc(list, func(a, b addedJSON) int { return int(a.ID - b.ID) })
	limit := model.MaxID(t.size + len(list))
	for _, a := range list {
		if _, ok := t.addedByStr[a.Content]; ok || a.Content == "" {
			continue
		}
		id, ok := t.ID(a.Content)
		if !ok {
			if a.ID < 0 || a.ID >= limit {
				return fmt.Errorf("%s: token %q has id %d, want 0 to %d", dir.path(file), a.Content, a.ID, limit-1)
			}
			id = int32(a.ID)
			if other, ok := t.Token(id); ok {
				return fmt.Errorf("%s: token %q has id %d, which the tokenizer has for %q", dir.path(file), a.Content, id, other)
			}
			if err := fits(dir, file, side, a.Content, id); err != nil {
				return err
			}
		}
		t.add(a, id)
	}
	return nil
}

// fits reports an id that the model has no row for.
func fits(dir folder, file string, side *sideFiles, content string, id int32) error {
	if size := side.vocabSize(); size > 0 && int64(id) >= size {
		return fmt.Errorf("%s: token %q has id %d, but vocab_size in %s is %d: the model does not know it", dir.path(file), content, id, modelName, size)
	}
	return nil
}

// addSpecial registers a token that a file names for a role, if it is no added token
// yet, at the next free id if the vocabulary does not have it.
func (t *Tokenizer) addSpecial(dir folder, side *sideFiles, role, content string) error {
	if _, ok := t.addedByStr[content]; ok {
		return nil
	}
	id, ok := t.ID(content)
	if !ok {
		id = int32(t.size)
		if err := fits(dir, confName, side, role+"_token "+content, id); err != nil {
			return err
		}
	}
	a := addedJSON{Content: content, Special: true}
	raw := side.conf[role+"_token"]
	if raw == nil {
		raw = side.tokens[role+"_token"]
	}
	// A plain string sets nothing.
	_ = json.Unmarshal(raw, &a)
	a.Content, a.Special = content, true
	t.add(a, id)
	return nil
}
