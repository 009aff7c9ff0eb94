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
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/enum"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

var (
	// ErrOptions is wrapped by errors about options that make no sense: an
	// arm whose scale needs the other axis, a value that is none of an
	// enumeration's, ObjectiveBlock for a layer without a BlockLoss.
	ErrOptions = errors.New("invalid adadim options")
	// ErrLoss is wrapped where a loss is not a number, so that arms cannot be
	// compared.
	ErrLoss = errors.New("the loss is not a number")
	// ErrOwnScales is wrapped where the method returns row or input scales
	// of its own in an arm that has some: they do not compose.
	ErrOwnScales = errors.New("the method returned row or input scales of its own")
)

// Objective is what makes one arm better than another. Its text is "linear",
// "relative", "block" or "curvature".
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
	// Layer.BlockLoss.
	ObjectiveBlock
	// ObjectiveCurvature is quant.CurvedLoss: what the error costs in the model's
	// loss, to second order. It is ObjectiveRelative where the calibration has no
	// Output.
	ObjectiveCurvature
)

var objectives = enum.New[Objective]("Objective", "objective", ErrOptions, "linear", "relative", "block", "curvature")

// String returns the objective's text.
func (o Objective) String() string { return objectives.String(o) }

// MarshalText implements encoding.TextMarshaler.
func (o Objective) MarshalText() ([]byte, error) { return objectives.Marshal(o) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Objective) UnmarshalText(text []byte) error { return objectives.Unmarshal(o, text) }

// ParseObjective reads "linear", "relative", "block" or "curvature". Errors wrap
// ErrOptions.
func ParseObjective(s string) (Objective, error) { return objectives.Parse(s) }

// Search is what quantizes the candidates. Its text is "rtn" or "method".
type Search uint8

const (
	// SearchRTN decides by round-to-nearest and runs the method in the arm
	// chosen, as the paper does.
	SearchRTN Search = iota
	// SearchMethod runs the method in every arm and keeps the best: first its
	// draft (quant.Draft), and then the method in those arms whose draft comes
	// within a twentieth of the best one's.
	SearchMethod
)

var searches = enum.New[Search]("Search", "search", ErrOptions, "rtn", "method")

// String returns the search's text.
func (s Search) String() string { return searches.String(s) }

// MarshalText implements encoding.TextMarshaler.
func (s Search) MarshalText() ([]byte, error) { return searches.Marshal(s) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Search) UnmarshalText(text []byte) error { return searches.Unmarshal(s, text) }

// ParseSearch reads "rtn" or "method". Errors wrap ErrOptions.
func ParseSearch(s string) (Search, error) { return searches.Parse(s) }

// Candidate is what one arm would cost. By SearchMethod its losses are those of
// the method's draft if that was not among the best.
type Candidate struct {
	Arm   Arm
	Power float64 // exponent of the arm's scale; 0 is no scale

	// Measured says that the losses below are known. Without calibration data
	// they are not, and JSON does not have them.
	Measured  bool
	Loss      float64 // tr(E H Eᵀ)
	Relative  float64 // quant.RelativeLoss
	Objective float64 // what was compared
}

// candidateJSON is a Candidate in JSON; what is nil was not measured.
type candidateJSON struct {
	Arm       Arm      `json:"arm"`
	Power     float64  `json:"power,omitempty"`
	Loss      *float64 `json:"loss,omitempty"`
	Relative  *float64 `json:"relative,omitempty"`
	Objective *float64 `json:"objective,omitempty"`
}

// MarshalJSON implements json.Marshaler: the keys are those of the fields in
// snake case, without the losses if they were not measured.
func (c Candidate) MarshalJSON() ([]byte, error) {
	j := candidateJSON{Arm: c.Arm, Power: c.Power}
	if c.Measured {
		j.Loss, j.Relative, j.Objective = &c.Loss, &c.Relative, &c.Objective
	}
	return json.Marshal(j)
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *Candidate) UnmarshalJSON(text []byte) error {
	var j candidateJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*c = Candidate{
		Arm: j.Arm, Power: j.Power, Measured: j.Objective != nil,
		Loss: value(j.Loss), Relative: value(j.Relative), Objective: value(j.Objective),
	}
	return nil
}

// value is *p, or 0 if there is none.
func value(p *float64) float64 {
	if p == nil {
		return 0
	}
	return *p
}

// Decision records how a layer's arm was chosen.
type Decision struct {
	Candidates []Candidate // one for every arm, in the order of the arms
	Chosen     int         // index into Candidates

	// Measured says that the numbers below are known. Without calibration data
	// they are not, and JSON does not have them.
	Measured   bool
	OutputSize float64 // tr(W H Wᵀ)
	Loss       float64 // tr(E H Eᵀ) of the weight returned
	Relative   float64 // quant.RelativeLoss of the weight returned
}

