package split

import (
	"fmt"
	"math"
	"slices"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Boundaries are where the clusters of a weight meet: the lower one is all up to Low, the upper one
// all from High on, as in the public implementation.
type Boundaries struct{ Low, High float32 }

// cluster is 0 for lower, 1 for middle, 2 for upper.
func (b Boundaries) cluster(v float32) int {
	switch {
	case v <= b.Low:
		return 0
	case v >= b.High:
		return 2
	}
	return 1
}

// mask sets to 0 what is in another cluster.
func (b Boundaries) mask(x []float32, cluster int) {
	for i, v := range x {
		if b.cluster(v) != cluster {
			x[i] = 0
		}
	}
}

// Bounds finds the three clusters of all elements of w that have the least squares about
// their means (k-means; the best of all partitions, found in O(n log n)), halfway between neighbouring
// means. With fewer than three values there are fewer clusters. The error wraps quant.ErrNotFinite.
func Bounds(w *tensor.Matrix) (Boundaries, error) {
	x := slices.Clone(w.Data)
	for i, v := range x {
		if v-v != 0 {
			return Boundaries{}, fmt.Errorf("%w: %g at output %d, input %d", quant.ErrNotFinite, v, i/w.Cols, i%w.Cols)
		}
	}
	slices.Sort(x)
	s := newSums(x)
	i, j := s.best()
	low, high := s.halfway(0, i, j), s.halfway(i, j, len(x))
	if j == len(x) { // no upper cluster
		high = float32(math.Inf(1))
	}
	if i == 0 {
		low = float32(math.Inf(-1))
	}
	return Boundaries{low, high}, nil
}

// sums are those of sorted elements, and of their squares, from the first on. They are counted from the
// middle one, so that little cancels.
type sums struct {
	n            int
	from         float64
	sum, squares []float64
}

func newSums(x []float32) *sums {
	s := &sums{n: len(x), sum: make([]float64, len(x)+1), squares: make([]float64, len(x)+1)}
	if len(x) > 0 {
		s.from = float64(x[len(x)/2])
	}
	for i, v := range x {
		d := float64(v) - s.from
		s.sum[i+1], s.squares[i+1] = s.sum[i]+d, s.squares[i]+d*d
	}
	return s
}

// cost is the sum of squares of elements a … b-1 about their mean.
func (s *sums) cost(a, b int) float64 {
	if a == b {
		return 0
	}
	d := s.sum[b] - s.sum[a]
	return s.squares[b] - s.squares[a] - d*d/float64(b-a)
}

// mean is that of elements a … b-1.
func (s *sums) mean(a, b int) float64 { return s.from + (s.sum[b]-s.sum[a])/float64(b-a) }

// halfway is the middle between the means of elements a … b-1 and b … c-1, or 0.
func (s *sums) halfway(a, b, c int) float32 {
	if a == b || b == c {
		return 0
	}
	return float32((s.mean(a, b) + s.mean(b, c)) / 2)
}

// best are the places i and j where the middle and the upper cluster begin. The best i for a j only
// grows with j, which leaves little to try when j is halved again and again.
func (s *sums) best() (i, j int) {
	least := math.Inf(1)
	var search func(j0, j1, i0, i1 int)
	search = func(j0, j1, i0, i1 int) {
		if j0 > j1 {
			return
		}
		m := (j0 + j1) / 2
		at, cost := i0, math.Inf(1)
		for k := i0; k <= min(i1, m); k++ {
			if c := s.cost(0, k) + s.cost(k, m); c < cost {
				at, cost = k, c
			}
		}
		if c := cost + s.cost(m, s.n); c < least {
			least, i, j = c, at, m
		}
		search(j0, m-1, i0, at)
		search(m+1, j1, at, i1)
	}
	search(0, s.n, 0, s.n)
	return i, j
}
