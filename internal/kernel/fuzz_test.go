package kernel

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzRTN4 compares the fused pass with its twin on arbitrary half floats.
func FuzzRTN4(f *testing.F) {
	f.Add(make([]byte, 200), true, uint8(1))
	f.Add([]byte{0x80, 0x3f, 0x80, 0xbf, 0, 0x40}, true, uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, bf16 bool, chunks uint8) {
		group := 32 * (int(chunks%8) + 1)
		src := make([]uint16, len(data)/2)
		for i := range src {
			src[i] = binary.LittleEndian.Uint16(data[2*i:])
		}
		n := (len(src) + group - 1) / group
		codes, want := make([]uint32, (len(src)+7)/8), make([]uint32, (len(src)+7)/8)
		scales, wantScales := make([]float32, n), make([]float32, n)
		zeros, wantZeros := make([]uint8, n), make([]uint8, n)
		var wantOK bool
		atLevel(Generic, func() { wantOK = rtn4Go(bf16, want, wantScales, wantZeros, src, group) })
		ok := rtn4(bf16, codes, scales, zeros, src, group)
		require.Equal(t, wantOK, ok)
		if ok {
			require.Equal(t, wantScales, scales)
			require.Equal(t, wantZeros, zeros)
			require.Equal(t, want, codes)
		}
	})
}