// decisionJSON is a Decision in JSON; what is nil was not measured.
type decisionJSON struct {
	Candidates []Candidate `json:"candidates"`
	Chosen     int         `json:"chosen"`
	OutputSize *float64    `json:"output_size,omitempty"`
	Loss       *float64    `json:"loss,omitempty"`
	Relative   *float64    `json:"relative,omitempty"`
}

// MarshalJSON implements json.Marshaler: the keys are those of the fields in
// snake case, without the numbers that were not measured.
func (d Decision) MarshalJSON() ([]byte, error) {
	j := decisionJSON{Candidates: d.Candidates, Chosen: d.Chosen}
	if d.Measured {
		j.OutputSize, j.Loss, j.Relative = &d.OutputSize, &d.Loss, &d.Relative
	}
	return json.Marshal(j)
}

// UnmarshalJSON implements json.Unmarshaler.
func (d *Decision) UnmarshalJSON(text []byte) error {
	var j decisionJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*d = Decision{
		Candidates: j.Candidates, Chosen: j.Chosen, Measured: j.Loss != nil,
		OutputSize: value(j.OutputSize), Loss: value(j.Loss), Relative: value(j.Relative),
	}
	return nil
}

// Margin is ln(L_ic / L_oc) by the objective, for the best arm of each axis:
// positive where OC is better. It is finite also where one of them has no
// loss at all. ok is false if it was not measured: no loss is known, or only
// one axis was tried.
func (d *Decision) Margin() (margin float64, ok bool) {
	best := [2]float64{math.Inf(1), math.Inf(1)}
	for _, c := range d.Candidates {
		if c.Measured {
			best[c.Arm.Axis] = min(best[c.Arm.Axis], c.Objective)
		}
	}
	oc, ic := best[quant.OC], best[quant.IC]
	switch {
	case math.IsInf(oc, 1) || math.IsInf(ic, 1):
		return 0, false
	case oc == ic:
		return 0, true
	}
	log := func(v float64) float64 { return math.Log(max(v, math.SmallestNonzeroFloat64)) }
	return log(ic) - log(oc), true
}

// Layer is what is to be quantized.
type Layer struct {
	Weight      *tensor.Matrix     // [out, in]; not modified
	Calibration *quant.Calibration // of the layer's input; nil if there is none
	// BlockLoss gives the squared error of the surrounding block's output if
	// the layer's weight is replaced by approx [out, in]. ObjectiveBlock needs
	// it; nil for the other objectives.
	BlockLoss func(ctx context.Context, approx *tensor.Matrix) (float64, error)
}

// Quantizer chooses among arms and runs a method in the one chosen. It is a
// quant.Quantizer itself; the scheme's own axis is ignored. The zero value
// is the paper's choice over round-to-nearest.
type Quantizer struct {
	Method    quant.Quantizer // nil means quant.RTN
	Arms      []Arm           // none means PaperArms; ties go to the earlier
	Objective Objective
	Search    Search
	// CountBits charges an arm for what it stores: as a bit more for every weight
	// lowers the squared error of a uniform grid to a quarter, one that stores b
	// more bits a weight is better only if its objective is 4^b times lower.
	CountBits bool
	Workers   int // goroutines; 0 means GOMAXPROCS
}

// withDefaults spells out what nil means.
func (q Quantizer) withDefaults() Quantizer {
	if q.Method == nil {
		q.Method = quant.RTN{Workers: q.Workers}
	}
	if len(q.Arms) == 0 {
		q.Arms = PaperArms()
	}
	return q
}

// Validate implements quant.Validator. Errors wrap ErrOptions or are the
// method's.
func (q Quantizer) Validate() error {
	q = q.withDefaults()
	for _, a := range q.Arms {
		if err := a.Validate(); err != nil {
			return err
		}
	}
	if err := objectives.Check(q.Objective); err != nil {
		return err
	}
	if err := searches.Check(q.Search); err != nil {
		return err
	}
	return quant.Validate(q.Method)
}

// NeedsCalibration implements quant.DataFree: nothing is needed for a single
// arm without scales if the method needs nothing.
func (q Quantizer) NeedsCalibration() bool {
	q = q.withDefaults()
	return len(q.Arms) > 1 || q.Arms[0].Scaled() || quant.NeedsCalibration(q.Method)
}

// NeedsPairs implements quant.Unpaired: it is what the method says.
func (q Quantizer) NeedsPairs() bool { return quant.NeedsPairs(q.withDefaults().Method) }

// parameters are what decides a Quantizer's result.
type parameters struct {
	Method    quant.Method `json:"method"`
	Arms      []Arm        `json:"arms"`
	Objective Objective    `json:"objective"`
	Search    Search       `json:"search"`
	CountBits bool         `json:"count_bits,omitempty"`
}

