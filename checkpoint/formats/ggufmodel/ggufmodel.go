// Package ggufmodel reads and writes models in GGUF files, llama.cpp's format.
package ggufmodel

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/internal/engines"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/affine"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Format is llama.cpp's one-file format, for the architectures whose files have
// llama.cpp's names (decoder.Architecture.GGUF). What is quantized is stored bit by bit: no scale and
// no code is changed, so that the engine's weights are those of
// quant.Weight.Dequantize.
//
// Blocks hold 32 weights of an output row. The scale is repeated for each
// block of a group; with q = code - zero-point the types are
//
//	symmetric 2 … 4 bits, asymmetric 2 and 3   Q4_0  4.5 bits a weight, q in -8 … 7
//	symmetric 5                                Q5_0  5.5 bits, q in -16 … 15
//	symmetric 6 … 8, asymmetric 5 … 7          Q8_0  8.5 bits, q in -128 … 127
//	asymmetric 4, scales quant.F16Short        Q4_1  5.0 bits: scale*zero-point is a half float
//	asymmetric 4, other scales                 Q5_0  5.5 bits
//
// A weight on the grid of a block type itself (internal/kquant) is stored in that
// type: Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4, NVFP4 (with a scale beside it, see tensorscale.go), and the plain types. Type asks for such
// grids. One of free biases (internal/affine, of mlx) is in 2 to 4 bits one of Q4_1,
// in 5 bits of Q5_1, if its scales and biases are half floats.
//
// What does not fit its type when it is there gets a larger one: F16 becomes
// BF16 where the source has that, else F32; quantized embeddings F16; and Q4_1
// becomes Q5_0 where scale*zero-point is no half float.
//
// Norms and biases are F32. The engine quantizes the inputs of quantized
// linears to 8 bits when it runs; the weights are exact all the same.
type Format struct {
	// Dense is the type of the embedding, the output head and of linears
	// that are not quantized: F16 (the default), F32 or BF16.
	Dense safetensors.DType
	// Q8Embeddings stores the embedding and the output head as Q8_0, rounded
	// to nearest, where their rows are whole blocks.
	Q8Embeddings bool
	// Type is one of Types: linears are put on the grids that llama-quantize would
	// choose for a file of the type, layer by layer, and where neither Dense nor
	// Q8Embeddings is given the embedding and the output head are rounded to the
	// types that it would choose for them. It matters to quantization only: a
	// conversion keeps codes and grids as they are.
	Type string
	// Pure gives all of these the type that most have.
	Pure bool
}

const ggufName = "gguf"

// Name returns "gguf".
func (Format) Name() string { return ggufName }

// BlockSize implements layout.Blocker: every type has a scale for 32 weights.
func (Format) BlockSize() int { return gguf.BlockLen }

// Check accepts linears of the Llama family with groups along the input
// dimension that are whole blocks of 32, and half-float scales.
func (g Format) Check(l layout.Layer) error {
	if l.Scheme.Grid != nil {
		return checkGrid(l)
	}
	if err := layout.CheckScheme(l); err != nil {
		return err
	}
	s := l.Scheme
	switch {
	case !namedLinear().MatchString(l.Name):
		return layout.Unsupported("the name %q is of no linear of an architecture that GGUF is written for; use format lowbit or dense", l.Name)
	case s.Axis != quant.OC:
		return layout.Unsupported("groups lie along the input dimension in GGUF; use axis oc, or format hqq or lowbit")
	case l.RowScale || l.InputScale:
		return layout.Unsupported("GGUF has no row or input scales; quantize without them, or use format lowbit")
	case l.GroupIndex:
		return layout.Unsupported("GGUF has no group index; quantize with static groups, or use format gptq")
	case l.In%gguf.BlockLen != 0:
		return layout.Unsupported("%d inputs are not a whole number of blocks of %d; keep the layer dense", l.In, gguf.BlockLen)
	case s.GroupSize != quant.WholeLine && s.GroupSize < l.In && s.GroupSize%gguf.BlockLen != 0:
		return layout.Unsupported("group size %d is not a multiple of %d; use 32, 64 or 128", s.GroupSize, gguf.BlockLen)
	case s.ScaleType == quant.F32, s.ScaleType == quant.BF16:
		return layout.Unsupported("GGUF stores half-float scales; quantize with f16 scales")
	case s.Bits == 8 && !s.Symmetric:
		return layout.Unsupported("asymmetric 8 bits need more than GGUF's 8; use a symmetric grid")
	}
	return nil
}

