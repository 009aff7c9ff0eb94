package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"
)

// Every half float and bfloat16 is widened to what the bits say, across the
// pieces in which it is done, from memory and from a file.
func TestDecodeHalves(t *testing.T) {
	raw := make([]byte, 2*(chunk+100))
	for i := range len(raw) / 2 {
		binary.LittleEndian.PutUint16(raw[2*i:], uint16(i))
	}
	for typ, want := range map[Type]func(uint16) float32{
		F16:  func(h uint16) float32 { return float16.Frombits(h).Float32() },
		BF16: func(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) },
	} {
		got, read := make([]float32, len(raw)/2), make([]float32, len(raw)/2)
		Decode(got, typ, raw)
		require.NoError(t, Read(bytes.NewReader(append([]byte{1}, raw...)), 1, typ, read))
		for i := range got {
			w := want(uint16(i))
			for _, v := range []float32{got[i], read[i]} {
				if w != w {
					require.True(t, v != v)
					continue
				}
				require.Equal(t, math.Float32bits(w), math.Float32bits(v), "%v %04x", typ, uint16(i))
			}
		}
	}
}

func TestDecodeWide(t *testing.T) {
	var raw []byte
	for _, v := range []float64{0.1, -3, 1e300, 5e-324} {
		raw = binary.LittleEndian.AppendUint64(raw, math.Float64bits(v))
	}
	got := make([]float32, 4)
	Decode(got, F64, raw)
	require.Equal(t, []float32{0.1, -3, float32(math.Inf(1)), 0}, got)
	Decode(got[:2], F32, []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0})
	require.Equal(t, []float32{1, -2}, got[:2])
	require.ErrorIs(t, Read(bytes.NewReader(raw[:20]), 0, F64, got), io.ErrUnexpectedEOF)
}

// What is encoded is decoded to the nearest value of the type; the first value
// that does not fit is named, wherever it lies.
func TestEncode(t *testing.T) {
	for _, typ := range []Type{F32, F16, BF16} {
		for _, n := range []int{0, 1, 63, 65, chunk - 1, chunk + 3} {
			v := make([]float32, n)
			for i := range v {
				v[i] = float32(i%4001) * 0.37
			}
			dst := make([]byte, n*typ.Size())
			require.Equal(t, -1, Encode(dst, typ, v))
			odd := make([]byte, len(dst)+1)
			require.Equal(t, -1, Encode(odd[1:], typ, v))
			require.True(t, bytes.Equal(dst, odd[1:]))
			var pieces []byte
			bad, err := EncodePieces(typ, v, func(p []byte) error { pieces = append(pieces, p...); return nil })
			require.NoError(t, err)
			require.Equal(t, -1, bad)
			require.True(t, bytes.Equal(dst, pieces))
			back := make([]float32, n)
			Decode(back, typ, dst)
			for i := range v {
				require.InEpsilon(t, v[i]+1, back[i]+1, 1.0/256)
			}
			if n == 0 || typ == F32 {
				continue
			}
			v[n-1] = math.MaxFloat32
			require.Equal(t, n-1, Encode(dst, typ, v), "a finite value must not become an infinity")
			bad, err = EncodePieces(typ, v, func([]byte) error { return nil })
			require.NoError(t, err)
			require.Equal(t, n-1, bad)
			v[n-1] = float32(math.Inf(-1))
			require.Equal(t, -1, Encode(dst, typ, v))
		}
	}
	// The last value before an infinity, and the first behind it.
	for typ, most := range map[Type]float32{F16: mostF16, BF16: mostBF16} {
		for _, sign := range []float32{1, -1} {
			v := []float32{0, sign * most, float32(math.NaN())}
			require.Equal(t, -1, Encode(make([]byte, 6), typ, v))
			v[1] = sign * math.Nextafter32(most, math.MaxFloat32)
			require.Equal(t, 1, Encode(make([]byte, 6), typ, v))
			require.Equal(t, 1, Encode(make([]byte, 4), typ, v[:2]))
		}
	}
	_, err := EncodePieces(F32, make([]float32, 3), func([]byte) error { return io.ErrShortWrite })
	require.ErrorIs(t, err, io.ErrShortWrite)
}

func TestWords(t *testing.T) {
	words := []uint32{1, 0xfffffffe, 0x01020304}
	raw := []byte{1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 4, 3, 2, 1}
	require.Equal(t, raw, Bytes(words))
	require.Equal(t, words, Words(raw))
	require.Empty(t, Words(nil))
	got := make([]int32, 2)
	require.NoError(t, ReadNumbers(bytes.NewReader(raw), 4, got))
	require.Equal(t, []int32{-2, 0x01020304}, got)
	require.ErrorIs(t, ReadNumbers(bytes.NewReader(raw), 8, got), io.ErrUnexpectedEOF)
}

func TestHalf(t *testing.T) {
	h, exact := ToHalf(1.5)
	require.True(t, exact)
	require.EqualValues(t, 1.5, Half(h))
	h, exact = ToHalf(0.1)
	require.False(t, exact)
	require.InDelta(t, 0.1, Half(h), 1e-4)
}

func TestNotFinite(t *testing.T) {
	for _, n := range []int{1, 7, 1000} {
		v := make([]float32, n)
		require.Equal(t, -1, NotFinite(v))
		v[n-1] = float32(math.NaN())
		require.Equal(t, n-1, NotFinite(v))
		v[n/2] = float32(math.Inf(1))
		require.Equal(t, n/2, NotFinite(v))
	}
}
