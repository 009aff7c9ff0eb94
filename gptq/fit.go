package gptq

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// fitRows finds, for every row of the strip, the scales of its groups that
// minimize the loss given the codes. With v_k the slopes of the codes of
// group k (codes less zero-point, if the grid is uniform) and e the error, a
// change δ of the scales changes the loss by 2 gᵀδ + δᵀAδ, g_k = v_k H eᵀ,
// A_kh = v_k H v_hᵀ.
func (s *strip) fitRows() {
	in, n, groups, h := s.in, s.n, s.groups, s.r.h.h
	v, z := s.delta, s.g
	for j, k := range s.groupOf {
		s.r.grid.Slopes(v.Row(j), s.codes[j*n:(j+1)*n], s.shift[k*n:(k+1)*n], 1)
	}
	a := make([]float64, groups*groups*n)
	g := make([]float64, groups*n)
	for k, m := range s.members(1) {
		hk, vk := tensor.New(len(m), in), tensor.New(len(m), n)
		for i, j := range m {
			copy(hk.Row(i), h.Row(j))
			copy(vk.Row(i), v.Row(j))
		}
		tensor.Gemm(true, false, 1, hk, vk, 0, z, s.workers)
		for j, h := range s.groupOf {
			kernel.MulAdd(g[k*n:(k+1)*n], s.e.Row(j), z.Row(j))
			if h >= k {
				kernel.MulAdd(a[(k*groups+h)*n:(k*groups+h+1)*n], v.Row(j), z.Row(j))
			}
		}
	}
	m := make([]float64, groups*groups)
	rhs, old := make([]float64, groups), make([]float32, groups)
	for i := range n {
		ofRow(m, a, groups, n, i)
		for k := range groups {
			rhs[k] = g[k*n+i]
			old[k] = s.scale[k*n+i]
		}
		if next := s.fit(m, rhs, old); next != nil {
			for k, v := range next {
				s.scale[k*n+i] = v
			}
		}
	}
	s.refresh(0, n)
}

// ofRow sets m [p, p] to the matrix of row i of n, whose upper triangle is in
// a [p, p, n].
func ofRow(m, a []float64, p, n, i int) {
	for k := range p {
		for h := k; h < p; h++ {
			x := a[(k*p+h)*n+i]
			m[k*p+h], m[h*p+k] = x, x
		}
	}
}

// fit returns the rounded scales that lower the loss most, or nil if none
// found do. a is overwritten.
func (s *strip) fit(a, g []float64, old []float32) []float32 {
	n := len(g)
	var trace float64
	for k := range n {
		trace += a[k*n+k]
	}
	if !(trace > 0) || math.IsInf(trace, 0) {
		return nil
	}
	quad := append([]float64(nil), a...)
	ridge := 1e-7 * trace / float64(n)
	for k := range n {
		a[k*n+k] += ridge
	}
	delta := append([]float64(nil), g...)
	if !tensor.SolveSPD(a, delta) {
		return nil
	}
	next := s.stored(old, delta)
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

// stored returns the scales old less delta as they would be stored, and sets
// delta to how they differ from old.
func (s *strip) stored(old []float32, delta []float64) []float32 {
	next := append([]float32(nil), old...)
	want := make([]float64, len(old))
	for k, v := range old {
		want[k] = float64(v) - delta[k]
	}
	s.r.grid.Store(next, want)
	for k, v := range old {
		delta[k] = float64(next[k]) - float64(v)
	}
	return next
}

// fitBands does for every band of rows (axis IC) what fitRows does for a
// row: its scales are one a column, g_j = Σ_r v_rj (e H)_rj and
// A = H ∘ (VᵀV).
//
// As A is as large as H, no more than fitters strips are here at once, with the
// workers of all.
func (s *strip) fitBands() {
	in, n := s.in, s.n
	tensor.Gemm(false, false, 1, s.r.h.h, s.e, 0, s.g, s.workers)
	s.r.fitting <- struct{}{}
	defer func() { <-s.r.fitting }()
	workers := max(s.workers, s.r.workers/fitters)
	v := tensor.New(in, s.bandLen)
	a := tensor.New(in, in)
	g := make([]float32, in)
	for b := range s.groups {
		r0, r1 := b*s.bandLen, min((b+1)*s.bandLen, n)
		vb := v.View(0, in, 0, r1-r0)
		for j := range in {
			at, row, eh := j*s.groups+b, vb.Row(j), s.g.Row(j)[r0:r1]
			s.r.grid.Slopes(row, s.codes[j*n+r0:j*n+r1], s.shift[at:at+1], r1-r0)
			var sum float64
			for i, v := range row {
				sum += float64(v) * float64(eh[i])
			}
			g[j] = float32(sum)
		}
		tensor.Gemm(false, true, 1, vb, vb, 0, a, workers)
		s.solveBand(b, a, g, workers)
	}
	s.refresh(0, n)
}

// fitters is how many strips may fit bands at once.
const fitters = 2

// solveBand solves for the scales of band b. a [in, in] has the products of its slopes,
// which H is still to be multiplied to; it is overwritten.
func (s *strip) solveBand(b int, a *tensor.Matrix, g []float32, workers int) {
	in := s.in
	var trace float64
	for j := range in {
		row, h := a.Row(j), s.r.h.h.Row(j)
		for i := range row {
			row[i] *= h[i]
		}
		trace += float64(row[j])
	}
	if !(trace > 0) || math.IsInf(trace, 0) {
		return
	}
	// The factor takes the lower triangle, the upper one stays.
	diag, ridge := make([]float32, in), float32(1e-6*trace/float64(in))
	for j := range in {
		diag[j] = a.At(j, j)
		a.Set(j, j, diag[j]+ridge)
	}
	if tensor.Cholesky(a, workers) >= 0 {
		return
	}
	old, delta := make([]float32, in), make([]float64, in)
	for j, v := range g {
		old[j], delta[j] = s.scale[j*s.groups+b], float64(v)
	}
	tensor.CholeskySolveVec(a, delta)
	next := s.stored(old, delta)
	var change float64
	for j := range in {
		sum := 2*float64(g[j]) + float64(diag[j])*delta[j]
		for i, v := range a.Row(j)[j+1:] {
			sum += 2 * float64(v) * delta[j+1+i]
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
