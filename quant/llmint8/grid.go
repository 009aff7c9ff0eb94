package llmint8

import (
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Grid is vector-wise quantization to 8 bits as bitsandbytes has it: the scale of a row is
// its largest absolute weight, a half float, and code u stands for
//
//	((u-128) * scale) * (1/127)
//
// in float32, in this order, u-128 from -127 to 127 (section 3.1 of arXiv 2208.07339, eq. 6;
// int8_vectorwise_quant and int8_vectorwise_dequant of bitsandbytes 0.50). Weights are rounded to
// half floats, multiplied by 127/scale in float32, and rounded half to even. A row of
// zeros has scale 0. It implements quant.Grid; the shift is 0.
type Grid struct{}

var _ quant.Grid = Grid{}

const (
	most   = 127
	middle = 128 // code of 0
	inv    = float32(1) / most
	chunk  = 512 // elements that are rounded to half floats at a time
)

// Scheme is that of a weight on the grid: a scale a row.
func (g Grid) Scheme() quant.Scheme {
	return quant.Scheme{Bits: g.Bits(), GroupSize: quant.WholeLine, Grid: g}
}

// String is the grid's text.
func (Grid) String() string { return "llm.int8" }

// MarshalText implements quant.Grid.
func (g Grid) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// Bits implements quant.Grid.
func (Grid) Bits() int { return 8 }

// Span implements quant.Grid: every group stands alone.
func (Grid) Span() int { return 1 }

// ParamBits implements quant.Grid: a float32 a group.
func (Grid) ParamBits(groups int) int64 { return 32 * int64(groups) }

// Fit implements quant.Grid.
func (g Grid) Fit(scale, shift, x, importance []float32, size int, clip quant.Clip) (int, error) {
	for k := range scale {
		a, b := k*size, min((k+1)*size, len(x))
		var lo, hi float32
		eachHalf(x[a:b], func(_ int, half []float32) {
			for _, v := range half {
				lo, hi = min(lo, v), max(hi, v) // NaN if any is
			}
		})
		top := max(-lo, hi)
		switch {
		case math.IsInf(float64(top), 0):
			return k, g.refuse(x[a:b])
		case math.IsNaN(float64(top)):
			return k, quant.ErrNotFinite
		}
		scale[k], shift[k] = top, 0
		if clip == quant.ClipNone || top == 0 {
			continue
		}
		if importance != nil {
			importance = importance[:len(x)]
		}
		if p, ok := quant.SearchClip(clip, -top, top, g.clipped(x, importance, a, b, clip)); ok {
			scale[k] = p.Scale
		}
	}
	return 0, nil
}

// refuse says why a group has an infinite half float.
func (Grid) refuse(x []float32) error {
	for _, v := range x {
		if v-v != 0 {
			return quant.ErrNotFinite
		}
	}
	return fmt.Errorf("%w: a weight is above %d, the largest half float", quant.ErrScaleRange, wire.MaxHalf)
}

// clipped is what quant.SearchClip asks about the group x[a:b].
func (g Grid) clipped(x, importance []float32, a, b int, clip quant.Clip) func(lo, hi float32) (quant.GroupParams, float64) {
	codes, values := make([]uint8, b-a), make([]float32, b-a)
	if importance != nil {
		importance = importance[a:b]
	}
	return func(_, hi float32) (quant.GroupParams, float64) {
		p := quant.GroupParams{Scale: tensor.RoundF16(hi)}
		g.Round(codes, values, x[a:b], []float32{p.Scale}, []float32{0}, b-a)
		return p, quant.ClipError(clip, x[a:b], values, importance)
	}
}

// Store implements quant.Grid: a scale is a half float.
func (Grid) Store(scale []float32, want []float64) {
	for k, v := range want {
		if s := tensor.RoundF16(float32(v)); s > 0 && s <= wire.MaxHalf {
			scale[k] = s
		}
	}
}

// Round implements quant.Grid.
func (g Grid) Round(codes []uint8, values, x, scale, shift []float32, size int) {
	for k, a := 0, 0; a < len(x); k, a = k+1, a+size {
		b := min(a+size, len(x))
		by := factor(scale[k])
		to := codes[a:b]
		eachHalf(x[a:b], func(at int, half []float32) {
			for i, v := range half {
				to[at+i] = uint8(code(v, by) + middle)
			}
		})
	}
	if values != nil {
		g.Values(values, codes, scale, shift, size)
	}
}

// factor is what half floats are multiplied by.
func factor(scale float32) float32 {
	if scale == 0 {
		return 0
	}
	return most / scale
}

// code is that of a half float.
func code(v, by float32) int {
	r := math.RoundToEven(float64(v * by))
	return int(min(max(r, -most), most))
}

// Values implements quant.Grid.
func (Grid) Values(dst []float32, codes []uint8, scale, _ []float32, size int) {
	for k, a := 0, 0; a < len(codes); k, a = k+1, a+size {
		b := min(a+size, len(codes))
		s, to := scale[k], dst[a:b]
		for i, u := range codes[a:b] {
			to[i] = float32((float32(u)-middle)*s) * inv
		}
	}
}

// Slopes implements quant.Grid.
func (Grid) Slopes(dst []float32, codes []uint8, _ []float32, _ int) {
	for i, u := range codes {
		dst[i] = (float32(u) - middle) * inv
	}
}

// eachHalf calls f for runs of x, rounded to half floats, that begin at index at.
func eachHalf(x []float32, f func(at int, half []float32)) {
	var bits [chunk]uint16
	var half [chunk]float32
	for at := 0; at < len(x); at += chunk {
		n := min(chunk, len(x)-at)
		tensor.F32ToF16(bits[:n], x[at:at+n])
		tensor.F16ToF32(half[:n], bits[:n])
		f(at, half[:n])
	}
}
