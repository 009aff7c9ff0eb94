package tokenizer

import (
	"slices"
	"strings"
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
)

func (k Kind) String() string {
	switch k {
	case ByteLevel:
		return "byte-level BPE"
	case SentencePiece:
		return "SentencePiece BPE"
	}
	return "plain BPE"
}

// Kind tells byte-level from SentencePiece-style BPE.
func (t *Tokenizer) Kind() Kind {
	switch {
	case t.pre.byteLevel:
		return ByteLevel
	case t.model.fallback || t.pre.metaspace:
		return SentencePiece
	}
	// ByteLevel may also stand among the normalizers.
	if t.normalize != nil {
		if s, _ := t.normalize("\x00"); strings.HasSuffix(s, string(byteSymbols[0])) {
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
		a, isAdded := t.addedByID[id]
		switch {
		case !ok:
			types[i] = Unused
		case id == t.model.unk:
			types[i] = Unknown
		case isAdded && a.Special:
			types[i] = Control
		case isAdded:
			types[i] = UserDefined
		case t.model.fallback && t.isByteToken(id, s):
			types[i] = Byte
		default:
			types[i] = Normal
		}
	}
	return tokens, types
}

func (t *Tokenizer) isByteToken(id int32, s string) bool {
	b, ok := byteTokenValue(s)
	return ok && t.model.byteToken[b] == id
}

// Merges returns the pairs of tokens that merge, in rank order.
func (t *Tokenizer) Merges() [][2]string { return slices.Clone(t.model.merges) }

// Scores returns a score by id for engines that merge by score, as
// SentencePiece does: minus the lowest rank of the merges that make the token,
// so that a better merge scores higher. Tokens that no merge makes and that are
// longer than one character score below all others; single characters, byte
// tokens, the unknown token and added tokens score 0.
func (t *Tokenizer) Scores() []float32 {
	scores := make([]float32, t.size)
	never := -float32(len(t.model.merges) + 1)
	for id, s := range t.model.tokens {
		_, isAdded := t.addedByID[int32(id)]
		if t.model.used[id] && !isAdded && int32(id) != t.model.unk && !t.isByteToken(int32(id), s) && len([]rune(s)) > 1 {
			scores[id] = never
		}
	}
	for rank := len(t.model.merges) - 1; rank >= 0; rank-- {
		p := t.model.merges[rank]
		id := t.model.vocab[p[0]+p[1][len(t.model.prefix):]]
		if _, isAdded := t.addedByID[id]; !isAdded {
			scores[id] = -float32(rank)
		}
	}
	return scores
}

// SplitRegexes returns the patterns of the Split pre-tokenizers, joined in
// order: their hash tells pre-tokenizers apart. It is "" where there is none, as
// with the pattern built into ByteLevel.
func (t *Tokenizer) SplitRegexes() string { return strings.Join(t.pre.regexes, "") }
