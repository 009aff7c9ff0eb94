// Package model turns pieces of text into token ids: BPE, Unigram, WordPiece and
// WordLevel, as Hugging Face's tokenizers library and SentencePiece do.
package model

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
)

// Model is a vocabulary and a way to cut text into its tokens. It may be used by
// several goroutines at once.
type Model interface {
	Vocab() *Vocab
	// Unknown is the id of what the vocabulary cannot spell, -1 if there is none:
	// then such text is left out.
	Unknown() int32
	// ByteFallback reports whether unknown characters are spelled by byte tokens.
	ByteFallback() bool
	NewEncoder() Encoder
}

// Encoder is the scratch of one running encoding.
type Encoder interface {
	// Encode appends the ids of one pre-tokenized piece. With bytes set, s is
	// plain text whose byte-level symbols are what the model sees.
	Encode(dst []int32, s string, bytes bool) []int32
}

// Room returns ids with room for some more, where the first done of all bytes of a text
// have given them but for the first before. It foresees how many there will be: growing
// step by step would hold a long text's ids several times.
func Room(ids []int32, before, done, all int) []int32 {
	const some = 1 << 12
	n := len(ids) - before
	if n < some || cap(ids)-len(ids) >= some || done >= all {
		return ids
	}
	rest := float64(all-done) * float64(n) / float64(done)
	return slices.Grow(ids, int(rest*1.02)+2*some)
}

// Metaspace is how SentencePiece spells a space.
const Metaspace = '▁'

// Vocab maps tokens to ids and back. There may be gaps among the ids.
type Vocab struct {
	ids    map[string]int32
	tokens []string // by id; "" with used[id] false is a gap
	used   []bool
}

// NewVocab makes a vocabulary from tokens and their ids.
func NewVocab(vocab map[string]int64) (*Vocab, error) {
	top := int64(-1)
	limit := MaxID(len(vocab))
	for s, id := range vocab {
		if id < 0 || id >= limit {
			return nil, fmt.Errorf("vocab: token %q has id %d, want 0 to %d", s, id, limit-1)
		}
		top = max(top, id)
	}
	v := &Vocab{
		ids:    make(map[string]int32, len(vocab)),
		tokens: make([]string, top+1),
		used:   make([]bool, top+1),
	}
	for s, id := range vocab {
		if v.used[id] {
			a, b := min(s, v.tokens[id]), max(s, v.tokens[id])
			return nil, fmt.Errorf("vocab: tokens %q and %q share id %d", a, b, id)
		}
		v.ids[s], v.tokens[id], v.used[id] = int32(id), s, true
	}
	return v, nil
}

// MaxID bounds the ids among n tokens. Ids are indices into an embedding, so a
// huge one among few tokens is damage.
func MaxID(n int) int64 { return 16*int64(n) + 1<<16 }

// NewVocabList makes a vocabulary whose ids are places in a list. Of equal tokens
// the last has the id.
func NewVocabList(tokens []string) *Vocab {
	v := &Vocab{ids: make(map[string]int32, len(tokens)), tokens: tokens, used: make([]bool, len(tokens))}
	for id, s := range tokens {
		v.ids[s], v.used[id] = int32(id), true
	}
	return v
}

// ID returns the id of a token.
func (v *Vocab) ID(token string) (int32, bool) {
	id, ok := v.ids[token]
	return id, ok
}

// Token returns the token of an id.
func (v *Vocab) Token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(v.tokens) || !v.used[id] {
		return "", false
	}
	return v.tokens[id], true
}

// Size is the highest id plus one.
func (v *Vocab) Size() int { return len(v.tokens) }

// Count is the number of tokens as the reference counts them.
func (v *Vocab) Count() int {
	n := 0
	for _, used := range v.used {
		if used {
			n++
		}
	}
	return n
}

// byteTokens are the ids of "<0x00>" … "<0xFF>", -1 where absent.
func (v *Vocab) byteTokens() (ids [256]int32) {
	for b := range ids {
		ids[b] = -1
		if id, ok := v.ids[fmt.Sprintf("<0x%02X>", b)]; ok {
			ids[b] = id
		}
	}
	return ids
}

// ByteToken reads "<0xAB>".
func ByteToken(s string) (byte, bool) {
	if len(s) != 6 || !strings.HasPrefix(s, "<0x") || s[5] != '>' {
		return 0, false
	}
	v, err := strconv.ParseUint(s[3:5], 16, 8)
	return byte(v), err == nil
}

// appendBytes appends the byte tokens of s, or nothing if one is missing.
func appendBytes(dst []int32, tokens *[256]int32, s string) ([]int32, bool) {
	n := len(dst)
	for i := 0; i < len(s); i++ {
		id := tokens[s[i]]
		if id < 0 {
			return dst[:n], false
		}
		dst = append(dst, id)
	}
	return dst, true
}

// seen is what a model without byte-level symbols of its own sees of a piece.
func seen(s string, bytes bool) string {
	if bytes {
		return chars.ToSymbols(s)
	}
	return s
}
