package model

import (
	"fmt"
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/tokenizer/prefix"
)

// WordPiece cuts a word greedily into the longest tokens (Wu et al., "Google's
// Neural Machine Translation System", 2016, section 4.1). A word that cannot be cut
// to its end, or is longer than limit characters, is one unknown token.
type WordPiece struct {
	vocab *Vocab
	trie  *prefix.Trie
	unk   int32
	inner int32 // the node of the prefix of tokens inside a word, -1: there are none
	limit int
}

// NewWordPiece takes the token for unknown words, the prefix of tokens that
// continue a word and the number of characters of the longest word.
func NewWordPiece(vocab *Vocab, unknown, continuing string, limit int) (*WordPiece, error) {
	unk, ok := vocab.ID(unknown)
	if !ok {
		return nil, fmt.Errorf("unk_token %q is not in the vocabulary", unknown)
	}
	keys, ids := make([]string, 0, len(vocab.ids)), make([]int32, 0, len(vocab.ids))
	for s, id := range vocab.ids {
		keys, ids = append(keys, s), append(ids, id)
	}
	m := &WordPiece{vocab: vocab, trie: prefix.Build(keys, ids), unk: unk, inner: prefix.Root, limit: limit}
	for i := 0; i < len(continuing) && m.inner >= 0; i++ {
		m.inner = m.trie.Step(m.inner, continuing[i])
	}
	return m, nil
}

// Vocab is the vocabulary.
func (m *WordPiece) Vocab() *Vocab { return m.vocab }

// Unknown is the id of unknown words.
func (m *WordPiece) Unknown() int32 { return m.unk }

// ByteFallback is false.
func (m *WordPiece) ByteFallback() bool { return false }

// NewEncoder returns the model itself, which needs no scratch.
func (m *WordPiece) NewEncoder() Encoder { return m }

// Encode appends the ids of one word.
func (m *WordPiece) Encode(dst []int32, s string, bytes bool) []int32 {
	s = seen(s, bytes)
	if len(s) > m.limit && utf8.RuneCountInString(s) > m.limit {
		return append(dst, m.unk)
	}
	n := len(dst)
	for start := 0; start < len(s); {
		node, end, best := prefix.Root, 0, int32(-1)
		if start > 0 {
			node = m.inner
		}
		for i := start; i < len(s) && node >= 0; i++ {
			if node = m.trie.Step(node, s[i]); node < 0 {
				break
			}
			if id := m.trie.Value(node); id >= 0 {
				end, best = i+1, id
			}
		}
		if best < 0 {
			return append(dst[:n], m.unk)
		}
		dst = append(dst, best)
		start = end
	}
	return dst
}

// WordLevel has a token for every word it knows.
type WordLevel struct {
	vocab *Vocab
	unk   int32
}

// NewWordLevel takes the token for unknown words.
func NewWordLevel(vocab *Vocab, unknown string) (*WordLevel, error) {
	unk, ok := vocab.ID(unknown)
	if !ok {
		return nil, fmt.Errorf("unk_token %q is not in the vocabulary", unknown)
	}
	return &WordLevel{vocab, unk}, nil
}

// Vocab is the vocabulary.
func (m *WordLevel) Vocab() *Vocab { return m.vocab }

// Unknown is the id of unknown words.
func (m *WordLevel) Unknown() int32 { return m.unk }

// ByteFallback is false.
func (m *WordLevel) ByteFallback() bool { return false }

// NewEncoder returns the model itself, which needs no scratch.
func (m *WordLevel) NewEncoder() Encoder { return m }

// Encode appends the id of one word.
func (m *WordLevel) Encode(dst []int32, s string, bytes bool) []int32 {
	if id, ok := m.vocab.ids[seen(s, bytes)]; ok {
		return append(dst, id)
	}
	return append(dst, m.unk)
}
