package enginetest

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decodertest"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

// inputRounding is what ggml's CPU code does to the inputs of a matrix product
// before it multiplies (ggml-cpu.c, vec_dot_type of the matrix's type).
type inputRounding int

const (
	exact    inputRounding = iota // F32
	roundF16                      // F16 matrices
	roundBF16
	roundQ8  // Q8_0: Q4_0, Q5_0 and Q8_0 matrices
	roundQ81 // Q8_1: Q4_1 and Q5_1 matrices
	roundQ8K // Q8_K: matrices of blocks of 256
)

// blockLen is the number of values that share a scale.
const blockLen = 32

// width is the number of columns that apply makes of n.
func (r inputRounding) width(n int) int {
	if r == roundQ81 {
		return n + n/blockLen
	}
	return n
}

// apply returns x rounded. A block of Q8_1 also holds the sum of its values,
// rounded by itself, which the minimum of Q4_1 is multiplied with: further
// columns hold what that sum has more than the rounded values have.
func (r inputRounding) apply(x *tensor.Matrix) *tensor.Matrix {
	out := tensor.New(x.Rows, r.width(x.Cols))
	half := make([]uint16, x.Cols)
	for i := range x.Rows {
		row := out.Row(i)[:x.Cols]
		copy(row, x.Row(i))
		switch r {
		case roundF16:
			tensor.F32ToF16(half, row)
			tensor.F16ToF32(row, half)
		case roundBF16:
			tensor.F32ToBF16(half, row)
			tensor.BF16ToF32(row, half)
		case roundQ8K:
			for j := 0; j < len(row); j += gguf.SuperLen {
				roundSuper(row[j : j+gguf.SuperLen])
			}
		case roundQ8, roundQ81:
			for j := 0; j < len(row); j += blockLen {
				sum, stored := roundBlock(row[j : j+blockLen])
				if r == roundQ81 {
					out.Set(i, x.Cols+j/blockLen, stored-sum)
				}
			}
		}
	}
	return out
}

// roundSuper is quantize_row_q8_K: the scale is float32, and such that the value
// farthest from 0 has code -127.
func roundSuper(x []float32) {
	var extreme float32
	for _, v := range x {
		if math.Abs(float64(v)) > math.Abs(float64(extreme)) {
			extreme = v
		}
	}
	if extreme == 0 {
		return
	}
	inverse := -127 / extreme
	d := 1 / inverse
	for i, v := range x {
		x[i] = d * float32(min(127, math.RoundToEven(float64(float32(inverse*v)))))
	}
}

// roundBlock is quantize_row_q8_0 and quantize_row_q8_1: scale max/127, codes
// by the scale before it is rounded to a half float. It returns the sum of
// the rounded values and the sum that Q8_1 stores.
func roundBlock(x []float32) (sum, stored float32) {
	var most float32
	for _, v := range x {
		most = max(most, float32(math.Abs(float64(v))))
	}
	d := most / 127
	var inverse float32
	if d != 0 {
		inverse = 127 / most
	}
	half := tensor.RoundF16(d)
	codes := 0
	for i, v := range x {
		q := math.RoundToEven(float64(float32(v * inverse)))
		codes += int(q)
		x[i] = float32(q) * half
	}
	return float32(codes) * half, tensor.RoundF16(float32(codes) * d)
}

// widened returns a block whose matrices take what apply returns: for Q8_1
// the further columns hold the minima.
func (r inputRounding) widened(t testing.TB, b *program.Block, src *checkpoint.Model) *program.Block {
	if r != roundQ81 {
		return b
	}
	wide := b.Clone()
	for k, l := range wide.Linears {
		q, err := src.Weight(l.Name)
		require.NoError(t, err)
		w := tensor.New(q.Out, r.width(q.In))
		for i := range q.Out {
			copy(w.Row(i), b.Linear(k).Weight.Row(i))
			for g := range q.Groups() {
				n := i*q.Groups() + g
				w.Set(i, q.In+g, -q.Scales[n]*float32(q.Zeros[n]))
			}
		}
		wide.Linear(k).Weight = w
	}
	return wide
}

// roundedLogits is Model.Logits with the inputs of linears and of the output
// head rounded.
func roundedLogits(t testing.TB, m *decodertest.Model, src *checkpoint.Model, ids []int32, linear, head inputRounding) *tensor.Matrix {
	t.Helper()
	r := program.NewRunner(0)
	r.Inputs = linear.apply
	n := len(ids)
	x := tensor.New(n, m.Model.Hidden)
	require.NoError(t, m.Embedding.Embed(x, ids))
	for _, b := range m.Blocks {
		require.NoError(t, r.Forward(linear.widened(t, b, src), x, n, nil))
	}
	h := tensor.New(n, m.Model.Hidden)
	m.Head.Normed(r, h, x)
	logits := tensor.New(n, m.Vocab)
	tensor.Gemm(false, true, 1, head.apply(h), m.Head.Weight, 0, logits, 0)
	return logits
}
