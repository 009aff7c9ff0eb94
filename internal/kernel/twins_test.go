package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// twin runs one kernel. What it returns at any level is compared with what
// it returns at Generic, where every kernel is its twin in plain Go.
type twin struct {
	name string
	run  func(in *inputs) []any // []float32, []float64, []uint8, []uint16, []uint32, bool, float32, float64
	// near is the difference allowed between levels for tame inputs of n
	// elements; nil means that the bits are the same for any inputs.
	near func(n int) float64
}

// twins has every kernel with an assembly body: TestEveryBodyRuns finds those
// that are missing.
var twins = []twin{
	{name: "MinMax", run: func(in *inputs) []any {
		lo, hi := MinMax(in.any)
		return []any{lo, hi}
	}},
	{name: "AllFinite", run: func(in *inputs) []any {
		return []any{AllFinite(in.any), AllFinite(in.x)}
	}},
	{name: "QuantRow", run: func(in *inputs) []any {
		q := in.codes()
		QuantRow(q, in.any, in.scale, in.zero, in.maxq)
		return []any{q}
	}},
	{name: "QuantCols", run: func(in *inputs) []any {
		q, deq := in.codes(), in.floats()
		QuantCols(q, deq, in.any, in.scales, in.zeros, in.maxq)
		return []any{q, deq}
	}},
	{name: "Dequant", run: func(in *inputs) []any {
		deq := in.floats()
		Dequant(deq, in.bytes, in.scale, in.zero)
		return []any{deq}
	}},
	{name: "PowErr", run: func(in *inputs) []any {
		return []any{PowErr(in.any, in.scale, in.zero, in.maxq), PowErr(in.x, in.scale, in.zero, in.maxq)}
	}},
	{name: "SquareErr", run: func(in *inputs) []any {
		return []any{SquareErr(in.any, in.y, in.scale, in.zero, in.maxq), SquareErr(in.x, in.y, in.scale, in.zero, in.maxq)}
	}},
	{name: "Trials", run: func(in *inputs) []any {
		return in.trials(func(sums *TrialSums, scale, shift *[MaxTrials]float32, n int) {
			Trials(sums, in.any, in.y, scale, shift, n, -in.zero, in.maxq-in.zero)
		})
	}},
	{name: "TrialsLevels", run: func(in *inputs) []any {
		l := NewLevels(-9, -7, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 8, 12)
		return in.trials(func(sums *TrialSums, scale, shift *[MaxTrials]float32, n int) {
			TrialsLevels(sums, in.any, in.y, scale, shift, n, l)
		})
	}},
	{name: "ErrorCols", run: func(in *inputs) []any {
		e, loss := in.floats(), make([]float64, in.n+slack)
		copy(e, in.y)
		for i, v := range in.x {
			loss[i] = float64(v)
		}
		ErrorCols(e[:in.n], loss, in.any, in.x, float64(in.scale), 0.3)
		return []any{e, loss}
	}},
	{name: "MulAdd", run: func(in *inputs) []any {
		acc := make([]float64, in.n+slack)
		for i, v := range in.x {
			acc[i] = float64(v)
		}
		MulAdd(acc, in.any, in.y)
		return []any{acc}
	}},
	{name: "PackBits", run: func(in *inputs) []any {
		words := make([]uint32, in.n+slack)
		PackBits(words, in.bytes, in.bits)
		q := in.codes()
		UnpackBits(q, words, in.bits, in.n)
		return []any{words, q}
	}},
	{name: "F16ToF32", run: func(in *inputs) []any {
		f := in.floats()
		F16ToF32(f, in.words)
		return []any{f}
	}},
	{name: "F8ToF32", run: func(in *inputs) []any {
		f, g := in.floats(), in.floats()
		E4M3ToF32(f, in.bytes)
		E5M2ToF32(g, in.bytes)
		return []any{f, g}
	}},
	{name: "F32ToF16", run: func(in *inputs) []any {
		h, g := in.halves(), in.halves()
		F32ToF16(h, in.any)
		F32ToF16(g, in.x)
		return []any{h, g}
	}},
	{name: "BF16ToF32", run: func(in *inputs) []any {
		f := in.floats()
		BF16ToF32(f, in.words)
		return []any{f}
	}},
	{name: "F32ToBF16", run: func(in *inputs) []any {
		h, g := in.halves(), in.halves()
		F32ToBF16(h, in.any)
		F32ToBF16(g, in.x)
		return []any{h, g}
	}},
	{name: "RTN4", run: runRTN4},
	{name: "Scale", run: func(in *inputs) []any {
		x := in.copyOf(in.any)
		Scale(x[:in.n], in.scale)
		return []any{x}
	}},
	{name: "Transpose", run: func(in *inputs) []any {
		rows, cols := 1+in.n%37, 1+in.n%53
		src, dst := in.cycle(in.any, rows*(cols+3)), make([]float32, cols*(rows+2)+slack)
		Transpose(dst, rows+2, src, cols+3, rows, cols, 1)
		return []any{dst}
	}},
	{name: "Peak", run: func(in *inputs) []any { // the operations are the level's own
		return []any{Peak(in.n) > 0}
	}},
	{name: "Axpy", near: elements, run: func(in *inputs) []any {
		y := in.copyOf(in.y)
		Axpy(in.tame, in.x, y)
		return []any{y}
	}},
	{name: "RMSNorm", near: elements, run: func(in *inputs) []any {
		y := in.floats()
		RMSNorm(y, in.x, in.y, 0.1)
		return []any{y}
	}},
	{name: "ExpShift", near: means, run: func(in *inputs) []any {
		x := in.copyOf(in.x)
		return []any{ExpShift(x[:in.n], in.tame, 4) / float32(in.n+1), x}
	}},
	{name: "LogSumExp", near: elements, run: func(in *inputs) []any {
		return []any{LogSumExp(in.x)}
	}},
	{name: "SiLUMul", near: elements, run: func(in *inputs) []any {
		y := in.floats()
		SiLUMul(y[:in.n], in.x, in.y)
		return []any{y}
	}},
	{name: "Rope", near: elements, run: func(in *inputs) []any {
		x := in.copyOf(in.x)
		Rope(x[:in.n&^1], in.y, in.cycle(in.x, in.n))
		return []any{x}
	}},
	{name: "DotCodes", near: means, run: func(in *inputs) []any {
		var out []any
		in.packed(func(words []uint32, scale []float32, zero []uint8, size, bits int) {
			out = append(out, DotCodes(words, in.x, nil, scale, zero, size, bits)/float32(64*(in.n+1)))
			var turned []float32
			if Turns(size, bits) {
				turned = make([]float32, in.n)
				Turn(turned, in.x, size)
			}
			out = append(out, DotCodes(words, in.x, turned, scale, zero, size, bits)/float32(64*(in.n+1)))
		})
		return out
	}},
	{name: "DotShifted", near: means, run: func(in *inputs) []any {
		var out []any
		in.packed(func(words []uint32, scale []float32, zero []uint8, size, bits int) {
			shift := make([]float32, len(zero))
			for k, z := range zero {
				shift[k] = float32(z) / 64
			}
			out = append(out, DotShifted(words, in.x, scale, shift, float32(bits), size, bits)/float32(64*(in.n+1)))
		})
		return out
	}},
	{name: "DotLevels", near: means, run: func(in *inputs) []any {
		var out []any
		levels := [16]float32{-12, -8, -6.5, -5, -3, -2, -1, -0.5, 0, 1, 2, 3, 4.25, 6, 9, 11}
		in.packed(func(words []uint32, scale []float32, _ []uint8, size, bits int) {
			if bits == 4 {
				out = append(out, DotLevels(words, in.x, scale, &levels, size)/float32(64*(in.n+1)))
			}
		})
		return out
	}},
	{name: "AddCodes", near: elements, run: func(in *inputs) []any {
		var out []any
		in.packed(func(words []uint32, scale []float32, zero []uint8, size, bits int) {
			for _, lines := range []int{1, 2, 3, 5} {
				stride, groups := len(words), len(scale)
				w := slices.Repeat(words, lines)
				s, z := slices.Repeat(scale, lines), slices.Repeat(zero, lines)
				for i := range s {
					s[i] *= float32(1 + i%3)
				}
				// In another order, all of a line, and what begins in a group.
				turned, y := make([]float32, in.n), in.floats()
				AddCodes(turned, Turns(size, bits), w, stride, s, z, groups, []float32{1, -0.5, 0.25, 0.75, -1}[:lines], 0, size, bits)
				if copy(y, turned); Turns(size, bits) {
					Unturn(y[:in.n], turned, size)
				}
				for i := range y {
					y[i] /= 256
				}
				out = append(out, y)
				for _, from := range []int{0, 32} {
					if from >= in.n {
						continue
					}
					y := in.copyOf(in.y)
					k := from / size
					AddCodes(y[from:in.n], false, w[from*bits/32:], stride, s[k:], z[k:], groups, []float32{1, -0.5, 0.25, 0.75, -1}[:lines], from%size, size, bits)
					for i := range y {
						y[i] /= 256
					}
					out = append(out, y)
				}
			}
		})
		return out
	}},
	{name: "Gemm", near: products, run: func(in *inputs) []any {
		return in.product(func(ta, tb bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int) {
			Gemm(ta, tb, m, n, k, in.tame, a, lda, b, ldb, 1, c, ldc, 1)
		})
	}},
	{name: "GemmBF16", near: products, run: func(in *inputs) []any {
		return in.product(func(ta, tb bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int) {
			GemmBF16(ta, tb, m, n, k, in.tame, a, lda, b, ldb, 1, c, ldc, 1)
		})
	}},
	{name: "SyrkT", near: products, run: func(in *inputs) []any {
		n, k := 1+in.n%61, 1+in.n%23
		a, c := in.cycle(in.x, n*k), make([]float32, n*n+slack)
		SyrkT(n, k, in.tame, a, n, 0, c, n, 1)
		return []any{c}
	}},
}

