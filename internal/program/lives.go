package program

import "slices"

// touch is an operation that reads or writes a register.
type touch struct {
	at            int32
	writer        int32 // the last operation before that writes it, or -1
	reads, writes bool
}

// findTouches lists for each register the operations that touch it, in order, so
// that nothing has to go through all operations of a block with many experts.
func (p *Program) findTouches() {
	p.touches = make([][]touch, len(p.regs))
	last := func(r Reg, at int) *touch {
		list := p.touches[r]
		if n := len(list); n > 0 && list[n-1].at == int32(at) {
			return &list[n-1]
		}
		t := touch{at: int32(at), writer: -1}
		if n := len(list); n > 0 {
			if t.writer = list[n-1].writer; list[n-1].writes {
				t.writer = list[n-1].at
			}
		}
		p.touches[r] = append(list, t)
		return &p.touches[r][len(list)]
	}
	for i, o := range p.ops {
		for _, r := range o.reads() {
			last(r, i).reads = true
		}
		for _, r := range o.writes() {
			last(r, i).writes = true
		}
	}
	for r, list := range p.touches {
		p.touches[r] = slices.Clip(list)
	}
}

// next is the index of the first touch of a register at or after an operation.
func (p *Program) next(r Reg, i int) int {
	k, _ := slices.BinarySearchFunc(p.touches[r], int32(i), func(t touch, at int32) int { return int(t.at) - int(at) })
	return k
}

// lastWriter is the last operation before i that writes a register, or -1.
func (p *Program) lastWriter(r Reg, i int) int {
	k := p.next(r, i) - 1
	switch {
	case k < 0:
		return -1
	case p.touches[r][k].writes:
		return int(p.touches[r][k].at)
	}
	return int(p.touches[r][k].writer)
}

// live reports whether a register's content is read from operation i on.
func (p *Program) live(r Reg, i int) bool {
	k := p.next(r, i)
	return k < len(p.touches[r]) && p.touches[r][k].reads
}

// held reports whether a register has a content before operation i that is read
// from there on.
func (p *Program) held(r Reg, i int) bool { return p.lastWriter(r, i) >= 0 && p.live(r, i) }

// heldWidths is the width of all registers but the stream that are held before
// each operation, and after the last.
func (p *Program) heldWidths() []int {
	w := make([]int, len(p.ops)+2)
	for r := 1; r < len(p.regs); r++ {
		list := p.touches[r]
		for k := 1; k < len(list); k++ {
			if list[k].reads && list[k].writer >= 0 {
				w[list[k-1].at+1] += p.regs[r].width
				w[list[k].at+1] -= p.regs[r].width
			}
		}
	}
	for i := 1; i < len(w); i++ {
		w[i] += w[i-1]
	}
	return w
}

// findLives lists for each operation what is not needed after it.
func (p *Program) findLives() {
	p.free = make([][]Reg, len(p.ops))
	for r := 1; r < len(p.regs); r++ {
		list := p.touches[r]
		for k, t := range list {
			if k+1 == len(list) || !list[k+1].reads {
				p.free[t.at] = append(p.free[t.at], Reg(r))
			}
		}
	}
}

// findRecomputed decides for each stage whether it is computed again when its
// linears run, instead of being kept for all tokens: if that needs less memory,
// changes nothing that is kept, and costs no more than products.
func (p *Program) findRecomputed() {
	widths := p.heldWidths()
	from := 0 // where the last stage is that is kept
	for i := range p.Stages {
		s := &p.Stages[i]
		s.Recompute = widths[s.at] > widths[from] && p.repeatable(from, s.at)
		if s.from = from; !s.Recompute {
			from = s.at
		}
	}
}

// repeatable reports whether operations change nothing that was there before, and
// none is expensive.
func (p *Program) repeatable(from, to int) bool {
	for k := from; k < to; k++ {
		for _, r := range p.ops[k].writes() {
			if r == Stream || p.held(r, from) {
				return false
			}
		}
		if h, ok := p.ops[k].(interface{ heavy() bool }); ok && h.heavy() {
			return false
		}
	}
	return true
}
