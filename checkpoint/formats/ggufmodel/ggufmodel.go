// Package ggufmodel reads and writes models in GGUF files, llama.cpp's format.
package ggufmodel

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/checkpoint/internal/engines"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Format is llama.cpp's one-file format, for the architectures llama (Mistral
// too), qwen2 and qwen3. What is quantized is stored bit by bit: no scale and
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
// Norms and biases are F32. The engine quantizes the inputs of quantized
// linears to 8 bits when it runs; the weights are exact all the same.
type Format struct {
	// Dense is the type of the embedding, the output head and of linears
	// that are not quantized: F16 (the default), F32 or BF16.
	Dense safetensors.DType
	// Q8Embeddings stores the embedding and the output head as Q8_0, rounded
	// to nearest, where their rows are whole blocks.
	Q8Embeddings bool
}

const ggufName = "gguf"

// Name returns "gguf".
func (Format) Name() string { return ggufName }

// Check accepts linears of the Llama family with groups along the input
// dimension that are whole blocks of 32, and half-float scales.
func (g Format) Check(l layout.Layer) error {
	if err := layout.CheckScheme(l); err != nil {
		return err
	}
	s := l.Scheme
	switch {
	case !namedLinear.MatchString(l.Name):
		return layout.Unsupported("the name %q is of no linear of llama, qwen2 or qwen3; use format lowbit or dense", l.Name)
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
	case s.ScaleType == quant.F32:
		return layout.Unsupported("GGUF stores half-float scales; quantize with f16 scales")
	case s.Bits == 8 && !s.Symmetric:
		return layout.Unsupported("asymmetric 8 bits need more than GGUF's 8; use a symmetric grid")
	}
	return nil
}

// Engines says that the engines of GGUF files load it.
func (f Format) Engines(layers []layout.Layer) []layout.Note { return engines.Notes(f.Name(), layers) }

// blockType is the block type that holds a scheme exactly.
func blockType(s quant.Scheme) gguf.Type {
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
// of each row. A weight the type cannot hold exactly is an error.
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
			to = row(r)
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
				return fmt.Errorf("scale %g times zero-point %d is no half float: %w", w.Scales[g], zero, layout.Unsupported("quantize with f16short scales"))
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

// CheckModel says whether the engine has the model's architecture.
func (g Format) CheckModel(config json.RawMessage) error {
	switch g.Dense {
	case "", safetensors.F16, safetensors.F32, safetensors.BF16:
	default:
		return layout.Unsupported("dense tensors of type %s, want F16, F32 or BF16", g.Dense)
	}
	_, err := readShape(config)
	return err
}

// denseType is the type in which a dense matrix is stored.
func (g Format) denseType(name string, cols int) gguf.Type {
	if g.Q8Embeddings && (name == embeddingName || name == headName) && cols%gguf.BlockLen == 0 {
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

// ropeFactors are the divisors of the rotary frequencies that llama.cpp
// reads from rope_freqs.weight: "llama3" scaling of transformers'
// modeling_rope_utils, by the turns a frequency makes in the context of the
// first training. nil where the scaling is no "llama3".
func ropeFactors(m *modelShape) []float32 {
	if m.scaling.kind != "llama3" {
		return nil
	}
	return llama3Factors(m.scaling, m.ropeTheta, m.headDim)
}

func llama3Factors(s ropeScaling, theta float64, headDim int) []float32 {
	f := make([]float32, headDim/2)
	for i := range f {
		turns := float64(s.originalContext) * ropeTurns(theta, headDim, i)
		smooth := (turns - s.lowFreq) / (s.highFreq - s.lowFreq)
		switch {
		case turns > s.highFreq:
			f[i] = 1
		case turns < s.lowFreq:
			f[i] = float32(s.factor)
		default:
			f[i] = float32(1 / ((1-smooth)/s.factor + smooth))
		}
	}
	return f
}

// ropeTurns is the number of turns pair i of a head makes per position.
func ropeTurns(theta float64, headDim, i int) float64 {
	return math.Pow(theta, -2*float64(i)/float64(headDim)) / (2 * math.Pi)
}

// findLlama3 returns the scaling that gives the factors. Between the
// frequencies that stay and those divided by the factor, the blend is a line in
// the turns per position; its slope and intercept give the thresholds up to
// the original context, which only sets their unit and is taken to be 8192 as
// in the models that use this.
func findLlama3(factors []float32, theta float64) (ropeScaling, bool) {
	const original = 8192
	s := ropeScaling{"llama3", 1, 1, 4, original}
	for _, f := range factors {
		s.factor = max(s.factor, float64(f))
	}
	headDim := 2 * len(factors)
	// The two blended frequencies that are farthest apart fix the line best.
	var turns, smooth []float64
	for i, f := range factors {
		if f > 1 && float64(f) < s.factor {
			turns = append(turns, original*ropeTurns(theta, headDim, i))
			smooth = append(smooth, (1/float64(f)-1/s.factor)/(1-1/s.factor))
		}
	}
	candidates := []ropeScaling{s}
	if n := len(turns) - 1; n >= 1 && turns[0] != turns[n] {
		slope := (smooth[0] - smooth[n]) / (turns[0] - turns[n])
		fitted := s
		fitted.lowFreq = turns[0] - smooth[0]/slope
		fitted.highFreq = fitted.lowFreq + 1/slope
		candidates = append(candidates, fitted)
	}
	for _, c := range candidates {
		if c.lowFreq > 0 && c.highFreq > c.lowFreq && closeTo(llama3Factors(c, theta, headDim), factors) {
			return c, true
		}
	}
	return s, false
}

func closeTo(a, b []float32) bool {
	for i := range a {
		if !(math.Abs(float64(a[i]-b[i])) <= 1e-5*math.Abs(float64(b[i]))) {
			return false
		}
	}
	return true
}