// Elements of tame inputs are at most 4 and differ by some roundings. Means
// are of n of them, added in another order. The sums of products are exact,
// up to 41 times 16.
func elements(int) float64 { return 4e-6 }
func means(n int) float64  { return 4e-6 * float64(100+n) / 100 }
func products(int) float64 { return 2 * 41 * 16 * 0x1p-23 }

// runRTN4 quantizes weights of any bits and tame ones. Where the result is
// false what was written means nothing.
func runRTN4(in *inputs) []any {
	var out []any
	tame16, tameB16 := make([]uint16, in.n), make([]uint16, in.n)
	f32ToF16Go(tame16, in.x)
	f32ToBF16Go(tameB16, in.x)
	group := 32 * (1 + in.bits%4)
	for _, src := range [][]uint16{in.words, tame16, tameB16} {
		for _, f := range []func([]uint32, []float32, []uint8, []uint16, int) bool{RTN4F16, RTN4BF16} {
			codes, scales, zeros := make([]uint32, in.n+slack), in.floats(), in.codes()
			ok := f(codes, scales, zeros, src, group)
			if out = append(out, ok); ok {
				out = append(out, codes, scales, zeros)
			}
		}
	}
	for _, src := range [][]float32{in.any, in.x} {
		codes, scales, zeros := make([]uint32, in.n+slack), in.floats(), in.codes()
		ok := RTN4F32(codes, scales, zeros, src, group)
		if out = append(out, ok); ok {
			out = append(out, codes, scales, zeros)
		}
	}
	return out
}

