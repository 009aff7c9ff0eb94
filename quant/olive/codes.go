package olive

import (
	"math"
	"slices"
)

// bias is the least for which all of abfloat lies beyond the normal values (section 3.3:
// the adaptive bias).
func (k *kind) bias() int {
	b := 0
	for float32(int(1)<<k.mantissa+1)*float32(int(1)<<b) <= k.top {
		b++
	}
	return b
}

// abfloat is the magnitude of the outlier of a code without its sign bit:
// (1<<mantissa bits + mantissa) << (exponent + bias), section 3.3. The code 0, which would be
// the identifier with a sign, is none.
func (k *kind) abfloat(code, bias int) float32 {
	if code == 0 {
		return 0
	}
	m := 1<<k.mantissa + code&(1<<k.mantissa-1)
	return float32(math.Ldexp(float64(m), code>>k.mantissa+bias))
}

// largest is the largest outlier: products of two fit an accumulator of 32 bits (section 4).
const largest = 1 << 15

// kind is a type of normal values with the outliers that go with it.
type kind struct {
	bits     int
	mantissa int     // bits of it in an outlier
	signed   bool    // a sign and a magnitude; else two's complement
	top      float32 // the largest normal value

	normal   []float32 // by code; that of the identifier is 0
	outliers []float32 // by code
	// What is nearest is found by what lies halfway between neighbours.
	small, large ladder
	beyond       float32     // halfway between the largest normal value and the least outlier
	nearer       [64]float32 // of 4 bits: the normal value nearest to what lies from i/2 on, as all halves do
}

// ladder is a list of magnitudes in rising order.
type ladder struct {
	values, halves []float32
	codes          []uint8 // of the positive ones
}

func newLadder(byCode []float32) (l ladder) {
	for code, v := range byCode[:len(byCode)/2] {
		if v > 0 {
			l.values, l.codes = append(l.values, v), append(l.codes, uint8(code))
		}
	}
	order := make([]int, len(l.values))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(l.values[a]) - int(l.values[b]) })
	from := l
	l = ladder{}
	for _, i := range order {
		if n := len(l.values); n > 0 {
			l.halves = append(l.halves, (l.values[n-1]+from.values[i])/2)
		}
		l.values, l.codes = append(l.values, from.values[i]), append(l.codes, from.codes[i])
	}
	return l
}

// nearest is the place of the magnitude nearest to v, the larger of two.
func (l *ladder) nearest(v float32) int {
	if len(l.halves) < 16 {
		i := 0
		for i < len(l.halves) && v >= l.halves[i] {
			i++
		}
		return i
	}
	i, _ := slices.BinarySearchFunc(l.halves, v, func(half, v float32) int {
		if half <= v {
			return -1
		}
		return 1
	})
	return i
}

// The kinds there are: int4 with E2M1, flint4 with E2M1, int8 with E4M3 (sections 3.2 and 3.3).
var int4, flint4, int8s = newKind(4, 1, false, twosComplement), newKind(4, 1, true, flint), newKind(8, 3, false, twosComplement)

// kinds are those of 4 bits, by the shift of a group.
var kinds = [2]*kind{int4, flint4}

// twosComplement is an integer but the least, whose code is the identifier.
func twosComplement(bits, code int) float32 {
	if v := code - code>>(bits-1)<<bits; v != -1<<(bits-1) {
		return float32(v)
	}
	return 0
}

// flintValues are those of ANT's flint of 3 bits (arXiv 2208.14286, section 4): the first one tells
// exponent from mantissa.
var flintValues = [8]float32{0, 1, 2, 3, 16, 8, 4, 6}

// flint is one of them behind a sign; -0 is the identifier.
func flint(_, code int) float32 {
	if code >= 8 {
		return -flintValues[code-8]
	}
	return flintValues[code]
}

func newKind(bits, mantissa int, signed bool, normal func(bits, code int) float32) *kind {
	k := &kind{bits: bits, mantissa: mantissa, signed: signed, normal: make([]float32, 1<<bits), outliers: make([]float32, 1<<bits)}
	for c := range k.normal {
		k.normal[c] = normal(bits, c)
		k.top = max(k.top, k.normal[c])
	}
	k.normal[k.identifier()] = 0
	half, bias := 1<<(bits-1), k.bias()
	for c := range half {
		if v := k.abfloat(c, bias); v <= largest {
			k.outliers[c], k.outliers[half+c] = v, -v
		}
	}
	k.small, k.large = newLadder(k.normal), newLadder(k.outliers)
	k.beyond = (k.top + k.large.values[0]) / 2
	for i := range k.nearer {
		_, k.nearer[i] = k.round(float32(i)/2, false)
	}
	return k
}

