// Package llmint8 is LLM.int8() (Dettmers et al., arXiv 2208.07339): weights in 8 bits with
// a scale a row, outlier features kept in 16 bits (section 3.2), and the product of both
// with activations that are rounded to 8 bits a token.
package llmint8

import (
	"cmp"
	"context"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/enum"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// DefaultThreshold is the magnitude from which on an activation is an outlier: 6.0 suffices
// for all models of the paper (section 3.2).
const DefaultThreshold = 6

// Shares of the layers and of the tokens in which an outlier feature of a model is one
// (section 4.1).
const (
	ShareOfLayers = 0.25
	ShareOfTokens = 0.06
)

// Outliers is by which rule columns of weights are kept in 16 bits. Its text is "layer",
// "model" or "none".
type Outliers uint8

const (
	// OutliersLayer keeps the columns of a layer whose inputs reach the threshold anywhere
	// in the calibration text: the set O of section 3.2 (eq. 8), found beforehand.
	OutliersLayer Outliers = iota
	// OutliersModel keeps, in every layer that reads features of the residual stream's width,
	// the features that reach the threshold in at least 25 % of the model's layers and 6 % of
	// all tokens (section 4.1), and no other columns.
	OutliersModel
	// OutliersNone keeps none.
	OutliersNone
)

var outliers = enum.New[Outliers]("Outliers", "rule of outliers", quant.ErrScheme, "layer", "model", "none")

// String returns the rule's text.
func (o Outliers) String() string { return outliers.String(o) }

// MarshalText implements encoding.TextMarshaler.
func (o Outliers) MarshalText() ([]byte, error) { return outliers.Marshal(o) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Outliers) UnmarshalText(text []byte) error { return outliers.Unmarshal(o, text) }

// ParseOutliers reads "layer", "model" or "none". Errors wrap quant.ErrScheme.
func ParseOutliers(s string) (Outliers, error) { return outliers.Parse(s) }

// Quantizer puts weights on Grid, as bitsandbytes does, code for code and scale for scale, and
// keeps the columns of outlier features in 16 bits beside their codes. It needs no text;
// without any no features are known, and no columns are kept.
type Quantizer struct {
	// Outliers is the rule, which needs calibration data.
	Outliers Outliers
	// Threshold is from which magnitude on an activation is an outlier; 0 means DefaultThreshold.
	Threshold float32
	Workers   int `json:"-"` // goroutines; 0 means GOMAXPROCS

	features map[int][]int32 // outliers of the model, by the width of an input
}

// NeedsCalibration implements quant.DataFree: it returns false.
func (q Quantizer) NeedsCalibration() bool { return false }

// NeedsPairs implements quant.Unpaired: it returns false.
func (q Quantizer) NeedsPairs() bool { return false }

// KeepsColumns implements quant.Keeper.
func (q Quantizer) KeepsColumns() bool { return q.Outliers != OutliersNone }

// Scheme implements quant.Gridded.
func (q Quantizer) Scheme() quant.Scheme { return Grid{}.Scheme() }

// WithWorkers implements quant.Parallel.
func (q Quantizer) WithWorkers(n int) quant.Quantizer {
	q.Workers = n
	return q
}

// Memory implements quant.Sized.
func (q Quantizer) Memory(out, in int) int64 { return quant.RTN{}.Memory(out, in) }

// Parameters implements quant.Parametric.
func (q Quantizer) Parameters() any {
	return struct {
		Outliers  Outliers `json:"outliers"`
		Threshold float32  `json:"threshold,omitempty"`
	}{q.Outliers, q.threshold()}
}

func (q Quantizer) threshold() float32 {
	if q.Outliers == OutliersNone {
		return 0
	}
	return cmp.Or(q.Threshold, DefaultThreshold)
}

// Validate implements quant.Validator. Errors wrap quant.ErrScheme.
func (q Quantizer) Validate() error {
	if err := outliers.Check(q.Outliers); err != nil {
		return err
	}
	if t := float64(q.Threshold); !(t >= 0) || math.IsInf(t, 0) {
		return fmt.Errorf("%w: outliers from %g on, want a positive number", quant.ErrScheme, t)
	}
	return nil
}

// Quantize implements quant.Quantizer. The scheme must be that of Scheme, clipped or not.
// Errors wrap quant.ErrScheme, quant.ErrScaleRange (a weight is beyond half floats) or
// quant.ErrNotFinite, or are ctx's.
func (q Quantizer) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	if s.Grid != (Grid{}) || s.Axis != quant.OC || s.GroupSize != quant.WholeLine {
		return nil, fmt.Errorf("%w: LLM.int8() has its own grid of 8 bits with a scale a row", quant.ErrScheme)
	}
	out, err := quant.RTN{Workers: q.Workers}.Quantize(ctx, w, s, cal)
	if err != nil {
		return nil, err
	}
	if out.Columns = q.columns(w.Cols, cal); len(out.Columns) > 0 {
		out.ColumnValues = columnValues(w, out.Columns)
	}
	return out, nil
}

// columns are those that are kept, nil if there are none.
func (q Quantizer) columns(in int, cal *quant.Calibration) []int32 {
	if cal == nil || cal.AbsMax == nil {
		return nil
	}
	switch q.Outliers {
	case OutliersLayer:
		var columns []int32
		for j, v := range cal.AbsMax {
			if v >= q.threshold() {
				columns = append(columns, int32(j))
			}
		}
		return columns
	case OutliersModel:
		return q.features[in]
	}
	return nil
}

// columnValues are columns of a weight as half floats, one after the other.
func columnValues(w *tensor.Matrix, columns []int32) []float32 {
	values := make([]float32, 0, len(columns)*w.Rows)
	for _, c := range columns {
		for r := range w.Rows {
			values = append(values, w.At(r, int(c)))
		}
	}
	eachHalf(values, func(at int, half []float32) { copy(values[at:], half) })
	return values
}

// Survey implements quant.Surveyor: the rule of the model asks for it.
func (q Quantizer) Survey() (above float32, ok bool) {
	return q.threshold(), q.Outliers == OutliersModel
}

// Surveyed implements quant.Surveyor.
func (q Quantizer) Surveyed(hidden int, inputs []quant.InputSurvey) quant.Quantizer {
	q.features = map[int][]int32{hidden: Features(hidden, inputs)}
	return q
}

// Features are the outlier features of a model, in ascending order: those that are outliers
// in at least 25 % of the model's layers, and in at least 6 % of all tokens (section 4.1).
// A layer is a block here, and what counts are the inputs as wide as the residual stream,
// as in the paper: those of the attention's projections and of the first linear layers of
// the feed-forward part, all their tokens together.
func Features(hidden int, inputs []quant.InputSurvey) []int32 {
	blocks, tokens := map[int]bool{}, 0
	above, in := make([]int, hidden), make([]map[int]bool, hidden)
	for _, s := range inputs {
		blocks[s.Block] = true
		if len(s.Above) != hidden {
			continue
		}
		tokens += s.Tokens
		for j, n := range s.Above {
			if n > 0 && in[j] == nil {
				in[j] = map[int]bool{}
			}
			if n > 0 {
				in[j][s.Block] = true
			}
			above[j] += n
		}
	}
	var features []int32
	for j, n := range above {
		if n > 0 && float64(len(in[j])) >= ShareOfLayers*float64(len(blocks)) && float64(n) >= ShareOfTokens*float64(tokens) {
			features = append(features, int32(j))
		}
	}
	return features
}