// slack is what every result is longer than n, to see what is written there.
const slack = 40

// inputs are what twins run on: n elements of each kind.
type inputs struct {
	n                 int
	any               []float32 // all kinds of floats, NaN among them
	x, y              []float32 // tame: multiples of 2^-5 up to 4, exact in bfloat16
	scales            []float32 // positive
	zeros             []float32 // whole, up to maxq
	bytes             []uint8
	words             []uint16
	bits              int
	scale, zero, maxq float32
	tame              float32 // a factor up to 2
}

func newInputs(any []float32, scale float32, zero uint8, bits int) *inputs {
	n := len(any)
	in := &inputs{n: n, any: any, bits: bits, scale: scale, maxq: float32(int(1)<<bits - 1)}
	in.zero = min(float32(zero), in.maxq)
	in.tame = float32(1+zero) / 128
	in.x, in.y = make([]float32, n), make([]float32, n)
	in.scales, in.zeros = make([]float32, n), make([]float32, n)
	in.bytes, in.words = make([]uint8, n), make([]uint16, n)
	for i, v := range any {
		u := math.Float32bits(v) * 2654435761
		in.x[i] = float32(int(u>>24)-128) / 32
		in.y[i] = float32(int(u>>16&255)-128) / 32
		in.scales[i] = scale * float32(1+u>>8&255)
		in.zeros[i] = min(float32(u&255), in.maxq)
		in.bytes[i], in.words[i] = uint8(u>>12), uint16(u>>8)
	}
	return in
}

