package sentencepiece

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// Charsmap rewrites characters by rules that SentencePiece compiled ("precompiled
// charsmap"): a double-array trie (Darts-clone's layout) from what is replaced to
// places in a text where the replacements stand, each ended by a zero byte. A nil
// Charsmap has no rules.
type Charsmap struct {
	units []uint32
	text  string
}

// maxReplacement bounds how much longer a text can become.
const maxReplacement = 1024

// ParseCharsmap reads uint32 size of the trie in bytes, trie, text. Empty data gives
// nil.
func ParseCharsmap(data []byte) (*Charsmap, error) {
	if len(data) == 0 {
		return nil, nil
	}
	if len(data) < 4 {
		return nil, fmt.Errorf("%d bytes, want at least 4", len(data))
	}
	size := binary.LittleEndian.Uint32(data)
	if data = data[4:]; int64(size) > int64(len(data)) || size%4 != 0 || size == 0 {
		return nil, fmt.Errorf("trie of %d bytes in %d bytes of data", size, len(data))
	}
	m := &Charsmap{units: make([]uint32, size/4), text: string(data[size:])}
	for i := range m.units {
		m.units[i] = binary.LittleEndian.Uint32(data[4*i:])
	}
	if !utf8.ValidString(m.text) {
		return nil, fmt.Errorf("replacements are not UTF-8")
	}
	for s := range strings.SplitSeq(m.text, "\x00") {
		if len(s) > maxReplacement {
			return nil, fmt.Errorf("a replacement of more than %d bytes", maxReplacement)
		}
	}
	return m, nil
}

// match calls yield with the length and the place of the replacement of each rule
// that s begins with, shortest first, until yield is false.
func (m *Charsmap) match(s string, yield func(n, place int) bool) {
	at := offset(m.units[0])
	for i := 0; i < len(s) && s[i] != 0; i++ {
		at ^= uint32(s[i])
		if int(at) >= len(m.units) {
			return
		}
		u := m.units[at]
		// A unit that holds a value has the highest bit set, so it is no label.
		if u&(1<<31|0xFF) != uint32(s[i]) {
			return
		}
		if at ^= offset(u); int(at) >= len(m.units) {
			return
		}
		if u>>8&1 == 1 && !yield(i+1, int(m.units[at]&(1<<31-1))) {
			return
		}
	}
}

// offset leads from a unit to its children.
func offset(u uint32) uint32 { return u >> 10 << (u & (1 << 9) >> 6) }

func (m *Charsmap) replacement(place int) string {
	if place >= len(m.text) {
		return ""
	}
	s := m.text[place:]
	if end := strings.IndexByte(s, 0); end >= 0 {
		return s[:end]
	}
	return s
}

// longest applies the longest rule that s begins with; n is 0 if there is none.
func (m *Charsmap) longest(s string) (n int, out string) {
	if m == nil {
		return 0, ""
	}
	place := 0
	m.match(s, func(k, p int) bool {
		n, place = k, p
		return true
	})
	if n == 0 {
		return 0, ""
	}
	return n, m.replacement(place)
}

// shortest is the replacement of the shortest rule that s begins with.
func (m *Charsmap) shortest(s string) (out string, ok bool) {
	m.match(s, func(_, p int) bool {
		out, ok = m.replacement(p), true
		return false
	})
	return out, ok
}

// maxGrapheme is the length from which a grapheme is no longer looked up whole.
const maxGrapheme = 6

// ReplaceGraphemes applies the rules as the tokenizers library does, which is not
// as SentencePiece does: a grapheme of less than six bytes becomes what the
// shortest rule that it begins with says, else character by character. atStart is
// false if what was at the start of s is gone.
func (m *Charsmap) ReplaceGraphemes(s string) (out string, atStart bool) {
	if m == nil {
		return s, true
	}
	var b strings.Builder
	b.Grow(len(s))
	atStart = true
	replace := func(part string) bool {
		r, ok := m.shortest(part)
		if ok {
			b.WriteString(r)
		}
		return ok
	}
	for i, state := 0, -1; i < len(s); {
		var grapheme string
		if c := s[i]; c < utf8.RuneSelf && c != '\r' && (i+1 == len(s) || s[i+1] < utf8.RuneSelf) {
			grapheme, state = s[i:i+1], -1
		} else {
			grapheme, _, _, state = uniseg.FirstGraphemeClusterInString(s[i:], state)
		}
		if len(grapheme) >= maxGrapheme || !replace(grapheme) {
			for _, r := range grapheme {
				if part := string(r); !replace(part) {
					b.WriteString(part)
				}
			}
		}
		if i == 0 {
			atStart = b.Len() > 0
		}
		i += len(grapheme)
	}
	return b.String(), atStart
}
