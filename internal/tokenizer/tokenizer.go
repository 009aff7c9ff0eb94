// Package tokenizer reads Hugging Face's tokenizer.json and gives the ids that
// Hugging Face's tokenizers library gives, for models of type BPE: byte-level
// (GPT-2, Llama 3, Qwen) and SentencePiece-style with byte fallback (Llama 2,
// Mistral).
//
// A text passes these stations, each a part of tokenizer.json:
//
//	text ── added tokens that match as they are ── normalizer ── added tokens that
//	match normalized text ── pre-tokenizer (pieces) ── model (ids) ── post-processor
//
// Truncation and padding of the file are not applied. Offsets are not kept.
// Patterns, digits and NFC/NFD/NFKC/NFKD go by the same Unicode versions as the
// reference (16.0 and 9.0); Punctuation and StripAccents go by Unicode 15.0, which
// tells apart some characters of rare scripts that the reference's older tables
// do not.
package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Tokenizer turns text into ids and back. It may be used by several goroutines
// at once.
type Tokenizer struct {
	model     *bpe
	normalize normalizer // nil: none
	pre       *preTokenizer
	around    template
	decode    decodeStep // nil: tokens are joined by spaces

	added      []added
	addedByID  map[int32]*added
	addedByStr map[string]int32
	raw        trie // tokens that match the text as it is
	normalized trie // tokens that match normalized text
	size       int

	special  specialTokens
	encoders sync.Pool
}

// fileName is the file that Open looks for in a folder.
const fileName = "tokenizer.json"

// Open reads the tokenizer of a folder, as OpenFS, or a tokenizer.json and the
// files beside it. Errors name files by their paths.
func Open(pathOrDir string) (*Tokenizer, error) {
	info, err := os.Stat(pathOrDir)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return open(folder{os.DirFS(pathOrDir), pathOrDir}, fileName)
	}
	dir, name := filepath.Split(pathOrDir)
	if dir == "" {
		return open(folder{os.DirFS("."), ""}, name)
	}
	return open(folder{os.DirFS(dir), dir}, name)
}

// OpenFS reads the tokenizer.json at the root of fsys. Beside it
// tokenizer_config.json, special_tokens_map.json, config.json and
// chat_template.jinja (or .json) are read where they exist, for the roles of
// special tokens. Errors name the file and, for a component that is not
// supported, its place, what was found and what is supported.
func OpenFS(fsys fs.FS) (*Tokenizer, error) { return open(folder{fsys, ""}, fileName) }

func open(dir folder, name string) (*Tokenizer, error) {
	data, err := dir.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w%s", err, dir.insteadOf())
	}
	if err != nil {
		return nil, err
	}
	t, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir.path(name), err)
	}
	if err := t.loadSpecial(dir); err != nil {
		return nil, err
	}
	return t, nil
}

// folder is a file system and where it lies, for errors.
type folder struct {
	fsys fs.FS
	name string // "" if unknown
}

func (d folder) path(name string) string { return filepath.Join(d.name, name) }

// read reads a file; its errors name the file by its path.
func (d folder) read(name string) ([]byte, error) {
	data, err := fs.ReadFile(d.fsys, name)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return nil, &fs.PathError{Op: pe.Op, Path: d.path(name), Err: pe.Err}
	}
	return data, err
}

// insteadOf says which other tokenizer file a folder holds.
func (d folder) insteadOf() string {
	for _, name := range []string{"tokenizer.model", "spiece.model", "vocab.json", "tekken.json", "vocab.txt"} {
		if _, err := fs.Stat(d.fsys, name); err == nil {
			return fmt.Sprintf(" (the folder holds %s; only %s is read)", name, fileName)
		}
	}
	return ""
}

// Parse reads the text of a tokenizer.json alone: no token has a role that only
// the files beside it would tell.
func Parse(data []byte) (*Tokenizer, error) {
	var f fileJSON
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Version != nil && *f.Version != "1.0" {
		return nil, fmt.Errorf(`version is %q, want "1.0"`, *f.Version)
	}
	t := &Tokenizer{special: noSpecialTokens}
	var err error
	if t.model, err = parseModel(f.Model); err != nil {
		return nil, err
	}
	if t.normalize, err = parseNormalizer("normalizer", f.Normalizer, 0); err != nil {
		return nil, err
	}
	if t.pre, err = parsePreTokenizer(f.PreTokenizer); err != nil {
		return nil, err
	}
	if t.around, err = parsePostProcessor("post_processor", f.PostProcessor, 0); err != nil {
		return nil, err
	}
	if t.decode, err = parseDecoder("decoder", f.Decoder, 0); err != nil {
		return nil, err
	}
	t.addTokens(f.AddedTokens)
	for _, ids := range [][]int32{t.around.prefix, t.around.suffix} {
		for _, id := range ids {
			if _, ok := t.Token(id); !ok {
				return nil, fmt.Errorf("post_processor: id %d is not in the vocabulary", id)
			}
		}
	}
	t.encoders.New = func() any { return newEncoder(t.model) }
	return t, nil
}