// floats, codes and halves are room for results.
func (in *inputs) floats() []float32 { return make([]float32, in.n+slack) }
func (in *inputs) codes() []uint8    { return make([]uint8, in.n+slack) }
func (in *inputs) halves() []uint16  { return make([]uint16, in.n+slack) }

func (in *inputs) copyOf(x []float32) []float32 {
	out := in.floats()
	copy(out, x)
	return out
}

// trials runs f with any number of trials.
func (in *inputs) trials(f func(sums *TrialSums, scale, shift *[MaxTrials]float32, n int)) []any {
	var scale, shift [MaxTrials]float32
	n := 1 + in.n%MaxTrials
	for i := range scale {
		scale[i], shift[i] = in.scale*float32(1+i), in.scale*float32(i-7)
		if i%5 == 3 {
			scale[i] = -scale[i]
		}
	}
	var sums TrialSums
	f(&sums, &scale, &shift, n)
	return []any{sums.Err[:n], sums.DV[:n], sums.D[:n], sums.VV[:n], sums.V[:n]}
}

// packed calls f for lines of codes: those of the machine's vectors and others, groups of whole vectors and others.
func (in *inputs) packed(f func(words []uint32, scale []float32, zero []uint8, size, bits int)) {
	if in.n == 0 {
		return
	}
	for bits := 2; bits <= 8; bits++ {
		words := make([]uint32, (in.n*bits+31)/32)
		PackBits(words, in.bytes, bits)
		for _, size := range []int{16, 32, 48, 50, 128, max(1, in.n)} {
			groups := (in.n + size - 1) / size
			scale, zero := make([]float32, groups), make([]uint8, groups)
			for k := range scale {
				scale[k] = (1 + float32(k%7)) / 128
				zero[k] = in.bytes[k] & (1<<bits - 1)
			}
			f(words, scale, zero, size, bits)
		}
	}
}

// cycle repeats x up to n elements.
func (in *inputs) cycle(x []float32, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		if len(x) > 0 {
			out[i] = x[i%len(x)]
		}
	}
	return out
}

// product runs f on all four transpositions, sizes with and without edges.
func (in *inputs) product(f func(ta, tb bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int)) []any {
	var out []any
	m, n, k := 1+in.n%31, 1+in.n%67, 1+in.n%41
	for _, ta := range []bool{false, true} {
		for _, tb := range []bool{false, true} {
			lda, ldb := k, n
			if ta {
				lda = m
			}
			if tb {
				ldb = k
			}
			c := make([]float32, m*n+slack)
			f(ta, tb, m, n, k, in.cycle(in.x, m*k), lda, in.cycle(in.y, k*n), ldb, c, n)
			out = append(out, c)
		}
	}
	return out
}

// check runs a twin at every level of this machine.
func (tw twin) check(t require.TestingT, in *inputs) {
	var want []any
	atLevel(Generic, func() { want = tw.run(in) })
	for _, l := range levels() {
		var got []any
		atLevel(l, func() { got = tw.run(in) })
		require.Len(t, got, len(want))
		for i := range want {
			same(t, want[i], got[i], tw.allowed(in.n), fmt.Sprintf("%s at %v: result %d of %d elements", tw.name, l, i, in.n))
		}
	}
}

// allowed is the difference allowed; negative for none at all.
func (tw twin) allowed(n int) float64 {
	if tw.near == nil {
		return -1
	}
	return tw.near(n)
}

