// Package picture sums up what the channels of a linear layer are like: magnitudes of
// weights, activations, and where the error lies. It is small enough to be kept and drawn.
package picture

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

const (
	// Bins is the most that a series has.
	Bins = 128
	// Far is how many times the median a channel is that counts as an outlier.
	Far = 8
	// listed is how many outliers are told one by one.
	listed = 8
)

// Channels is what the channels of a layer are like, as it is quantized: with the scales that
// are folded.
type Channels struct {
	Inputs  Side `json:"inputs"`
	Outputs Side `json:"outputs"`
}

// Side is the channels of one kind. What is not known is nil.
type Side struct {
	Channels   int     `json:"channels"`
	Weight     *Series `json:"weight,omitempty"`     // by channel the largest magnitude of its weights
	Activation *Series `json:"activation,omitempty"` // of inputs: root mean square over the text
	// Loss is by channel the part of tr(E diag(H) Eᵀ), E the error of the layer's weight and H
	// the second moments of its inputs. The series sums up to 1.
	Loss *Series `json:"loss,omitempty"`
}

// Series is a number for each channel, in bins of neighbours: of n bins and c channels, bin k
// has those from k·c/n up to (k+1)·c/n. Numbers have four digits.
type Series struct {
	Max      []float64 `json:"max"`  // by bin
	Mean     []float64 `json:"mean"` // by bin
	Median   float64   `json:"median"`
	Far      int       `json:"far"`                // channels that are more than eight times the median
	Outliers []Outlier `json:"outliers,omitempty"` // the largest of these, eight at most
}

// Outlier is a channel far from the others.
type Outlier struct {
	Channel int     `json:"channel"`
	Value   float64 `json:"value"`
}

// Of looks at a layer with weight w [out, in], or nil if not wanted. target is what was
// quantized in its place as q, on the statistics cal; q and cal may be nil.
func Of(wanted bool, w, target *tensor.Matrix, cal *quant.Calibration, q *quant.Weight, workers int) *Channels {
	if !wanted || w == nil || w.Rows == 0 || w.Cols == 0 {
		return nil
	}
	var squares []float32
	if cal != nil && cal.Tokens > 0 {
		squares = cal.Diagonal()
	}
	s := &sums{w: w, squares: squares}
	if q != nil && squares != nil {
		s.target, s.approx = target, q.Dequantize()
	}
	s.run(workers)
	c := &Channels{Inputs: Side{Channels: w.Cols, Weight: NewSeries(s.colMax)}, Outputs: Side{Channels: w.Rows, Weight: NewSeries(s.rowMax)}}
	if squares != nil {
		c.Inputs.Activation = Activation(squares, cal.Tokens)
	}
	if s.approx != nil {
		var all float64
		for _, v := range s.colLoss {
			all += v
		}
		if all > 0 && !math.IsInf(all, 1) {
			c.Inputs.Loss, c.Outputs.Loss = share(s.colLoss, all), share(s.rowLoss, all)
		}
	}
	return c
}

// Activation is the root mean square of inputs by the sums of their squares over tokens.
func Activation(squares []float32, tokens int) *Series {
	x := make([]float64, len(squares))
	for j, v := range squares {
		x[j] = math.Sqrt(max(0, float64(v)) / float64(max(1, tokens)))
	}
	return NewSeries(x)
}

func share(x []float64, all float64) *Series {
	for i := range x {
		x[i] /= all
	}
	return NewSeries(x)
}

// sums goes over the weights once. Columns are taken in pieces, whose sums over rows are put
// together in order: nothing depends on the number of workers.
type sums struct {
	w, target, approx *tensor.Matrix
	squares           []float32 // of inputs

	colMax, rowMax, colLoss, rowLoss []float64
}

// piece is how many columns are taken at a time.
const piece = 256

func (s *sums) run(workers int) {
	rows, cols := s.w.Rows, s.w.Cols
	s.colMax, s.rowMax = make([]float64, cols), make([]float64, rows)
	n := (cols + piece - 1) / piece
	largest, loss := tensor.New(n, rows), make([][]float64, n)
	if s.approx != nil {
		s.colLoss, s.rowLoss = make([]float64, cols), make([]float64, rows)
	}
	parallel.Each(workers, n, func(_, k int) {
		c0, c1 := k*piece, min(cols, (k+1)*piece)
		s.magnitudes(c0, c1, largest.Row(k))
		if s.approx != nil {
			loss[k] = make([]float64, rows)
			s.losses(c0, c1, loss[k])
		}
	})
	for k := range n {
		for r, v := range largest.Row(k) {
			s.rowMax[r] = max(s.rowMax[r], float64(v))
		}
		for r, v := range loss[k] {
			s.rowLoss[r] += v
		}
	}
}

func (s *sums) magnitudes(c0, c1 int, rowMax []float32) {
	most := make([]float32, c1-c0)
	for r := range rowMax {
		row := s.w.Row(r)[c0:c1]
		var m float32
		for j, v := range row {
			if v < 0 {
				v = -v
			}
			if v > most[j] {
				most[j] = v
			}
			if v > m {
				m = v
			}
		}
		rowMax[r] = m
	}
	for j, v := range most {
		s.colMax[c0+j] = float64(v)
	}
}

func (s *sums) losses(c0, c1 int, rowLoss []float64) {
	col, h := s.colLoss[c0:c1], s.squares[c0:c1]
	for r := range rowLoss {
		a, b := s.target.Row(r)[c0:c1], s.approx.Row(r)[c0:c1]
		var sum float64
		for j, v := range a {
			e := v - b[j]
			l := float64(e * e * h[j])
			col[j] += l
			sum += l
		}
		rowLoss[r] = sum
	}
}

// NewSeries puts numbers into bins.
func NewSeries(x []float64) *Series {
	n := min(Bins, len(x))
	s := &Series{Max: make([]float64, n), Mean: make([]float64, n)}
	for k := range n {
		part := x[k*len(x)/n : (k+1)*len(x)/n]
		var sum float64
		for _, v := range part {
			sum += v
		}
		s.Max[k], s.Mean[k] = digits(slices.Max(part)), digits(sum/float64(len(part)))
	}
	sorted := slices.Sorted(slices.Values(x))
	median := sorted[len(sorted)/2]
	s.Median = digits(median)
	if median <= 0 {
		return s
	}
	for i, v := range x {
		if v > Far*median {
			s.Far++
			s.Outliers = append(s.Outliers, Outlier{i, digits(v)})
		}
	}
	slices.SortStableFunc(s.Outliers, func(a, b Outlier) int { return cmp.Compare(b.Value, a.Value) })
	s.Outliers = s.Outliers[:min(len(s.Outliers), listed):min(len(s.Outliers), listed)]
	return s
}

// digits rounds to four digits, so that numbers are short in JSON. What is not finite is 0.
func digits(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'e', 3, 64), 64)
	if err != nil {
		return 0
	}
	return r
}
