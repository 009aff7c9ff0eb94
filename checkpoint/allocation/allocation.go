// Package allocation gives each layer of a model its bits: of several schemes the one
// with which the model as a whole loses least, within a budget of bits.
//
// What a scheme costs in a layer is measured: the layer is quantized in it, on what it
// sees in the unquantized model, and the error judged by the curvature of the model's
// loss at the layer's output (quant.CurvedLoss), which is in nats a token for all layers
// alike. That errors of layers add up is an approximation.
package allocation

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// ErrBudget is wrapped where even the smallest schemes are beyond the budget.
var ErrBudget = errors.New("too few bits")

// Option is a way to quantize a layer.
type Option struct {
	What string  `json:"what"` // as the keys of a fitting.Rule
	Bits int64   `json:"bits"` // that are stored of the layer
	Loss float64 `json:"loss"` // nats a token, to second order
}

// Layer is a layer with what was measured of it.
type Layer struct {
	Name    string   `json:"name"`
	Weights int64    `json:"weights"`
	With    string   `json:"with,omitempty"` // layers of the same With are given the same scheme
	Options []Option `json:"options"`
}

// Point is a mixture: what it stores, and what it is expected to lose.
type Point struct {
	BitsPerWeight float64 `json:"bits_per_weight"`
	Loss          float64 `json:"loss"`
}

// Mixture is the choice of an option for every layer.
type Mixture struct {
	Choice []int // by layer
	Point
}

// unit is one or more layers that are given the same scheme.
type unit struct {
	layers  []int
	options []option // rising bits, falling loss: the convex hull
	at      int
}

type option struct {
	choice []int // of the layers
	bits   int64
	loss   float64
}

// Mix chooses the options with the least loss that store at most so many bits a weight
// of all layers. Frontier are the mixtures on the way, from the fewest bits to the most
// that pay. An error wraps ErrBudget.
//
// Along the convex hulls of all layers' options each step goes where a bit saves most
// (Everett, Operations Research 11, 1963): every mixture on the way is the best of its
// size. What is then left of the budget goes into the steps that still fit, and one scheme
// for all is taken where that is better.
func Mix(layers []Layer, bitsPerWeight float64) (*Mixture, []Point, error) {
	units, err := unite(layers)
	if err != nil {
		return nil, nil, err
	}
	var weights, bits int64
	var loss float64
	for _, l := range layers {
		weights += l.Weights
	}
	for i := range units {
		o := units[i].options[0]
		bits, loss = bits+o.bits, loss+o.loss
	}
	point := func() Point { return Point{float64(bits) / float64(weights), loss} }
	budget := int64(math.Floor(bitsPerWeight * float64(weights)))
	if bits > budget {
		return nil, nil, fmt.Errorf("%w: the smallest schemes take %.4g bits a weight, %.4g are allowed", ErrBudget, point().BitsPerWeight, bitsPerWeight)
	}
	frontier := []Point{point()}
	steps := hullSteps(units)
	for _, s := range steps {
		u := &units[s.unit]
		if u.at != s.from || bits+s.bits > budget {
			continue
		}
		u.at++
		bits, loss = bits+s.bits, loss-s.gain
	}
	best := &Mixture{Choice: chosen(units, len(layers)), Point: point()}
	for _, o := range layers[0].Options {
		if m := alike(layers, o.What, weights); m != nil && m.BitsPerWeight <= bitsPerWeight && m.Loss < best.Loss {
			best = m
		}
	}
	return best, append(frontier, along(units, steps, frontier[0], weights)...), nil
}

// alike gives all layers one scheme; nil if some do not have it.
func alike(layers []Layer, what string, weights int64) *Mixture {
	m := &Mixture{}
	var bits int64
	for _, l := range layers {
		at := slices.IndexFunc(l.Options, func(o Option) bool { return o.What == what })
		if at < 0 {
			return nil
		}
		m.Choice = append(m.Choice, at)
		bits += l.Options[at].Bits
		m.Loss += l.Options[at].Loss
	}
	m.BitsPerWeight = float64(bits) / float64(weights)
	return m
}

// step goes from an option of a unit to the next.
type step struct {
	unit, from int
	bits       int64
	gain       float64
}

// hullSteps are the steps of all units, those first that gain most for a bit.
func hullSteps(units []unit) []step {
	var steps []step
	for i, u := range units {
		for k := 1; k < len(u.options); k++ {
			a, b := u.options[k-1], u.options[k]
			steps = append(steps, step{i, k - 1, b.bits - a.bits, a.loss - b.loss})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		if c := cmp.Compare(b.gain*float64(a.bits), a.gain*float64(b.bits)); c != 0 {
			return c
		}
		return cmp.Compare(a.from, b.from)
	})
	return steps
}

// along are the mixtures after each step.
func along(units []unit, steps []step, p Point, weights int64) []Point {
	points := make([]Point, len(steps))
	for i, s := range steps {
		p.BitsPerWeight += float64(s.bits) / float64(weights)
		p.Loss -= s.gain
		points[i] = p
	}
	return points
}

// chosen is the choice of each layer.
func chosen(units []unit, n int) []int {
	choice := make([]int, n)
	for _, u := range units {
		for k, l := range u.layers {
			choice[l] = u.options[u.at].choice[k]
		}
	}
	return choice
}

// unite puts layers together that share a scheme, and finds the hulls.
func unite(layers []Layer) ([]unit, error) {
	var units []unit
	of := map[string]int{}
	for i, l := range layers {
		at, there := of[l.With]
		if l.With == "" || !there {
			at = len(units)
			units = append(units, unit{})
			of[l.With] = at
		}
		units[at].layers = append(units[at].layers, i)
	}
	for i := range units {
		u := &units[i]
		u.options = hull(u.common(layers))
		if len(u.options) == 0 {
			return nil, fmt.Errorf("layer %s: no scheme fits it, with those that need the same", layers[u.layers[0]].Name)
		}
	}
	return units, nil
}

// common are the options that all layers of the unit have.
func (u *unit) common(layers []Layer) []option {
	var all []option
	for i, first := range layers[u.layers[0]].Options {
		o := option{choice: []int{i}, bits: first.Bits, loss: first.Loss}
		for _, l := range u.layers[1:] {
			at := slices.IndexFunc(layers[l].Options, func(x Option) bool { return x.What == first.What })
			if at < 0 {
				break
			}
			o.choice = append(o.choice, at)
			o.bits += layers[l].Options[at].Bits
			o.loss += layers[l].Options[at].Loss
		}
		if len(o.choice) == len(u.layers) {
			all = append(all, o)
		}
	}
	return all
}

// hull leaves the options on the lower convex hull of loss over bits.
func hull(all []option) []option {
	slices.SortStableFunc(all, func(a, b option) int {
		return cmp.Or(cmp.Compare(a.bits, b.bits), cmp.Compare(a.loss, b.loss))
	})
	var h []option
	for _, o := range all {
		if len(h) > 0 && o.loss >= h[len(h)-1].loss {
			continue
		}
		for len(h) > 1 && slope(h[len(h)-2], h[len(h)-1]) >= slope(h[len(h)-1], o) {
			h = h[:len(h)-1]
		}
		h = append(h, o)
	}
	return h
}

// slope is what a bit gains, negative.
func slope(a, b option) float64 { return (b.loss - a.loss) / float64(b.bits-a.bits) }