// same compares results. Which NaN it is does not matter.
func same(t require.TestingT, want, got any, near float64, msg string) {
	wide := func(v any) []float64 {
		switch v := v.(type) {
		case float32:
			return []float64{float64(v)}
		case float64:
			return []float64{v}
		case []float32:
			out := make([]float64, len(v))
			for i, f := range v {
				out[i] = float64(f)
			}
			return out
		case []float64:
			return v
		}
		return nil
	}
	w := wide(want)
	if w == nil {
		require.Equal(t, want, got, msg)
		return
	}
	g := wide(got)
	require.Len(t, g, len(w), msg)
	for i, v := range w {
		bits := math.Float64bits(v) == math.Float64bits(g[i]) || v != v && g[i] != g[i]
		if !bits && !(math.Abs(v-g[i]) <= near) {
			require.Equal(t, v, g[i], "%s: element %d, allowed %g", msg, i, near)
		}
	}
}

// mixed returns n floats of all kinds.
func mixed(n int, seed uint64) []float32 {
	special := []float32{0, float32(math.Copysign(0, -1)), 0.5, -0.5, 1.5, 2.5, 1e-40, -1e-40, 1 << 22, 1<<22 + 0.5, -(1<<23 - 0.5), 1e30, -1e30, math.MaxFloat32, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())}
	r := rand.New(rand.NewPCG(seed, 1))
	wild := r.IntN(3) // sometimes nothing but ordinary weights
	x := make([]float32, n)
	for i := range x {
		switch k := r.IntN(8); {
		case wild == 0 || k < 3:
			x[i] = float32(r.NormFloat64())
		case k < 5:
			x[i] = float32(r.IntN(81)-40) / 2
		case k < 7:
			x[i] = special[r.IntN(len(special)-wild%2)]
		default:
			x[i] = math.Float32frombits(r.Uint32())
		}
	}
	return x
}

var sizes = rapid.OneOf(rapid.IntRange(0, 40), rapid.SampledFrom([]int{63, 64, 65, 128, 257}))

// Every kernel at every level is its twin: at every size up to some vectors,
// with inputs that are the same in every run, and with others.
func TestTwins(t *testing.T) {
	grids := []float32{0.3, 1, 0.5, 1e-8, 1e30}
	for _, tw := range twins {
		t.Run(tw.name, func(t *testing.T) {
			for n := range 300 {
				if n > 70 && n%16 > 1 && n%16 < 15 {
					continue
				}
				tw.check(t, newInputs(mixed(n, uint64(n)), grids[n%len(grids)], uint8(n), 1+n%8))
			}
			rapid.Check(t, func(t *rapid.T) {
				x := mixed(sizes.Draw(t, "n"), rapid.Uint64().Draw(t, "seed"))
				scale := rapid.OneOf(rapid.Float32Range(1e-4, 2), rapid.SampledFrom(grids)).Draw(t, "scale")
				tw.check(t, newInputs(x, scale, rapid.Uint8().Draw(t, "zero"), rapid.IntRange(1, 8).Draw(t, "bits")))
			})
		})
	}
}

// FuzzTwins does the same on arbitrary floats.
func FuzzTwins(f *testing.F) {
	seed := make([]byte, 4*70)
	for i := range 70 {
		binary.LittleEndian.PutUint32(seed[4*i:], math.Float32bits(float32(i-35)/4))
	}
	f.Add(seed, float32(0.25), uint8(7), uint8(4))
	f.Add(seed[:40], float32(1e-30), uint8(0), uint8(3))
	f.Add(seed[:80], float32(1e-44), uint8(0), uint8(3))
	f.Add([]byte{0, 0, 0xc0, 0x7f, 0, 0, 0x80, 0xff}, float32(1), uint8(255), uint8(8))
	f.Fuzz(func(t *testing.T, data []byte, scale float32, zero, bits uint8) {
		n := len(data) / 4
		if n > 1000 || !(scale > 0) || math.IsInf(float64(scale), 0) {
			return
		}
		x := make([]float32, n)
		for i := range x {
			x[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
		in := newInputs(x, scale, zero, int(bits%8)+1)
		for _, tw := range twins {
			tw.check(t, in)
		}
	})
}
