package kernel

import "unsafe"

// Products with packed codes. A line's codes lie one after the other, bits each, from the lowest bit of its
// first word on; those of group k, size codes, stand for scale[k]·(code-zero[k]).

// codePattern says how codes of so many bits are taken out of bytes: for each of 16 codes which two
// bytes it lies in, how far up in these, and what of that is the code.
type codePattern struct {
	places [64]uint8
	shifts [16]uint32
	mask   uint32
	magic  uint32 // which with a code in it is the float 2^23 + code
}

var codePatterns = func() (all [9]codePattern) {
	for bits := 2; bits <= 8; bits++ {
		p := &all[bits]
		p.mask, p.magic = 1<<bits-1, 0x4b000000
		for l := range 16 {
			// A vector of 8 codes takes the first half, beginning with a byte of its own.
			at := l * bits
			p.places[4*l], p.places[4*l+1] = uint8(at/8), uint8(at/8+1)
			p.places[4*l+2], p.places[4*l+3] = 0x80, 0x80 // nothing
			p.shifts[l] = uint32(at % 8)
		}
	}
	return all
}()

// nibbleTable has what the bodies for codes of 4 bits need: 2^23 + 16^k·zero by zero and k, masks by k for as many lanes
// as a vector of AVX2 has, and what makes floats of codes.
type nibbleTable struct {
	zeros [16][8]float32
	masks [5][8]uint32
	magic uint32
}

var nibbles = func() (t nibbleTable) {
	t.magic = 0x4b000000
	for k := range t.masks {
		for z := range t.zeros {
			t.zeros[z][k] = float32(1<<23 + z<<(4*k))
		}
		for i := range t.masks[k] {
			t.masks[k][i] = 15 << (4 * k)
		}
	}
	return t
}()

// Turns reports whether products with codes of so many bits in groups of such a size are faster with vectors
// in another order.
func Turns(size, bits int) bool { return bits == 4 && lanes() > 0 && size%(8*lanes()) == 0 }

// Turn sets dst to x as DotCodes wants it, if Turns says so: of every 8·l elements of whole groups, l being the lanes of
// a vector, first every eighth from the first on, then from the second on, and so on; the k-th times 16^-(k%5).
func Turn(dst, x []float32, size int) {
	l := lanes()
	for u := 0; u < len(x)/size*size; u += 8 * l {
		from, to := x[u:u+8*l], dst[u:u+8*l]
		for k := range 8 {
			f := turnScale(k)
			for i := range l {
				to[k*l+i] = f * from[8*i+k]
			}
		}
	}
}

// Unturn sets dst to sums that AddCodes has left in y, turned: in order, and in size.
func Unturn(dst, y []float32, size int) {
	l, n := lanes(), len(y)/size*size
	for u := 0; u < n; u += 8 * l {
		to, from := dst[u:u+8*l], y[u:u+8*l]
		for k := range 8 {
			f := turnScale(k)
			for i := range l {
				to[8*i+k] = f * from[k*l+i]
			}
		}
	}
	copy(dst[n:], y[n:])
}

// turnScale is 16^-(k%5).
func turnScale(k int) float32 { return 1 / float32(int(1)<<(4*(k%5))) }

// lanes is how many codes a vector has; 0 without vectors.
func lanes() int {
	switch {
	case level >= AVX512:
		return 16
	case level == AVX2:
		return 8
	case level == NEON:
		return 4
	}
	return 0
}

// codeRun is how many groups of a line vectors can take: those of whole vectors, read from bytes
// which are all there. A vector reads as many bytes as codes, whatever of them it needs.
//
// NEON has no body but for codes of 4 bits with vectors turned.
func codeRun(words []uint32, turned bool, groups, size, n, bits int) (run, vectors int) {
	l := lanes()
	if l == 0 || size%l != 0 || level == NEON && !turned {
		return 0, 0
	}
	run = min(groups, n/size)
	for run > 0 && (run*size-l)*bits/8+l > 4*len(words) {
		run--
	}
	return run, size / l
}

