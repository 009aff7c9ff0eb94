package tokenizer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// specialTokens is what the files beside tokenizer.json say.
type specialTokens struct {
	bos, eos, unk, pad int32 // -1: none
	addBOS, addEOS     *bool
	config             map[string]int32 // by role, what config.json says
	chatTemplate       string
	toolTemplate       string // for conversations with tools, if that is another
}

func noSpecialTokens() specialTokens {
	return specialTokens{bos: -1, eos: -1, unk: -1, pad: -1, config: make(map[string]int32)}
}

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

// sideFiles are the files beside that of the tokenizer; those that are missing are nil.
type sideFiles struct {
	conf, tokens, model, generation, added fields
	class                                  string // tokenizer_class
}

const (
	confName  = "tokenizer_config.json"
	addedName = "added_tokens.json"
	modelName = "config.json"
)

func (d folder) side() (*sideFiles, error) {
	s := &sideFiles{}
	for _, f := range []struct {
		name string
		dst  *fields
	}{
		{confName, &s.conf}, {"special_tokens_map.json", &s.tokens}, {modelName, &s.model},
		{"generation_config.json", &s.generation}, {addedName, &s.added},
	} {
		var err error
		if *f.dst, err = d.fields(f.name); err != nil {
			return nil, err
		}
	}
	if raw, ok := s.conf["tokenizer_class"]; ok {
		// Not a string: treated as not given.
		_ = json.Unmarshal(raw, &s.class)
	}
	return s, nil
}

// vocabSize is the model's own, 0 if it is not given.
func (s *sideFiles) vocabSize() int64 {
	var c struct {
		Size int64 `json:"vocab_size"`
	}
	if json.Unmarshal(s.model["vocab_size"], &c.Size) == nil && c.Size > 0 {
		return c.Size
	}
	if json.Unmarshal(s.model["text_config"], &c) == nil {
		return c.Size
	}
	return 0
}

