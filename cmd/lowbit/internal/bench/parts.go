package bench

import (
	"context"
	"fmt"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// products measures C = A B and the lower triangle of AᵀA.
func (s *suite) products(ctx context.Context) error {
	for _, name := range []int{2048, 4096} {
		n := s.size(name)
		a, b, c := tensor.FromSlice(n, n, s.noise(n*n)), tensor.FromSlice(n, n, s.noise(n*n)), tensor.New(n, n)
		t, err := s.do(ctx, func() { tensor.Gemm(false, false, 1, a, b, 0, c, s.threads) })
		if err != nil {
			return err
		}
		f := float64(n)
		s.gemm = 2 * f * f * f / t / 1e9
		if err := s.result(fmt.Sprintf("gemm/%d", name), s.gemm, GFLOPS, s.fma, "fma"); err != nil {
			return err
		}
	}
	tokens, n := s.size(16384), s.size(4096)
	x, h := tensor.FromSlice(tokens, n, s.noise(tokens*n)), tensor.New(n, n)
	t, err := s.do(ctx, func() { tensor.SyrkT(x, h, s.threads) })
	if err != nil {
		return err
	}
	flops := float64(n) * float64(n+1) * float64(tokens)
	return s.result("syrk/16384x4096", flops/t/1e9, GFLOPS, s.fma, "fma")
}

// secondMoments returns H of inputs that differ in size.
func (s *suite) secondMoments(n int) *tensor.Matrix {
	x := tensor.FromSlice(n+n/4, n, s.noise((n+n/4)*n))
	for i := range x.Rows {
		row := x.Row(i)
		for j := 0; j < n; j += 61 {
			row[j] *= 20
		}
	}
	return quant.NewCalibration(x, s.threads).H
}

func (s *suite) cholesky(ctx context.Context) error {
	n := s.size(4096)
	h := s.secondMoments(n)
	for i := range n {
		h.Data[i*n+i] *= 1.01
	}
	l := tensor.New(n, n)
	bad := -1
	factor := func() {
		l.CopyFrom(h)
		bad = max(bad, tensor.Cholesky(l, s.threads))
	}
	t, err := s.do(ctx, factor)
	if err != nil {
		return err
	}
	if bad >= 0 {
		return fmt.Errorf("cholesky: pivot %d of a positive definite matrix", bad)
	}
	// The copy is no part of it.
	copying, err := s.do(ctx, func() { l.CopyFrom(h) })
	if err != nil {
		return err
	}
	f := float64(n)
	rate := f * f * f / 3 / max(t-copying, 1e-9) / 1e9
	return s.result("cholesky/4096", rate, GFLOPS, s.fma, "fma")
}

// solves measures GPTQ, 4 bits in groups of 128, factorization included.
func (s *suite) solves(ctx context.Context) error {
	in := s.size(4096)
	h := s.secondMoments(in)
	for _, c := range []struct {
		axis quant.Axis
		out  int
	}{{quant.OC, 4096}, {quant.IC, 4096}, {quant.OC, 11008}} {
		out := s.size(c.out)
		w := tensor.FromSlice(out, in, s.noise(out*in))
		scheme := quant.Scheme{Bits: 4, GroupSize: 128, Axis: c.axis}
		t, err := s.time(ctx, func() error {
			// A Calibration of its own remembers no factorization.
			_, err := gptq.Quantizer{Workers: s.threads}.Quantize(ctx, w, scheme, &quant.Calibration{H: h, Tokens: in})
			return err
		})
		if err != nil {
			return err
		}
		n, m := float64(in), float64(out)
		floor := (m*n*n + n*n*n/3) / s.gemm / 1e9
		if err := s.result(fmt.Sprintf("solve/%v/%dx4096", c.axis, c.out), t, Seconds, floor, "gemm"); err != nil {
			return err
		}
	}
	return nil
}

// rtn measures rounding to 4 bits in groups of 128, and packing, of bfloat16
// weights in memory, on one core.
func (s *suite) rtn(ctx context.Context) error {
	lines, in := s.size(32768), s.size(4096)
	src := make([]uint16, lines*in)
	row := s.noise(in)
	for i := range lines {
		kernel.F32ToBF16(src[i*in:(i+1)*in], row)
	}
	w := quant.NewWeight(lines, in, quant.Scheme{Bits: 4, GroupSize: 128})
	t, err := s.time(ctx, func() error { return w.RoundBF16(0, src) })
	if err != nil {
		return err
	}
	return s.result("rtn/bf16", float64(2*len(src))/t/1e9, GBS, s.copyRate, "memory")
}

// forward measures a block of the shape of a Llama of 1.1 B parameters (22
// such blocks) on windows of 2048 tokens, attention included.
func (s *suite) forward(ctx context.Context) error {
	const blocks = 22
	m, err := arch.ParseConfig(fmt.Appendf(nil, `{"model_type": "llama", "hidden_size": %d, "intermediate_size": %d,
		"num_hidden_layers": 1, "num_attention_heads": %d, "num_key_value_heads": %d, "head_dim": 64, "vocab_size": 32000}`,
		64*max(32/s.o.Shrink, 1), 64*max(88/s.o.Shrink, 1), max(32/s.o.Shrink, 1), max(4/s.o.Shrink, 1)))
	if err != nil {
		return err
	}
	c := &m.Config
	tokens := s.size(2048)
	b, err := m.Blocks[0].Load(noiseWeights{s, m})
	if err != nil {
		return err
	}
	flops := 2 * float64(tokens+1) * float64(c.QueryWidth()) // a token's two products with half of a window
	for _, l := range m.Blocks[0].Linears {
		flops += 2 * float64(l.Out) * float64(l.In)
	}
	r := program.NewRunner(s.threads)
	x := tensor.FromSlice(tokens, c.Hidden, s.noise(tokens*c.Hidden))
	y := tensor.New(tokens, c.Hidden)
	t, err := s.time(ctx, func() error {
		y.CopyFrom(x)
		return r.Forward(b, y, tokens, nil)
	})
	if err != nil {
		return err
	}
	return s.result("forward", float64(tokens)/(blocks*t), TokensSec, s.gemm*1e9/(blocks*flops), "gemm")
}

// noiseWeights are weights of noise for the linears of a model, and gains of 1.
type noiseWeights struct {
	s *suite
	m *decoder.Model
}

func (w noiseWeights) Matrix(name string) (*tensor.Matrix, error) {
	shape, _ := w.Shape(name)
	x := w.s.noise(shape[0] * shape[1])
	kernel.Scale(x, 0.03)
	return tensor.FromSlice(shape[0], shape[1], x), nil
}

func (w noiseWeights) Vector(string) ([]float32, error) {
	x := make([]float32, w.m.Hidden)
	for i := range x {
		x[i] = 1
	}
	return x, nil
}

func (w noiseWeights) Rows(name string, i0, i1 int, _ []float32) ([]float32, error) {
	m, err := w.Matrix(name)
	if err != nil {
		return nil, err
	}
	return m.Data[i0*m.Cols : i1*m.Cols], nil
}

func (w noiseWeights) Has(name string) bool { _, ok := w.Shape(name); return ok }

func (w noiseWeights) Shape(name string) ([]int, bool) {
	for _, t := range w.m.Tensors() {
		if t.Name == name {
			return t.Shape, true
		}
	}
	return nil, false
}
