package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// added is one entry of added_tokens: a string that is cut out of the text
// before the model sees it.
type added struct {
	addedJSON
	id int32
	// normal is the content after normalization, where "normalized" is set.
	normal string
}

// trie finds the longest of a set of byte strings at a position.
type trie struct {
	nodes []trieNode
	first [256]bool
	// only is the single possible first byte, -1 when there are several.
	only int
}

type trieNode struct {
	next  []trieEdge
	value int32 // index of the added token, -1 if none ends here
}

type trieEdge struct {
	b byte
	n int32
}

func (t *trie) empty() bool { return len(t.nodes) == 0 }

func (t *trie) insert(s string, value int32) {
	if s == "" {
		return
	}
	if t.empty() {
		t.nodes = append(t.nodes, trieNode{value: -1})
		t.only = int(s[0])
	}
	if t.only != int(s[0]) {
		t.only = -1
	}
	t.first[s[0]] = true
	at := int32(0)
	for i := 0; i < len(s); i++ {
		next := t.step(at, s[i])
		if next < 0 {
			next = int32(len(t.nodes))
			t.nodes = append(t.nodes, trieNode{value: -1})
			t.nodes[at].next = append(t.nodes[at].next, trieEdge{s[i], next})
		}
		at = next
	}
	t.nodes[at].value = value
}

func (t *trie) step(at int32, b byte) int32 {
	for _, e := range t.nodes[at].next {
		if e.b == b {
			return e.n
		}
	}
	return -1
}

// find returns the leftmost match in s at or after from, the longest of those
// that start there.
func (t *trie) find(s string, from int) (start, end int, value int32) {
	for i := from; i < len(s); i++ {
		if t.only >= 0 {
			k := strings.IndexByte(s[i:], byte(t.only))
			if k < 0 {
				return 0, 0, -1
			}
			i += k
		} else if !t.first[s[i]] {
			continue
		}
		best, bestEnd := int32(-1), 0
		for at, j := int32(0), i; j < len(s); {
			if at = t.step(at, s[j]); at < 0 {
				break
			}
			j++
			if v := t.nodes[at].value; v >= 0 {
				best, bestEnd = v, j
			}
		}
		if best >= 0 {
			return i, bestEnd, best
		}
	}
	return 0, 0, -1
}

// splitAdded cuts s at the added tokens of t: text(start, end) for what lies
// between, token(id) for each token, in order.
func (tk *Tokenizer) splitAdded(t *trie, s string, text func(start, end int), token func(id int32)) {
	done := 0 // everything before is already emitted
	for from := 0; !t.empty(); {
		start, end, v := t.find(s, from)
		if v < 0 {
			break
		}
		from = end
		a := &tk.added[v]
		if a.SingleWord && (start > 0 && endsWithWord(s[:start]) || end < len(s) && startsWithWord(s[end:])) {
			continue
		}
		if a.LStrip {
			start = max(len(trimRightSpace(s[:start])), done)
		}
		if a.RStrip {
			end = len(s) - len(trimLeftSpace(s[end:]))
		}
		if done < start {
			text(done, start)
		}
		token(a.id)
		done = end
	}
	if done < len(s) {
		text(done, len(s))
	}
}

func startsWithWord(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return isWord(r)
}

func endsWithWord(s string) bool {
	r, _ := utf8.DecodeLastRuneInString(s)
	return isWord(r)
}
