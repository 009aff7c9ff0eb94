package decoder

// Operations that move columns.

// arrangeOp copies heads side by side.
type arrangeOp struct {
	dst   reg
	parts []heads
}

// arrange makes a register of heads that lie elsewhere.
func (b *Builder) arrange(parts ...heads) reg {
	width := 0
	for _, h := range parts {
		width += h.n * h.dim
	}
	dst := b.like(parts[0].reg, width)
	b.do(&arrangeOp{dst, parts})
	return dst
}

func (o *arrangeOp) reads() []reg {
	var all []reg
	for _, h := range o.parts {
		all = append(all, h.reg)
	}
	return all
}
func (o *arrangeOp) writes() []reg { return []reg{o.dst} }

func (o *arrangeOp) run(x *exec) {
	dst := x.write(o.dst)
	x.rows(dst.Rows, func(i int) {
		d := dst.Row(i)
		for _, h := range o.parts {
			src := x.reg(h.reg).Row(i)
			for j := range h.n {
				d = d[copy(d[:h.dim], src[h.at(j):]):]
			}
		}
	})
}

// columnsOp is dst = the columns of src from at on.
type columnsOp struct {
	dst, src reg
	at       int
}

// columns makes a register of some columns of another.
func (b *Builder) columns(src reg, at, width int) reg {
	dst := b.like(src, width)
	b.do(&columnsOp{dst, src, at})
	return dst
}

func (o *columnsOp) reads() []reg  { return []reg{o.src} }
func (o *columnsOp) writes() []reg { return []reg{o.dst} }

func (o *columnsOp) run(x *exec) {
	src, dst := x.reg(o.src), x.write(o.dst)
	x.rows(dst.Rows, func(i int) { copy(dst.Row(i), src.Row(i)[o.at:]) })
}

// joinOp puts heads together: of each its own part, then a part that all share.
type joinOp struct {
	dst         reg
	own, shared heads
}

// joined makes heads of two parts, the second of which is the same in all.
func (b *Builder) joined(own, shared heads) heads {
	h := heads{reg: b.like(own.reg, own.n*(own.dim+shared.dim)), n: own.n, dim: own.dim + shared.dim}
	b.do(&joinOp{h.reg, own, shared})
	return h
}

func (o *joinOp) reads() []reg  { return []reg{o.own.reg, o.shared.reg} }
func (o *joinOp) writes() []reg { return []reg{o.dst} }

func (o *joinOp) run(x *exec) {
	own, shared, dst := x.reg(o.own.reg), x.reg(o.shared.reg), x.write(o.dst)
	x.rows(dst.Rows, func(i int) {
		d, s, r := dst.Row(i), own.Row(i), shared.Row(i)[o.shared.at(0):][:o.shared.dim]
		for h := range o.own.n {
			d = d[copy(d[:o.own.dim], s[o.own.at(h):]):]
			d = d[copy(d, r):]
		}
	})
}
