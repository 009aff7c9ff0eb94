// Package prefix finds which strings of a set begin at a place of a text.
package prefix

import (
	"cmp"
	"slices"
	"strings"
)

// Trie is a set of byte strings, each with a value. The children of a node lie
// side by side, ordered by their byte, so that a node is a few bytes. The zero
// Trie is empty.
type Trie struct {
	label []byte  // the byte that leads to a node
	first []int32 // its first child
	count []uint16
	value []int32 // -1: no string ends here
	root  [256]int32
	// only is the single possible first byte, -1 when there are several.
	only int
}

// Root is the node of the empty string.
const Root int32 = 0

// Build makes the trie of keys[i] with values[i] >= 0. Empty keys are left out;
// of equal keys the last counts.
func Build(keys []string, values []int32) *Trie {
	order := make([]int, 0, len(keys))
	for i, k := range keys {
		if k != "" {
			order = append(order, i)
		}
	}
	t := &Trie{only: -1}
	if len(order) == 0 {
		return t
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(strings.Compare(keys[a], keys[b]), cmp.Compare(a, b))
	})
	// A node stands for the keys order[lo:hi], which agree in their first depth bytes.
	type span struct {
		lo, hi, depth int
	}
	spans := []span{{0, len(order), 0}}
	t.add(0)
	for node := 0; node < len(spans); node++ {
		s := spans[node]
		for s.lo < s.hi && len(keys[order[s.lo]]) == s.depth {
			t.value[node] = values[order[s.lo]]
			s.lo++
		}
		t.first[node] = int32(len(spans))
		for lo := s.lo; lo < s.hi; {
			b := keys[order[lo]][s.depth]
			hi := lo + 1
			for hi < s.hi && keys[order[hi]][s.depth] == b {
				hi++
			}
			spans = append(spans, span{lo, hi, s.depth + 1})
			t.add(b)
			t.count[node]++
			lo = hi
		}
	}
	for i := range t.root {
		t.root[i] = -1
	}
	for i := range int32(t.count[0]) {
		t.root[t.label[t.first[0]+i]] = t.first[0] + i
	}
	if t.count[0] == 1 {
		t.only = int(t.label[t.first[0]])
	}
	return t
}

func (t *Trie) add(b byte) {
	t.label = append(t.label, b)
	t.first = append(t.first, 0)
	t.count = append(t.count, 0)
	t.value = append(t.value, -1)
}

// Empty reports whether there is no string in the set.
func (t *Trie) Empty() bool { return len(t.label) == 0 }

// Step is the node that b leads to from a node, -1 if there is none.
func (t *Trie) Step(node int32, b byte) int32 {
	if node == Root {
		if t.Empty() {
			return -1
		}
		return t.root[b]
	}
	lo, n := t.first[node], int32(t.count[node])
	for n > 8 {
		half := n / 2
		if t.label[lo+half] <= b {
			lo, n = lo+half, n-half
		} else {
			n = half
		}
	}
	for i := lo; i < lo+n; i++ {
		if t.label[i] == b {
			return i
		}
	}
	return -1
}

// Value is the value of the string that ends at a node, -1 if none does.
func (t *Trie) Value(node int32) int32 {
	if t.Empty() {
		return -1
	}
	return t.value[node]
}

// Longest returns the length and the value of the longest string that s begins
// with, 0 and -1 if there is none.
func (t *Trie) Longest(s string) (length int, value int32) {
	value = -1
	node := Root
	for i := 0; i < len(s); i++ {
		if node = t.Step(node, s[i]); node < 0 {
			break
		}
		if v := t.value[node]; v >= 0 {
			length, value = i+1, v
		}
	}
	return length, value
}

// Find returns the leftmost match in s at or after from, the longest of those
// that start there; value is -1 if there is none.
func (t *Trie) Find(s string, from int) (start, end int, value int32) {
	if t.Empty() {
		return 0, 0, -1
	}
	for i := from; i < len(s); i++ {
		if t.only >= 0 {
			k := strings.IndexByte(s[i:], byte(t.only))
			if k < 0 {
				break
			}
			i += k
		} else if t.root[s[i]] < 0 {
			continue
		}
		if n, v := t.Longest(s[i:]); v >= 0 {
			return i, i + n, v
		}
	}
	return 0, 0, -1
}