// DotCodes returns Σ scale·(code-zero)·x over the n codes of a line, n being the length of x. words may go
// on behind the line; bits is 2 to 8. turned is what Turn makes of x, or nil.
func DotCodes(words []uint32, x, turned, scale []float32, zero []uint8, size, bits int) float32 {
	checkBits(bits)
	n := len(x)
	_, _ = words[:(n*bits+31)/32], scale[:(n+size-1)/size]
	if turned != nil {
		_ = turned[:n/size*size]
	}
	groups := len(zero[:(n+size-1)/size])
	run, vectors := codeRun(words, turned != nil, groups, size, n, bits)
	var sum float32
	if run > 0 {
		w, step, p := firstByte(words), lanes()*bits/8, &codePatterns[bits]
		switch {
		case level == NEON:
			sum = dotNibblesNEON(w, &turned[0], &scale[0], &zero[0], run, vectors/8, &nibbles)
		case turned != nil && level >= AVX512:
			sum = dotNibblesAVX512(w, &turned[0], &scale[0], &zero[0], run, vectors/8, &nibbles)
		case turned != nil:
			sum = dotNibblesAVX2(w, &turned[0], &scale[0], &zero[0], run, vectors/8, &nibbles)
		case bits == 8 && level >= AVX512:
			sum = dotBytesAVX512(w, &x[0], &scale[0], &zero[0], run, vectors, step, p)
		case bits == 8:
			sum = dotBytesAVX2(w, &x[0], &scale[0], &zero[0], run, vectors, step, p)
		case level >= AVX512:
			sum = dotCodesAVX512(w, &x[0], &scale[0], &zero[0], run, vectors, step, p)
		default:
			sum = dotCodesAVX2(w, &x[0], &scale[0], &zero[0], run, vectors, step, p)
		}
	}
	if run*size < n {
		sum += dotCodesGo(words, x, scale, zero, run*size, size, bits)
	}
	return sum
}

// dotCodesGo is DotCodes from code first on.
func dotCodesGo(words []uint32, x, scale []float32, zero []uint8, first, size, bits int) float32 {
	var sums [8]float32
	for p := first; p < len(x); p++ {
		k := p / size
		v := scale[k] * (float32(codeAt(words, p, bits)) - float32(zero[k]))
		sums[p%8] += float32(v * x[p])
	}
	return (sums[0] + sums[4]) + (sums[1] + sums[5]) + ((sums[2] + sums[6]) + (sums[3] + sums[7]))
}

// DotShifted is DotCodes for codes that stand for scale·(code-zero)-shift, with a whole zero-point that all groups share.
func DotShifted(words []uint32, x, scale, shift []float32, zero float32, size, bits int) float32 {
	checkBits(bits)
	n := len(x)
	_, _ = words[:(n*bits+31)/32], scale[:(n+size-1)/size]
	groups := len(shift[:(n+size-1)/size])
	run, vectors := codeRun(words, false, groups, size, n, bits)
	var sum float32
	if run > 0 {
		w, step, p := firstByte(words), lanes()*bits/8, &codePatterns[bits]
		switch z := zero + 1<<23; {
		case bits == 8 && level >= AVX512:
			sum = dotShiftedBytesAVX512(w, &x[0], &scale[0], &shift[0], z, run, vectors, step, p)
		case bits == 8:
			sum = dotShiftedBytesAVX2(w, &x[0], &scale[0], &shift[0], z, run, vectors, step, p)
		case level >= AVX512:
			sum = dotShiftedCodesAVX512(w, &x[0], &scale[0], &shift[0], z, run, vectors, step, p)
		default:
			sum = dotShiftedCodesAVX2(w, &x[0], &scale[0], &shift[0], z, run, vectors, step, p)
		}
	}
	var sums [8]float32
	for p := run * size; p < n; p++ {
		v := float32(scale[p/size]*(float32(codeAt(words, p, bits))-zero)) - shift[p/size]
		sums[p%8] += float32(v * x[p])
	}
	return sum + ((sums[0] + sums[4]) + (sums[1] + sums[5]) + ((sums[2] + sums[6]) + (sums[3] + sums[7])))
}

// DotLevels is DotCodes for codes of 4 bits that stand for scale times levels[code].
func DotLevels(words []uint32, x, scale []float32, levels *[16]float32, size int) float32 {
	n := len(x)
	_, groups := words[:(n+7)/8], len(scale[:(n+size-1)/size])
	run, vectors := codeRun(words, false, groups, size, n, 4)
	var sum float32
	switch {
	case run == 0:
	case level >= AVX512:
		sum = dotLevelsAVX512(firstByte(words), &x[0], &scale[0], &levels[0], run, vectors, &codePatterns[4])
	default:
		sum = dotLevelsAVX2(firstByte(words), &x[0], &scale[0], &levels[0], run, vectors, &codePatterns[4])
	}
	var sums [8]float32
	for p := run * size; p < n; p++ {
		v := scale[p/size] * levels[codeAt(words, p, 4)]
		sums[p%8] += float32(v * x[p])
	}
	return sum + ((sums[0] + sums[4]) + (sums[1] + sums[5]) + ((sums[2] + sums[6]) + (sums[3] + sums[7])))
}

