package program

import (
	"fmt"
	"strings"
)

// Step is an operation as those see it who change the basis of registers.
type Step struct {
	Name          string // of its kind
	Reads, Writes []Reg
	// Even operations treat all channels alike: they are linear in what they read, and in
	// nothing else that depends on a channel.
	Even   bool
	Linear int      // the linear that it is, or -1
	Norm   *Norm    // the norm that it is, or nil
	Gain   string   // of it, the tensor, "" if it has none
	Onto   []string // the matrices [n, width] by which it multiplies Reads[0], and does nothing else with it
	Values int      // of attention, the width of the heads of values; 0 of others
}

// Steps are the operations of the program, in order.
func (p *Program) Steps() []Step {
	steps := make([]Step, len(p.ops))
	for i, o := range p.ops {
		name := fmt.Sprintf("%T", o)
		s := Step{Name: strings.TrimSuffix(name[strings.LastIndexByte(name, '.')+1:], "Op"), Reads: o.reads(), Writes: o.writes(), Linear: -1}
		switch o := o.(type) {
		case *copyOp, *addOp, *scaleOp, *zeroOp, *gatherOp, *scatterOp:
			s.Even = true
		case *linearOp:
			s.Linear = o.linear
		case *normOp:
			if s.Norm = &o.spec; o.gain >= 0 {
				s.Gain = p.paramName(o.gain)
			}
		case *routerOp:
			s.Onto = []string{p.paramName(o.weight)}
		case *headGateOp:
			if g := o.gates[0]; len(o.gates) == 1 && g.Width == p.regs[o.dst].width && g.Inner < 0 && g.Weight >= 0 && g.From == 0 {
				s.Onto = []string{p.paramName(g.Weight)}
			}
		case *Attention:
			s.Values = o.V.Dim
		}
		steps[i] = s
	}
	return steps
}
