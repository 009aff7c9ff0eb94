package model

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
	"github.com/golowbit/lowbit/internal/tokenizer/prefix"
)

// BPEConfig is what makes a BPE model.
type BPEConfig struct {
	Vocab  *Vocab
	Merges [][2]string // best first
	// Ranks are the ranks of the merges, ascending; nil: their places in the list.
	// Of pairs with equal ranks the leftmost in the text merges first.
	Ranks []uint32
	// Whole are tokens that are cut out of a piece before any merge.
	Whole []string
	// Split are ids that may take part in merges, but are taken apart again at the
	// end, and are unknown where no merge made them.
	Split []int32
	// Unknown is the token of what the vocabulary cannot spell, "" if there is none.
	Unknown string
	Prefix  string // before every character but the first of a piece
	Suffix  string // after the last character of a piece

	FuseUnknown  bool // one unknown token for a run of unknown characters
	IgnoreMerges bool // a piece that is a token is not merged
	ByteFallback bool
}

// BPE is byte-pair encoding (Sennrich et al., "Neural Machine Translation of Rare
// Words with Subword Units", 2016, section 3.2).
type BPE struct {
	vocab  *Vocab
	merges [][2]string
	table  *mergeTable
	whole  *prefix.Trie
	split  map[int32][2]int32 // what ids of BPEConfig.Split are made of

	unk          int32 // -1: none
	prefix       string
	suffix       string
	fuseUnk      bool
	ignoreMerges bool
	fallback     bool          // byte_fallback with all that follows
	byteToken    [256]int32    // "<0x00>" … "<0xFF>", -1 where absent
	symbol       [256]int32    // byte-level symbols, -1 where absent
	allSymbols   bool          // symbol has no -1 and no prefix or suffix interferes
	wordStart    bool          // no merge crosses from another character into "▁"
	joined       func() joints // nil: a piece must be merged as a whole
}

// NewBPE checks that every merge is of tokens and makes a token.
func NewBPE(c BPEConfig) (*BPE, error) {
	m := &BPE{
		vocab: c.Vocab, merges: c.Merges, unk: -1, prefix: c.Prefix, suffix: c.Suffix, fuseUnk: c.FuseUnknown,
		ignoreMerges: c.IgnoreMerges, fallback: c.ByteFallback, byteToken: c.Vocab.byteTokens(),
	}
	m.allSymbols = m.prefix == "" && m.suffix == ""
	for b := range 256 {
		m.symbol[b] = -1
		if id, ok := m.vocab.ids[string(chars.ByteSymbols[b])]; ok {
			m.symbol[b] = id
		} else {
			m.allSymbols = false
		}
	}
	if err := m.setMerges(c.Ranks, c.Split); err != nil {
		return nil, err
	}
	if c.Unknown != "" {
		id, ok := m.vocab.ids[c.Unknown]
		if !ok && !m.allSymbols {
			return nil, fmt.Errorf("unk_token %q is not in the vocabulary", c.Unknown)
		}
		if ok {
			m.unk = id
		}
	}
	whole := make([]int32, len(c.Whole))
	for i, s := range c.Whole {
		id, ok := m.vocab.ids[s]
		if !ok {
			return nil, fmt.Errorf("token %q is not in the vocabulary", s)
		}
		whole[i] = id
	}
	m.whole = prefix.Build(c.Whole, whole)
	m.wordStart = m.findWordStart()
	m.joined = sync.OnceValue(m.findJoints) // few texts ask
	return m, nil
}

func (m *BPE) setMerges(ranks []uint32, split []int32) error {
	m.table = newMergeTable(len(m.merges))
	m.split = make(map[int32][2]int32, len(split))
	for _, id := range split {
		m.split[id] = [2]int32{id, -1}
	}
	for i, p := range m.merges {
		a, ok := m.vocab.ids[p[0]]
		b, ok2 := m.vocab.ids[p[1]]
		if !ok || !ok2 {
			missing := p[0]
			if ok {
				missing = p[1]
			}
			return fmt.Errorf("merge %d (%q, %q): %q is not in the vocabulary", i, p[0], p[1], missing)
		}
		if len(p[1]) < len(m.prefix) {
			return fmt.Errorf("merge %d (%q, %q): second part is shorter than continuing_subword_prefix %q", i, p[0], p[1], m.prefix)
		}
		whole := p[0] + p[1][len(m.prefix):]
		id, ok := m.vocab.ids[whole]
		if !ok {
			return fmt.Errorf("merge %d (%q, %q): %q is not in the vocabulary", i, p[0], p[1], whole)
		}
		rank := uint32(i)
		if ranks != nil {
			rank = ranks[i]
		}
		m.table.put(a, b, rank, id)
		if _, ok := m.split[id]; ok {
			m.split[id] = [2]int32{a, b}
		}
	}
	return nil
}