// role returns the token that the files name for a role such as "bos". As in
// transformers tokenizer_config.json counts, null included; special_tokens_map.json
// fills in what is not said there, and what is null there unless the file lists
// added_tokens_decoder (the newer form, which makes the map redundant).
func (s *sideFiles) role(name string) (content string, present bool) {
	_, newForm := s.conf["added_tokens_decoder"]
	content, present = s.conf.token(name + "_token")
	if content == "" && !(present && newForm) {
		if c, ok := s.tokens.token(name + "_token"); ok {
			content, present = c, true
		}
	}
	return content, present
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

// roleNames are the roles of special tokens in transformers.
var roleNames = []string{"bos", "eos", "unk", "pad", "sep", "cls", "mask"}

// setRoles resolves the special tokens. A role that no file names has the token that
// the tokenizer's class or the model assumes, then the id of config.json or
// generation_config.json. A token that a file names is found in text.
func (t *Tokenizer) setRoles(dir folder, side *sideFiles) error {
	ids := make(map[string]int32, len(roleNames))
	for _, role := range roleNames {
		content, present := side.role(role)
		fallback := ""
		if !present {
			if content = classDefault(side.class, role); content == "" {
				fallback = t.own[role]
			} else if _, known := t.ID(content); !known {
				content = ""
			}
		}
		ids[role] = -1
		if content != "" {
			if err := t.addSpecial(dir, side, role, content); err != nil {
				return err
			}
			ids[role], _ = t.ID(content)
		} else if id, ok := t.ID(fallback); ok {
			ids[role] = id
		}
		t.special.config[role] = -1
		if id, ok := side.id(role); ok {
			if _, known := t.Token(id); known {
				t.special.config[role] = id
				if ids[role] < 0 && !present {
					ids[role] = id
				}
			}
		}
	}
	for _, content := range side.additional() {
		if err := t.addSpecial(dir, side, "additional_special", content); err != nil {
			return err
		}
	}
	t.indexAdded()
	s := &t.special
	s.bos, s.eos, s.unk, s.pad = ids["bos"], ids["eos"], ids["unk"], ids["pad"]
	if s.unk < 0 {
		s.unk = t.model.Unknown()
	}
	if b := side.conf.bool("add_bos_token"); b != nil {
		s.addBOS = b
	}
	if b := side.conf.bool("add_eos_token"); b != nil {
		s.addEOS = b
	}
	return nil
}

// defaultWrap is whether a class of transformers puts BOS and EOS around a text when
// its files do not say so.
func defaultWrap(class string) (bos, eos *bool) {
	yes, no := true, false
	switch strings.TrimSuffix(class, "Fast") {
	case "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer":
		return &yes, &no
	case "T5Tokenizer":
		return &no, &yes
	case "BartTokenizer", "RobertaTokenizer":
		return &yes, &yes
	}
	return &no, &no
}

// wrapRoles makes what stands around a text of what AddsBOS and AddsEOS say, for
// tokenizers without a post-processor.
func (t *Tokenizer) wrapRoles() {
	if bos, ok := t.BOS(); ok && t.AddsBOS() {
		t.around.prefix = []int32{bos}
	}
	if eos, ok := t.EOS(); ok && t.AddsEOS() {
		t.around.suffix = []int32{eos}
	}
}

// id is the id that config.json, its text part or generation_config.json names for a
// role.
func (s *sideFiles) id(role string) (int32, bool) {
	var text fields
	_ = json.Unmarshal(s.model["text_config"], &text) // not there: no ids
	for _, f := range []fields{s.model, text, s.generation} {
		if id, ok := f.id(role + "_token_id"); ok {
			return id, true
		}
	}
	return 0, false
}

// classDefault is the token that a tokenizer class of transformers assumes.
func classDefault(class, role string) string {
	switch class {
	case "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast":
		return map[string]string{"bos": "<s>", "eos": "</s>", "unk": "<unk>"}[role]
	case "GemmaTokenizer", "GemmaTokenizerFast":
		return map[string]string{"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>"}[role]
	case "T5Tokenizer", "T5TokenizerFast":
		return map[string]string{"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}[role]
	case "BertTokenizer", "BertTokenizerFast":
		return map[string]string{"unk": "[UNK]", "pad": "[PAD]", "sep": "[SEP]", "cls": "[CLS]", "mask": "[MASK]"}[role]
	case "RobertaTokenizer", "RobertaTokenizerFast":
		return map[string]string{"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>", "sep": "</s>", "cls": "<s>", "mask": "<mask>"}[role]
	case "GPT2Tokenizer", "GPT2TokenizerFast":
		return map[string]string{"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}[role]
	case "Qwen2Tokenizer", "Qwen2TokenizerFast":
		return map[string]string{"eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"}[role]
	}
	return ""
}

// loadChatTemplate takes chat_template.jinja, else chat_template.json, else the
// entry of tokenizer_config.json; of several named ones that named "default", and for
// conversations with tools that named "tool_use", which may also be a file beside the first.
func (t *Tokenizer) loadChatTemplate(dir folder, side *sideFiles) error {
	data, err := dir.read("chat_template.jinja")
	if err == nil {
		t.special.chatTemplate = string(data)
		if data, err = dir.read("additional_chat_templates/tool_use.jinja"); err == nil {
			t.special.toolTemplate = string(data)
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	other, err := dir.fields("chat_template.json")
	if err != nil {
		return err
	}
	for _, f := range []fields{other, side.conf} {
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
				switch n.Name {
				case "default":
					t.special.chatTemplate = n.Template
				case "tool_use":
					t.special.toolTemplate = n.Template
				}
			}
			if t.special.chatTemplate != "" || t.special.toolTemplate != "" {
				return nil
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

// ConfigID is the id that config.json, or else generation_config.json, names for
// "bos", "eos", "pad" or "unk", of a list the first. It counts where the tokenizer's
// own files leave the role open, and may be asked where they say that there is none.
func (t *Tokenizer) ConfigID(role string) (int32, bool) {
	id, ok := t.special.config[role]
	return id, ok && id >= 0
}

// ChatTemplate is the Jinja source of the chat template, "" if there is none.
func (t *Tokenizer) ChatTemplate() string { return t.special.chatTemplate }

// ToolTemplate is the source of the template for conversations with tools: ChatTemplate,
// if there is no other.
func (t *Tokenizer) ToolTemplate() string {
	return cmp.Or(t.special.toolTemplate, t.special.chatTemplate)
}

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
