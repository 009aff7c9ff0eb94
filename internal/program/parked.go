package program

import "github.com/golowbit/lowbit/tensor"

// Leave takes what a frame holds out of it, Stream among it, so that it can be
// kept elsewhere until Enter brings it back. changed says whether it is another
// than what entered.
func (f *Frame) Leave(take func(g Reg, m *tensor.Matrix, changed bool)) {
	f.regs[Stream] = f.X
	for i, m := range f.regs {
		changed := f.wrote[i]
		f.regs[i], f.mine[i], f.wrote[i] = nil, false, false
		if m != nil {
			take(Reg(i), m, changed)
		}
	}
	f.X = nil
}

// Enter brings back what Leave has taken out, or its like.
func (f *Frame) Enter(g Reg, m *tensor.Matrix) {
	if g == Stream {
		f.X = m
		return
	}
	f.regs[g], f.mine[g] = m, true
}