// MarshalJSON implements json.Marshaler: the method as quant.Parameters has
// it, arms, objective and search, with their defaults spelled out.
func (q Quantizer) MarshalJSON() ([]byte, error) {
	q = q.withDefaults()
	m, err := quant.Parameters(q.Method)
	if err != nil {
		return nil, err
	}
	return json.Marshal(parameters{m, q.Arms, q.Objective, q.Search, q.CountBits})
}

// Draft implements quant.Drafter: it is q over the draft of its method.
func (q Quantizer) Draft() quant.Quantizer {
	q = q.withDefaults()
	q.Method = quant.Draft(q.Method)
	return q
}

// WithWorkers implements quant.Parallel.
func (q Quantizer) WithWorkers(n int) quant.Quantizer {
	q.Workers = n
	if q.Method != nil {
		q.Method = quant.WithWorkers(q.Method, n)
	}
	return q
}

// Quantize implements quant.Quantizer. ObjectiveBlock needs Choose.
func (q Quantizer) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	out, _, err := q.Choose(ctx, Layer{Weight: w, Calibration: cal}, s)
	return out, err
}

// Choose quantizes a layer and returns the decision beside the weight.
// Without calibration data the first arm is taken. Errors wrap ErrOptions,
// ErrLoss or ErrOwnScales, or are the method's, the BlockLoss's or ctx's.
func (q Quantizer) Choose(ctx context.Context, l Layer, s quant.Scheme) (*quant.Weight, *Decision, error) {
	q = q.withDefaults()
	if err := q.Validate(); err != nil {
		return nil, nil, err
	}
	if q.Objective == ObjectiveBlock && l.BlockLoss == nil {
		return nil, nil, fmt.Errorf("%w: objective block needs the surrounding block", ErrOptions)
	}
	if len(q.Arms) == 1 {
		q.Search = SearchMethod // nothing to decide: spare the rounding
	}
	c := &choice{q: q, layer: l, scheme: s}
	cal := l.Calibration
	if cal == nil || cal.Tokens == 0 {
		out, err := c.run(ctx, problem{w: l.Weight, cal: cal}, q.Arms[0], q.Method)
		return out, &Decision{Candidates: []Candidate{{Arm: q.Arms[0]}}}, err
	}
	c.size = quant.RowLosses(l.Weight, nil, cal.H, q.Workers)
	return c.choose(ctx)
}

// choice is the work on one layer.
type choice struct {
	q      Quantizer
	layer  Layer
	scheme quant.Scheme
	size   []float64 // w_r H w_rᵀ
}

// near is how far behind the best a draft may be for the method to be run in its
// arm too.
const near = 1.05

// attempt is an arm that is tried.
type attempt struct {
	Candidate         // what is compared
	bits      float64 // a weight, if they count
	out       *quant.Weight
	finished  bool
	end       Candidate // the losses of out once it is finished
}

// price is the objective times what the bits are worth.
func (a *attempt) price() float64 { return a.Objective * math.Pow(4, a.bits) }

func (c *choice) choose(ctx context.Context) (*quant.Weight, *Decision, error) {
	d := &Decision{OutputSize: quant.Sum(c.size), Measured: true}
	tried := make([]attempt, len(c.q.Arms))
	for i, arm := range c.q.Arms {
		var err error
		if tried[i], err = c.try(ctx, arm); err != nil {
			return nil, nil, err
		}
	}
	d.Chosen = cheapest(tried)
	limit := tried[d.Chosen].price() * near
	for i := range tried {
		if i == d.Chosen || c.q.Search == SearchMethod && tried[i].price() <= limit {
			if err := c.finish(ctx, &tried[i]); err != nil {
				return nil, nil, err
			}
		}
	}
	d.Chosen = cheapest(tried)
	for _, a := range tried {
		d.Candidates = append(d.Candidates, a.Candidate)
	}
	chosen := &tried[d.Chosen]
	d.Loss, d.Relative = chosen.end.Loss, chosen.end.Relative
	return chosen.out, d, nil
}

// cheapest is the index of the attempt with the lowest price; of equal ones the
// first. Where some are finished it is one of these.
func cheapest(tried []attempt) int {
	least := 0
	for i := range tried {
		a, b := &tried[i], &tried[least]
		if a.finished && !b.finished || a.finished == b.finished && a.price() < b.price() {
			least = i
		}
	}
	return least
}

// try makes of an arm what is compared with other arms first.
func (c *choice) try(ctx context.Context, arm Arm) (attempt, error) {
	a, err := c.bestPower(ctx, arm)
	if err != nil || c.q.Search != SearchMethod {
		return a, err
	}
	method := quant.Draft(c.q.Method)
	if len(c.q.Arms) == 1 {
		method = c.q.Method
	}
	b, err := c.attempt(ctx, arm, a.Power, method)
	b.finished = len(c.q.Arms) == 1
	return b, err
}

