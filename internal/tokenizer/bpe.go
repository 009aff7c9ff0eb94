package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// bpe is the model: a vocabulary and ranked merges.
type bpe struct {
	vocab  map[string]int32
	tokens []string // by id; "" with used[id] false is a gap
	used   []bool
	merges [][2]string // in rank order, as listed
	table  *mergeTable

	unk          int32 // -1: none
	prefix       string
	suffix       string
	fuseUnk      bool
	ignoreMerges bool
	fallback     bool       // byte_fallback with all that follows
	byteToken    [256]int32 // "<0x00>" … "<0xFF>", -1 where absent
	symbol       [256]int32 // byte-level symbols, -1 where absent
	allSymbols   bool       // symbol has no -1 and no prefix or suffix interferes
	wordStart    bool       // no merge crosses from another character into "▁"
}

const metaspace = '▁'

func parseModel(raw json.RawMessage) (*bpe, error) {
	const where = "model"
	if absent(raw) {
		return nil, fmt.Errorf("%s: missing", where)
	}
	var kind struct {
		Type  string          `json:"type"`
		Vocab json.RawMessage `json:"vocab"`
	}
	if err := decodeInto(where, raw, &kind); err != nil {
		return nil, err
	}
	// Files from before the type was written are told by their vocabulary: an
	// object with merges is BPE, a list of scored pieces is Unigram.
	if kind.Type != "BPE" && kind.Type != "" {
		return nil, unsupported(where, kind.Type, "BPE")
	}
	if strings.HasPrefix(strings.TrimSpace(string(kind.Vocab)), "[") {
		return nil, unsupported(where, "Unigram", "BPE")
	}
	var mj modelJSON
	if err := decodeInto(where, raw, &mj); err != nil {
		return nil, err
	}
	if mj.Vocab == nil || mj.Merges == nil {
		return nil, fmt.Errorf("%s: vocab or merges missing", where)
	}
	if mj.Dropout != nil && *mj.Dropout != 0 {
		return nil, fmt.Errorf("%s: dropout is %g: random segmentation is not supported, want null or 0", where, *mj.Dropout)
	}
	m := &bpe{unk: -1, fuseUnk: mj.FuseUnk, ignoreMerges: mj.IgnoreMerges, fallback: mj.ByteFallback, merges: mj.Merges}
	if mj.ContinuingSubwordPrefix != nil {
		m.prefix = *mj.ContinuingSubwordPrefix
	}
	if mj.EndOfWordSuffix != nil {
		m.suffix = *mj.EndOfWordSuffix
	}
	if err := m.setVocab(mj.Vocab); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	if err := m.setMerges(); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	if mj.UnkToken != nil {
		id, ok := m.vocab[*mj.UnkToken]
		if !ok && !m.allSymbols {
			return nil, fmt.Errorf("%s: unk_token %q is not in the vocabulary", where, *mj.UnkToken)
		}
		if ok {
			m.unk = id
		}
	}
	m.wordStart = m.findWordStart()
	return m, nil
}

func (m *bpe) setVocab(vocab map[string]int64) error {
	top := int64(-1)
	// Ids are indices into an embedding, so a huge one among few tokens is damage.
	limit := 16*int64(len(vocab)) + 1<<16
	for s, id := range vocab {
		if id < 0 || id >= limit {
			return fmt.Errorf("vocab: token %q has id %d, want 0 to %d", s, id, limit-1)
		}
		top = max(top, id)
	}
	m.vocab = make(map[string]int32, len(vocab))
	m.tokens = make([]string, top+1)
	m.used = make([]bool, top+1)
	for s, id := range vocab {
		if m.used[id] {
			a, b := min(s, m.tokens[id]), max(s, m.tokens[id])
			return fmt.Errorf("vocab: tokens %q and %q share id %d", a, b, id)
		}
		m.vocab[s], m.tokens[id], m.used[id] = int32(id), s, true
	}
	m.allSymbols = m.prefix == "" && m.suffix == ""
	for b := range 256 {
		m.symbol[b], m.byteToken[b] = -1, -1
		if id, ok := m.vocab[string(byteSymbols[b])]; ok {
			m.symbol[b] = id
		} else {
			m.allSymbols = false
		}
		if id, ok := m.vocab[fmt.Sprintf("<0x%02X>", b)]; ok {
			m.byteToken[b] = id
		}
	}
	return nil
}

