package program

import (
	"math/rand/v2"
	"testing"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

func randomInput(rows, cols int, seed uint64) *tensor.Matrix {
	rng := rand.New(rand.NewPCG(seed, 0))
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	return m
}

// BenchmarkAttention1B is the attention of the 1.1 B shape without its linear
// layers.
func BenchmarkAttention1B(b *testing.B) {
	const seqLen = 2048
	const queries, keys, dim = 32, 4, 64 // heads and their width
	q, k, v := randomInput(seqLen, queries*dim, 1), randomInput(seqLen, keys*dim, 2), randomInput(seqLen, keys*dim, 3)
	at := func(r Reg, n int) Heads { return Heads{Reg: r, N: n, Dim: dim} }
	o := &Attention{dst: 4, Q: at(1, queries), K: at(2, keys), V: at(3, keys), Scale: HeadScale(dim)}
	f := &Frame{seqLen: seqLen, regs: []*tensor.Matrix{nil, q, k, v, tensor.New(seqLen, queries*dim)}}
	for b.Loop() {
		o.run(&exec{NewRunner(0), nil, f})
	}
	b.ReportMetric(2*float64(seqLen+1)*seqLen*queries*dim*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}

func BenchmarkSoften(b *testing.B) {
	const tile = 256
	src := randomInput(1, tile, 1).Data
	x := make([]float32, len(src))
	b.SetBytes(4 * tile)
	for b.Loop() {
		copy(x, src)
		_, top := kernel.MinMax(x)
		kernel.ExpShift(x, 1, top)
	}
}
