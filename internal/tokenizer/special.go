package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// specialTokens is what the files beside tokenizer.json say.
type specialTokens struct {
	bos, eos, unk, pad int32 // -1: none
	addBOS, addEOS     *bool
	class              string
	chatTemplate       string
}

var noSpecialTokens = specialTokens{bos: -1, eos: -1, unk: -1, pad: -1}

// fields of a JSON object, kept apart from their absence.
type fields map[string]json.RawMessage

func (d folder) fields(name string) (fields, error) {
	data, err := d.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var f fields
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", d.path(name), err)
	}
	return f, nil
}

// token reads a special token: a string or an object with "content".
func (f fields) token(name string) (content string, present bool) {
	raw, ok := f[name]
	if !ok {
		return "", false
	}
	if json.Unmarshal(raw, &content) == nil {
		return content, true // null gives "": none
	}
	var t struct {
		Content string `json:"content"`
	}
	if json.Unmarshal(raw, &t) == nil {
		return t.Content, true
	}
	return "", true
}

func (f fields) bool(name string) *bool {
	var b *bool
	if json.Unmarshal(f[name], &b) != nil {
		return nil
	}
	return b
}

// id reads a token id, the first of a list.
func (f fields) id(name string) (int32, bool) {
	var one int32
	if raw, ok := f[name]; !ok || string(raw) == "null" {
		return 0, false
	} else if json.Unmarshal(raw, &one) == nil {
		return one, true
	}
	var list []int32
	if json.Unmarshal(f[name], &list) == nil && len(list) > 0 {
		return list[0], true
	}
	return 0, false
}

// loadSpecial resolves the special tokens. As in transformers a role named in
// tokenizer_config.json counts, null included; special_tokens_map.json fills in
// what is not said there, and what is null there unless the file lists
// added_tokens_decoder (the newer form, which makes the map redundant). Where no
// file names a token, the defaults of the Llama classes and then the ids of
// config.json count.
func (t *Tokenizer) loadSpecial(dir folder) error {
	var files [3]fields
	for i, name := range []string{"tokenizer_config.json", "special_tokens_map.json", "config.json"} {
		f, err := dir.fields(name)
		if err != nil {
			return err
		}
		files[i] = f
	}
	conf, tokens, model := files[0], files[1], files[2]
	s := &t.special
	if raw, ok := conf["tokenizer_class"]; ok {
		// Not a string: treated as not given.
		_ = json.Unmarshal(raw, &s.class)
	}
	_, newForm := conf["added_tokens_decoder"]
	resolve := func(role string) int32 {
		content, present := conf.token(role + "_token")
		if content == "" && !(present && newForm) {
			if c, ok := tokens.token(role + "_token"); ok {
				content, present = c, true
			}
		}
		if !present {
			content = t.classDefault(role)
		}
		if content != "" {
			if id, ok := t.ID(content); ok {
				return id
			}
		}
		if present {
			return -1
		}
		if id, ok := model.id(role + "_token_id"); ok {
			if _, known := t.Token(id); known {
				return id
			}
		}
		return -1
	}
	s.bos, s.eos, s.unk, s.pad = resolve("bos"), resolve("eos"), resolve("unk"), resolve("pad")
	if s.unk < 0 {
		s.unk = t.model.unk
	}
	s.addBOS, s.addEOS = conf.bool("add_bos_token"), conf.bool("add_eos_token")
	return t.loadChatTemplate(dir, conf)
}

// classDefault is the token that a tokenizer class of transformers assumes.
func (t *Tokenizer) classDefault(role string) string {
	switch t.special.class {
	case "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast":
		return map[string]string{"bos": "<s>", "eos": "</s>", "unk": "<unk>"}[role]
	case "GPT2Tokenizer", "GPT2TokenizerFast":
		return map[string]string{"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}[role]
	case "Qwen2Tokenizer", "Qwen2TokenizerFast":
		return map[string]string{"eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"}[role]
	}
	return ""
}

// loadChatTemplate takes chat_template.jinja, else chat_template.json, else the
// entry of tokenizer_config.json; of several named ones that named "default".
func (t *Tokenizer) loadChatTemplate(dir folder, conf fields) error {
	data, err := dir.read("chat_template.jinja")
	if err == nil {
		t.special.chatTemplate = string(data)
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	other, err := dir.fields("chat_template.json")
	if err != nil {
		return err
	}
	for _, f := range []fields{other, conf} {
		raw, ok := f["chat_template"]
		if !ok {
			continue
		}
		var one string
		if json.Unmarshal(raw, &one) == nil && one != "" {
			t.special.chatTemplate = one
			return nil
		}
		var named []struct {
			Name     string `json:"name"`
			Template string `json:"template"`
		}
		if json.Unmarshal(raw, &named) == nil {
			for _, n := range named {
				if n.Name == "default" {
					t.special.chatTemplate = n.Template
					return nil
				}
			}
		}
	}
	return nil
}

func some(id int32) (int32, bool) {
	if id < 0 {
		return 0, false
	}
	return id, true
}

// BOS is the token that begins a text, if the model has one.
func (t *Tokenizer) BOS() (int32, bool) { return some(t.special.bos) }

// EOS is the token that ends a text, if the model has one.
func (t *Tokenizer) EOS() (int32, bool) { return some(t.special.eos) }

// Unknown is the token for what the vocabulary cannot spell, if there is one.
func (t *Tokenizer) Unknown() (int32, bool) { return some(t.special.unk) }

// Padding is the token that fills batches, if there is one.
func (t *Tokenizer) Padding() (int32, bool) { return some(t.special.pad) }

// ChatTemplate is the Jinja source of the chat template, "" if there is none.
func (t *Tokenizer) ChatTemplate() string { return t.special.chatTemplate }

// AddsBOS reports whether a text is to begin with BOS: add_bos_token of
// tokenizer_config.json where it is given, else what the post-processor does.
func (t *Tokenizer) AddsBOS() bool {
	if t.special.addBOS != nil {
		return *t.special.addBOS
	}
	p := t.around.prefix
	return len(p) > 0 && p[0] == t.special.bos
}

// AddsEOS reports whether a text is to end with EOS, as AddsBOS.
func (t *Tokenizer) AddsEOS() bool {
	if t.special.addEOS != nil {
		return *t.special.addEOS
	}
	s := t.around.suffix
	return len(s) > 0 && s[len(s)-1] == t.special.eos
}
