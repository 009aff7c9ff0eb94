package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit"
)

// remedies are what can be done about warnings of a run, by a part of their text.
var remedies = []struct{ part, what string }{
	{"no token of the text", "Give more calibration text, or text of other kinds (--calib, --samples); --route-all shows every expert all of it."},
	{"no calibration data", "Give more calibration text (--calib, --samples)."},
	{"out of range", "A format with other scales (--scale-dtype f32, or another --format) may hold it; left as it is it loses nothing and takes more room."},
	{"activations reach", "Use what the warning names: half floats would overflow."},
	{"group size", "A --group-size that divides the inputs of all layers, or another --format, keeps them alike."},
	{"damping raised", "More calibration text (--calib, --samples) makes this unnecessary; a few such layers are no reason to worry."},
}

// warnings are those of the run, with what can be done.
func warnings(t *Told) []Warning {
	var all []Warning
	for _, text := range t.order {
		w := Warning{Message: text, Layers: t.layers[text]}
		for _, r := range remedies {
			if strings.Contains(text, r.part) {
				w.Advice = r.what
				break
			}
		}
		all = append(all, w)
	}
	return all
}

const (
	fewTokens = 6    // an input, below which more would help (docs/loss.md)
	fewRouted = 1    // an input, to an expert
	large     = 0.05 // of a layer's output, as squared error: what stands out at 4 bits and more
	apart     = 4    // times the median loss
	far       = 0.1  // nats a token: a divergence that people notice
)

// advice is what the figures suggest.
func advice(r *lowbit.Report) []Warning {
	var all []Warning
	add := func(w Warning, ok bool) {
		if ok {
			all = append(all, w)
		}
	}
	add(adviseText(r))
	add(adviseRouted(r))
	add(adviseLosses(r))
	if e := r.Evaluation; e != nil && e.KL != nil && *e.KL > far {
		all = append(all, Warning{
			Message: fmt.Sprintf("The predictions are %.3f nats a token from the source's: this is likely to be noticed.", *e.KL),
			Advice:  "More bits (--bits), smaller groups (--group-size 64 or 32), --preset best where it was not taken, or bits where they pay (--target-bits).",
		})
	}
	return all
}

// adviseText looks whether layers have seen enough.
func adviseText(r *lowbit.Report) (Warning, bool) {
	widest := 0
	for _, l := range r.Layers {
		if !l.Dense && l.Tokens == nil {
			widest = max(widest, l.In)
		}
	}
	return Warning{
		Message: fmt.Sprintf("%d tokens of calibration text are few for layers of %d inputs.", r.Tokens, widest),
		Advice:  fmt.Sprintf("%d or more would make a difference: a longer text (--calib) or more windows of it (--samples).", 8*widest),
	}, r.Tokens > 0 && r.Tokens < fewTokens*widest
}

// adviseRouted looks whether experts have.
func adviseRouted(r *lowbit.Report) (Warning, bool) {
	w := Warning{
		Message: "Fewer tokens were routed to these experts than they have inputs.",
		Advice:  "Give more calibration text, or text of other kinds (--calib, --samples).",
	}
	for _, l := range r.Layers {
		if !l.Dense && l.Tokens != nil && *l.Tokens < fewRouted*l.In {
			w.Layers = append(w.Layers, l.Name)
		}
	}
	return w, len(w.Layers) > 0
}

// adviseLosses names the layers that lose much, the most first.
func adviseLosses(r *lowbit.Report) (Warning, bool) {
	var measured []lowbit.LayerReport
	for _, l := range r.Layers {
		if l.Loss != nil && !l.Dense {
			measured = append(measured, l)
		}
	}
	if len(measured) == 0 {
		return Warning{}, false
	}
	slices.SortStableFunc(measured, func(a, b lowbit.LayerReport) int { return cmp.Compare(*b.Loss, *a.Loss) })
	median := *measured[len(measured)/2].Loss
	w := Warning{}
	for _, l := range measured {
		if *l.Loss > large && *l.Loss > apart*median {
			w.Layers = append(w.Layers, l.Name)
		}
	}
	if len(w.Layers) == 0 {
		return w, false
	}
	w.Message = fmt.Sprintf("These layers lose more than %.0f %% of their output, and %d times what the median layer does.", 100*large, apart)
	w.Advice = fmt.Sprintf("A rule gives them more bits: --rule '%s: bits=8'.", strings.ReplaceAll(w.Layers[0], ".", `\.`))
	return w, true
}
