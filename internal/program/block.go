package program

import (
	"strings"

	"github.com/golowbit/lowbit/internal/program/product"
	"github.com/golowbit/lowbit/internal/program/stored"
	"github.com/golowbit/lowbit/tensor"
)

// What a model's tensors are read as; see package stored.
type (
	Weights     = stored.Weights
	Quantized   = stored.Quantized
	Slice       = stored.Slice
	TensorShape = stored.TensorShape
)

// asOwn tells whether a layer is stored as a tensor of its own.
func (l LinearInfo) asOwn(w Weights) bool {
	if l.Slice == nil {
		return true
	}
	if q, ok := w.(Quantized); ok && q.QuantizedWeight(l.WeightName()) {
		return true
	}
	if l.Slice.Weight == l.WeightName() {
		return false
	}
	return w.Has(l.WeightName()) || l.Slice.Optional && !w.Has(l.Slice.Weight)
}

// Linear is y = x Weightᵀ + Bias.
type Linear struct {
	Weight *tensor.Matrix // [out, in]
	Bias   []float32      // [out], or nil
	// Product, if not nil, is how x is multiplied in place of Weight, which is nil then.
	Product product.Product
}

// Block is a Program with weights. It holds nothing but weights: a Clone with
// another Weight in one of its linears is another block.
type Block struct {
	*Program
	linears []Linear
	params  []*tensor.Matrix // vectors have one row
}

// Clone returns a block that shares all weights.
func (b *Block) Clone() *Block {
	c := *b
	c.linears = append([]Linear(nil), b.linears...)
	c.params = append([]*tensor.Matrix(nil), b.params...)
	return &c
}

// Linear returns a linear layer of the block, to be read or replaced.
func (b *Block) Linear(i int) *Linear { return &b.linears[i] }

// Vector returns the name and the content of a gain or bias.
func (b *Block) Vector(i int) (name string, v []float32) { return b.paramName(i), b.params[i].Data }

// SetVector replaces a gain or bias.
func (b *Block) SetVector(i int, v []float32) { b.params[i] = tensor.FromSlice(1, len(v), v) }

