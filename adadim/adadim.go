// Package adadim chooses, layer by layer, whether quantization groups lie
// inside output channels or inside input channels (AdaDim: Heo et al.,
// "Rethinking Channel Dimensions to Isolate Outliers for Low-bit Weight
// Quantization of Large Language Models", arXiv 2309.15531). Groups inside
// an input channel keep the weights that meet an outlier activation to
// themselves.
//
// It works over any quant.Quantizer: RTN-ada and GPTQ-ada are the same code.
// Beyond the paper it knows two more arms, scales outside the groups, and an
// objective that does not depend on how output rows are scaled.
package adadim

import (
	"context"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Objective is what makes one arm better than another.
type Objective uint8

const (
	// ObjectiveLinear is the paper's: tr(E H Eᵀ), the squared error of the
	// layer's output.
	ObjectiveLinear Objective = iota
	// ObjectiveRelative is the mean over output rows of the row's squared
	// error by its squared size (quant.RelativeLoss).
	ObjectiveRelative
	// ObjectiveBlock is what the public AdaDim code does: the squared error of
	// the output of the attention or MLP block around the layer. It needs
	// Quantizer.BlockLoss.
	ObjectiveBlock
)

var objectiveNames = []string{"linear", "relative", "block"}

func (o Objective) String() string {
	if int(o) < len(objectiveNames) {
		return objectiveNames[o]
	}
	return fmt.Sprintf("Objective(%d)", uint8(o))
}

// ParseObjective reads "linear", "relative" or "block".
func ParseObjective(s string) (Objective, error) {
	for i, n := range objectiveNames {
		if n == s {
			return Objective(i), nil
		}
	}
	return 0, fmt.Errorf("objective %q: want linear, relative or block", s)
}

// Search is what quantizes the candidates.
type Search uint8

const (
	// SearchRTN decides by round-to-nearest and runs the method in the arm
	// chosen, as the paper does.
	SearchRTN Search = iota
	// SearchMethod runs the method in every arm and keeps the best.
	SearchMethod
)

func (s Search) String() string {
	switch s {
	case SearchRTN:
		return "rtn"
	case SearchMethod:
		return "method"
	}
	return fmt.Sprintf("Search(%d)", uint8(s))
}

// ParseSearch reads "rtn" or "method".
func ParseSearch(s string) (Search, error) {
	switch s {
	case "rtn":
		return SearchRTN, nil
	case "method":
		return SearchMethod, nil
	}
	return 0, fmt.Errorf("search %q: want rtn or method", s)
}

// Candidate is what one arm would cost.
type Candidate struct {
	Arm       Arm
	Power     float64 // exponent of the arm's scale; 0 is no scale
	Loss      float64 // tr(E H Eᵀ)
	Relative  float64 // quant.RelativeLoss
	Objective float64 // what was compared
}

// Decision records how a layer's arm was chosen.
type Decision struct {
	Candidates []Candidate // one for every arm, in the order of the arms
	Chosen     int         // index into Candidates
	OutputSize float64     // tr(W H Wᵀ)
	Loss       float64     // tr(E H Eᵀ) of the weight returned
	Relative   float64     // quant.RelativeLoss of the weight returned
}

// Margin is ln(L_ic / L_oc) by the objective, for the best arm of each axis:
// positive where OC is better. It is 0 if only one axis was tried, and
// finite also where one of them has no loss at all.
func (d *Decision) Margin() float64 {
	best := [2]float64{math.Inf(1), math.Inf(1)}
	for _, c := range d.Candidates {
		best[c.Arm.Axis] = min(best[c.Arm.Axis], c.Objective)
	}
	oc, ic := best[quant.OC], best[quant.IC]
	switch {
	case math.IsInf(oc, 1) || math.IsInf(ic, 1) || oc == ic:
		return 0
	}
	log := func(v float64) float64 { return math.Log(max(v, math.SmallestNonzeroFloat64)) }
	return log(ic) - log(oc)
}

// Quantizer chooses among arms and runs a method in the one chosen. It is a
// quant.Quantizer itself; the scheme's own axis is ignored.
type Quantizer struct {
	Method    quant.Quantizer // nil means quant.RTN
	Arms      []Arm           // none means PaperArms; ties go to the earlier
	Objective Objective
	Search    Search
	// BlockLoss gives the squared error of the surrounding block's output if
	// the layer's weight is replaced by approx; ObjectiveBlock needs it.
	BlockLoss func(ctx context.Context, approx *tensor.Matrix) (float64, error)
	Workers   int // goroutines; 0 means GOMAXPROCS
}

// Quantize implements quant.Quantizer.
func (q Quantizer) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	out, _, err := q.Choose(ctx, w, s, cal)
	return out, err
}

