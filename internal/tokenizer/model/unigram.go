package model

import (
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/tokenizer/prefix"
)

// UnigramConfig is what makes a Unigram model.
type UnigramConfig struct {
	Vocab  *Vocab
	Scores []float64 // log-probability by id
	// Unknown is the id of what the vocabulary cannot spell, -1 if there is none.
	Unknown      int32
	ByteFallback bool
	// Single selects the arithmetic of SentencePiece, whose path scores are
	// float32; else it is that of the tokenizers library, float64.
	Single bool
	// LeaveOut are ids that text never becomes: control and unused pieces.
	LeaveOut []int32
	// Whole are ids that text is to become where it holds them: user-defined pieces
	// (Single only).
	Whole []int32
}

// Unigram finds the most probable way to cut a text into tokens (Kudo, "Subword
// Regularization", 2018, section 3.2), a character outside the vocabulary costing
// unknownPenalty more than the rarest token.
type Unigram struct {
	vocab     *Vocab
	scores    []float64
	trie      *prefix.Trie
	unk       int32
	unkScore  float64
	fallback  bool
	byteToken [256]int32
	single    bool
	whole     []bool // by id; nil: none
}

const (
	unknownPenalty = 10
	// wholeBonus is what a user-defined piece scores for each byte but the first:
	// more than any pieces of it together, whose scores are below 0.
	wholeBonus = 0.1
)

// NewUnigram checks the scores and the id of the unknown token.
func NewUnigram(c UnigramConfig) (*Unigram, error) {
	n := c.Vocab.Size()
	if len(c.Scores) != n {
		return nil, fmt.Errorf("%d scores for %d tokens", len(c.Scores), n)
	}
	if c.Unknown < -1 || int(c.Unknown) >= n {
		return nil, fmt.Errorf("unk_id is %d, want 0 to %d", c.Unknown, n-1)
	}
	m := &Unigram{
		vocab: c.Vocab, scores: c.Scores, unk: c.Unknown, fallback: c.ByteFallback, single: c.Single,
		byteToken: c.Vocab.byteTokens(),
	}
	leftOut := make([]bool, n)
	for _, id := range c.LeaveOut {
		leftOut[id] = true
	}
	if len(c.Whole) > 0 {
		m.whole = make([]bool, n)
		for _, id := range c.Whole {
			m.whole[id] = true
		}
	}
	lowest := math.Inf(1)
	var keys []string
	var ids []int32
	for id, s := range c.Vocab.tokens {
		score := c.Scores[id]
		if math.IsNaN(score) || math.IsInf(score, 0) {
			return nil, fmt.Errorf("token %q has score %g", s, score)
		}
		if leftOut[id] {
			continue
		}
		if m.whole == nil || !m.whole[id] {
			lowest = min(lowest, score)
		}
		keys, ids = append(keys, s), append(ids, int32(id))
	}
	m.trie = prefix.Build(keys, ids)
	m.unkScore = lowest - unknownPenalty
	if m.single {
		m.unkScore = float64(float32(lowest) - unknownPenalty)
	}
	return m, nil
}

// Vocab is the vocabulary.
func (m *Unigram) Vocab() *Vocab { return m.vocab }

// Unknown is the id of what the vocabulary cannot spell, -1 if there is none.
func (m *Unigram) Unknown() int32 { return m.unk }

// ByteFallback reports whether unknown characters are spelled by byte tokens.
func (m *Unigram) ByteFallback() bool { return m.fallback }

// Scores are the log-probabilities by id.
func (m *Unigram) Scores() []float32 {
	out := make([]float32, len(m.scores))
	for i, s := range m.scores {
		out[i] = float32(s)
	}
	return out
}

// NewEncoder returns the scratch for one goroutine.
func (m *Unigram) NewEncoder() Encoder { return &unigramEncoder{m: m} }

// unigramEncoder keeps the lattice: for every place in the text the best path that
// ends there.
type unigramEncoder struct {
	m    *Unigram
	path []pathNode
	cuts []int32
}

type pathNode struct {
	score float64
	start int32 // of the last token, -1: no path yet
	id    int32
}

// Encode appends the ids of one pre-tokenized piece.
func (e *unigramEncoder) Encode(dst []int32, s string, bytes bool) []int32 {
	if s = seen(s, bytes); s == "" {
		return dst
	}
	e.viterbi(s)
	e.cuts = e.cuts[:0]
	for end := int32(len(s)); end > 0; end = e.path[end].start {
		e.cuts = append(e.cuts, end)
	}
	slices.Reverse(e.cuts)
	start := int32(0)
	for i := 0; i < len(e.cuts); i++ {
		end := e.cuts[i]
		id := e.path[end].id
		if id != e.m.unk {
			dst = append(dst, id)
			start = end
			continue
		}
		if !e.m.single || !e.m.fallback {
			for i+1 < len(e.cuts) && e.path[e.cuts[i+1]].id == id {
				i++
				end = e.cuts[i]
			}
		}
		dst = e.m.appendUnknown(dst, s[start:end])
		start = end
	}
	return dst
}

// appendUnknown appends the ids of a run of unknown characters.
func (m *Unigram) appendUnknown(dst []int32, s string) []int32 {
	if !m.single {
		// The reference looks the run up once more.
		if id, ok := m.vocab.ids[s]; ok {
			return append(dst, id)
		}
	}
	if m.fallback {
		if out, ok := appendBytes(dst, &m.byteToken, s); ok {
			return out
		}
	}
	if m.unk < 0 {
		return dst
	}
	return append(dst, m.unk)
}

func (e *unigramEncoder) viterbi(s string) {
	m := e.m
	if cap(e.path) <= len(s) {
		e.path = make([]pathNode, len(s)+1+len(s)/2)
	}
	e.path = e.path[:len(s)+1]
	for i := range e.path {
		e.path[i] = pathNode{start: -1}
	}
	for i := 0; i < len(s); {
		_, size := utf8.DecodeRuneInString(s[i:])
		score, one := e.path[i].score, false
		for node, j := prefix.Root, i; j < len(s); {
			if node = m.trie.Step(node, s[j]); node < 0 {
				break
			}
			j++
			id := m.trie.Value(node)
			if id < 0 {
				continue
			}
			e.offer(j, i, id, m.score(id, j-i)+score)
			one = one || j-i == size
		}
		if !one {
			e.offer(i+size, i, m.unk, m.unkScore+score)
		}
		i += size
	}
}

// score is that of a token of n bytes.
func (m *Unigram) score(id int32, n int) float64 {
	if m.whole != nil && m.whole[id] {
		return wholeBonus * float64(n-1)
	}
	return m.scores[id]
}

// offer keeps the better of two ways to come to end.
func (e *unigramEncoder) offer(end, start int, id int32, score float64) {
	if e.m.single {
		score = float64(float32(score))
	}
	p := &e.path[end]
	if p.start >= 0 && score <= p.score {
		return
	}
	*p = pathNode{score: score, start: int32(start), id: id}
}
