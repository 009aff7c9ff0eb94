package arch_test

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

// TestGradients holds the way back through every block of the tiny random models
// to finite differences of the way forward, at the input of the block and at the
// output of each linear. Blocks without a way back say so.
func TestGradients(t *testing.T) {
	reversible := 0
	for _, dir := range architectureDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m := loadFolder(t, dir, nil)
			var ref struct {
				IDs [][]int32 `json:"input_ids"`
			}
			data, err := os.ReadFile(filepath.Join(dir, "reference.json"))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(data, &ref))
			n := len(ref.IDs[0])
			x := tensor.New(len(ref.IDs)*n, m.Hidden)
			for i, ids := range ref.IDs {
				require.NoError(t, m.embedding.Embed(x.View(i*n, (i+1)*n, 0, m.Hidden), ids))
			}
			for _, b := range m.blocks {
				if err := b.Reversible(); err != nil {
					require.True(t, errors.Is(err, program.ErrNoGradient), err)
					t.Log(err)
				} else {
					reversible++
					checkGradients(t, m.runner, b, x, n)
				}
				require.NoError(t, m.runner.Forward(b, x, n, nil))
			}
		})
	}
	require.Greater(t, reversible, 100)
}

// checkGradients compares at the stream x, of a random linear function of what
// leaves the block.
//
// Where a ReLU bends, or a router takes another expert, there is no derivative. So
// tokens of the stream are changed one at a time, of which most must agree, and all of
// it in one of the windows: a token near to such a place spoils those before it.
func checkGradients(t *testing.T, r *program.Runner, b *program.Block, x *tensor.Matrix, seqLen int) {
	agree := 0.0
	off := make([]float64, len(b.Linears))
	for i := range off {
		off[i] = math.Inf(1)
	}
	for w := 0; w < x.Rows; w += seqLen {
		c := newCheck(t, r, b, x.View(w, w+seqLen, 0, x.Cols).Clone(), uint64(b.Index))
		good, all := 0.0, 0.0
		for i := w / seqLen; i < seqLen; i += 9 {
			all++
			if c.token(i) < 1e-3 {
				good++
			}
		}
		agree = max(agree, good/all)
		for i := range off {
			if off[i] >= 1e-3 {
				off[i] = min(off[i], c.linear(i))
			}
		}
	}
	require.GreaterOrEqual(t, agree, 0.75, "%s: the stream", b.Prefix())
	for i, l := range b.Linears {
		require.Less(t, off[i], 1e-3, l.Name)
	}
}

// gradientCheck is a loss <c, block(x)> and its gradients.
type gradientCheck struct {
	t       *testing.T
	r       *program.Runner
	b       *program.Block
	x, c, g *tensor.Matrix
	rng     *rand.Rand
	bias    [][]float64 // gradients at biases of linears
	squares []float64   // of those at outputs
}

func newCheck(t *testing.T, r *program.Runner, b *program.Block, x *tensor.Matrix, seed uint64) *gradientCheck {
	k := &gradientCheck{
		t: t, r: r, b: b, x: x, c: tensor.New(x.Rows, x.Cols), rng: rand.New(rand.NewPCG(seed, 7)),
		bias: make([][]float64, len(b.Linears)), squares: make([]float64, len(b.Linears)),
	}
	for i := range k.c.Data {
		k.c.Data[i] = float32(k.rng.NormFloat64())
	}
	k.g = k.c.Clone()
	before := x.Clone()
	require.NoError(t, r.Backward(b, x, k.g, x.Rows, false, func(linear int, _, d *tensor.Matrix) error {
		require.Nil(t, k.bias[linear], "shown twice")
		k.bias[linear] = make([]float64, d.Cols)
		for i := range d.Rows {
			for j, v := range d.Row(i) {
				k.bias[linear][j] += float64(v)
				k.squares[linear] += float64(v) * float64(v)
			}
		}
		return nil
	}))
	require.Equal(t, before.Data, x.Data, "the stream has changed")
	return k
}