// addTokens registers added tokens. As in the reference the id in the file does
// not count: a token takes the id it has in the vocabulary, or the next free one.
func (t *Tokenizer) addTokens(list []addedJSON) {
	t.addedByStr = make(map[string]int32, len(list))
	index := make(map[int32]int, len(list)) // id to place in t.added
	next := int32(len(t.model.vocab))
	t.size = len(t.model.tokens)
	for _, a := range list {
		if a.Content == "" {
			continue
		}
		id, ok := t.addedByStr[a.Content]
		if !ok {
			if id, ok = t.model.vocab[a.Content]; !ok {
				id = next
				next++
			}
		}
		e := added{addedJSON: a, id: id, normal: a.Content}
		if a.Normalized && t.normalize != nil {
			e.normal, _ = t.normalize(a.Content)
		}
		t.addedByStr[a.Content] = id
		if i, ok := index[id]; ok {
			t.added[i] = e
			continue
		}
		index[id] = len(t.added)
		t.added = append(t.added, e)
		t.size = max(t.size, int(id)+1)
	}
	t.addedByID = make(map[int32]*added, len(t.added))
	for i := range t.added {
		a := &t.added[i]
		t.addedByID[a.id] = a
		if a.Normalized {
			t.normalized.insert(a.normal, int32(i))
		} else {
			t.raw.insert(a.Content, int32(i))
		}
	}
}

// Encode returns the ids of text without what the post-processor adds around
// it. Added tokens inside the text, special ones too, are recognised, as by
// encode(text, add_special_tokens=False). Bytes that are not UTF-8 count as
// U+FFFD.
func (t *Tokenizer) Encode(text string) []int32 {
	if text == "" {
		return nil
	}
	return t.encode(make([]int32, 0, len(text)/3+8), text)
}

// EncodeSpecial returns Prefix, the ids of text and Suffix.
func (t *Tokenizer) EncodeSpecial(text string) []int32 {
	dst := append(make([]int32, 0, len(text)/3+8), t.around.prefix...)
	return append(t.encode(dst, text), t.around.suffix...)
}

func (t *Tokenizer) encode(dst []int32, text string) []int32 {
	text = validUTF8(text)
	e := t.encoders.Get().(*encoder)
	defer t.encoders.Put(e)
	token := func(id int32) { dst = append(dst, id) }
	piece := func(s string, _ bool) { dst = e.piece(dst, s, t.pre.bytes) }
	t.splitAdded(&t.raw, text, func(start, end int) {
		s, first := text[start:end], start == 0
		if t.normalize != nil {
			out, atStart := t.normalize(s)
			s, first = out, first && atStart
		}
		t.splitAdded(&t.normalized, s, func(start, end int) {
			t.pre.run(s[start:end], first && start == 0, piece)
		}, token)
	}, token)
	return dst
}

// Prefix is what the post-processor puts before a text. AddsBOS tells what
// tokenizer_config.json wants, which may differ.
func (t *Tokenizer) Prefix() []int32 { return append([]int32(nil), t.around.prefix...) }

// Suffix is what the post-processor puts after a text.
func (t *Tokenizer) Suffix() []int32 { return append([]int32(nil), t.around.suffix...) }

// Decode returns the text of ids, special tokens included, as by decode(ids,
// skip_special_tokens=False). Ids outside the vocabulary are left out, bytes
// that are not UTF-8 become U+FFFD.
func (t *Tokenizer) Decode(ids []int32) string {
	tokens := make([]string, 0, len(ids))
	for _, id := range ids {
		if a, ok := t.addedByID[id]; ok {
			tokens = append(tokens, a.normal)
		} else if s, ok := t.Token(id); ok {
			tokens = append(tokens, s)
		}
	}
	if t.decode == nil {
		return strings.Join(tokens, " ")
	}
	return strings.Join(t.decode(tokens), "")
}

// VocabSize is the highest id plus one, added tokens included.
func (t *Tokenizer) VocabSize() int { return t.size }

// Token returns the string of an id: as the vocabulary spells it, with byte-level
// symbols or "▁".
func (t *Tokenizer) Token(id int32) (string, bool) {
	if a, ok := t.addedByID[id]; ok {
		return a.Content, true
	}
	if id < 0 || int(id) >= len(t.model.tokens) || !t.model.used[id] {
		return "", false
	}
	return t.model.tokens[id], true
}

// ID returns the id of a token, spelled as Token spells it.
func (t *Tokenizer) ID(token string) (int32, bool) {
	if id, ok := t.addedByStr[token]; ok {
		return id, true
	}
	id, ok := t.model.vocab[token]
	return id, ok
}
