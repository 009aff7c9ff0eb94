package kernel

// RTN4BF16 rounds a line of bfloat16 weights to nearest at 4 bits, in groups
// of the given length, the last of which may be short, in one pass over
// memory. Grids are those of a range that includes 0:
//
//	lo = min(min(w), 0), hi = max(max(w), 0); -1 and 1 if both are 0
//	s  = (hi-lo)/15, at least 2^-24, rounded to a half float
//	z  = round(-lo/s), at most 15
//
// Codes are those of QuantRow, packed as by PackBits into codes; scales and
// zeros have an element for each group. The result is false, and what was
// written means nothing, if a weight is not finite or a scale exceeds the
// largest half float.
//
// The assembly has no division by s. The quotient of two half floats, of at
// most 11 significant bits each, is either a multiple of ½ or at least 2^-12
// away from one, so that only exact ties could be rounded differently, and
// those are exact after one correction of the product with 1/s. That of a
// float32 lies at least 2^-36 of itself away from the middle of two floats, and the
// corrected product 2^-46 from it: both round to the same float.
func RTN4BF16(codes []uint32, scales []float32, zeros []uint8, src []uint16, group int) bool {
	return rtn4(rtnBF16, codes, scales, zeros, src, group)
}

// RTN4F16 is RTN4BF16 for half floats.
func RTN4F16(codes []uint32, scales []float32, zeros []uint8, src []uint16, group int) bool {
	return rtn4(rtnF16, codes, scales, zeros, src, group)
}

// RTN4F32 is RTN4BF16 for floats.
func RTN4F32(codes []uint32, scales []float32, zeros []uint8, src []float32, group int) bool {
	return rtn4(rtnF32, codes, scales, zeros, src, group)
}

// rtnKind is how weights of a type are rounded.
type rtnKind[T uint16 | float32] struct {
	body  func(codes *uint32, scales *float32, zeros *uint8, src *T, groups, chunks int) bool
	widen func(dst []float32, src []T)
}

var (
	rtnBF16 = &rtnKind[uint16]{bodyBF16, BF16ToF32}
	rtnF16  = &rtnKind[uint16]{bodyF16, F16ToF32}
	rtnF32  = &rtnKind[float32]{bodyF32, func(dst, src []float32) { copy(dst, src) }}
)

func bodyBF16(codes *uint32, scales *float32, zeros *uint8, src *uint16, groups, chunks int) bool {
	if level >= AVX512 {
		return rtn4BF16AVX512(codes, scales, zeros, src, groups, chunks)
	}
	return rtn4BF16AVX2(codes, scales, zeros, src, groups, chunks)
}

func bodyF16(codes *uint32, scales *float32, zeros *uint8, src *uint16, groups, chunks int) bool {
	if level >= AVX512 {
		return rtn4F16AVX512(codes, scales, zeros, src, groups, chunks)
	}
	return rtn4F16AVX2(codes, scales, zeros, src, groups, chunks)
}

func bodyF32(codes *uint32, scales *float32, zeros *uint8, src *float32, groups, chunks int) bool {
	if level >= AVX512 {
		return rtn4F32AVX512(codes, scales, zeros, src, groups, chunks)
	}
	return rtn4F32AVX2(codes, scales, zeros, src, groups, chunks)
}

func rtn4[T uint16 | float32](k *rtnKind[T], codes []uint32, scales []float32, zeros []uint8, src []T, group int) bool {
	if len(src) == 0 {
		return true
	}
	n := (len(src) + group - 1) / group
	codes, scales, zeros = codes[:(len(src)+7)/8], scales[:n], zeros[:n]
	done, ok := k.fused(codes, scales, zeros, src, group)
	if done == n || !ok {
		return ok
	}
	// The fused part leaves whole words behind it.
	return k.plain(codes[done*group/8:], scales[done:], zeros[done:], src[done*group:], group)
}

// fused does the whole groups of a line, if they are made of chunks of 32.
func (k *rtnKind[T]) fused(codes []uint32, scales []float32, zeros []uint8, src []T, group int) (done int, ok bool) {
	const chunk = 32
	n := len(src) / group
	if level < AVX2 || group%chunk != 0 || n == 0 {
		return 0, true
	}
	return n, k.body(&codes[0], &scales[0], &zeros[0], &src[0], n, group/chunk)
}

func (k *rtnKind[T]) plain(codes []uint32, scales []float32, zeros []uint8, src []T, group int) bool {
	ws := getScratch(len(src) + (len(src)+3)/4)
	defer putScratch(ws)
	w := ws.buf[:len(src)]
	q := bytesOf(ws.buf[len(src):])[:len(src)]
	k.widen(w, src)
	for k := range scales {
		a, b := k*group, min((k+1)*group, len(w))
		if !grid4(w[a:b], &scales[k], &zeros[k]) {
			return false
		}
		QuantRow(q[a:b], w[a:b], scales[k], float32(zeros[k]), 15)
	}
	PackBits(codes, q, 4)
	return true
}

// grid4 finds the grid of one group.
func grid4(w []float32, scale *float32, zero *uint8) bool {
	const maxF16, minF16 = 65504, 0x1p-24
	if !AllFinite(w) {
		return false
	}
	lo, hi := MinMax(w)
	lo, hi = min(lo, 0), max(hi, 0)
	if lo == 0 && hi == 0 {
		lo, hi = -1, 1
	}
	s := [1]float32{(hi - lo) / 15}
	if !(s[0] <= maxF16) {
		return false
	}
	s[0] = max(s[0], minF16)
	var h [1]uint16
	F32ToF16(h[:], s[:])
	F16ToF32(s[:], h[:])
	*scale = s[0]
	*zero = uint8(min(max(roundEven(-lo/s[0]), 0), 15))
	return true
}
