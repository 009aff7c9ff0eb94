package gptq

import (
	"math"

	"github.com/golowbit/lowbit/tensor"
)

// fitRows finds, for every row of the strip, the scales of its groups that
// minimize the loss given the codes. With v_k the codes less zero-point of
// group k and e the error, a change δ of the scales changes the loss by
// 2 gᵀδ + δᵀAδ, g_k = v_k H eᵀ, A_kh = v_k H v_hᵀ.
func (s *strip) fitRows() {
	in, n, groups := s.src.In, s.n, s.groups
	members := make([][]int, groups)
	for j, k := range s.groupOf {
		members[k] = append(members[k], j)
	}
	v := tensor.New(in, n)
	for j, k := range s.groupOf {
		zero, row := s.zero[k*n:(k+1)*n], v.Row(j)
		for i, u := range s.codes[j*n : (j+1)*n] {
			row[i] = float32(u) - zero[i]
		}
	}
	a := make([]float64, groups*groups*n)
	g := make([]float64, groups*n)
	z := tensor.New(in, n)
	for k, m := range members {
		hk, vk := tensor.New(len(m), in), tensor.New(len(m), n)
		for i, j := range m {
			copy(hk.Row(i), s.h.h.Row(j))
			copy(vk.Row(i), v.Row(j))
			accumulate(g[k*n:(k+1)*n], v.Row(j), s.eh.Row(j))
		}
		tensor.Gemm(true, false, 1, hk, vk, 0, z, s.workers)
		for j, h := range s.groupOf {
			if h >= k {
				accumulate(a[(k*groups+h)*n:(k*groups+h+1)*n], v.Row(j), z.Row(j))
			}
		}
	}
	m := make([]float64, groups*groups)
	rhs, old := make([]float64, groups), make([]float32, groups)
	for i := range n {
		for k := range groups {
			for h := k; h < groups; h++ {
				x := a[(k*groups+h)*n+i]
				m[k*groups+h], m[h*groups+k] = x, x
			}
			rhs[k] = g[k*n+i]
			old[k] = s.scale[k*n+i]
		}
		if next := s.fit(m, rhs, old); next != nil {
			for k, v := range next {
				s.scale[k*n+i] = v
			}
		}
	}
}

// accumulate adds x*y to acc, element by element.
func accumulate(acc []float64, x, y []float32) {
	y = y[:len(x)]
	for i, v := range x {
		acc[i] += float64(v * y[i])
	}
}

// fit returns the rounded scales that lower the loss most, or nil if none
// found do. a is overwritten.
func (s *strip) fit(a, g []float64, old []float32) []float32 {
	n := len(g)
	quad := append([]float64(nil), a...)
	delta := make([]float64, n)
	if !solveSPD(a, g, delta) {
		return nil
	}
	next := make([]float32, n)
	for k := range next {
		next[k] = s.rounded(old[k], float64(old[k])-delta[k])
		delta[k] = float64(next[k]) - float64(old[k])
	}
	var change float64
	for k := range n {
		sum := 2 * g[k]
		for h := range n {
			sum += quad[k*n+h] * delta[h]
		}
		change += sum * delta[k]
	}
	if !(change < 0) {
		return nil
	}
	return next
}

// rounded is v as it would be stored, or old if v is no scale.
func (s *strip) rounded(old float32, v float64) float32 {
	if !(v > 0) || math.IsInf(v, 0) {
		return old
	}
	r, err := s.src.Scheme.ScaleType.RoundScale(float32(v))
	if err != nil {
		return old
	}
	return r
}

