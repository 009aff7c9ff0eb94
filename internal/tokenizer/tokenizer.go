// Package tokenizer gives the ids that Hugging Face's tokenizers library gives for a
// tokenizer.json of any model type, and those of SentencePiece for its models.
//
// A text passes these stations, each a part of tokenizer.json:
//
//	text ── added tokens that match as they are ── normalizer ── added tokens that
//	match normalized text ── pre-tokenizer (pieces) ── model (ids) ── post-processor
//
// A SentencePiece model has its own normalizer and no pre-tokenizer.
//
// Truncation, padding and dropout of a file are not applied. Offsets are not kept.
// Characters go by the Unicode versions that each component of the reference has
// (package chars). A known difference: where a normalizer prepends text and the
// pre-tokenizer cuts right after it, Metaspace with the scheme "first" takes only the
// first of the two pieces for the text's start.
package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/tokenizer/chars"
	"github.com/golowbit/lowbit/internal/tokenizer/model"
	"github.com/golowbit/lowbit/internal/tokenizer/prefix"
)

// Tokenizer turns text into ids and back. It may be used by several goroutines
// at once.
type Tokenizer struct {
	model     model.Model
	normalize normalizer // nil: none
	later     normalizer // of stretches that do not begin the text, nil: normalize
	pre       *preTokenizer
	around    template
	decode    decodeStep // nil: tokens are joined by spaces

	added      []added
	addedAt    map[int32]int // id to place in added
	addedByStr map[string]int32
	raw        *prefix.Trie // tokens that match the text as it is
	normalized *prefix.Trie // tokens that match normalized text
	size       int
	scores     []float32         // by id, nil: the model's
	types      []TokenType       // by id, nil: told by the model and the added tokens
	own        map[string]string // tokens that the model itself names for roles
	wrap       bool              // BOS and EOS go around a text as AddsBOS and AddsEOS say

	special  specialTokens
	encoders sync.Pool
}

// fileName is the file that Open looks for in a folder.
const fileName = "tokenizer.json"

// Open reads the tokenizer of a folder, as OpenFS, or one of the files that OpenFS
// looks for and the files beside it. Errors name files by their paths.
func Open(pathOrDir string) (*Tokenizer, error) {
	info, err := os.Stat(pathOrDir)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return open(folder{os.DirFS(pathOrDir), pathOrDir}, "")
	}
	dir, name := filepath.Split(pathOrDir)
	if dir == "" {
		return open(folder{os.DirFS("."), ""}, name)
	}
	return open(folder{os.DirFS(dir), dir}, name)
}

// OpenFS reads the tokenizer at the root of fsys: tokenizer.json, or else a
// SentencePiece model (tokenizer.model or spiece.model), tekken.json, vocab.json with
// merges.txt, or vocab.txt. Beside it tokenizer_config.json, special_tokens_map.json,
// added_tokens.json, config.json, generation_config.json and chat_template.jinja (or
// .json) are read where they exist, for added tokens and the roles of special tokens.
// Errors name the file and, for a component that is not supported, its place, what was
// found and what is supported.
func OpenFS(fsys fs.FS) (*Tokenizer, error) { return open(folder{fsys, ""}, "") }

// kinds of files that hold a tokenizer, the first found counts.
var kinds = []struct {
	name string
	load func(dir folder, name string, side *sideFiles) (*Tokenizer, error)
}{
	{fileName, loadJSON},
	{"tokenizer.model", loadSentencePiece},
	{"spiece.model", loadSentencePiece},
	{"tekken.json", loadTekken},
	{"vocab.json", loadVocabMerges},
	{"vocab.txt", loadVocabText},
}

// open reads the file of that name, or with "" the first kind there is.
func open(dir folder, name string) (*Tokenizer, error) {
	side, err := dir.side()
	if err != nil {
		return nil, err
	}
	load := loadJSON
	for _, k := range kinds {
		if name == "" {
			if _, err := fs.Stat(dir.fsys, k.name); err != nil {
				continue
			}
			name = k.name
		}
		if name == k.name || filepath.Ext(name) == ".model" && filepath.Ext(k.name) == ".model" {
			load = k.load
			break
		}
	}
	if name == "" {
		return nil, fmt.Errorf("%w (nor tokenizer.model, spiece.model, tekken.json, vocab.json or vocab.txt)",
			&fs.PathError{Op: "open", Path: dir.path(fileName), Err: fs.ErrNotExist})
	}
	t, err := load(dir, name, side)
	if err != nil {
		return nil, err
	}
	if err := t.addListed(dir, side); err != nil {
		return nil, err
	}
	if err := t.setRoles(dir, side); err != nil {
		return nil, err
	}
	if t.wrap {
		t.wrapRoles()
	}
	return t, t.loadChatTemplate(dir, side)
}

func loadJSON(dir folder, name string, _ *sideFiles) (*Tokenizer, error) {
	data, err := dir.read(name)
	if err != nil {
		return nil, err
	}
	t, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir.path(name), err)
	}
	return t, nil
}

// folder is a file system and where it lies, for errors.
type folder struct {
	fsys fs.FS
	name string // "" if unknown
}

func (d folder) path(name string) string { return filepath.Join(d.name, name) }

// maxFile is the size beyond which a file is none of a tokenizer: the largest
// have 40 MB.
const maxFile = 256 << 20