// checkGrid is Check for a grid that is not uniform.
func checkGrid(l layout.Layer) error {
	if err := layout.CheckShape(l); err != nil {
		return err
	}
	grid, ok := gridOf(l.Scheme)
	if !ok {
		return layout.Unsupported("the grid is none of a block type of GGUF; use the format that has it (lowbit for those of int8 and OliVe), or dense")
	}
	s, own := l.Scheme, grid.Scheme()
	biased, free := s.Grid.(affine.Grid)
	switch {
	case !namedLinear().MatchString(l.Name):
		return layout.Unsupported("the name %q is of no linear of an architecture that GGUF is written for", l.Name)
	case s.Axis != quant.OC || l.RowScale || l.InputScale || l.GroupIndex || l.Summands > 0:
		return layout.Unsupported("%v has groups of neighbours in axis oc and no other scales", grid)
	case free && biased.Type() == quant.F32:
		return layout.Unsupported("%v has half-float scales and minima, not float32", grid)
	case free && s.GroupLen(l.In)%own.GroupSize != 0:
		return layout.Unsupported("group size %d is not a multiple of %d", s.GroupSize, own.GroupSize)
	case !free && s.GroupSize != own.GroupSize:
		return layout.Unsupported("group size %d, want %d of %v", s.GroupSize, own.GroupSize, grid)
	case l.In%grid.Type().Block() != 0:
		return layout.Unsupported("%d inputs are not a whole number of blocks of %d of %v", l.In, grid.Type().Block(), grid)
	}
	return nil
}

// gridOf is the grid of a block type that a weight on a grid that is not uniform is
// stored in; ok is false if there is none.
func gridOf(s quant.Scheme) (g kquant.Grid, ok bool) {
	switch g := s.Grid.(type) {
	case kquant.Grid:
		return g, true
	case affine.Grid:
		switch {
		case g.Bits() <= 4:
			return kquant.Of(gguf.Q4_1)
		case g.Bits() == 5:
			return kquant.Of(gguf.Q5_1)
		}
	}
	return g, false
}

// Engines says that the engines of GGUF files load it.
func (f Format) Engines(layers []layout.Layer) []layout.Note { return engines.Notes(f.Name(), layers) }

// blockType is the block type that holds a scheme exactly.
func blockType(s quant.Scheme) gguf.Type {
	if g, ok := gridOf(s); ok {
		return g.Type()
	}
	switch {
	case s.Bits <= 3, s.Bits == 4 && s.Symmetric:
		return gguf.Q4_0
	case s.Bits == 4 && s.ScaleType == quant.F16Short:
		return gguf.Q4_1
	case s.Bits == 4, s.Bits == 5 && s.Symmetric:
		return gguf.Q5_0
	}
	return gguf.Q8_0
}

// packRows returns the blocks of a weight. row, if not nil, gives the place
// of each row, -1 for one that is left out. A weight the type cannot hold exactly is an error.
func packRows(w *quant.Weight, t gguf.Type, row func(r int) int) ([]byte, error) {
	if err := w.Validate(); err != nil {
		return nil, err
	}
	p := packer{t: t, w: w, codes: make([]uint8, w.In)}
	n := t.RowBytes(w.In)
	data := make([]byte, n*w.Out)
	for r := range w.Out {
		to := r
		if row != nil {
			if to = row(r); to < 0 {
				continue
			}
		}
		if err := p.row(data[to*n:(to+1)*n], r); err != nil {
			return nil, fmt.Errorf("row %d: %w", r, err)
		}
	}
	return data, nil
}

type packer struct {
	t     gguf.Type
	w     *quant.Weight
	codes []uint8
}