// finish runs the method in the arm of an attempt.
func (c *choice) finish(ctx context.Context, a *attempt) error {
	if a.finished {
		a.end = a.Candidate
		return nil
	}
	a.finished = true
	p := a.Arm.scaled(c.layer.Weight, c.layer.Calibration, a.Power)
	if c.q.Search != SearchMethod {
		var err error
		if a.out, err = c.run(ctx, p, a.Arm, c.q.Method); err == nil {
			a.end, err = c.losses(ctx, a.out, a.Arm)
		}
		return err
	}
	out, err := p.finish(ctx, c.q.Method, c.schemeOf(a.Arm), a.out)
	if err == nil && out != a.out {
		*a, err = c.assess(ctx, out, a.Arm, a.Power)
		a.finished = true
	}
	a.end = a.Candidate
	return err
}

// attempt runs a method in an arm with a scale of the given exponent.
func (c *choice) attempt(ctx context.Context, arm Arm, power float64, method quant.Quantizer) (attempt, error) {
	out, err := c.run(ctx, arm.scaled(c.layer.Weight, c.layer.Calibration, power), arm, method)
	if err != nil {
		return attempt{}, err
	}
	return c.assess(ctx, out, arm, power)
}

// assess says what a weight is as an attempt.
func (c *choice) assess(ctx context.Context, out *quant.Weight, arm Arm, power float64) (attempt, error) {
	cand, err := c.judge(ctx, out, arm)
	cand.Power = power
	a := attempt{Candidate: cand, out: out}
	if c.q.CountBits {
		a.bits = float64(out.StorageBits()) / float64(out.Out) / float64(out.In)
	}
	return a, err
}

// bestPower finds the exponent of the arm's scale by round-to-nearest, and
// returns what that makes of it.
func (c *choice) bestPower(ctx context.Context, arm Arm) (attempt, error) {
	var best attempt
	powers := arm.powers()
	if len(powers) == 1 && c.q.Search == SearchMethod {
		return attempt{Candidate: Candidate{Arm: arm}}, nil
	}
	rtn := quant.RTN{Workers: c.q.Workers}
	for i, power := range powers {
		p := arm.scaled(c.layer.Weight, c.layer.Calibration, power)
		if power != 0 && p.row == nil && p.input == nil {
			continue
		}
		out, err := c.run(ctx, p, arm, rtn)
		if err != nil {
			return best, err
		}
		a, err := c.assess(ctx, out, arm, power)
		if err != nil {
			return best, err
		}
		a.out = nil
		if i == 0 || a.price() < best.price() {
			best = a
		}
	}
	return best, nil
}

// schemeOf is the scheme in an arm.
func (c *choice) schemeOf(arm Arm) quant.Scheme {
	s := c.scheme
	s.Axis = arm.Axis
	s.Strided = s.Strided && arm.Axis == quant.IC
	return s
}

func (c *choice) run(ctx context.Context, p problem, arm Arm, method quant.Quantizer) (*quant.Weight, error) {
	return p.quantize(ctx, method, c.schemeOf(arm))
}

// judge computes losses and objective of a quantized weight.
func (c *choice) judge(ctx context.Context, out *quant.Weight, arm Arm) (Candidate, error) {
	cand, err := c.losses(ctx, out, arm)
	if err != nil {
		return cand, err
	}
	cal := c.layer.Calibration
	switch o := c.q.Objective; {
	case o == ObjectiveLinear:
		cand.Objective = cand.Loss
	case o == ObjectiveRelative, o == ObjectiveCurvature && cal.Output == nil:
		cand.Objective = cand.Relative
	case o == ObjectiveCurvature:
		cand.Objective = quant.CurvedLoss(c.layer.Weight, out.Dequantize(), cal.H, cal.Output, c.q.Workers)
	case o == ObjectiveBlock:
		cand.Objective, err = c.layer.BlockLoss(ctx, out.Dequantize())
	}
	if err == nil && math.IsNaN(cand.Objective) {
		err = fmt.Errorf("arm %v: %w", arm, ErrLoss)
	}
	return cand, err
}

// losses computes the losses of a quantized weight. Its Objective is not set.
func (c *choice) losses(ctx context.Context, out *quant.Weight, arm Arm) (Candidate, error) {
	if err := ctx.Err(); err != nil {
		return Candidate{}, err
	}
	rows := quant.RowLossesOf(out, c.layer.Weight, c.layer.Calibration.H, c.q.Workers)
	return Candidate{Arm: arm, Measured: true, Loss: quant.Sum(rows), Relative: quant.RelativeLoss(rows, c.size)}, nil
}