// AddCodes adds alpha[i]·scale·(code-zero) of lines i to y, as many codes of each as y has elements. Of line i the
// words begin at words[i*stride], its parameters at scale[i*groups] and zero[i*groups]; skip is how many elements of
// their first group come before y. With turned, y is of the order that Turn says; skip must be 0.
func AddCodes(y []float32, turned bool, words []uint32, stride int, scale []float32, zero []uint8, groups int, alpha []float32, skip, size, bits int) {
	checkBits(bits)
	if len(y) == 0 {
		return
	}
	first := 0
	if skip > 0 {
		first = min(size-skip, len(y))
	}
	run, vectors := 0, 0
	if first%32 == 0 {
		run, vectors = codeRun(words[(len(alpha)-1)*stride+first*bits/32:], false, len(y), size, len(y)-first, bits)
	}
	if turned {
		run = len(y) / size
		addTurned(y, words, stride, scale, zero, groups, alpha, run, size/(8*lanes()))
	}
	last := first + run*size
	k := (skip + first) / size
	if run > 0 && !turned {
		addRuns(y[first:last], words[first*bits/32:], stride, scale[k:], zero[k:], groups, alpha, run, vectors, bits)
	}
	for i, a := range alpha {
		line, s, z := words[i*stride:], scale[i*groups:], zero[i*groups:]
		addCodesGo(y, line, s, z, a, 0, first, skip, size, bits)
		addCodesGo(y, line, s, z, a, last, len(y), skip, size, bits)
	}
}

// addTurned is AddCodes for whole groups of whole units.
func addTurned(y []float32, words []uint32, stride int, scale []float32, zero []uint8, groups int, alpha []float32, run, units int) {
	if run == 0 {
		return
	}
	for i := 0; i < len(alpha); {
		w, s, z, a := firstByte(words[i*stride:]), &scale[i*groups], &zero[i*groups], &alpha[i]
		four := i+4 <= len(alpha)
		switch {
		case four && level == NEON:
			addFourNibblesNEON(&y[0], w, 4*stride, s, z, groups, a, run, units, &nibbles)
		case level == NEON:
			addNibblesNEON(&y[0], w, 4*stride, s, z, groups, a, run, units, &nibbles)
		case four && level >= AVX512:
			addFourNibblesAVX512(&y[0], w, 4*stride, s, z, groups, a, run, units, &nibbles)
		case four:
			addFourNibblesAVX2(&y[0], w, 4*stride, s, z, groups, a, run, units, &nibbles)
		case level >= AVX512:
			addNibblesAVX512(&y[0], w, 4*stride, s, z, groups, a, run, units, &nibbles)
		default:
			addNibblesAVX2(&y[0], w, 4*stride, s, z, groups, a, run, units, &nibbles)
		}
		if i++; four {
			i += 3
		}
	}
}

// addRuns is AddCodes for whole groups of whole vectors.
func addRuns(y []float32, words []uint32, stride int, scale []float32, zero []uint8, groups int, alpha []float32, run, vectors, bits int) {
	step, p := lanes()*bits/8, &codePatterns[bits]
	for i := 0; i < len(alpha); {
		w, s, z, a := firstByte(words[i*stride:]), &scale[i*groups], &zero[i*groups], &alpha[i]
		if i+4 <= len(alpha) {
			switch {
			case bits == 8 && level >= AVX512:
				addFourBytesAVX512(&y[0], w, 4*stride, s, z, groups, a, run, vectors, step, p)
			case bits == 8:
				addFourBytesAVX2(&y[0], w, 4*stride, s, z, groups, a, run, vectors, step, p)
			case level >= AVX512:
				addFourCodesAVX512(&y[0], w, 4*stride, s, z, groups, a, run, vectors, step, p)
			default:
				addFourCodesAVX2(&y[0], w, 4*stride, s, z, groups, a, run, vectors, step, p)
			}
			i += 4
			continue
		}
		switch {
		case bits == 8 && level >= AVX512:
			addBytesAVX512(&y[0], w, 4*stride, s, z, groups, a, run, vectors, step, p)
		case bits == 8:
			addBytesAVX2(&y[0], w, 4*stride, s, z, groups, a, run, vectors, step, p)
		case level >= AVX512:
			addCodesAVX512(&y[0], w, 4*stride, s, z, groups, a, run, vectors, step, p)
		default:
			addCodesAVX2(&y[0], w, 4*stride, s, z, groups, a, run, vectors, step, p)
		}
		i++
	}
}

// addCodesGo is AddCodes of one line for the elements p0 to p1 of y.
func addCodesGo(y []float32, words []uint32, scale []float32, zero []uint8, alpha float32, p0, p1, skip, size, bits int) {
	for p := p0; p < p1; p++ {
		k := (skip + p) / size
		v := scale[k] * (float32(codeAt(words, p, bits)) - float32(zero[k]))
		y[p] += float32(alpha * v)
	}
}

// firstByte is where the codes of words begin, on machines with vectors, which are little-endian.
func firstByte(words []uint32) *uint8 { return (*uint8)(unsafe.Pointer(&words[0])) }

// codeAt is code p of a line.
func codeAt(words []uint32, p, bits int) uint32 {
	at := p * bits
	v := uint64(words[at/32])
	if at%32+bits > 32 {
		v |= uint64(words[at/32+1]) << 32
	}
	return uint32(v>>(at%32)) & (1<<bits - 1)
}
