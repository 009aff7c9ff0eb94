package lora

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// decode widens little-endian floats.
func decode(dst []float32, t safetensors.DType, data []byte) error {
	switch t {
	case safetensors.F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
	case safetensors.F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:])))
		}
	case safetensors.F16, safetensors.BF16:
		half := make([]uint16, len(dst))
		for i := range half {
			half[i] = binary.LittleEndian.Uint16(data[2*i:])
		}
		if t == safetensors.F16 {
			tensor.F16ToF32(dst, half)
		} else {
			tensor.BF16ToF32(dst, half)
		}
	default:
		return fmt.Errorf("dtype %s, want F32, F16, BF16 or F64", t)
	}
	return nil
}

// encode writes float32 as little-endian bytes.
func encode(dst []byte, v []float32) error {
	for i, x := range v {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(x))
	}
	return nil
}
