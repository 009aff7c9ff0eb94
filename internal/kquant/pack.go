package kquant

import (
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
)

// factor finds half floats and integers whose products are the parameters of a
// block exactly; ok is false if there are none.
func (k *kind) factor(scale, shift []float32) (at point, ok bool) {
	n := len(scale)
	if at.d[0], ok = factorOf(scale, k.c, at.code[:n]); !ok || !k.min {
		return at, ok
	}
	at.d[1], ok = factorOf(shift, k.e, at.code[n:2*n])
	return at, ok
}

// factorOf is the part of factor for scales or shifts. An integer may be 0.
func factorOf(v []float32, in integers, codes []int) (d float64, ok bool) {
	var extreme float64
	for _, x := range v {
		if math.Abs(float64(x)) > math.Abs(extreme) {
			extreme = float64(x)
		}
	}
	if extreme == 0 {
		clear(codes)
		return 0, min(in.low, 0) == in.low || in.low == 1
	}
	for m := max(in.high, -in.low); m > 0; m-- {
		for _, c := range [2]int{m, -m} {
			if c >= in.low && c <= in.high && multiples(v, extreme/float64(c), in, codes) {
				return extreme / float64(c), true
			}
		}
	}
	return 0, false
}

// multiples sets codes to the integers that d times is v; false if d is no half float, or
// there are none.
func multiples(v []float32, d float64, in integers, codes []int) bool {
	const beyond = 1<<42 - 1 // bits that a half float has none of, which is soon seen
	if math.Float64bits(d)&beyond != 0 {
		return false
	}
	if bits, _ := wire.ToHalf(float32(d)); float64(wire.Half(bits)) != d {
		return false
	}
	for i, x := range v {
		q := float64(x) / d
		if q != math.Trunc(q) || q < float64(min(in.low, 0)) || q > float64(in.high) {
			return false
		}
		codes[i] = int(q)
	}
	return true
}

// Pack writes a line of whole blocks. scale and shift are by group. Parameters
// that the type cannot store exactly are an error.
func (g Grid) Pack(dst []byte, codes []uint8, scale, shift []float32) error {
	k := g.kind()
	block, bytes := g.t.Block(), g.t.BlockBytes()
	if len(codes)%block != 0 {
		return fmt.Errorf("%d weights, want a multiple of %d", len(codes), block)
	}
	if k.scales != nil {
		return g.packFP4(dst, codes, scale)
	}
	var s gguf.Super
	for i := range len(codes) / block {
		a, b := i*k.span, (i+1)*k.span
		at, ok := k.factor(scale[a:b], shift[a:b])
		if !ok {
			return fmt.Errorf("block %d: scales %v and shifts %v are no integers times half floats of %v", i, scale[a:b], shift[a:b], g.t)
		}
		d, _ := wire.ToHalf(float32(at.d[0]))
		m, _ := wire.ToHalf(float32(at.d[1]))
		part, to := codes[i*block:(i+1)*block], dst[i*bytes:(i+1)*bytes]
		if !g.t.Super() {
			if k.min { // what is stored is added
				m ^= 0x8000
			}
			g.t.PackBlock(to, d, m, (*[gguf.BlockLen]uint8)(part))
			continue
		}
		s.D, s.Min = d, m
		for j := range k.span {
			s.Scales[j] = int8(at.code[j])
			if k.min {
				s.Mins[j] = uint8(at.code[k.span+j])
			}
		}
		copy(s.Codes[:], part)
		g.t.PackSuper(to, &s)
	}
	return nil
}

// Unpack reads what Pack wrote.
func (g Grid) Unpack(src []byte, codes []uint8, scale, shift []float32) {
	k := g.kind()
	block, bytes := k.span*k.group, g.t.BlockBytes()
	clear(shift)
	if k.scales != nil {
		g.unpackFP4(src, codes, scale)
		return
	}
	var s gguf.Super
	for i := range len(codes) / block {
		from, part := src[i*bytes:(i+1)*bytes], codes[i*block:(i+1)*block]
		if !g.t.Super() {
			d, m := g.t.UnpackBlock(from, (*[gguf.BlockLen]uint8)(part))
			scale[i] = wire.Half(d)
			if k.min {
				shift[i] = 0 - wire.Half(m)
			}
			continue
		}
		g.t.UnpackSuper(from, &s)
		d, m := wire.Half(s.D), wire.Half(s.Min)
		for j := range k.span {
			scale[i*k.span+j] = d * float32(s.Scales[j])
			if k.min {
				shift[i*k.span+j] = m * float32(s.Mins[j])
			}
		}
		copy(part, s.Codes[:])
	}
}

// Encode rounds whole blocks of values to nearest on the grid that fits them best.
// Errors wrap quant.ErrNotFinite or quant.ErrScaleRange.
func (g Grid) Encode(dst []byte, values []float32) error {
	k := g.kind()
	block := g.t.Block()
	n := block / k.group
	codes := make([]uint8, block)
	var scale, shift [most]float32
	for ; len(values) > 0; values, dst = values[block:], dst[g.t.BlockBytes():] {
		x := values[:block]
		if _, err := g.Fit(scale[:n], shift[:n], x, nil, k.group, quant.ClipNone); err != nil {
			return err
		}
		g.Round(codes, nil, x, scale[:n], shift[:n], k.group)
		if err := g.Pack(dst, codes, scale[:n], shift[:n]); err != nil {
			return err
		}
	}
	return nil
}
