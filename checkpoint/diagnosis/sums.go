package diagnosis

import (
	"math"
	"sync"

	"github.com/golowbit/lowbit/internal/nn"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/tensor"
)

// sums are those of an activation over windows.
type sums struct {
	whole    bool // all rows are one window
	powers   [5]float64
	inf      float64 // of what powers are of
	largest  float64
	infNorm  float64 // sum over windows
	kurtosis float64
	windows  int
	far      []bool // channels with outliers
}

func newSums(width int, whole bool) *sums { return &sums{whole: whole, far: make([]bool, width)} }

// add takes a window, or of what is one window some rows more.
func (s *sums) add(x *tensor.Matrix) {
	if !s.whole {
		s.powers, s.inf = [5]float64{}, 0
	}
	for i := range x.Rows {
		for j, v := range x.Row(i) {
			v := float64(v)
			square := v * v
			s.powers[0]++
			s.powers[1] += v
			s.powers[2] += square
			s.powers[3] += square * v
			s.powers[4] += square * square
			if a := math.Abs(v); a > s.inf {
				s.inf = a
			}
			if v >= llmint8.DefaultThreshold || v <= -llmint8.DefaultThreshold {
				s.far[j] = true
			}
		}
	}
	if !s.whole {
		s.close()
	}
}

// close ends a window.
func (s *sums) close() {
	s.largest = max(s.largest, s.inf)
	s.infNorm += s.inf
	s.kurtosis += kurtosis(s.powers)
	s.windows++
}

// kurtosis is m4/m2² by the sums of powers 0 to 4, 0 if all are equal.
func kurtosis(p [5]float64) float64 {
	n := p[0]
	if n == 0 {
		return 0
	}
	m := p[1] / n
	m2 := p[2]/n - m*m
	m4 := p[4]/n - 4*m*p[3]/n + 6*m*m*p[2]/n - 3*m*m*m*m
	if m2 <= 1e-12*p[2]/n || m2 == 0 {
		return 0
	}
	return m4 / (m2 * m2)
}

// merge adds the windows of another.
func (s *sums) merge(o *sums) {
	s.largest = max(s.largest, o.largest)
	s.infNorm += o.infNorm
	s.kurtosis += o.kurtosis
	s.windows += o.windows
	for j, far := range o.far {
		s.far[j] = s.far[j] || far
	}
}

func (s *sums) activation(block int, name string) Activation {
	if s.whole && s.powers[0] > 0 {
		s.close()
	}
	n := float64(max(1, s.windows))
	a := Activation{Block: block, Name: name, Largest: s.largest, InfNorm: s.infNorm / n, Kurtosis: s.kurtosis / n, Width: len(s.far)}
	for _, far := range s.far {
		if far {
			a.Outliers++
		}
	}
	return a
}

// headBatch holds what the heads give to some keys, by head and row of a batch, so that the
// sums do not depend on which worker comes first.
type headBatch struct {
	rows int
	mu   sync.Mutex
	of   [][3][]float64 // by head
}

func newHeadBatch(rows int) *headBatch { return &headBatch{rows: rows} }

func (b *headBatch) heads() int { return len(b.of) }

// reserve makes room for heads.
func (b *headBatch) reserve(heads int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.of) < heads {
		var of [3][]float64
		for i := range of {
			of[i] = make([]float64, b.rows)
		}
		b.of = append(b.of, of)
	}
}

// head is where a head's figures go.
func (b *headBatch) head(h int) [3][]float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.of[h]
}

// add looks at a tile of the window with these ids that begins at a row of the batch.
func (b *headBatch) add(t *nn.Heads, s *nn.Scratch, row int, ids []int32, separators []bool) {
	group := len(t.Columns)
	b.reserve(t.First + group)
	var apart []int // positions of separators behind the first token
	for p, id := range ids[:t.Q1] {
		if p > 0 && int(id) < len(separators) && separators[id] {
			apart = append(apart, p)
		}
	}
	of := make([][3][]float64, group)
	for h := range of {
		of[h] = b.head(t.First + h)
	}
	w, first := t.Weights(s)
	for i := range w.Rows {
		values, all := w.Row(i), 0.0
		for _, v := range values {
			all += float64(v)
		}
		to, at := of[i%group], row+t.Q0+i/group
		if first == 0 {
			to[0][at] = float64(values[0])
		}
		var between float64
		for _, p := range apart {
			if p >= first {
				between += float64(values[p-first])
			}
		}
		to[1][at] = between
		if lacks := 1 - all; lacks > rounding {
			to[2][at] = lacks
		}
	}
}

// rounding is what a sum of float32 weights may lack of 1.
const rounding = 1e-5

// headSums are the sums over tokens behind the first of a window, by head.
type headSums struct {
	of     [3][]float64
	tokens int
}

func (s *headSums) add(b *headBatch, seqLen int) {
	for k := range s.of {
		for len(s.of[k]) < b.heads() {
			s.of[k] = append(s.of[k], 0)
		}
		for h := range b.of {
			for row, v := range b.of[h][k] {
				if row%seqLen > 0 {
					s.of[k][h] += v
				}
			}
		}
	}
	s.tokens += b.rows - b.rows/seqLen
}

func (s *headSums) attention(block int) Attention {
	mean := func(k int) []float64 {
		all := make([]float64, len(s.of[k]))
		for h, v := range s.of[k] {
			all[h] = v / float64(max(1, s.tokens))
		}
		return all
	}
	return Attention{block, mean(0), mean(1), mean(2)}
}