func (p *packer) row(dst []byte, r int) error {
	w, t := p.w, p.t
	w.Line(p.codes, r)
	if g, ok := gridOf(w.Scheme); ok {
		a, b, n := r*w.Groups(), (r+1)*w.Groups(), w.Scheme.GroupLen(w.In)/g.Scheme().GroupSize
		return g.Pack(dst, p.codes, repeated(w.Scales[a:b], n), repeated(w.Shifts[a:b], n))
	}
	size, limit := t.BlockBytes(), 1<<t.Bits()-1
	var block [gguf.BlockLen]uint8
	for b := 0; b*gguf.BlockLen < w.In; b++ {
		g := r*w.Groups() + w.Group(b*gguf.BlockLen)
		zero := int(w.Zeros[g])
		d, ok := wire.ToHalf(w.Scales[g])
		if !ok {
			return fmt.Errorf("scale %g is no half float: %w", w.Scales[g], layout.Unsupported("quantize with f16 scales"))
		}
		var m uint16
		shift := 1<<(t.Bits()-1) - zero
		if t.HasMin() {
			if m, ok = wire.ToHalf(0 - float32(w.Scales[g]*float32(zero))); !ok {
				return fmt.Errorf("scale %g times zero-point %d %w a half float", w.Scales[g], zero, gguf.ErrRange)
			}
			shift = 0
		}
		for j := range block {
			v := int(p.codes[b*gguf.BlockLen+j]) + shift
			if v < 0 || v > limit {
				return fmt.Errorf("code %d with zero-point %d does not fit %v", p.codes[b*gguf.BlockLen+j], zero, t)
			}
			block[j] = uint8(v)
		}
		t.PackBlock(dst[b*size:], d, m, &block)
	}
	return nil
}

// repeated gives each of v to the n blocks of its group.
func repeated(v []float32, n int) []float32 {
	if n == 1 {
		return v
	}
	all := make([]float32, 0, n*len(v))
	for _, x := range v {
		all = append(all, slices.Repeat([]float32{x}, n)...)
	}
	return all
}

// CheckModel says whether the engine has the model's architecture and tokenizer,
// and whether each tensor has a place.
func (g Format) CheckModel(src layout.Origin) error {
	switch g.Dense {
	case "", safetensors.F16, safetensors.F32, safetensors.BF16:
	default:
		return layout.Unsupported("dense tensors of type %s, want F16, F32 or BF16", g.Dense)
	}
	if _, ok := fileTypes[g.Type]; g.Type != "" && !ok {
		_, err := ParseType(g.Type)
		return fmt.Errorf("%w: %w", layout.ErrUnsupported, err)
	}
	m, err := modelOf(src)
	if err != nil {
		return err
	}
	if _, err := checkRest(m, unstack(m, src)); err != nil {
		return err
	}
	if _, err := (&assembly{g: g, model: m, src: src}).metadata(nil); err != nil {
		return err
	}
	_, err = tokenizerKV(src, m.Vocab)
	return err
}

// CheckLayers says whether the layers have places, and those that share one are
// alike.
func (g Format) CheckLayers(src layout.Origin, layers []layout.Layer) error {
	_, err := g.Size(src, layers)
	return err
}

// Size is what the tensors take, but for those that turn out to need a larger type.
func (g Format) Size(src layout.Origin, layers []layout.Layer) (int64, error) {
	m, err := modelOf(src)
	if err != nil {
		return 0, err
	}
	a, err := g.assembly(m, src, layers, nil)
	if err != nil {
		return 0, err
	}
	_, infos, kv, err := a.layOut()
	if err != nil {
		return 0, err
	}
	tokens, err := tokenizerKV(src, m.Vocab)
	if err != nil {
		return 0, err
	}
	return gguf.Size(append(kv, tokens...), infos)
}

// denseType is the type in which a dense matrix is stored; wanted is that of
// g.Type.
func (g Format) denseType(t decoder.GGUFTensor, wanted gguf.Type, cols int) gguf.Type {
	if t.Dense {
		return gguf.F32
	}
	if g.Type != "" && t.Outer && g.Dense == "" && !g.Q8Embeddings {
		return fitting(wanted, cols)
	}
	if g.Q8Embeddings && t.Outer && cols%gguf.BlockLen == 0 {
		return gguf.Q8_0
	}
	switch g.Dense {
	case safetensors.F32:
		return gguf.F32
	case safetensors.BF16:
		return gguf.BF16
	}
	return gguf.F16
}
