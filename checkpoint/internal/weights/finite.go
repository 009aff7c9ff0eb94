package weights

import (
	"encoding/binary"
	"math"

	"github.com/golowbit/lowbit/safetensors"
)

// NotFinite returns the first element of data that is NaN or infinite, or -1.
func NotFinite(t safetensors.DType, data []byte) (int, float64) {
	// Of every element in a word: the exponent, all ones in NaN and infinities,
	// and all bits but the highest.
	var exponent, low uint64
	size := t.Bits() / 8
	switch t {
	case safetensors.F16:
		exponent, low = 0x7c00_7c00_7c00_7c00, 0x7fff_7fff_7fff_7fff
	case safetensors.BF16:
		exponent, low = 0x7f80_7f80_7f80_7f80, 0x7fff_7fff_7fff_7fff
	case safetensors.F32:
		exponent, low = 0x7f80_0000_7f80_0000, 0x7fff_ffff_7fff_ffff
	case safetensors.F64:
		exponent, low = 0x7ff0_0000_0000_0000, math.MaxInt64
	default:
		return notFinite8(t, data)
	}
	i := 0
	for ; i+8 <= len(data); i += 8 {
		// What is missing of the exponent, 0 where nothing is; adding low
		// carries into the highest bit of every element that is not 0.
		missing := ^binary.LittleEndian.Uint64(data[i:]) & exponent
		if (missing+low)|low != math.MaxUint64 {
			break
		}
	}
	for ; i+size <= len(data); i += size {
		if v := element(t, data[i:]); math.IsNaN(v) || math.IsInf(v, 0) {
			return i / size, v
		}
	}
	return -1, 0
}

// notFinite8 is NotFinite of floats of 8 bits. Their kinds differ in what is NaN, and
// only one has infinities (Micikevicius et al., "FP8 Formats for Deep Learning", 2022,
// table 1; the OCP's microscaling formats 1.0 for exponents).
func notFinite8(t safetensors.DType, data []byte) (int, float64) {
	for i, b := range data {
		var nan, inf bool
		switch t {
		case safetensors.F8E4M3:
			nan = b&0x7f == 0x7f
		case safetensors.F8E5M2:
			nan, inf = b&0x7f > 0x7c, b&0x7f == 0x7c
		case safetensors.F8E8M0:
			nan = b == 0xff
		case safetensors.F8E4M3FNUZ, safetensors.F8E5M2FNUZ:
			nan = b == 0x80
		default:
			return -1, 0
		}
		switch {
		case nan:
			return i, math.NaN()
		case inf:
			return i, math.Inf(1 - int(b>>7)*2)
		}
	}
	return -1, 0
}

// element reads one float.
func element(t safetensors.DType, p []byte) float64 {
	if t == safetensors.F64 {
		return math.Float64frombits(binary.LittleEndian.Uint64(p))
	}
	var v [1]float32
	if err := safetensors.DecodeFloat32(v[:], t, p[:t.Bits()/8]); err != nil {
		return 0
	}
	return float64(v[0])
}