// read reads a file without the byte order mark that some editors write; its errors
// name the file by its path.
func (d folder) read(name string) ([]byte, error) {
	data, err := disk.ReadFS(d.fsys, name, d.path(name), maxFile)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return nil, &fs.PathError{Op: pe.Op, Path: d.path(name), Err: pe.Err}
	}
	return bytes.TrimPrefix(data, []byte("\uFEFF")), err
}

// Parse reads the text of a tokenizer.json alone: no token has a role that only
// the files beside it would tell.
func Parse(data []byte) (*Tokenizer, error) {
	var f fileJSON
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\uFEFF")), &f); err != nil {
		return nil, err
	}
	if f.Version != nil && *f.Version != "1.0" {
		return nil, fmt.Errorf(`version is %q, want "1.0"`, *f.Version)
	}
	t := &Tokenizer{special: noSpecialTokens()}
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
	t.finish(f.AddedTokens)
	for _, ids := range [][]int32{t.around.prefix, t.around.suffix} {
		for _, id := range ids {
			if _, ok := t.Token(id); !ok {
				return nil, fmt.Errorf("post_processor: id %d is not in the vocabulary", id)
			}
		}
	}
	return t, nil
}

// finish sets what follows from the model.
func (t *Tokenizer) finish(list []addedJSON) {
	t.addTokens(list)
	t.encoders.New = func() any { return t.model.NewEncoder() }
}

// addTokens registers the added tokens of a tokenizer.json. As in the reference the
// id in the file does not count: a token takes the id it has in the vocabulary, or the
// next free one.
func (t *Tokenizer) addTokens(list []addedJSON) {
	t.addedByStr = make(map[string]int32, len(list))
	t.addedAt = make(map[int32]int, len(list))
	t.size = t.model.Vocab().Size()
	next := int32(t.model.Vocab().Count())
	for _, a := range list {
		if a.Content == "" {
			continue
		}
		id, ok := t.ID(a.Content)
		if !ok {
			id = next
			next++
		}
		t.add(a, id)
	}
	t.indexAdded()
}

// add registers one token, or registers it anew.
func (t *Tokenizer) add(a addedJSON, id int32) {
	e := added{addedJSON: a, id: id, normal: a.Content}
	if a.Normalized && t.normalize != nil {
		e.normal, _ = t.normalize(a.Content)
	}
	t.addedByStr[a.Content] = id
	t.size = max(t.size, int(id)+1)
	if i, ok := t.addedAt[id]; ok {
		t.added[i] = e
		return
	}
	t.addedAt[id] = len(t.added)
	t.added = append(t.added, e)
}

// addedToken is the added token of an id.
func (t *Tokenizer) addedToken(id int32) (*added, bool) {
	i, ok := t.addedAt[id]
	if !ok {
		return nil, false
	}
	return &t.added[i], true
}

// indexAdded makes the trees by which added tokens are found.
func (t *Tokenizer) indexAdded() {
	var raw, normalized []string
	var rawAt, normalizedAt []int32
	for i := range t.added {
		a := &t.added[i]
		if a.Normalized {
			normalized, normalizedAt = append(normalized, a.normal), append(normalizedAt, int32(i))
		} else {
			raw, rawAt = append(raw, a.Content), append(rawAt, int32(i))
		}
	}
	t.raw, t.normalized = prefix.Build(raw, rawAt), prefix.Build(normalized, normalizedAt)
}

// Encode returns the ids of text without what the post-processor adds around
// it. Added tokens inside the text, special ones too, are recognised, as by
// encode(text, add_special_tokens=False). Bytes that are not UTF-8 count as
// U+FFFD.
func (t *Tokenizer) Encode(text string) []int32 {
	if text == "" {
		return nil
	}
	return t.encode(make([]int32, 0, least(text)), text)
}

// EncodeSpecial returns Prefix, the ids of text and Suffix.
func (t *Tokenizer) EncodeSpecial(text string) []int32 {
	dst := append(make([]int32, 0, least(text)), t.around.prefix...)
	return append(t.encode(dst, text), t.around.suffix...)
}

// least is about how many ids there is room for before model.Room sees how many a text
// gives.
func least(text string) int { return min(len(text)/3, 1<<16) + 8 }

func (t *Tokenizer) encode(dst []int32, text string) []int32 {
	text = chars.ValidUTF8(text)
	e := t.encoders.Get().(model.Encoder)
	defer t.encoders.Put(e)
	token := func(id int32) { dst = append(dst, id) }
	var before, done, all int
	piece := func(s string, _ bool) {
		dst = e.Encode(dst, s, t.pre.bytes)
		done += len(s)
		dst = model.Room(dst, before, done, all)
	}
	t.splitAdded(t.raw, text, func(start, end int) {
		s, first := text[start:end], start == 0
		normalize := t.normalize
		if !first && t.later != nil {
			normalize = t.later
		}
		if normalize != nil {
			out, atStart := normalize(s)
			s, first = out, first && atStart
		}
		// What is behind the stretch counts as long as it is now.
		before, done, all = len(dst), 0, len(s)+len(text)-end
		t.splitAdded(t.normalized, s, func(start, end int) {
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
		if a, ok := t.addedToken(id); ok {
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
	if a, ok := t.addedToken(id); ok {
		return a.Content, true
	}
	return t.model.Vocab().Token(id)
}

// ID returns the id of a token, spelled as Token spells it.
func (t *Tokenizer) ID(token string) (int32, bool) {
	if id, ok := t.addedByStr[token]; ok {
		return id, true
	}
	return t.model.Vocab().ID(token)
}
