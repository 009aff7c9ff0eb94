package allocation

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/internal/blocks"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// dense is the candidate that loses nothing.
const dense = "dense"

// Candidate is a scheme that layers may get.
type Candidate struct {
	What string        // as the keys of a fitting.Rule
	Plan *fitting.Plan // of all layers in this scheme
}

// Measurer measures what candidates cost the layers that text goes through. It is the
// blocks.Layers of a run on the unquantized stream in which nothing is quantized: what
// options of one layer cost compares as the errors of its output, tr(E H Eᵀ). What layers
// cost beside each other is told by one option of each, the reference, whose error is
// multiplied with the gradients of the model's loss afterwards.
type Measurer struct {
	Candidates []Candidate
	Wants      func(name string) bool
	Method     quant.Quantizer // what layers are quantized with to measure
	With       func(name string) string
	Target     float64 // bits a weight: of each layer the option is the reference that is nearest
	Weight     func(name string) (*tensor.Matrix, error)
	Workers    int
	Measured   func(done int) // called after each layer; may be nil

	layers []Layer
	at     map[string]int // by name, in layers
	refs   map[string]reference
}

// reference is an option of a layer, quantized.
type reference struct {
	q    *quant.Weight
	loss float64 // tr(E H Eᵀ)
	off  float64 // bits a weight from the target
	part float64 // of the tokens that it sees
}

// Layers are what was measured, in the order of the model.
func (m *Measurer) Layers() []Layer { return m.layers }

// Pending implements blocks.Layers.
func (m *Measurer) Pending(name string) bool {
	_, done := m.at[name]
	return m.Wants(name) && !done
}

// Quantize implements blocks.Layers: it measures.
func (m *Measurer) Quantize(ctx context.Context, t blocks.Task) (*quant.Weight, error) {
	if !m.Pending(t.Name) {
		return nil, nil
	}
	l := Layer{Name: t.Name, Weights: int64(t.Weight.Rows) * int64(t.Weight.Cols), With: m.With(t.Name)}
	for _, c := range m.Candidates {
		p := c.Plan.Layer(t.Name)
		if c.What == dense {
			l.Options = append(l.Options, Option{What: dense, Bits: 16 * l.Weights})
		}
		if p == nil || p.Dense {
			continue
		}
		o, err := m.option(ctx, p, t)
		if errors.Is(err, quant.ErrScaleRange) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", t.Name, c.What, err)
		}
		o.What = c.What
		l.Options = append(l.Options, o)
	}
	if len(l.Options) == 0 {
		return nil, fmt.Errorf("%s: none of the schemes fits it", t.Name)
	}
	if m.at == nil {
		m.at = map[string]int{}
	}
	m.at[t.Name] = len(m.layers)
	m.layers = append(m.layers, l)
	if m.Measured != nil {
		m.Measured(len(m.layers))
	}
	return nil, nil
}

// option measures a layer as it is planned.
func (m *Measurer) option(ctx context.Context, p *fitting.Layer, t blocks.Task) (Option, error) {
	cal, method := t.Calibration, m.Method
	if cal == nil || cal.Tokens == 0 { // an expert that the text does not reach
		cal, method = nil, quant.RTN{Workers: m.Workers}
	}
	q, err := method.Quantize(ctx, t.Weight, p.First().Scheme, cal)
	if err != nil {
		return Option{}, err
	}
	o := Option{Bits: q.StorageBits() + scales(p)}
	if cal == nil {
		return o, nil
	}
	o.Loss = quant.Sum(quant.RowLossesOf(q, t.Weight, cal.H, m.Workers))
	off := math.Abs(float64(o.Bits)/float64(t.Weight.Rows*t.Weight.Cols) - m.Target)
	if old, there := m.refs[t.Name]; o.Loss > 0 && (!there || off < old.off) {
		if m.refs == nil {
			m.refs = map[string]reference{}
		}
		m.refs[t.Name] = reference{q, o.Loss, off, float64(max(1, t.Routed))}
	}
	return o, nil
}

// errorOf is what a layer's weight is off by in the reference; nil if nothing.
func (m *Measurer) errorOf(name string) (*tensor.Matrix, error) {
	q := m.refs[name].q
	if q == nil {
		return nil, nil
	}
	w, err := m.Weight(name)
	if err != nil {
		return nil, err
	}
	e := q.Dequantize()
	for i, v := range w.Data {
		e.Data[i] -= v
	}
	return e, nil
}

// share is how much of what experts cost together is that of one: its error at all tokens
// that are routed to it.
func (m *Measurer) share(name string) float64 { return m.refs[name].loss * m.refs[name].part }

// weigh is told what the errors of the references cost the model, in nats a token.
func (m *Measurer) weigh(costs map[string]float64) {
	for i := range m.layers {
		l := &m.layers[i]
		ref := m.refs[l.Name]
		for k := range l.Options {
			if ref.q != nil {
				l.Options[k].Loss *= costs[l.Name] / ref.loss
			}
		}
	}
}

// scales is what the arm with the most scales stores of them.
func scales(p *fitting.Layer) (most int64) {
	for _, a := range p.Arms {
		most = max(most, scaleBits(a, p.Out, p.In))
	}
	return most
}

func scaleBits(a adadim.Arm, out, in int) (n int64) {
	if a.RowScale {
		n += 16 * int64(out)
	}
	if a.InputScale {
		n += 16 * int64(in)
	}
	return n
}

// Settle implements blocks.Layers.
func (m *Measurer) Settle(string) error { return nil }

// Correct implements blocks.Layers; without a quantized stream there is nothing to it.
func (m *Measurer) Correct(weights []*tensor.Matrix, c *quant.Collector, scale func(*quant.Calibration) *quant.Calibration) ([]*tensor.Matrix, *quant.Calibration, error) {
	return weights, scale(c.Calibration()), nil
}

// Folding implements blocks.Layers; nothing is folded.
func (m *Measurer) Folding(*program.Block) *fold.Search { return nil }

// Fold implements blocks.Layers.
func (m *Measurer) Fold(map[string][]float32, map[string]string) error { return nil }

// Note implements blocks.Layers.
func (m *Measurer) Note(string, []byte) error { return nil }

// Noted implements blocks.Layers.
func (m *Measurer) Noted(string) ([]byte, bool) { return nil, false }
