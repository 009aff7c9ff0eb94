package wire

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every byte is its sign, exponent and fraction; what is no number is refused, wherever it is.
func TestFloats8(t *testing.T) {
	for _, c := range []struct{ fraction, bias, first int }{{3, 7, 127}, {2, 15, 124}} {
		var src []byte
		for b := range 256 {
			if b&127 < c.first {
				src = append(src, byte(b))
			}
		}
		for range 3 {
			src = append(src, src...)
		}
		src = src[:len(src)-3]
		dst := make([]float32, len(src))
		require.True(t, Floats8(dst, src, c.fraction))
		for i, b := range src {
			e, f := int(b&127)>>c.fraction, int(b)&(1<<c.fraction-1)
			if e > 0 {
				f, e = f|1<<c.fraction, e-1
			}
			want := math.Copysign(math.Ldexp(float64(f), e+1-c.bias-c.fraction), 0.5-float64(b>>7))
			if c.fraction == 3 {
				want /= 256
			}
			require.Equal(t, math.Float32bits(float32(want)), math.Float32bits(dst[i]), "%#x", b)
		}
		for _, at := range []int{0, 7, 100, len(src) - 1} {
			was := src[at]
			src[at] = byte(c.first) | 128
			require.False(t, Floats8(dst, src, c.fraction))
			src[at] = was
		}
	}
}
