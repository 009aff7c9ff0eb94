package program

// Widths says how much a frame holds for each token, in elements, the residual
// stream aside: at most while it is computed, and at most between stages, where
// it is kept for all tokens.
func (p *Program) Widths() (computed, kept int) {
	held := p.heldWidths()
	for i, o := range p.ops {
		w := held[i]
		for _, g := range o.writes() {
			if g != Stream && !p.held(g, i) {
				w += p.regs[g].width
			}
		}
		computed = max(computed, w)
	}
	for i := range p.Stages {
		if s := &p.Stages[i]; !s.Recompute {
			kept = max(kept, held[s.at])
		}
	}
	return computed, kept
}

// Bytes is the size of the block's weights in memory.
func (p *Program) Bytes() int64 {
	var n int64
	for _, t := range p.params {
		size := int64(4)
		for _, d := range t.shape {
			size *= int64(d)
		}
		n += size
	}
	for _, l := range p.Linears {
		n += 4 * int64(l.Out) * int64(l.In)
		if l.Bias {
			n += 4 * int64(l.Out)
		}
	}
	return n
}
