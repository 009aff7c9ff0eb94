package model

import "math"

// noRank stands for a pair that does not merge.
const noRank = math.MaxUint32

// mergeTable maps a pair of ids to the rank of its merge and the merged id. It
// is an open-addressing hash table: it is asked a few times per character, and
// Go's map would be most of the running time.
type mergeTable struct {
	keys  []uint64 // pair + 1, 0 is free
	ranks []uint32
	ids   []int32
	shift uint
}

func newMergeTable(n int) *mergeTable {
	bits := uint(4)
	for 1<<bits < 2*n {
		bits++
	}
	return &mergeTable{
		keys:  make([]uint64, 1<<bits),
		ranks: make([]uint32, 1<<bits),
		ids:   make([]int32, 1<<bits),
		shift: 64 - bits,
	}
}

func pairKey(a, b int32) uint64 { return (uint64(uint32(a))<<32 | uint64(uint32(b))) + 1 }

func (t *mergeTable) slot(key uint64) int {
	// Fibonacci hashing after folding the left id into the low half.
	h := (key ^ key>>29) * 0x9E3779B97F4A7C15
	i := int(h >> t.shift)
	for t.keys[i] != 0 && t.keys[i] != key {
		i = (i + 1) & (len(t.keys) - 1)
	}
	return i
}

// put records a merge. A pair listed twice keeps the last rank, as in the
// reference.
func (t *mergeTable) put(a, b int32, rank uint32, id int32) {
	key := pairKey(a, b)
	i := t.slot(key)
	t.keys[i], t.ranks[i], t.ids[i] = key, rank, id
}

// rank is noRank when the pair does not merge.
func (t *mergeTable) rank(a, b int32) uint32 {
	i := t.slot(pairKey(a, b))
	if t.keys[i] == 0 {
		return noRank
	}
	return t.ranks[i]
}

func (t *mergeTable) merged(a, b int32) int32 { return t.ids[t.slot(pairKey(a, b))] }

// shortWord is the number of symbols up to which scanning for the lowest rank
// beats a heap.
const shortWord = 24

// merger applies merges to one word at a time, always the lowest rank and of
// equal ranks the leftmost (Sennrich et al., "Neural Machine Translation of Rare
// Words with Subword Units", 2016, section 3.2). Its slices are scratch.
type merger struct {
	table *mergeTable
	ranks []uint32 // rank of the pair (i, next(i))
	next  []int32
	prev  []int32
	heap  []uint64 // rank<<32 | position
}

// merge merges ids in place and returns the shortened slice.
func (m *merger) merge(ids []int32) []int32 {
	switch {
	case len(ids) < 2:
		return ids
	case len(ids) <= shortWord:
		return m.mergeShort(ids)
	default:
		return m.mergeLong(ids)
	}
}

func (m *merger) rankPairs(ids []int32) []uint32 {
	if cap(m.ranks) < len(ids) {
		m.ranks = make([]uint32, len(ids)+len(ids)/2)
	}
	r := m.ranks[:len(ids)]
	for i := 0; i+1 < len(ids); i++ {
		r[i] = m.table.rank(ids[i], ids[i+1])
	}
	r[len(ids)-1] = noRank
	return r
}

func (m *merger) mergeShort(ids []int32) []int32 {
	ranks := m.rankPairs(ids)
	for {
		best, at := uint32(noRank), -1
		for i, r := range ranks {
			if r < best {
				best, at = r, i
			}
		}
		if at < 0 {
			return ids
		}
		ids[at] = m.table.merged(ids[at], ids[at+1])
		ids = append(ids[:at+1], ids[at+2:]...)
		ranks = append(ranks[:at+1], ranks[at+2:]...)
		if at+1 < len(ids) {
			ranks[at] = m.table.rank(ids[at], ids[at+1])
		} else {
			ranks[at] = noRank
		}
		if at > 0 {
			ranks[at-1] = m.table.rank(ids[at-1], ids[at])
		}
	}
}

// mergeLong is O(n log n): symbols in a linked list, candidate merges in a heap.
// A heap entry whose pair has changed since is recognised by its rank.
func (m *merger) mergeLong(ids []int32) []int32 {
	n := len(ids)
	ranks := m.rankPairs(ids)
	if cap(m.next) < n {
		m.next = make([]int32, n+n/2)
		m.prev = make([]int32, n+n/2)
	}
	next, prev := m.next[:n], m.prev[:n]
	h := m.heap[:0]
	for i := range ids {
		next[i], prev[i] = int32(i+1), int32(i-1)
		if ranks[i] != noRank {
			h = append(h, uint64(ranks[i])<<32|uint64(i))
		}
	}
	for i := len(h)/2 - 1; i >= 0; i-- {
		siftDown(h, i)
	}
	for len(h) > 0 {
		top := h[0]
		last := len(h) - 1
		h[0] = h[last]
		h = h[:last]
		if last > 0 {
			siftDown(h, 0)
		}
		i := int32(uint32(top))
		if ranks[i] != uint32(top>>32) {
			continue
		}
		j := next[i]
		ids[i] = m.table.merged(ids[i], ids[j])
		ranks[j] = noRank
		k := next[j]
		next[i] = k
		ranks[i] = noRank
		if int(k) < n {
			prev[k] = i
			if ranks[i] = m.table.rank(ids[i], ids[k]); ranks[i] != noRank {
				h = siftUp(append(h, uint64(ranks[i])<<32|uint64(i)))
			}
		}
		if p := prev[i]; p >= 0 {
			if ranks[p] = m.table.rank(ids[p], ids[i]); ranks[p] != noRank {
				h = siftUp(append(h, uint64(ranks[p])<<32|uint64(p)))
			}
		}
	}
	m.heap = h[:0]
	out := ids[:0]
	for i := 0; i < n; i = int(next[i]) {
		out = append(out, ids[i])
	}
	return out
}

func siftDown(h []uint64, i int) {
	v := h[i]
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1] < h[c] {
			c++
		}
		if v <= h[c] {
			break
		}
		h[i] = h[c]
		i = c
	}
	h[i] = v
}

func siftUp(h []uint64) []uint64 {
	i := len(h) - 1
	v := h[i]
	for i > 0 {
		p := (i - 1) / 2
		if h[p] <= v {
			break
		}
		h[i] = h[p]
		i = p
	}
	h[i] = v
	return h
}
