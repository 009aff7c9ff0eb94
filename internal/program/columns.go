package program

// Operations that move columns.

// arrangeOp copies heads side by side.
type arrangeOp struct {
	dst   Reg
	parts []Heads
}

// Arrange makes a register of heads that lie elsewhere.
func (b *Builder) Arrange(parts ...Heads) Reg {
	width := 0
	for _, h := range parts {
		width += h.N * h.Dim
	}
	dst := b.like(parts[0].Reg, width)
	b.do(&arrangeOp{dst, parts})
	return dst
}

func (o *arrangeOp) reads() []Reg {
	var all []Reg
	for _, h := range o.parts {
		all = append(all, h.Reg)
	}
	return all
}
func (o *arrangeOp) writes() []Reg { return []Reg{o.dst} }

func (o *arrangeOp) run(x *exec) {
	dst := x.write(o.dst)
	x.rows(dst.Rows, func(i int) {
		d := dst.Row(i)
		for _, h := range o.parts {
			src := x.reg(h.Reg).Row(i)
			for j := range h.N {
				d = d[copy(d[:h.Dim], src[h.at(j):]):]
			}
		}
	})
}

// columnsOp is dst = the columns of src from at on.
type columnsOp struct {
	dst, src Reg
	at       int
}

// Columns makes a register of some columns of another.
func (b *Builder) Columns(src Reg, at, width int) Reg {
	dst := b.like(src, width)
	b.do(&columnsOp{dst, src, at})
	return dst
}

func (o *columnsOp) reads() []Reg  { return []Reg{o.src} }
func (o *columnsOp) writes() []Reg { return []Reg{o.dst} }

func (o *columnsOp) run(x *exec) {
	src, dst := x.reg(o.src), x.write(o.dst)
	x.rows(dst.Rows, func(i int) { copy(dst.Row(i), src.Row(i)[o.at:]) })
}

// joinOp puts heads together: of each its own part, then a part that all share.
type joinOp struct {
	dst         Reg
	own, shared Heads
}

// Joined makes heads of two parts, the second of which is the same in all.
func (b *Builder) Joined(own, shared Heads) Heads {
	h := Heads{Reg: b.like(own.Reg, own.N*(own.Dim+shared.Dim)), N: own.N, Dim: own.Dim + shared.Dim}
	b.do(&joinOp{h.Reg, own, shared})
	return h
}

func (o *joinOp) reads() []Reg  { return []Reg{o.own.Reg, o.shared.Reg} }
func (o *joinOp) writes() []Reg { return []Reg{o.dst} }

func (o *joinOp) run(x *exec) {
	own, shared, dst := x.reg(o.own.Reg), x.reg(o.shared.Reg), x.write(o.dst)
	x.rows(dst.Rows, func(i int) {
		d, s, r := dst.Row(i), own.Row(i), shared.Row(i)[o.shared.at(0):][:o.shared.Dim]
		for h := range o.own.N {
			d = d[copy(d[:o.own.Dim], s[o.own.at(h):]):]
			d = d[copy(d, r):]
		}
	})
}
