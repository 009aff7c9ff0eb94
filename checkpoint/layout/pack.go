package layout

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// PackedWords is the number of 32-bit words that hold n codes.
func PackedWords(n, bits int) int { return (n*bits + 31) / 32 }

// PackRows packs each row of codes [rows, n] as a dense little-endian bit
// stream of its own: the result is [rows, PackedWords(n, bits)].
func PackRows(codes []uint8, rows, n, bits int) []uint32 {
	words := PackedWords(n, bits)
	packed := make([]uint32, rows*words)
	for r := range rows {
		kernel.PackBits(packed[r*words:(r+1)*words], codes[r*n:(r+1)*n], bits)
	}
	return packed
}

// UnpackRows undoes PackRows.
func UnpackRows(packed []uint32, rows, n, bits int) []uint8 {
	words := PackedWords(n, bits)
	codes := make([]uint8, rows*n)
	for r := range rows {
		kernel.UnpackBits(codes[r*n:(r+1)*n], packed[r*words:(r+1)*words], bits, n)
	}
	return codes
}

// ExactIn reports whether a floating-point type holds the values.
func ExactIn(t safetensors.DType, v []float32) bool {
	_, err := FloatTensor("", t, v, len(v))
	return err == nil
}

// SymmetricZero is the zero-point of symmetric codes.
func SymmetricZero(bits int) uint8 { return 1 << (bits - 1) }

// AllEqual reports whether every element of s is v.
func AllEqual(s []uint8, v uint8) bool {
	return !slices.ContainsFunc(s, func(x uint8) bool { return x != v })
}

// NoteMinZero records in the scheme what is known of its zero-points.
func NoteMinZero(s *quant.Scheme, zeros []uint8) {
	if !s.Symmetric && !slices.Contains(zeros, 0) {
		s.MinZero = 1
	}
}

// ClearTail zeroes the bits beyond a line's last code, which a file may have
// filled with anything.
func ClearTail(codes []uint32, lines, length, bits int) {
	words := PackedWords(length, bits)
	used := length * bits & 31
	if used == 0 {
		return
	}
	for l := range lines {
		codes[(l+1)*words-1] &= 1<<used - 1
	}
}

// ConsecutiveGroups returns the group index that the scheme implies for in inputs.
func ConsecutiveGroups(in, groupSize int) []int32 {
	g := make([]int32, in)
	if groupSize == quant.WholeLine {
		return g
	}
	for i := range g {
		g[i] = int32(i / groupSize)
	}
	return g
}

// FloatTensor stores values that the type must hold exactly.
func FloatTensor(name string, t safetensors.DType, values []float32, shape ...int) (Tensor, error) {
	tn := Tensor{Spec: Spec{Name: name, DType: t, Shape: shape}}
	tn.Data = make([]byte, tn.Bytes())
	if err := safetensors.EncodeFloat32(tn.Data, t, values); err != nil {
		return Tensor{}, fmt.Errorf("tensor %q: %w", name, err)
	}
	if t != safetensors.F32 {
		back := make([]float32, len(values))
		if err := safetensors.DecodeFloat32(back, t, tn.Data); err != nil {
			return Tensor{}, err
		}
		for i, v := range back {
			if v != values[i] {
				return Tensor{}, fmt.Errorf("tensor %q: value %g at %d is not exact in %v: %w", name, values[i], i, t,
					Unsupported("round it to %v first, or store scales as f32", t))
			}
		}
	}
	return tn, nil
}

// Int32Tensor stores 32-bit integers or words; it shares their memory.
func Int32Tensor[T int32 | uint32](name string, values []T, shape ...int) Tensor {
	return Tensor{Spec: Spec{Name: name, DType: safetensors.I32, Shape: shape}, Data: wire.Bytes(values)}
}

// Transposed returns the [cols, rows] transpose of a [rows, cols] matrix.
func Transposed[T any](src []T, rows, cols int) []T {
	dst := make([]T, len(src))
	const tile = 32
	for i0 := 0; i0 < rows; i0 += tile {
		for j0 := 0; j0 < cols; j0 += tile {
			for i := i0; i < min(i0+tile, rows); i++ {
				for j := j0; j < min(j0+tile, cols); j++ {
					dst[j*rows+i] = src[i*cols+j]
				}
			}
		}
	}
	return dst
}
