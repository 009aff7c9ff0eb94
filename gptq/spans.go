package gptq

import (
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// fitSpans finds, for every row of the strip and span after span, the stored
// parameters that lower the loss most given the codes and all other spans. It is
// what fitRows does for grids whose groups stand alone, in blocks: with v_k the
// slopes of the codes of group k of the span (and, if its shift is fitted too, -1
// where group k is), a change δ of the parameters changes the loss by
// 2 gᵀδ + δᵀAδ, g_k = v_k H eᵀ, A_kh = v_k H v_hᵀ.
func (s *strip) fitSpans() {
	span := s.fitter.Span()
	f := spanFit{strip: s}
	for k, m := range s.members(span) {
		f.fit(k*span, min((k+1)*span, s.groups), m)
	}
}

// spanFit is what fitting the spans of a strip needs beside it.
type spanFit struct {
	*strip
	first, groups, params int   // of the span
	members               []int // its positions
	v, eh                 *tensor.Matrix
	a, g                  []float64 // of all rows: entry by entry, row by row
}

// fit fits the groups first to end, which are those of the positions members.
func (f *spanFit) fit(first, end int, members []int) {
	f.first, f.groups, f.members = first, end-first, members
	f.params = f.groups
	if f.fitter.Shifted() {
		f.params *= 2
	}
	n, m := f.n, len(members)
	hs := tensor.New(m, f.in)
	f.v, f.eh = tensor.New(m, n), tensor.New(m, n)
	for i, j := range members {
		copy(hs.Row(i), f.r.h.h.Row(j))
		k := f.groupOf[j]
		f.fitter.Slopes(f.v.Row(i), f.codes[j*n:(j+1)*n], f.shift[k*n:(k+1)*n], 1)
	}
	tensor.Gemm(false, false, 1, hs, f.e, 0, f.eh, f.workers)
	f.a = make([]float64, f.params*f.params*n)
	f.g = make([]float64, f.params*n)
	for k := range f.groups {
		f.products(k, hs)
	}
	f.rows()
	for _, j := range members { // the errors that the next span sees
		f.refreshColumn(j, 0, n)
	}
}

// products fills the part of A and g that group k of the span decides.
func (f *spanFit) products(k int, hs *tensor.Matrix) {
	n, m := f.n, len(f.members)
	var own []int // of members
	for i, j := range f.members {
		if f.groupOf[j]-f.first == k {
			own = append(own, i)
		}
	}
	hk, vk := tensor.New(len(own), m), tensor.New(len(own), n)
	for i, o := range own {
		for c, j := range f.members {
			hk.Data[i*m+c] = hs.At(o, j)
		}
		copy(vk.Row(i), f.v.Row(o))
		kernel.MulAdd(f.g[k*n:(k+1)*n], f.v.Row(o), f.eh.Row(o))
	}
	z := tensor.New(m, n) // H vᵀ of the group
	tensor.Gemm(true, false, 1, hk, vk, 0, z, f.workers)
	for i, j := range f.members {
		h := f.groupOf[j] - f.first
		if h >= k {
			kernel.MulAdd(f.entry(k, h), f.v.Row(i), z.Row(i))
		}
		if f.params > f.groups {
			subtract(f.entry(k, f.groups+h), z.Row(i))
		}
	}
	if f.params == f.groups {
		return
	}
	for _, o := range own {
		subtract(f.g[(f.groups+k)*n:(f.groups+k+1)*n], f.eh.Row(o))
	}
	sums := make([]float64, f.groups) // of H between the group and others
	for i, j := range f.members {
		for o := range own {
			sums[f.groupOf[j]-f.first] += float64(hk.Data[o*m+i])
		}
	}
	for h, v := range sums {
		to := f.entry(f.groups+k, f.groups+h)
		for r := range to {
			to[r] = v
		}
	}
}

// entry is entry (i, j) of A, of all rows.
func (f *spanFit) entry(i, j int) []float64 {
	at := (i*f.params + j) * f.n
	return f.a[at : at+f.n]
}

func subtract(acc []float64, x []float32) {
	for i, v := range x {
		acc[i] -= float64(v)
	}
}

// rows fits the span of every row.
func (f *spanFit) rows() {
	n, p := f.n, f.params
	a, g := make([]float64, p*p), make([]float64, p)
	scale, shift := make([]float32, f.groups), make([]float32, f.groups)
	for r := range n {
		for i := range p {
			g[i] = f.g[i*n+r]
		}
		ofRow(a, f.a, p, n, r)
		for k := range scale {
			at := (f.first+k)*n + r
			scale[k], shift[k] = f.scale[at], f.shift[at]
		}
		if !f.fitter.FitSpan(scale, shift, a, g) {
			continue
		}
		for k := range scale {
			at := (f.first+k)*n + r
			f.scale[at], f.shift[at] = scale[k], shift[k]
		}
	}
}