// solveSPD solves (A + ridge) x = b by a Cholesky factorization in place.
func solveSPD(a, b, x []float64) bool {
	n := len(b)
	var trace float64
	for k := range n {
		trace += a[k*n+k]
	}
	if !(trace > 0) || math.IsInf(trace, 0) {
		return false
	}
	ridge := 1e-7 * trace / float64(n)
	for k := range n {
		a[k*n+k] += ridge
		for j := range k {
			a[k*n+k] -= a[k*n+j] * a[k*n+j]
		}
		if !(a[k*n+k] > 0) {
			return false
		}
		d := math.Sqrt(a[k*n+k])
		a[k*n+k] = d
		for i := k + 1; i < n; i++ {
			sum := a[i*n+k]
			for j := range k {
				sum -= a[i*n+j] * a[k*n+j]
			}
			a[i*n+k] = sum / d
		}
	}
	for k := range n {
		sum := b[k]
		for j := range k {
			sum -= a[k*n+j] * x[j]
		}
		x[k] = sum / a[k*n+k]
	}
	for k := n - 1; k >= 0; k-- {
		sum := x[k]
		for j := k + 1; j < n; j++ {
			sum -= a[j*n+k] * x[j]
		}
		x[k] = sum / a[k*n+k]
	}
	return true
}

// fitBands does for every band of rows (axis IC) what fitRows does for a
// row: its scales are one a column, g_j = Σ_r v_rj (e H)_rj and
// A = H ∘ (VᵀV).
func (s *strip) fitBands() {
	in, n := s.src.In, s.n
	v := tensor.New(in, s.bandLen)
	a := tensor.New(in, in)
	g := make([]float32, in)
	for b := range s.groups {
		r0, r1 := b*s.bandLen, min((b+1)*s.bandLen, n)
		vb := v.View(0, in, 0, r1-r0)
		for j := range in {
			zero, row, eh := s.zero[j*s.groups+b], vb.Row(j), s.eh.Row(j)[r0:r1]
			var sum float64
			for i, u := range s.codes[j*n+r0 : j*n+r1] {
				row[i] = float32(u) - zero
				sum += float64(row[i]) * float64(eh[i])
			}
			g[j] = float32(sum)
		}
		s.fitBand(b, vb, a, g)
	}
}

// fitBand solves for the scales of band b, whose codes less zero-points are
// v [in, rows]; a is scratch.
func (s *strip) fitBand(b int, v, a *tensor.Matrix, g []float32) {
	in := s.src.In
	tensor.Gemm(false, true, 1, v, v, 0, a, s.workers)
	var trace float64
	for j := range in {
		row, h := a.Row(j), s.h.h.Row(j)
		for i := range row {
			row[i] *= h[i]
		}
		trace += float64(row[j])
	}
	if !(trace > 0) || math.IsInf(trace, 0) {
		return
	}
	l := a.Clone()
	ridge := float32(1e-6 * trace / float64(in))
	for j := range in {
		l.Data[j*in+j] += ridge
	}
	if tensor.Cholesky(l, s.workers) >= 0 {
		return
	}
	x := solveLower(l, g)
	next := make([]float32, in)
	delta := make([]float64, in)
	for j := range next {
		old := s.scale[j*s.groups+b]
		next[j] = s.rounded(old, float64(old)-x[j])
		delta[j] = float64(next[j]) - float64(old)
	}
	var change float64
	for j := range in {
		sum := 2 * float64(g[j])
		for i, v := range a.Row(j) {
			sum += float64(v) * delta[i]
		}
		change += sum * delta[j]
	}
	if !(change < 0) {
		return
	}
	for j, v := range next {
		s.scale[j*s.groups+b] = v
	}
}

// solveLower solves L Lᵀ x = b for the lower triangle l.
func solveLower(l *tensor.Matrix, b []float32) []float64 {
	n := l.Rows
	x := make([]float64, n)
	for k := range n {
		row := l.Row(k)
		sum := float64(b[k])
		for j := range k {
			sum -= float64(row[j]) * x[j]
		}
		x[k] = sum / float64(row[k])
	}
	for k := n - 1; k >= 0; k-- {
		row := l.Row(k)
		x[k] /= float64(row[k])
		for j := range k {
			x[j] -= float64(row[j]) * x[k]
		}
	}
	return x
}