// Choose quantizes w and returns the decision beside the weight. Without
// calibration data the first arm is taken.
func (q Quantizer) Choose(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, *Decision, error) {
	if q.Method == nil {
		q.Method = quant.RTN{Workers: q.Workers}
	}
	if len(q.Arms) == 0 {
		q.Arms = PaperArms()
	}
	for _, a := range q.Arms {
		if !a.valid() {
			return nil, nil, fmt.Errorf("arm %v: input scales need axis oc, row scales axis ic", a)
		}
	}
	if q.Objective == ObjectiveBlock && q.BlockLoss == nil {
		return nil, nil, fmt.Errorf("objective block needs the surrounding block")
	}
	if len(q.Arms) == 1 {
		q.Search = SearchMethod // nothing to decide: spare the rounding
	}
	c := &choice{Quantizer: q, ctx: ctx, w: w, s: s, cal: cal}
	if cal == nil || cal.Tokens == 0 {
		out, err := c.run(problem{w: w, cal: cal}, q.Arms[0], q.Method)
		return out, &Decision{Candidates: []Candidate{{Arm: q.Arms[0]}}}, err
	}
	c.size = quant.RowLosses(w, nil, cal.H, q.Workers)
	return c.choose()
}

// choice is the work on one layer.
type choice struct {
	Quantizer
	ctx  context.Context
	w    *tensor.Matrix
	s    quant.Scheme
	cal  *quant.Calibration
	size []float64 // w_r H w_rᵀ
}

func (c *choice) choose() (*quant.Weight, *Decision, error) {
	rtn := quant.RTN{Workers: c.Workers}
	d := &Decision{OutputSize: quant.Sum(c.size)}
	var best *quant.Weight
	for i, arm := range c.Arms {
		p, cand, err := c.bestPower(arm, rtn)
		if err != nil {
			return nil, nil, err
		}
		var out *quant.Weight
		if c.Search == SearchMethod {
			if out, err = c.run(p, arm, c.Method); err != nil {
				return nil, nil, err
			}
			power := cand.Power
			if cand, err = c.judge(out, arm); err != nil {
				return nil, nil, err
			}
			cand.Power = power
		}
		d.Candidates = append(d.Candidates, cand)
		if i == 0 || cand.Objective < d.Candidates[d.Chosen].Objective {
			d.Chosen, best = i, out
		}
	}
	chosen := d.Candidates[d.Chosen]
	if best == nil {
		p := chosen.Arm.scaled(c.w, c.cal, chosen.Power)
		var err error
		if best, err = c.run(p, chosen.Arm, c.Method); err != nil {
			return nil, nil, err
		}
		if chosen, err = c.losses(best, chosen.Arm); err != nil {
			return nil, nil, err
		}
	}
	d.Loss, d.Relative = chosen.Loss, chosen.Relative
	return best, d, nil
}

// bestPower finds the exponent of the arm's scale by round-to-nearest, and
// returns the problem and the candidate that round-to-nearest makes of it.
func (c *choice) bestPower(arm Arm, rtn quant.RTN) (problem, Candidate, error) {
	var bestP problem
	var best Candidate
	powers := arm.powers()
	if len(powers) == 1 && c.Search == SearchMethod {
		return arm.scaled(c.w, c.cal, 0), Candidate{Arm: arm}, nil
	}
	for i, power := range powers {
		p := arm.scaled(c.w, c.cal, power)
		if power != 0 && p.row == nil && p.input == nil {
			continue
		}
		out, err := c.run(p, arm, rtn)
		if err != nil {
			return bestP, best, err
		}
		cand, err := c.judge(out, arm)
		if err != nil {
			return bestP, best, err
		}
		cand.Power = power
		if i == 0 || cand.Objective < best.Objective {
			bestP, best = p, cand
		}
	}
	return bestP, best, nil
}

func (c *choice) run(p problem, arm Arm, method quant.Quantizer) (*quant.Weight, error) {
	s := c.s
	s.Axis = arm.Axis
	s.Strided = s.Strided && arm.Axis == quant.IC
	return p.quantize(c.ctx, method, s)
}

// judge computes losses and objective of a quantized weight.
func (c *choice) judge(out *quant.Weight, arm Arm) (Candidate, error) {
	cand, err := c.losses(out, arm)
	if err != nil {
		return cand, err
	}
	switch c.Objective {
	case ObjectiveLinear:
		cand.Objective = cand.Loss
	case ObjectiveRelative:
		cand.Objective = cand.Relative
	case ObjectiveBlock:
		cand.Objective, err = c.BlockLoss(c.ctx, out.Dequantize())
	}
	if err == nil && math.IsNaN(cand.Objective) {
		err = fmt.Errorf("arm %v: the loss is not a number", arm)
	}
	return cand, err
}

func (c *choice) losses(out *quant.Weight, arm Arm) (Candidate, error) {
	if err := c.ctx.Err(); err != nil {
		return Candidate{}, err
	}
	rows := out.RowLoss
	if rows == nil {
		rows = quant.RowLosses(c.w, out.Dequantize(), c.cal.H, c.Workers)
	}
	return Candidate{Arm: arm, Loss: quant.Sum(rows), Relative: quant.RelativeLoss(rows, c.size)}, nil
}