// Vocab is the vocabulary.
func (m *BPE) Vocab() *Vocab { return m.vocab }

// Unknown is the id of what the vocabulary cannot spell, -1 if there is none.
func (m *BPE) Unknown() int32 { return m.unk }

// ByteFallback reports whether unknown characters are spelled by byte tokens.
func (m *BPE) ByteFallback() bool { return m.fallback }

// Merges are the pairs of tokens that merge, best first.
func (m *BPE) Merges() [][2]string { return slices.Clone(m.merges) }

// Scores gives every id a score by which SentencePiece, which merges the
// neighbours whose union scores highest, merges the same: minus the lowest rank of
// the merges that make the token. Tokens that no merge makes and that are longer
// than one character score below all others; single characters, byte tokens, the
// unknown token and those for which leaveOut holds score 0.
func (m *BPE) Scores(leaveOut func(id int32) bool) []float32 {
	scores := make([]float32, m.vocab.Size())
	never := -float32(len(m.merges) + 1)
	for i, s := range m.vocab.tokens {
		id := int32(i)
		b, isByte := ByteToken(s)
		isByte = isByte && m.byteToken[b] == id
		if m.vocab.used[id] && !isByte && id != m.unk && utf8.RuneCountInString(s) > 1 && !leaveOut(id) {
			scores[id] = never
		}
	}
	for rank := len(m.merges) - 1; rank >= 0; rank-- {
		p := m.merges[rank]
		if id := m.vocab.ids[p[0]+p[1][len(m.prefix):]]; !leaveOut(id) {
			scores[id] = -float32(rank)
		}
	}
	return scores
}

// IgnoresMerges reports whether a piece that is a token is taken as it is.
func (m *BPE) IgnoresMerges() bool { return m.ignoreMerges }

// MergesMakeAll reports whether the merges make every token of its characters, but
// for the unknown token and those for which leaveOut holds.
func (m *BPE) MergesMakeAll(leaveOut func(id int32) bool) bool {
	e := m.NewEncoder().(*bpeEncoder)
	for i, s := range m.vocab.tokens {
		id := int32(i)
		if !m.vocab.used[i] || id == m.unk || leaveOut(id) {
			continue
		}
		if ids := e.segment(s, false, false); len(ids) != 1 || ids[0] != id {
			return false
		}
	}
	return true
}

// NewEncoder returns the scratch for one goroutine.
func (m *BPE) NewEncoder() Encoder {
	return &bpeEncoder{m: m, merge: merger{table: m.table}, cache: make(map[string]span)}
}

// findWordStart reports whether words may be cut before every "▁" that follows
// another character: then no merge result holds such a place, and what follows
// merges on its own. A text without any other splitting (Llama 2) can then be
// taken word by word, which lets the cache work and changes no id.
func (m *BPE) findWordStart() bool {
	if m.prefix != "" || m.suffix != "" || len(m.split) > 0 {
		return false
	}
	if _, ok := m.vocab.ids[string(Metaspace)]; !ok {
		return false
	}
	// A character that is dropped would bring its neighbours together.
	if m.unk < 0 && !(m.fallback && !slices.Contains(m.byteToken[:], -1)) {
		return false
	}
	if m.unk >= 0 && strings.ContainsRune(m.vocab.tokens[m.unk], Metaspace) {
		return false
	}
	for _, p := range m.merges {
		other := false
		for _, r := range p[0] + p[1] {
			if r != Metaspace {
				other = true
			} else if other {
				return false
			}
		}
	}
	return true
}

// bpeEncoder is the scratch of one running encoding: buffers and a cache of words.
type bpeEncoder struct {
	m     *BPE
	merge merger
	ids   []int32
	cache map[string]span
	arena []int32
}

type span struct{ start, end int32 }

const (
	maxCachedWord = 64      // bytes
	maxCache      = 1 << 18 // words, and four times as many ids
)

// Encode appends the ids of one pre-tokenized piece.
func (e *bpeEncoder) Encode(dst []int32, s string, bytes bool) []int32 {
	if e.m.whole.Empty() {
		return e.piece(dst, s, bytes)
	}
	for from := 0; ; {
		start, end, id := e.m.whole.Find(s, from)
		if id < 0 {
			return e.piece(dst, s[from:], bytes)
		}
		dst = append(e.piece(dst, s[from:start], bytes), id)
		from = end
	}
}

