// Package split is SplitQuant (Song and Lin, arXiv 2501.12428): before anything quantizes a
// weight W, k-means over its elements splits it in three, W = L + M + U, the lower, the middle and
// the upper cluster, each 0 where an element is in another. The three are quantized, each on
// ranges of its own, and their outputs added. As the others are 0 there, an element has the
// resolution of its own cluster; an outlier no longer coarsens what is around 0.
//
// The paper stores three layers of the size of the first: three times the codes, of which two say 0.
// That is what quant.Weight.StorageBits counts. SmallestBits is what it could be: a code, and in
// which of the three it is.
//
// The public implementation (jaewoosong/splitquant) clusters with k-means from random
// beginnings and splits halfway between the centers; here the clusters are the best there are
// (exact k-means on a line), and everything is deterministic. Biases, which the paper splits too, stay
// as they are: nothing here quantizes them.
package split

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Clusters is k of the paper.
const Clusters = 3

// ErrZeros is wrapped where a method has made something else of what is 0.
var ErrZeros = errors.New("zeros do not stay zero")

// Quantizer splits, and has another method quantize the three. A method that goes element
// by element and feeds errors back, such as GPTQ, would move zeros away from 0: Joint gives it the
// three grids at once.
type Quantizer struct {
	Inner quant.Quantizer // nil means quant.RTN
	// Joint quantizes the weight as a whole, each element on the nearest value of the three
	// clusters' grids, and splits the outcome: one run of the method, on grids of round-to-nearest. It needs
	// at most 6 bits and a method that refines no grids.
	Joint   bool
	Workers int `json:"-"` // goroutines; 0 means GOMAXPROCS
}

func (q Quantizer) inner() quant.Quantizer {
	if q.Inner == nil {
		return quant.RTN{Workers: q.Workers}
	}
	return q.Inner
}

// parameters are what decides a Quantizer's result.
type parameters struct {
	Inner quant.Method `json:"inner"`
	Joint bool         `json:"joint,omitempty"`
}

// MarshalJSON implements json.Marshaler: the inner method as quant.Parameters has it.
func (q Quantizer) MarshalJSON() ([]byte, error) {
	m, err := quant.Parameters(q.inner())
	if err != nil {
		return nil, err
	}
	return json.Marshal(parameters{m, q.Joint})
}

// NeedsCalibration implements quant.DataFree: it is what the inner method says.
func (q Quantizer) NeedsCalibration() bool { return quant.NeedsCalibration(q.inner()) }

// NeedsPairs implements quant.Unpaired: it is what the inner method says.
func (q Quantizer) NeedsPairs() bool { return quant.NeedsPairs(q.inner()) }

// Validate implements quant.Validator.
func (q Quantizer) Validate() error { return quant.Validate(q.inner()) }

// Draft implements quant.Drafter: candidates are split and rounded.
func (q Quantizer) Draft() quant.Quantizer {
	return Quantizer{Inner: quant.RTN{Workers: q.Workers}, Workers: q.Workers}
}

// WithWorkers implements quant.Parallel.
func (q Quantizer) WithWorkers(n int) quant.Quantizer {
	q.Workers = n
	if q.Inner != nil {
		q.Inner = quant.WithWorkers(q.Inner, n)
	}
	return q
}

// Memory implements quant.Sized: three results, a masked copy, the sorted elements and their sums.
func (q Quantizer) Memory(out, in int) int64 {
	return quant.Memory(q.inner(), out, in) + 28*int64(out)*int64(in)
}

// Summands implements quant.Summed.
func (q Quantizer) Summands() int { return Clusters - 1 }

// SchemeFor implements quant.Schemer: it refuses what 0 is not a value of, and grids that are not
// uniform. Errors wrap quant.ErrScheme.
func (q Quantizer) SchemeFor(s quant.Scheme) (quant.Scheme, error) {
	switch {
	case s.Grid != nil:
		return s, fmt.Errorf("%w: SplitQuant: the three summands are on uniform grids, and another is asked for; use format lowbit or dense", quant.ErrScheme)
	case s.Range == quant.RangePaper:
		return s, fmt.Errorf("%w: SplitQuant: range paper has no 0 in ranges of one sign; use range zero", quant.ErrScheme)
	case q.Joint && s.Bits > 8-clusterBits:
		return s, fmt.Errorf("%w: SplitQuant over %T has at most %d bits, not %d", quant.ErrScheme, q.inner(), 8-clusterBits, s.Bits)
	}
	return s, nil
}

// Quantize implements quant.Quantizer: the result has Summands. Errors wrap quant.ErrScheme,
// quant.ErrNotFinite or ErrZeros, or are the inner method's or ctx's.
func (q Quantizer) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	if _, err := q.SchemeFor(s); err != nil {
		return nil, err
	}
	b, err := Bounds(w)
	if err != nil {
		return nil, err
	}
	if q.Joint {
		return q.joint(ctx, w, s, cal, b)
	}
	var out *quant.Weight
	for k := range Clusters {
		part := w.Clone()
		parallel.Each(q.Workers, part.Rows, func(_, r int) { b.mask(part.Row(r), k) })
		p, err := q.inner().Quantize(ctx, part, s, cal)
		if err != nil {
			return nil, err
		}
		if p.RowScale != nil || p.InputScale != nil || p.GroupIndex != nil {
			return nil, fmt.Errorf("%w: %T gives a summand scales or groups of its own", quant.ErrScheme, q.inner())
		}
		if err := stay(p.Dequantize(), part); err != nil {
			return nil, fmt.Errorf("%T: %w", q.inner(), err)
		}
		p.RowLoss = nil
		if out == nil {
			out = p
			continue
		}
		out.Summands, out.Notes = append(out.Summands, p), append(out.Notes, p.Notes...)
		p.Notes = nil
	}
	return out, nil
}

// stay checks that zeros are 0.
func stay(got, part *tensor.Matrix) error {
	for i, v := range part.Data {
		if v == 0 && got.Data[i] != 0 {
			return fmt.Errorf("%w: %g at output %d, input %d", ErrZeros, got.Data[i], i/part.Cols, i%part.Cols)
		}
	}
	return nil
}

// SmallestBits is how many bits a weight with Summands takes where of each element only one code is
// stored, and beside it, in 2 bits, whose it is.
func SmallestBits(q *quant.Weight) int64 {
	n := int64(q.Out) * int64(q.In)
	return q.StorageBits() + n*int64(clusterBits-len(q.Summands)*q.Scheme.Bits)
}
