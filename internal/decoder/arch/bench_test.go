package arch

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

// benchmarkForward runs one block and reports tokens a second through it and
// the rate of all products, attention included.
func benchmarkForward(b *testing.B, c decoder.Config, rows, seqLen int, bf16 bool) {
	c.Layers = 1
	m := model(b, &c)
	w := randomWeights(b, &c, 1)
	blk, err := m.Blocks[0].Load(w)
	require.NoError(b, err)
	flops := 0
	for i, l := range m.Blocks[0].Linears {
		for j := range blk.Linear(i).Weight.Data {
			blk.Linear(i).Weight.Data[j] *= 0.5
		}
		flops += 2 * rows * l.Out * l.In
	}
	flops += 2 * rows * (seqLen + 1) * c.QueryWidth() // two products, half of them masked
	r := program.NewRunner(0)
	r.BF16 = bf16
	x := randomMatrix(rows, c.Hidden, 1)
	y := tensor.New(rows, c.Hidden)
	for b.Loop() {
		y.CopyFrom(x)
		require.NoError(b, r.Forward(blk, y, seqLen, nil))
	}
	perOp := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(float64(rows)/perOp, "tokens/s")
	b.ReportMetric(float64(flops)/perOp/1e9, "GFLOP/s")
}

var (
	shape1B = decoder.Config{ModelType: "llama", Hidden: 2048, Intermediate: 5632, Layers: 1, Heads: 32, KVHeads: 4, HeadDim: 64,
		Vocab: 32000, NormEps: 1e-5, Rope: &program.Rope{Theta: 10000}, BOS: -1, Names: decoder.PlainNames()}
	shape2M = decoder.Config{ModelType: "llama", Hidden: 256, Intermediate: 512, Layers: 1, Heads: 8, KVHeads: 4, HeadDim: 32,
		Vocab: 1024, NormEps: 1e-5, Rope: &program.Rope{Theta: 10000}, BOS: -1, Names: decoder.PlainNames()}
)

// BenchmarkForward1B is one block of the 1.1 B shape (TinyLlama).
func BenchmarkForward1B(b *testing.B) {
	if testing.Short() {
		b.Skip("not with -short")
	}
	benchmarkForward(b, shape1B, 2048, 2048, false)
}

// BenchmarkForward1BHalf is the same with products of bfloat16.
func BenchmarkForward1BHalf(b *testing.B) {
	if testing.Short() {
		b.Skip("not with -short")
	}
	if !program.HasBF16() {
		b.Skip("needs a CPU with bfloat16 dot products")
	}
	benchmarkForward(b, shape1B, 2048, 2048, true)
}

// BenchmarkForward2M is one block of the embedded model.
func BenchmarkForward2M(b *testing.B) { benchmarkForward(b, shape2M, 2048, 256, false) }