func (m *bpe) setMerges() error {
	m.table = newMergeTable(len(m.merges))
	for rank, p := range m.merges {
		a, ok := m.vocab[p[0]]
		b, ok2 := m.vocab[p[1]]
		if !ok || !ok2 {
			missing := p[0]
			if ok {
				missing = p[1]
			}
			return fmt.Errorf("merge %d (%q, %q): %q is not in the vocabulary", rank, p[0], p[1], missing)
		}
		if len(p[1]) < len(m.prefix) {
			return fmt.Errorf("merge %d (%q, %q): second part is shorter than continuing_subword_prefix %q", rank, p[0], p[1], m.prefix)
		}
		whole := p[0] + p[1][len(m.prefix):]
		id, ok := m.vocab[whole]
		if !ok {
			return fmt.Errorf("merge %d (%q, %q): %q is not in the vocabulary", rank, p[0], p[1], whole)
		}
		m.table.put(a, b, uint32(rank), id)
	}
	return nil
}

// findWordStart reports whether words may be cut before every "▁" that follows
// another character: then no merge result holds such a place, and what follows
// merges on its own. A text without any other splitting (Llama 2) can then be
// taken word by word, which lets the cache work and changes no id.
func (m *bpe) findWordStart() bool {
	if m.prefix != "" || m.suffix != "" {
		return false
	}
	if _, ok := m.vocab[string(metaspace)]; !ok {
		return false
	}
	// A character that is dropped would bring its neighbours together.
	if m.unk < 0 && !(m.fallback && !slices.Contains(m.byteToken[:], -1)) {
		return false
	}
	if m.unk >= 0 && strings.ContainsRune(m.tokens[m.unk], metaspace) {
		return false
	}
	for _, p := range m.merges {
		other := false
		for _, r := range p[0] + p[1] {
			if r != metaspace {
				other = true
			} else if other {
				return false
			}
		}
	}
	return true
}

// encoder is the scratch of one running Encode: buffers and a cache of words.
type encoder struct {
	m     *bpe
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

func newEncoder(m *bpe) *encoder {
	return &encoder{m: m, merge: merger{table: m.table}, cache: make(map[string]span)}
}

// piece appends the ids of one pre-tokenized piece. Where bytes is set, s is
// plain text whose byte-level symbols are what the model sees.
func (e *encoder) piece(dst []int32, s string, bytes bool) []int32 {
	m := e.m
	if bytes || !m.wordStart {
		return e.word(dst, s, bytes, m.ignoreMerges)
	}
	if m.ignoreMerges {
		if id, ok := m.vocab[s]; ok {
			return append(dst, id)
		}
	}
	const meta = string(metaspace)
	for from := 0; ; {
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

func (e *encoder) word(dst []int32, s string, bytes, whole bool) []int32 {
	if s == "" {
		return dst
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
func (e *encoder) segment(s string, bytes, whole bool) []int32 {
	m := e.m
	if bytes && m.allSymbols && !whole {
		e.ids = e.ids[:0]
		for i := 0; i < len(s); i++ {
			e.ids = append(e.ids, m.symbol[s[i]])
		}
		return e.merge.merge(e.ids)
	}
	if bytes {
		s = toSymbols(s)
	}
	if whole {
		if id, ok := m.vocab[s]; ok {
			e.ids = append(e.ids[:0], id)
			return e.ids
		}
	}
	e.ids = m.appendSymbols(e.ids[:0], s)
	return e.merge.merge(e.ids)
}

// appendSymbols appends the ids that s starts from before any merge: one for
// each character, its byte tokens where the character is unknown and
// byte_fallback holds, or the unknown token. As in the reference a pending
// unknown is written when the next known character or the end is reached, and a
// character without any of these is dropped.
func (m *bpe) appendSymbols(dst []int32, s string) []int32 {
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
		if id, ok := m.vocab[c]; ok {
			if pending {
				dst = append(dst, m.unk)
				pending = false
			}
			dst = append(dst, id)
			continue
		}
		if m.fallback {
			if out, ok := m.appendBytes(dst, c); ok {
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

func (m *bpe) appendBytes(dst []int32, c string) ([]int32, bool) {
	n := len(dst)
	for i := 0; i < len(c); i++ {
		id := m.byteToken[c[i]]
		if id < 0 {
			return dst[:n], false
		}
		dst = append(dst, id)
	}
	return dst, true
}