func (e *bpeEncoder) piece(dst []int32, s string, bytes bool) []int32 {
	m := e.m
	if bytes || !m.wordStart {
		return e.word(dst, s, bytes, m.ignoreMerges)
	}
	if m.ignoreMerges {
		if id, ok := m.vocab.ids[s]; ok {
			return append(dst, id)
		}
	}
	const meta = string(Metaspace)
	before := len(dst)
	for from := 0; ; {
		dst = Room(dst, before, from, len(s))
		// Skip the leading run of ▁, then look for the next one.
		at := from
		for strings.HasPrefix(s[at:], meta) {
			at += len(meta)
		}
		k := strings.Index(s[at:], meta)
		if k < 0 {
			return e.word(dst, s[from:], false, false)
		}
		dst = e.word(dst, s[from:at+k], false, false)
		from = at + k
	}
}

func (e *bpeEncoder) word(dst []int32, s string, bytes, whole bool) []int32 {
	if s == "" {
		return dst
	}
	if len(s) > longWord && e.m.joined() != nil { // longer than any token
		return e.long(dst, s, bytes)
	}
	if len(s) > maxCachedWord {
		return append(dst, e.segment(s, bytes, whole)...)
	}
	if w, ok := e.cache[s]; ok {
		return append(dst, e.arena[w.start:w.end]...)
	}
	ids := e.segment(s, bytes, whole)
	if len(e.cache) >= maxCache || len(e.arena) >= 4*maxCache {
		clear(e.cache)
		e.arena = e.arena[:0]
	}
	start := int32(len(e.arena))
	e.arena = append(e.arena, ids...)
	// The clone keeps the cache from holding on to the whole text.
	e.cache[strings.Clone(s)] = span{start, int32(len(e.arena))}
	return append(dst, ids...)
}

// segment returns the ids of s in scratch that the next call overwrites.
func (e *bpeEncoder) segment(s string, bytes, whole bool) []int32 {
	m := e.m
	if bytes && m.allSymbols && !whole {
		e.ids = e.ids[:0]
		for i := 0; i < len(s); i++ {
			e.ids = append(e.ids, m.symbol[s[i]])
		}
		return e.merge.merge(e.ids)
	}
	if bytes {
		s = chars.ToSymbols(s)
	}
	if whole {
		if id, ok := m.vocab.ids[s]; ok {
			e.ids = append(e.ids[:0], id)
			return e.ids
		}
	}
	e.ids = m.appendSymbols(e.ids[:0], s)
	ids := e.merge.merge(e.ids)
	if len(m.split) == 0 {
		return ids
	}
	var out []int32
	for _, id := range ids {
		out = m.appendSplit(out, id)
	}
	return out
}

// appendSplit appends id, or what it is made of.
func (m *BPE) appendSplit(dst []int32, id int32) []int32 {
	parts, ok := m.split[id]
	switch {
	case ok && parts[1] >= 0:
		return m.appendSplit(m.appendSplit(dst, parts[0]), parts[1])
	case ok:
		if m.fallback {
			if out, ok := appendBytes(dst, &m.byteToken, m.vocab.tokens[id]); ok {
				return out
			}
		}
		id = m.unk
	}
	if id == m.unk && (id < 0 || m.fuseUnk && len(dst) > 0 && dst[len(dst)-1] == id) {
		return dst
	}
	return append(dst, id)
}

// appendSymbols appends the ids that s starts from before any merge: one for
// each character, its byte tokens where the character is unknown and
// byte_fallback holds, or the unknown token. As in the reference a pending
// unknown is written when the next known character or the end is reached, and a
// character without any of these is dropped.
func (m *BPE) appendSymbols(dst []int32, s string) []int32 {
	pending := false
	for i := 0; i < len(s); {
		_, n := utf8.DecodeRuneInString(s[i:])
		c := s[i : i+n]
		if m.prefix != "" && i > 0 {
			c = m.prefix + c
		}
		if m.suffix != "" && i+n == len(s) {
			c += m.suffix
		}
		i += n
		if id, ok := m.vocab.ids[c]; ok {
			if pending {
				dst = append(dst, m.unk)
				pending = false
			}
			dst = append(dst, id)
			continue
		}
		if m.fallback {
			if out, ok := appendBytes(dst, &m.byteToken, c); ok {
				dst = out
				continue
			}
		}
		if m.unk >= 0 {
			if pending && !m.fuseUnk {
				dst = append(dst, m.unk)
			}
			pending = true
		}
	}
	if pending {
		dst = append(dst, m.unk)
	}
	return dst
}