// identifier is the code of a victim: 1000b or 10000000b (section 3.1).
func (k *kind) identifier() uint8 { return 1 << (k.bits - 1) }

// round gives the code and the value of what is nearest to v: an outlier, or a normal value.
func (k *kind) round(v float32, outlier bool) (code uint8, value float32) {
	a := float32(math.Abs(float64(v)))
	switch {
	case outlier:
		i := k.large.nearest(a)
		code, value = k.large.codes[i], k.large.values[i]
	case k.bits == 8 || !k.signed:
		r := int(min(a, k.top) + 0.5)
		code, value = uint8(r), float32(r)
	case a < 0.5:
	default:
		i := k.small.nearest(a)
		code, value = k.small.codes[i], k.small.values[i]
	}
	if v >= 0 || value == 0 {
		return code, value
	}
	if outlier || k.signed {
		return code | k.identifier(), -value
	}
	return -code & (1<<k.bits - 1), -value
}

// pair encodes neighbours (section 3.1): where one is an outlier, the other is its victim; of
// two outliers the larger stays.
func (k *kind) pair(a, b float32) (codes [2]uint8, values [2]float32) {
	oa, ob := k.isOutlier(a), k.isOutlier(b)
	if oa && ob {
		oa = math.Abs(float64(a)) >= math.Abs(float64(b))
		ob = !oa
	}
	switch {
	case oa:
		codes[0], values[0] = k.round(a, true)
		codes[1] = k.identifier()
	case ob:
		codes[0] = k.identifier()
		codes[1], values[1] = k.round(b, true)
	default:
		codes[0], values[0] = k.round(a, false)
		codes[1], values[1] = k.round(b, false)
	}
	return codes, values
}

func (k *kind) isOutlier(v float32) bool { return v >= k.beyond || -v >= k.beyond }

// encode rounds a run of neighbours, whose last one has no partner if they are odd in number.
// codes or values may be nil.
func (k *kind) encode(codes []uint8, values, x []float32, by float32) {
	for i := 0; i < len(x); i += 2 {
		var c [2]uint8
		var v [2]float32
		n := 2
		if i+1 < len(x) {
			c, v = k.pair(x[i]*by, x[i+1]*by)
		} else {
			n = 1
			c[0], v[0] = k.round(x[i]*by, false)
		}
		if codes != nil {
			copy(codes[i:], c[:n])
		}
		if values != nil {
			copy(values[i:], v[:n])
		}
	}
}

// decode is what the codes of a run of neighbours stand for.
func (k *kind) decode(dst []float32, codes []uint8) {
	victim := k.identifier()
	for i := 0; i < len(codes); i += 2 {
		a := codes[i]
		if i+1 == len(codes) {
			dst[i] = k.normal[a]
			break
		}
		b := codes[i+1]
		switch {
		case a == victim:
			dst[i], dst[i+1] = 0, k.outliers[b]
		case b == victim:
			dst[i], dst[i+1] = k.outliers[a], 0
		default:
			dst[i], dst[i+1] = k.normal[a], k.normal[b]
		}
	}
}

// absolute sets dst to the magnitudes of x, by which alone errors go.
func absolute(dst, x []float32) {
	for i, v := range x {
		dst[i] = float32(math.Abs(float64(v)))
	}
}

// loss is the squared error of a run of neighbours under a scale, of which x are the magnitudes, or what it is so far
// once it is over a limit. It is what encode makes of them, without codes and signs.
func (k *kind) loss(x, importance []float32, scale float32, limit float64) float64 {
	const step = 32
	by, square := 1/scale, float64(scale)*float64(scale)
	limit /= square
	var sum float64
	for i := 0; i < len(x) && sum <= limit; i += step {
		part, end := float32(0), min(i+step, len(x))
		for j := i; j < end; j += 2 {
			a, b := x[j]*by, float32(0)
			if j+1 < len(x) {
				b = x[j+1] * by
			}
			var da, db float32
			switch {
			case j+1 == len(x): // without a partner
				da = a - k.near(min(a, k.top))
			case a < k.beyond && b < k.beyond:
				da, db = a-k.near(a), b-k.near(b)
			case a >= b:
				da, db = a-k.large.values[k.large.nearest(a)], b
			default:
				da, db = a, b-k.large.values[k.large.nearest(b)]
			}
			if importance == nil {
				part += da*da + db*db
				continue
			}
			part += da * da * importance[j]
			if j+1 < len(x) {
				part += db * db * importance[j+1]
			}
		}
		sum += float64(part)
	}
	return sum * square
}

// near is the normal value nearest to a magnitude below beyond.
func (k *kind) near(a float32) float32 {
	if k.bits == 8 {
		return float32(int32(min(a, k.top) + 0.5))
	}
	return k.nearer[int32(2*a)]
}
