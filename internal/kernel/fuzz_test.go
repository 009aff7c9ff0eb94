package kernel

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzRTN4 compares the fused pass with its twin on arbitrary weights.
func FuzzRTN4(f *testing.F) {
	f.Add(make([]byte, 200), uint8(0), uint8(1))
	f.Add([]byte{0x80, 0x3f, 0x80, 0xbf, 0, 0x40}, uint8(1), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, kind uint8, chunks uint8) {
		group := 32 * (int(chunks%8) + 1)
		words, floats := make([]uint16, len(data)/2), make([]float32, len(data)/4)
		for i := range words {
			words[i] = binary.LittleEndian.Uint16(data[2*i:])
		}
		for i := range floats {
			floats[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
		switch kind % 3 {
		case 0:
			fuzzRTN4(t, rtnF16, words, group)
		case 1:
			fuzzRTN4(t, rtnBF16, words, group)
		case 2:
			fuzzRTN4(t, rtnF32, floats, group)
		}
	})
}

func fuzzRTN4[T uint16 | float32](t *testing.T, k *rtnKind[T], src []T, group int) {
	n := (len(src) + group - 1) / group
	codes, want := make([]uint32, (len(src)+7)/8), make([]uint32, (len(src)+7)/8)
	scales, wantScales := make([]float32, n), make([]float32, n)
	zeros, wantZeros := make([]uint8, n), make([]uint8, n)
	var wantOK bool
	atLevel(Generic, func() { wantOK = k.plain(want, wantScales, wantZeros, src, group) })
	ok := rtn4(k, codes, scales, zeros, src, group)
	require.Equal(t, wantOK, ok)
	if ok {
		require.Equal(t, wantScales, scales)
		require.Equal(t, wantZeros, zeros)
		require.Equal(t, want, codes)
	}
}