// off is how far the derivative of the loss along what at(h) makes of block and
// stream is from want.
func (k *gradientCheck) off(want, size, scale float64, at func(h float64) (*program.Block, *tensor.Matrix)) float64 {
	run := func(h float64) []float32 {
		b, x := at(h)
		y := x.Clone()
		require.NoError(k.t, k.r.Forward(b, y, y.Rows, nil))
		return y.Data
	}
	best := math.Inf(1)
	for _, h := range []float64{0.03, 0.01, 0.002, 0.0005} {
		h *= scale
		var d float64
		p, q, pp, qq := run(h), run(-h), run(2*h), run(-2*h)
		for i, v := range k.c.Data {
			near, far := float64(p[i])-float64(q[i]), float64(pp[i])-float64(qq[i])
			d += float64(v) * (8*near - far) / (12 * h)
		}
		if best = min(best, math.Abs(d-want)/size); best < 1e-3 {
			break
		}
	}
	return best
}

// token changes one token of the stream.
func (k *gradientCheck) token(i int) float64 {
	g := k.g.Row(i)
	u := make([]float32, len(g))
	for j, v := range g {
		u[j] = v + float32(k.rng.NormFloat64()*norm(g)/math.Sqrt(float64(len(g))))
	}
	return k.off(dot(g, u), norm(g)*norm(u), norm(k.x.Row(i))/norm(u), func(h float64) (*program.Block, *tensor.Matrix) {
		y := k.x.Clone()
		for j, v := range u {
			y.Row(i)[j] += float32(h * float64(v))
		}
		return k.b, y
	})
}

// linear changes the bias of a linear. The loss does not depend on that of keys that
// are not rotated, nor on linears that no token reaches.
func (k *gradientCheck) linear(i int) float64 {
	var length float64
	for _, v := range k.bias[i] {
		length += v * v
	}
	if length <= 1e-9*k.squares[i] {
		return 0
	}
	return k.off(length, length, 1/math.Sqrt(length), func(h float64) (*program.Block, *tensor.Matrix) {
		d := k.b.Clone()
		next := make([]float32, len(k.bias[i]))
		copy(next, d.Linear(i).Bias)
		for j, v := range k.bias[i] {
			next[j] += float32(h * v)
		}
		d.Linear(i).Bias = next
		return d, k.x
	})
}

func dot(a, b []float32) float64 {
	var s float64
	for i, v := range a {
		s += float64(v) * float64(b[i])
	}
	return s
}

func norm(a []float32) float64 { return math.Sqrt(dot(a, a)) }

// TestWeightGradients: what goes back beside the inputs of a linear makes the gradient of
// its weight, in models with gated units, experts, and layers stored as one.
func TestWeightGradients(t *testing.T) {
	for _, name := range []string{"qwen3", "gemma3-text", "mixtral", "phi3", "gpt2"} {
		t.Run(name, func(t *testing.T) {
			m := loadFolder(t, filepath.Join("../../../testdata/architectures", name), nil)
			b := m.blocks[0]
			rng := rand.New(rand.NewPCG(3, 1))
			x := tensor.New(16, m.Hidden)
			for i := range x.Data {
				x.Data[i] = float32(rng.NormFloat64())
			}
			k := newCheck(t, m.runner, b, x, 5)
			grads := make([]*tensor.Matrix, len(b.Linears))
			require.NoError(t, m.runner.Backward(b, x, k.c.Clone(), x.Rows, true, func(linear int, in, g *tensor.Matrix) error {
				grads[linear] = tensor.New(g.Cols, in.Cols)
				tensor.Gemm(true, false, 1, g, in, 0, grads[linear], 1)
				return nil
			}))
			checked := 0
			for i, g := range grads {
				if g == nil || norm(g.Data) == 0 { // an expert without tokens
					continue
				}
				checked++
				w := b.Linear(i).Weight
				length := norm(g.Data)
				off := k.off(length*length, length*length, norm(w.Data)/length, func(h float64) (*program.Block, *tensor.Matrix) {
					d := b.Clone()
					next := w.Clone()
					for j, v := range g.Data {
						next.Data[j] += float32(h * float64(v))
					}
					d.Linear(i).Weight = next
					return d, x
				})
				require.Less(t, off, 2e-3, b.Linears[i].Name)
			}
			require.Greater(t, checked, 3)
		})
	}
}