// Load reads a block's weights and checks that all are there and have the
// shapes that the configuration asks for.
func (p *Program) Load(w Weights) (*Block, error) {
	b := &Block{Program: p, linears: make([]Linear, len(p.Linears)), params: make([]*tensor.Matrix, len(p.params))}
	var err error
	for i, t := range p.params {
		if t.optional && !w.Has(p.paramName(i)) {
			continue
		}
		if b.params[i], err = stored.LoadParam(w, p.paramName(i), t.shape); err != nil {
			return nil, err
		}
	}
	for _, path := range p.absent {
		if err := stored.CheckNoEffect(w, p.prefix+path); err != nil {
			return nil, err
		}
	}
	for i, info := range p.Linears {
		l := &b.linears[i]
		if l.Product, err = product.Of(w, info.Name); err != nil {
			return nil, err
		}
		if l.Product == nil {
			if l.Weight, err = LoadWeight(w, info); err != nil {
				return nil, err
			}
		}
		if l.Bias, err = loadBias(w, info); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// CheckShapes compares the shapes of all tensors of the block with what the
// program wants.
func (p *Program) CheckShapes(w Weights) error {
	for i, t := range p.params {
		if t.optional && !w.Has(p.paramName(i)) {
			continue
		}
		if err := stored.CheckShape(w, p.paramName(i), t.shape...); err != nil {
			return err
		}
	}
	for _, l := range p.Linears {
		s := l.Stored()
		if l.asOwn(w) {
			s = Slice{Weight: l.WeightName(), Bias: s.Bias, Outputs: l.Out, Step: 1}
		}
		if err := stored.CheckShape(w, s.Weight, s.WeightShape(l.In)...); err != nil {
			return err
		}
		if l.Bias && (s.Bias == l.BiasName() || !w.Has(l.BiasName())) {
			if err := stored.CheckShape(w, s.Bias, s.BiasShape()...); err != nil {
				return err
			}
		}
	}
	return nil
}

// LoadWeight reads a linear layer's weight as [Out, In] from where it lies.
func LoadWeight(w Weights, l LinearInfo) (*tensor.Matrix, error) {
	if l.asOwn(w) {
		return stored.LoadMatrix(w, l.WeightName(), l.Out, l.In)
	}
	return stored.LoadPart(w, l.Stored(), l.Out, l.In)
}

// loadBias loads a bias that is there only if the configuration says so. One
// that is there against the configuration is let pass only if it is all zeros
// and so has no effect: to ignore another would run another model.
func loadBias(w Weights, l LinearInfo) ([]float32, error) {
	s := l.Stored()
	switch {
	case !l.Bias:
		return nil, stored.CheckNoEffect(w, l.BiasName())
	case s.Bias == l.BiasName() || w.Has(l.BiasName()):
		return stored.LoadVector(w, l.BiasName(), l.Out)
	}
	if err := stored.CheckShape(w, s.Bias, s.BiasShape()...); err != nil {
		return nil, err
	}
	v, err := w.Rows(s.Bias, s.Expert, s.Expert+1, nil)
	if err != nil {
		return nil, err
	}
	bias := make([]float32, l.Out)
	for i := range bias {
		bias[i] = v[s.Output0+i*s.Step]
	}
	return bias, nil
}

// Shape returns the shape of a tensor of the block; ok is false if the program
// has none of that name.
func (p *Program) Shape(name string) (shape []int, ok bool) {
	for i := range p.params {
		if p.paramName(i) == name {
			return p.params[i].shape, true
		}
	}
	for _, l := range p.Linears {
		switch {
		case l.WeightName() == name:
			return []int{l.Out, l.In}, true
		case l.Bias && l.BiasName() == name:
			return []int{l.Out}, true
		}
	}
	return nil, false
}

// Tensors lists the tensors of the block as they are stored where nothing is
// quantized. What layers share is listed for each.
func (p *Program) Tensors() []TensorShape {
	var all []TensorShape
	for i, t := range p.params {
		all = append(all, TensorShape{Name: p.paramName(i), Shape: t.shape})
	}
	for _, l := range p.Linears {
		s := l.Stored()
		if s.Optional {
			s = LinearInfo{Name: l.Name, Out: l.Out, Bias: l.Bias}.Stored()
		}
		all = append(all, TensorShape{Name: s.Weight, Shape: s.WeightShape(l.In)})
		if s.Bias != "" {
			all = append(all, TensorShape{Name: s.Bias, Shape: s.BiasShape()})
		}
	}
	return all
}

// Under returns the name of a tensor of the block that is there if names begin with
// another prefix, "" if there is none.
func (p *Program) Under(w Weights, prefix string) string {
	for _, t := range p.params {
		if name := prefix + t.path; w.Has(name) {
			return name
		}
	}
	for _, l := range p.Linears {
		for _, path := range []string{l.Path + ".weight", strings.TrimPrefix(l.Stored().Weight, p.prefix)} {
			if name := prefix + path; w.Has(name) {
				return name
			}
		}
	}
	return ""
}

// Rename gives the block's tensors names with another prefix.
func (p *Program) Rename(prefix string) {
	old := p.prefix
	p.prefix = prefix
	for i := range p.Linears {
		l := &p.Linears[i]
		l.Name = prefix + l.Path
		if l.Slice == nil {
			continue
		}
		s := *l.Slice
		for _, name := range []*string{&s.Weight, &s.Bias} {
			if rest, ok := strings.CutPrefix(*name, old); ok {
				*name = prefix + rest
			}
		}
		l.Slice = &s
	}
}

// Settle leaves layers that may lie in tensors with several their Slice only if
// they do.
func (p *Program) Settle(w Weights) {
	for i := range p.Linears {
		if l := &p.Linears[i]; l.Slice != nil && l.Slice.Weight != l.WeightName() && l.asOwn(w) {
			l.Slice = nil
		}
	}
}

// Width is how wide the residual stream is.
func (p *Program) Width() int { return p.regs[Stream].width }
