package kernel

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzTwins runs every kernel whose bits are defined on arbitrary floats at
// every level and compares it with its twin.
func FuzzTwins(f *testing.F) {
	seed := make([]byte, 4*70)
	for i := range 70 {
		binary.LittleEndian.PutUint32(seed[4*i:], math.Float32bits(float32(i-35)/4))
	}
	f.Add(seed, float32(0.25), uint8(7), uint8(4))
	f.Add(seed[:40], float32(1e-30), uint8(0), uint8(3))
	f.Add([]byte{0, 0, 0xc0, 0x7f, 0, 0, 0x80, 0xff}, float32(1), uint8(255), uint8(8))
	f.Fuzz(func(t *testing.T, data []byte, scale float32, zero, bits uint8) {
		n := len(data) / 4
		if n > 1000 || !(scale > 0) || math.IsInf(float64(scale), 0) {
			return
		}
		w := make([]float32, n)
		for i := range w {
			w[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
		b := int(bits%8) + 1
		maxq := float32(int(1)<<b - 1)
		z := min(float32(zero), maxq)

		wantLo, wantHi := minMaxGo(w)
		wantQ := make([]uint8, n)
		quantRowGo(wantQ, w, scale, z, maxq)
		wantD := make([]float32, n)
		dequantGo(wantD, wantQ, scale, z)
		wantErr := powErrGo(w, scale, z, maxq)
		want16, wantB16 := make([]uint16, n), make([]uint16, n)
		f32ToF16Go(want16, w)
		f32ToBF16Go(wantB16, w)
		wantWords := make([]uint32, (n*b+31)/32)
		packBitsGo(wantWords, wantQ, b)

		for _, l := range levels() {
			atLevel(l, func() {
				lo, hi := MinMax(w)
				require.Equal(t, bitsOf([]float32{wantLo, wantHi}), bitsOf([]float32{lo, hi}))
				require.Equal(t, allFiniteGo(w), AllFinite(w))
				q, d := make([]uint8, n), make([]float32, n)
				QuantRow(q, w, scale, z, maxq)
				require.Equal(t, wantQ, q)
				Dequant(d, q, scale, z)
				require.Equal(t, bitsOf(wantD), bitsOf(d))
				require.Equal(t, float64(wantErr), PowErr(w, scale, z, maxq))
				h := make([]uint16, n)
				F32ToF16(h, w)
				require.Equal(t, want16, h)
				F32ToBF16(h, w)
				require.Equal(t, wantB16, h)
				words := make([]uint32, len(wantWords))
				PackBits(words, q, b)
				require.Equal(t, wantWords, words)
				back := make([]uint8, n)
				UnpackBits(back, words, b, n)
				require.Equal(t, wantQ, back)
			})
		}
	})
}

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
