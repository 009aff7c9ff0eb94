package kquant

import (
	"fmt"
	"math"
	"sort"

	"github.com/golowbit/lowbit/internal/minifloat"
	"github.com/golowbit/lowbit/quant"
)

// The grids of floats with 2 bits of exponent and one of mantissa (E2M1 of the OCP
// Microscaling specification), whose scales are floats of 8 bits.

// fp4 are their values in ascending order, which is the order of the codes here: as
// stored they have a sign and a magnitude.
var fp4 = [15]float32{-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6}

// fp4Zero is the code of 0.
const fp4Zero = 7

// FP4 is what is stored of a code of MXFP4 or NVFP4, and FP4Code the reverse.
func FP4(code uint8) uint8 {
	if code < fp4Zero {
		return 8 | (fp4Zero - code)
	}
	return code - fp4Zero
}

// FP4Code is the code of 4 stored bits: of both zeros it is the same.
func FP4Code(stored uint8) uint8 {
	if stored &= 15; stored&8 != 0 {
		return fp4Zero - stored&7
	}
	return fp4Zero + stored
}

// powers are the scales of MXFP4: E8M0.
func powers() []float64 {
	var s []float64
	for _, v := range minifloat.E8M0[:255] { // the last is no number
		s = append(s, float64(v))
	}
	return s
}

// TensorScale is what multiplies all of a weight on the grid TensorScaled: the scales of
// groups have 4 bits of exponent, and with it they are precise where the largest weight of
// a group is from 1/2700 to 10; without, where it is above 1/10.
const TensorScale = 0x1p-8

// eighths are the scales of NVFP4 times a factor: E4M3 without 0, which byte 0 is.
func eighths(factor float64) []float64 {
	var s []float64
	for _, v := range minifloat.E4M3[1:0x7f] { // what follows is no number, or negative
		s = append(s, float64(v)*factor)
	}
	return s
}

// index is that of the storable scale nearest to v.
func (k *kind) index(v float64) int {
	i := sort.SearchFloat64s(k.scales, v)
	if i == len(k.scales) || i > 0 && v-k.scales[i-1] < k.scales[i]-v {
		i--
	}
	return i
}

// listed finds the scales of groups each of which has one of a list: all are tried
// under which the largest weight is near the largest level.
func (f *fitter) listed(scale, shift []float32) (at int, err error) {
	k := f.k
	for i := range scale {
		x, w := f.run(i)
		lo, hi, err := extremes(x)
		if err != nil {
			return i, err
		}
		shift[i] = 0
		if lo == 0 && hi == 0 {
			scale[i] = float32(k.scales[0])
			continue
		}
		most := float64(max(lo/k.bottom, hi/k.ceiling))
		if most > k.scales[len(k.scales)-1] {
			return i, f.tooLarge()
		}
		f.n = 0
		for j := k.index(0.55 * most); j < len(k.scales) && k.scales[j] < 2*most && f.n < len(f.scale); j++ {
			f.add(float32(k.scales[j]), 0)
		}
		if f.n == 0 {
			f.add(float32(k.scales[k.index(most)]), 0)
		}
		g := group{err: math.Inf(1)}
		if f.try(&g, x, w); g.scale == 0 {
			return i, f.tooLarge() // the error is no number
		}
		scale[i] = g.scale
	}
	return 0, nil
}

// refit is FitSpan for a scale of a list: the loss has one valley, so that the nearest
// to its bottom is the best.
func (k *kind) refit(scale *float32, a, grad float64) bool {
	if !(a > 0) {
		return false
	}
	was := float64(*scale)
	to := k.scales[k.index(was-grad/a)]
	by := to - was
	if !(by*(2*grad+a*by) < -1e-9*a*was*was) {
		return false
	}
	*scale = float32(to)
	return true
}

// stored is the byte of a scale of the list.
func (k *kind) stored(scale float32) (byte, error) {
	i := k.index(float64(scale))
	if float32(k.scales[i]) != scale {
		return 0, fmt.Errorf("%w: scale %g is none of %v", quant.ErrScaleRange, scale, k.name)
	}
	return byte(i + k.first), nil
}

// FP4 reports whether the values are floats of 4 bits.
func (g Grid) FP4() bool { return g.kind().scales != nil }

// FP4Scales writes the scales of groups as the bytes they are stored as.
func (g Grid) FP4Scales(dst []byte, scale []float32) error {
	k := g.kind()
	for i, s := range scale {
		b, err := k.stored(s)
		if err != nil {
			return fmt.Errorf("group %d: %w", i, err)
		}
		dst[i] = b
	}
	return nil
}

// packFP4 is Pack for the types of this file.
func (g Grid) packFP4(dst []byte, codes []uint8, scale []float32) error {
	k := g.kind()
	block, bytes := g.t.Block(), g.t.BlockBytes()
	groups := block / k.group
	var stored [most * 2]uint8
	for i := range len(codes) / block {
		to := dst[i*bytes : (i+1)*bytes]
		if err := g.FP4Scales(to[:groups], scale[i*groups:(i+1)*groups]); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
		for j, u := range codes[i*block : (i+1)*block] {
			stored[j] = FP4(u)
		}
		// Of a group the second half lies in the upper bits.
		half := k.group / 2
		for j := range block / 2 {
			a := j/half*k.group + j%half
			to[groups+j] = stored[a] | stored[a+half]<<4
		}
	}
	return nil
}

// unpackFP4 is Unpack for the types of this file.
func (g Grid) unpackFP4(src []byte, codes []uint8, scale []float32) {
	k := g.kind()
	block, bytes := g.t.Block(), g.t.BlockBytes()
	groups, half := block/k.group, k.group/2
	for i := range len(codes) / block {
		from, to := src[i*bytes:(i+1)*bytes], codes[i*block:(i+1)*block]
		for j, b := range from[:groups] {
			if k.first > 0 {
				if b &= 0x7f; b == 0x7f { // the engine's 0
					b = 0
				}
			}
			scale[i*groups+j] = g.FP4Scale(b)
		}
		for j := range block / 2 {
			a := j/half*k.group + j%half
			to[a], to[a+half] = FP4Code(from[groups+j]), FP4Code(from[groups+j]>>4)
		}
	}
	g.FP4Zeros(codes, scale)
}

// FP4Zeros gives groups whose scale is 0, which is none here, codes of 0 and another scale.
func (g Grid) FP4Zeros(codes []uint8, scale []float32) {
	k := g.kind()
	for i, s := range scale {
		if s == 0 {
			scale[i] = float32(k.scales[0])
			for j := i * k.group; j < min((i+1)*k.group, len(codes)); j++ {
				codes[j] = fp4Zero
			}
		}
	}
}

// FP4Scale is the scale that a byte stands for; 0 where that is 0, NaN if it stands for none.
func (g Grid) FP4Scale(b byte) float32 {
	k := g.kind()
	switch i := int(b) - k.first; {
	case i < 0:
		return 0
	case i < len(k.scales):
		return float32(k.scales[i])
	}
	return float32(math.NaN())
}
