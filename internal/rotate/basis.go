package rotate

import (
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/mat"

	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/tensor"
)

// Basis is an orthogonal matrix Q [n, n] = K·S·H: eigenvectors K or none, signs S drawn
// at random, and a normalized Hadamard matrix H, with which a product takes n·log n
// operations. H is the Kronecker product of a small matrix [m, m] with Sylvester's of the
// largest power of two that leaves one: Paley's where there is one of that size, else a
// random orthogonal one.
type Basis struct {
	n     int
	eigen *tensor.Matrix // K, or nil
	signs []float64
	small []float64 // [m, m], orthogonal
	m     int
}

// NewBasis draws a basis of width n. eigen [n, n], or nil, has the eigenvectors in columns.
func NewBasis(n int, seed uint64, eigen *tensor.Matrix) *Basis {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	b := &Basis{n: n, eigen: eigen, signs: make([]float64, n)}
	for i := range b.signs {
		b.signs[i] = float64(1 - 2*r.IntN(2))
	}
	b.small, b.m = smallFactor(n, r)
	return b
}

// Identity is the basis that changes nothing.
func Identity(n int) *Basis { return &Basis{n: n} }

// Rows sets the rows of x, columns [from, to) in pieces as wide as the basis, to their
// products with Q.
func (b *Basis) Rows(x *tensor.Matrix, from, to, workers int) {
	if b.m == 0 {
		return
	}
	for c := from; c < to; c += b.n {
		v := x.View(0, x.Rows, c, c+b.n)
		if b.eigen != nil {
			tensor.Gemm(false, false, 1, v.Clone(), b.eigen, 0, v, workers)
		}
		parallel.Each(workers, v.Rows, func(_, i int) { b.hadamard(v.Row(i)) })
	}
}

// hadamard is x·S·H.
func (b *Basis) hadamard(x []float32) {
	v := make([]float64, b.n)
	for i, s := range b.signs {
		v[i] = s * float64(x[i])
	}
	inner := b.n / b.m
	for at := 0; at < b.n; at += inner {
		walsh(v[at : at+inner])
	}
	scale := 1 / math.Sqrt(float64(inner))
	part := make([]float64, b.m)
	for j := range inner {
		for i := range part {
			part[i] = v[i*inner+j]
		}
		for k := range part {
			sum := 0.0
			for i, p := range part {
				sum += p * b.small[i*b.m+k]
			}
			x[k*inner+j] = float32(scale * sum)
		}
	}
}

// walsh multiplies v, a power of two long, by Sylvester's Hadamard matrix.
func walsh(v []float64) {
	for h := 1; h < len(v); h *= 2 {
		for i := 0; i < len(v); i += 2 * h {
			for j := i; j < i+h; j++ {
				v[j], v[j+h] = v[j]+v[j+h], v[j]-v[j+h]
			}
		}
	}
}

// smallFactor is an orthogonal matrix [m, m], n/m a power of two.
func smallFactor(n int, r *rand.Rand) (q []float64, m int) {
	odd := n
	for odd%2 == 0 {
		odd /= 2
	}
	if odd == 1 {
		return []float64{1}, 1
	}
	for m := odd; n%m == 0 && m <= 512; m *= 2 {
		if h := paley(m); h != nil {
			return h, m
		}
	}
	return randomOrthogonal(odd, r), odd
}

// paley is a normalized Hadamard matrix of size m by one of the two constructions of
// Paley (On orthogonal matrices, 1933) from a prime, nil if neither has that size.
func paley(m int) []float64 {
	h := make([]float64, m*m)
	s := 1 / math.Sqrt(float64(m))
	if q := m - 1; q%4 == 3 && prime(q) {
		for i := range m {
			for j := range m {
				h[i*m+j] = s * conference(i, j, q)
			}
			h[i*m+i] = s
		}
		return h
	}
	q := m/2 - 1
	if m%4 != 0 || q%4 != 1 || !prime(q) {
		return nil
	}
	for i := range m {
		for j := range m {
			a, b := i%2, j%2
			v := conference(i/2, j/2, q) * float64(1-2*a*b)
			if i/2 == j/2 {
				v = float64(1 - 2*max(a, b))
			}
			h[i*m+j] = s * v
		}
	}
	return h
}

// conference is an element of the matrix of size q+1 that has the quadratic characters of
// differences modulo the prime q, bordered: skew for q = 3 modulo 4, else symmetric.
func conference(i, j, q int) float64 {
	switch {
	case i == j:
		return 0
	case i == 0:
		return 1
	case j == 0:
		return float64(2 - q%4)
	}
	d := ((i-j)%q + q) % q
	for k := 1; k <= q/2; k++ {
		if k*k%q == d {
			return 1
		}
	}
	return -1
}

func prime(q int) bool {
	for d := 2; d*d <= q; d++ {
		if q%d == 0 {
			return false
		}
	}
	return q > 2
}

func randomOrthogonal(m int, r *rand.Rand) []float64 {
	g := mat.NewDense(m, m, nil)
	for i := range m {
		for j := range m {
			g.Set(i, j, r.NormFloat64())
		}
	}
	var qr mat.QR
	qr.Factorize(g)
	var q mat.Dense
	qr.QTo(&q)
	return q.RawMatrix().Data
}
