package formattest

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Memory is a Source of tensors in memory.
type Memory struct {
	names   []string
	Tensors map[string]layout.Tensor
}

// NewMemory is a Source of the tensors, in their order.
func NewMemory(tensors ...layout.Tensor) *Memory {
	m := &Memory{Tensors: map[string]layout.Tensor{}}
	for _, t := range tensors {
		m.Put(t)
	}
	return m
}

// Put adds a tensor or replaces it.
func (m *Memory) Put(t layout.Tensor) {
	if _, ok := m.Tensors[t.Name]; !ok {
		m.names = append(m.names, t.Name)
	}
	m.Tensors[t.Name] = t
}

// Drop takes a tensor away.
func (m *Memory) Drop(name string) {
	delete(m.Tensors, name)
	m.names = slices.DeleteFunc(m.names, func(n string) bool { return n == name })
}

func (m *Memory) Names() []string { return m.names }

func (m *Memory) Spec(name string) (layout.Spec, bool) {
	t, ok := m.Tensors[name]
	return t.Spec, ok
}

func (m *Memory) ReadAt(name string, p []byte, off int64) error {
	t, ok := m.Tensors[name]
	if !ok || off < 0 || off+int64(len(p)) > int64(len(t.Data)) {
		return fmt.Errorf("memory: %q: bytes %d to %d asked for", name, off, off+int64(len(p)))
	}
	copy(p, t.Data[off:])
	return nil
}

func (m *Memory) File(string) string { return "memory.safetensors" }

func (m *Memory) Close() error { return nil }

// RandomWeight fills a weight of the scheme with random codes, scales that
// are exact in the scale type, and zero-points that the scheme allows.
func RandomWeight(seed uint64, out, in int, s quant.Scheme, rowScale, inputScale bool) *quant.Weight {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := quant.NewWeight(out, in, s)
	codes := make([]uint8, w.LineLen())
	for l := range w.Lines() {
		for i := range codes {
			codes[i] = uint8(rng.IntN(s.MaxCode() + 1))
		}
		w.SetLine(l, codes)
	}
	exact := func() float32 {
		v := float32(rng.NormFloat64()) * 0.05
		switch s.ScaleType {
		case quant.F16:
			return tensor.RoundF16(v)
		case quant.F16Short:
			return float32(int(rng.IntN(127)+1)) / 4096
		case quant.BF16:
			return tensor.RoundBF16(v * 0x1p20)
		}
		return v
	}
	half := func() float32 { // of rows and inputs
		if s.ScaleType == quant.BF16 {
			return tensor.RoundF16(float32(rng.NormFloat64()))
		}
		return exact()
	}
	for i := range w.Scales {
		w.Scales[i] = exact()
		w.Zeros[i] = 1 << (s.Bits - 1)
		if !s.Symmetric {
			w.Zeros[i] = uint8(s.MinZero + rng.IntN(s.MaxCode()+1-s.MinZero))
		}
	}
	if rowScale {
		w.RowScale = make([]float32, out)
		for i := range w.RowScale {
			w.RowScale[i] = half()
		}
	}
	if inputScale {
		w.InputScale = make([]float32, in)
		for i := range w.InputScale {
			w.InputScale[i] = half()
		}
	}
	return w
}

// WithGroupIndex permutes the groups of the positions of a line.
func WithGroupIndex(seed uint64, w *quant.Weight) *quant.Weight {
	rng := rand.New(rand.NewPCG(seed, 2))
	w.GroupIndex = make([]int32, w.LineLen())
	for i := range w.GroupIndex {
		w.GroupIndex[i] = int32(rng.IntN(w.Groups()))
	}
	return w
}

// WithColumns gives a weight some columns in 16 bits.
func WithColumns(seed uint64, w *quant.Weight) *quant.Weight {
	rng := rand.New(rand.NewPCG(seed, 3))
	for c := range w.In {
		if c == w.In-1 && w.Columns == nil || rng.IntN(4) == 0 {
			w.Columns = append(w.Columns, int32(c))
			for range w.Out {
				w.ColumnValues = append(w.ColumnValues, tensor.RoundF16(float32(rng.NormFloat64())))
			}
		}
	}
	return w
}

// DrawWeight draws a weight of any kind that a quant.Weight can be.
func DrawWeight(t *rapid.T) *quant.Weight {
	s := quant.Scheme{
		Bits:      rapid.IntRange(2, 8).Draw(t, "bits"),
		Axis:      rapid.SampledFrom([]quant.Axis{quant.OC, quant.IC}).Draw(t, "axis"),
		GroupSize: rapid.SampledFrom([]int{quant.WholeLine, 1, 3, 8, 32, 100}).Draw(t, "group"),
		Symmetric: rapid.Bool().Draw(t, "sym"),
		Range:     rapid.SampledFrom([]quant.Range{quant.RangeZero, quant.RangePaper}).Draw(t, "range"),
		ScaleType: rapid.SampledFrom([]quant.ScaleType{quant.F16, quant.F32, quant.F16Short, quant.BF16}).Draw(t, "scale"),
		Clip:      rapid.Bool().Draw(t, "clip"),
		MinZero:   rapid.IntRange(0, 1).Draw(t, "minzero"),
	}
	out := rapid.IntRange(1, 70).Draw(t, "out")
	in := rapid.IntRange(1, 70).Draw(t, "in")
	if s.Axis == quant.IC && rapid.Bool().Draw(t, "strided") {
		s.Strided = true
		if s.GroupSize != quant.WholeLine {
			out = s.GroupSize * rapid.IntRange(1, 4).Draw(t, "bands")
		}
	}
	seed := rapid.Uint64().Draw(t, "seed")
	w := RandomWeight(seed, out, in, s, rapid.Bool().Draw(t, "rows"), rapid.Bool().Draw(t, "inputs"))
	if rapid.Bool().Draw(t, "groupindex") {
		WithGroupIndex(seed, w)
	}
	return w
}
