package quant_test

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/mat"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// product is aᵀb in float64.
func product(a, b *tensor.Matrix) *mat.Dense {
	var p mat.Dense
	p.Mul(dense(a).T(), dense(b))
	return &p
}

func dense(m *tensor.Matrix) *mat.Dense {
	d := mat.NewDense(m.Rows, m.Cols, nil)
	for i := range m.Rows {
		for j, v := range m.Row(i) {
			d.Set(i, j, float64(v))
		}
	}
	return d
}

func near(t *testing.T, want *mat.Dense, got *tensor.Matrix) {
	t.Helper()
	rows, cols := want.Dims()
	require.Equal(t, []int{rows, cols}, []int{got.Rows, got.Cols})
	limit := 1e-5 * mat.Norm(want, 2) / math.Sqrt(float64(min(rows, cols)))
	for i := range rows {
		for j := range cols {
			require.InDelta(t, want.At(i, j), got.At(i, j), limit, "element %d, %d", i, j)
		}
	}
}

func stack(ms ...*tensor.Matrix) *tensor.Matrix {
	var data []float32
	rows := 0
	for _, m := range ms {
		data = append(data, m.Data...)
		rows += m.Rows
	}
	return tensor.FromSlice(rows, ms[0].Cols, data)
}

func TestCollector(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	a, b := normal(rng, 37, 29), normal(rng, 5, 29)
	c := quant.NewCollector(29)
	c.Add(a, 1)
	c.Add(b, 1)
	cal := c.Calibration()
	x := stack(a, b)
	near(t, product(x, x), cal.H)
	require.Equal(t, 42, cal.Tokens)
	require.Nil(t, cal.Cross)
	require.Nil(t, cal.Residual)
	for j, m := range cal.MeanAbs {
		var want float64
		for i := range x.Rows {
			want += math.Abs(float64(x.At(i, j))) / 42
		}
		require.InEpsilon(t, want, m, 1e-6)
		require.Equal(t, cal.H.At(j, j), cal.Diagonal()[j])
		for k := range j {
			require.Equal(t, cal.H.At(j, k), cal.H.At(k, j), "not symmetric")
		}
	}
	require.Equal(t, quant.NewCalibration(x, 1), quant.NewCalibration(x, 8))
	near(t, product(x, x), quant.NewCalibration(x, 0).H)

	empty := quant.NewPairCollector(3).Calibration()
	require.Zero(t, empty.Tokens)
	require.Equal(t, make([]float32, 3), empty.MeanAbs)
}

func TestCollectorOfPairs(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 2))
	const in, out = 19, 11
	type batch struct{ x, q, r *tensor.Matrix }
	for _, residual := range []bool{false, true} {
		// Halves are of every batch: the first has the odd row.
		batches := []batch{
			{normal(rng, 9, in), normal(rng, 9, in), normal(rng, 9, out)},
			{normal(rng, 4, in), normal(rng, 4, in), normal(rng, 4, out)},
			{normal(rng, 1, in), normal(rng, 1, in), normal(rng, 1, out)},
		}
		run := func(workers int) *quant.Calibration {
			c := quant.NewPairCollector(in)
			for _, b := range batches {
				r := b.r
				if !residual {
					r = nil
				}
				q := b.q.Clone()
				c.AddPair(b.x.Clone(), q, r, workers)
				require.Equal(t, b.q, q, "only x may be overwritten")
			}
			return c.Calibration()
		}
		cal := run(1)
		require.Equal(t, cal, run(8))
		check := func(cal *quant.Calibration, from, to func(rows int) int) {
			var x, q, r []*tensor.Matrix
			for _, b := range batches {
				part := func(m *tensor.Matrix) *tensor.Matrix {
					return m.View(from(m.Rows), to(m.Rows), 0, m.Cols).Clone()
				}
				x, q, r = append(x, part(b.x)), append(q, part(b.q)), append(r, part(b.r))
			}
			xs, qs, rs := stack(x...), stack(q...), stack(r...)
			require.Equal(t, qs.Rows, cal.Tokens)
			near(t, product(qs, qs), cal.H)
			for i := range xs.Data {
				xs.Data[i] -= qs.Data[i]
			}
			near(t, product(xs, qs), cal.Cross)
			if residual {
				near(t, product(rs, qs), cal.Residual)
			} else {
				require.Nil(t, cal.Residual)
			}
		}
		none, all := func(int) int { return 0 }, func(n int) int { return n }
		half := func(n int) int { return (n + 1) / 2 }
		check(cal, none, all)
		check(cal.Halves[0], none, half)
		check(cal.Halves[1], half, all)
		for j, m := range cal.MeanAbs {
			var want float64
			for _, b := range batches {
				for i := range b.q.Rows {
					want += math.Abs(float64(b.q.At(i, j))) / 14
				}
			}
			require.InEpsilon(t, want, m, 1e-6)
		}
	}
}

func TestMemo(t *testing.T) {
	var c quant.Calibration
	var made atomic.Int32
	type key struct{ n int }
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			k := key{i % 4}
			v := c.Memo(k, func() any {
				made.Add(1)
				time.Sleep(time.Millisecond) // let the others come in
				return 10 * k.n
			})
			if v != 10*k.n {
				t.Errorf("key %d: %v", k.n, v)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 4, made.Load())
	// A key may ask for another while it is made.
	require.Equal(t, 31, c.Memo("outer", func() any {
		return c.Memo(key{3}, nil).(int) + 1
	}))
}
