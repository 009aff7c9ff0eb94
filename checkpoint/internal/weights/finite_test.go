package weights

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/safetensors"
)

// TestNotFinite compares with looking at every element.
func TestNotFinite(t *testing.T) {
	for _, v := range []uint16{0, 1, 0x7f7f, 0x7f80, 0x7f81, 0x7fff, 0x8000, 0xff7f, 0xff80, 0xffff, 0x7bff, 0x7c00, 0xfbff, 0xfc00} {
		for at := range 11 {
			data := make([]byte, 22)
			for i := range data {
				data[i] = 0x3b
			}
			data[2*at], data[2*at+1] = byte(v), byte(v>>8)
			for _, dtype := range []safetensors.DType{safetensors.BF16, safetensors.F16} {
				want := -1
				if x := element(dtype, data[2*at:]); math.IsNaN(x) || math.IsInf(x, 0) {
					want = at
				}
				got, _ := NotFinite(dtype, data)
				require.Equal(t, want, got, "%v %#x at %d", dtype, v, at)
			}
		}
	}
	i, _ := NotFinite(safetensors.F64, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0xff})
	require.Equal(t, 1, i)
	i, _ = NotFinite(safetensors.I32, []byte{0xff, 0xff, 0xff, 0xff})
	require.Equal(t, -1, i)
}

// TestNotFinite8: of all 256 floats of 8 bits those that their formats say.
func TestNotFinite8(t *testing.T) {
	for dtype, want := range map[safetensors.DType]map[byte]float64{
		safetensors.F8E4M3: {0x7f: math.NaN(), 0xff: math.NaN()},
		safetensors.F8E5M2: {
			0x7c: math.Inf(1), 0x7d: math.NaN(), 0x7e: math.NaN(), 0x7f: math.NaN(),
			0xfc: math.Inf(-1), 0xfd: math.NaN(), 0xfe: math.NaN(), 0xff: math.NaN(),
		},
		safetensors.F8E8M0:     {0xff: math.NaN()},
		safetensors.F8E4M3FNUZ: {0x80: math.NaN()},
		safetensors.F8E5M2FNUZ: {0x80: math.NaN()},
		safetensors.U8:         {},
	} {
		for b := range 256 {
			i, v := NotFinite(dtype, []byte{0, 1, byte(b), 2})
			w, bad := want[byte(b)]
			if !bad {
				require.Equal(t, -1, i, "%v %#x", dtype, b)
				continue
			}
			require.Equal(t, 2, i, "%v %#x", dtype, b)
			require.Equal(t, math.IsNaN(w), math.IsNaN(v), "%v %#x", dtype, b)
			if !math.IsNaN(w) {
				require.Equal(t, w, v, "%v %#x", dtype, b)
			}
		}
	}
}
