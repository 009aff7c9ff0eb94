// Package mlx is the checkpoint format of mlx-lm:
//
//	X.weight  U32 [out, in·bits/32]   codes, a dense little-endian bit stream a row
//	X.scales  F16, BF16 or F32 [out, in/group_size]; U8 in the modes mxfp4, mxfp8, nvfp4
//	X.biases  like scales, in mode affine only
//
//	affine: W[r, j] = scales[r, j/g]·code[r, j] + biases[r, j/g]
//	mxfp4:  codes E2M1, scales E8M0, groups of 32
//	nvfp4:  codes E2M1, scales E4M3, groups of 16
//	mxfp8:  codes E4M3, scales E8M0, groups of 32
//
// A module is quantized if it has scales: linears, and as a rule the embedding
// and the head too. config.json says how under "quantization", with values of
// their own for single modules.
//
// Sources: mlx 0.32 (mx.quantize, mx.dequantize) and mlx-lm 0.32 (utils.py).
package mlx

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/internal/minifloat"
)

// Scheme is how a module is quantized.
type Scheme struct {
	Bits, Group int
	Mode        string
}

// affineMode is the mode with a scale and a bias a group; the others have levels
// that are floats themselves.
const affineMode = "affine"

// Validate accepts what mlx makes.
func (s Scheme) Validate() error {
	want := func(group, bits int) error {
		if s.Group != group || s.Bits != bits {
			return fmt.Errorf("mode %s with %d bits in groups of %d, want %d in groups of %d", s.Mode, s.Bits, s.Group, bits, group)
		}
		return nil
	}
	switch s.Mode {
	case affineMode:
		if !slices.Contains([]int{1, 2, 3, 4, 5, 6, 8}, s.Bits) {
			return fmt.Errorf("bits %d, want 1, 2, 3, 4, 5, 6 or 8", s.Bits)
		}
		if s.Group < 32 || s.Group > 1<<20 || s.Group%32 != 0 {
			return fmt.Errorf("group_size %d, want a multiple of 32", s.Group)
		}
		return nil
	case "mxfp4":
		return want(32, 4)
	case "nvfp4":
		return want(16, 4)
	case "mxfp8":
		return want(32, 8)
	}
	return fmt.Errorf("mode %.40q, want affine, mxfp4, mxfp8 or nvfp4", s.Mode)
}

// unpack spreads the codes of a row: len(codes)·bits/32 words.
func unpack(codes []uint8, words []uint32, bits int) {
	var held uint64
	have := 0
	mask := uint64(1)<<bits - 1
	for i := range codes {
		if have < bits {
			held |= uint64(words[0]) << have
			words = words[1:]
			have += 32
		}
		codes[i] = uint8(held & mask)
		held >>= bits
		have -= bits
	}
}

// affineRow is scale·code + bias, rounded once a step.
func affineRow(dst []float32, codes []uint8, scales, biases []float32, group int) {
	for g, s := range scales {
		b := biases[g]
		part := dst[g*group : (g+1)*group]
		for i, c := range codes[g*group : (g+1)*group] {
			part[i] = float32(s*float32(c)) + b
		}
	}
}

// floatRow multiplies levels and scales.
func floatRow(dst []float32, codes, scales []uint8, levels []float32, s Scheme) {
	scale := &minifloat.E8M0
	if s.Mode == "nvfp4" {
		scale = &minifloat.E4M3
	}
	for g, b := range scales {
		v := scale[b]
		part := dst[g*s.Group : (g+1)*s.Group]
		for i, c := range codes[g*s.Group : (g+1)*s.Group] {
			part[i] = levels[c] * v
		}
	}
}

// levels are the values of the codes in the modes other than affine.
func levels(s Scheme) []float32 {
	if s.Bits == 4 {
		return minifloat.E2M1[:]
	}
	return minifloat.E4M3[:]
}
