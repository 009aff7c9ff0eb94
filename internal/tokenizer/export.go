package tokenizer

import (
	"encoding/json"
	"strings"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
	"github.com/golowbit/lowbit/internal/tokenizer/model"
)

// Kind is the family of a tokenizer.
type Kind int

const (
	// ByteLevel BPE spells bytes by GPT-2's symbols.
	ByteLevel Kind = iota
	// SentencePiece BPE spells a space "▁" and unknown characters by byte tokens.
	SentencePiece
	// Plain BPE is neither.
	Plain
	// Unigram, WordPiece and WordLevel are the other types of models.
	Unigram
	WordPiece
	WordLevel
)

func (k Kind) String() string {
	return [...]string{"byte-level BPE", "SentencePiece BPE", "plain BPE", "Unigram", "WordPiece", "WordLevel"}[k]
}

// Kind is the type of the model, and tells byte-level from SentencePiece-style BPE.
func (t *Tokenizer) Kind() Kind {
	switch t.model.(type) {
	case *model.Unigram:
		return Unigram
	case *model.WordPiece:
		return WordPiece
	case *model.WordLevel:
		return WordLevel
	}
	switch {
	case t.pre.byteLevel:
		return ByteLevel
	case t.model.ByteFallback() || t.pre.metaspace:
		return SentencePiece
	}
	// ByteLevel may also stand among the normalizers.
	if t.normalize != nil {
		if s, _ := t.normalize("\x00"); strings.HasSuffix(s, string(chars.ByteSymbols[0])) {
			return ByteLevel
		}
	}
	return Plain
}

// TokenType is what a token is for.
type TokenType int

const (
	Normal      TokenType = iota
	Unknown               // stands for what the vocabulary cannot spell
	Control               // special: never part of plain text
	UserDefined           // added, but not special
	Unused                // a gap among the ids
	Byte                  // "<0x00>" … "<0xFF>"
)

// Vocab returns the tokens by id, VocabSize of them, and the type of each. A gap
// is "" of type Unused.
func (t *Tokenizer) Vocab() ([]string, []TokenType) {
	tokens := make([]string, t.size)
	types := make([]TokenType, t.size)
	for i := range tokens {
		id := int32(i)
		s, ok := t.Token(id)
		tokens[i] = s
		a, isAdded := t.addedToken(id)
		switch {
		case !ok:
			types[i] = Unused
		case id == t.model.Unknown():
			types[i] = Unknown
		case t.types != nil && i < len(t.types) && t.types[i] != Normal:
			types[i] = t.types[i]
		case isAdded && a.Special:
			types[i] = Control
		case isAdded:
			types[i] = UserDefined
		case t.model.ByteFallback() && isByteToken(s):
			types[i] = Byte
		default:
			types[i] = Normal
		}
	}
	return tokens, types
}

func isByteToken(s string) bool {
	_, ok := model.ByteToken(s)
	return ok
}

// Merges returns the pairs of tokens that merge, in rank order: none unless the
// model is BPE.
func (t *Tokenizer) Merges() [][2]string {
	if m, ok := t.model.(*model.BPE); ok {
		return m.Merges()
	}
	return nil
}

// Scores returns a score by id, as SentencePiece has it: Unigram's
// log-probabilities, the scores by which BPE merges (model.BPE.Scores) where a
// SentencePiece model does not give them itself, and 0 for added tokens and for
// the other types of models.
func (t *Tokenizer) Scores() []float32 {
	scores := make([]float32, t.size)
	if t.scores != nil {
		copy(scores, t.scores)
		return scores
	}
	isAdded := func(id int32) bool { _, ok := t.addedAt[id]; return ok }
	switch m := t.model.(type) {
	case *model.BPE:
		copy(scores, m.Scores(isAdded))
	case *model.Unigram:
		copy(scores, m.Scores())
	}
	return scores
}

// SplitRegexes returns the patterns of the Split pre-tokenizers, joined in
// order: their hash tells pre-tokenizers apart. It is "" where there is none, as
// with the pattern built into ByteLevel.
func (t *Tokenizer) SplitRegexes() string { return strings.Join(t.pre.regexes, "") }

// Normalize returns what the normalizer makes of a stretch of text.
func (t *Tokenizer) Normalize(text string) string {
	if t.normalize == nil {
		return text
	}
	s, _ := t.normalize(text)
	return s
}

// Pieces returns what the pre-tokenizer makes of a text that is normalized already,
// byte-level symbols spelled as the bytes that they stand for.
func (t *Tokenizer) Pieces(text string) []string {
	var out []string
	t.pre.run(text, true, func(s string, _ bool) {
		if t.pre.byteLevel && !t.pre.bytes {
			s = string(chars.AppendFromSymbols(nil, s))
		}
		out = append(out, s)
	})
	return out
}

// WithPreTokenizer returns the tokenizer with another pre_tokenizer of tokenizer.json.
func (t *Tokenizer) WithPreTokenizer(raw json.RawMessage) (*Tokenizer, error) {
	pre, err := parsePreTokenizer(raw)
	if err != nil {
		return nil, err
	}
	other := &Tokenizer{
		model: t.model, normalize: t.normalize, later: t.later, pre: pre, around: t.around, decode: t.decode,
		added: t.added, addedAt: t.addedAt, addedByStr: t.addedByStr, raw: t.raw, normalized: t.normalized,
		size: t.size, scores: t.scores, types: t.types, own: t.own, wrap: t.wrap, special: t.special,
	}
	other.encoders.New = func() any { return other.model.NewEncoder() }
	return other, nil
}

// TakesWholePieces tells whether a piece that is a token is taken as it is
// (ignore_merges), and whether that gives other ids than merging.
func (t *Tokenizer) TakesWholePieces() (takes, matters bool) {
	m, ok := t.model.(*model.BPE)
	if !ok {
		return false, false
	}
	return m.IgnoresMerges(), !m.MergesMakeAll(func(id int32) bool {
		_, added := t.addedAt[id]
		return added
	})
}
