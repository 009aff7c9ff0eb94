package rotate

import "github.com/golowbit/lowbit/tensor"

// at is where a stored tensor has input 0 of an output of the layer, and how far apart the
// inputs are.
func (e *Edit) at(output int) (first, step int) {
	s := &e.Place
	o, base := s.Output0+output*s.Step, s.Expert*s.Outputs*e.In
	if s.Transposed {
		return base + o, s.Outputs
	}
	return base + o*e.In, 1
}

// Matrix is the weight [Out, In] that the values of the stored tensor have.
func (e *Edit) Matrix(v []float32) *tensor.Matrix {
	w := tensor.New(e.Out, e.In)
	for i := range w.Rows {
		at, step := e.at(i)
		for j := range w.Cols {
			w.Row(i)[j] = v[at+j*step]
		}
	}
	return w
}

// Put changes the values of the stored tensor to those of a weight.
func (e *Edit) Put(v []float32, w *tensor.Matrix) {
	for i := range w.Rows {
		at, step := e.at(i)
		for j, x := range w.Row(i) {
			v[at+j*step] = x
		}
	}
}

// Weight returns what becomes of a weight; gain is the tensor of that name. bases has a
// basis for the width of each span.
func (e *Edit) Weight(w *tensor.Matrix, gain []float32, bases map[int]*Basis, workers int) *tensor.Matrix {
	for j, g := range gain {
		if e.PlusOne {
			g++
		}
		for i := range w.Rows {
			w.Row(i)[j] *= g
		}
	}
	if c := e.Columns; c.Width > 0 {
		bases[c.Width].Rows(w, c.From, c.To, workers)
	}
	if r := e.Rows; r.Width > 0 {
		w = w.T()
		bases[r.Width].Rows(w, r.From, r.To, workers)
		w = w.T()
	}
	return w
}

// Bias changes the values of the stored tensor that the bias lies in.
func (e *Edit) Bias(v []float32, bases map[int]*Basis) {
	s := &e.Place
	b := tensor.New(1, e.Out)
	base := s.Expert*s.Outputs + s.Output0
	for i := range b.Data {
		b.Data[i] = v[base+i*s.Step]
	}
	bases[e.Rows.Width].Rows(b, e.Rows.From, e.Rows.To, 1)
	for i, x := range b.Data {
		v[base+i*s.Step] = x
	}
}
