package lowbit

import (
	"errors"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/quant"
)

// Layers that are no tensors of their own, and layers that no decoder knows.

// withoutDecoder goes on without a decoder, where the method is rounding to
// nearest, or returns why that is not possible. refused is why there is none.
func (j *job) withoutDecoder(o Options, refused error) error {
	var u *arch.UnknownError
	if !errors.As(refused, &u) && len(o.Include) == 0 {
		return refused // the architecture is known, the files are not of it
	}
	if _, ok := j.set.method.(quant.RTN); !ok {
		return fmt.Errorf("%w; method rtn quantizes it without: layers are found by name and shape", refused)
	}
	j.refuse = refused
	const from = "architecture unknown"
	j.set.told = append(j.set.told, Setting{Name: "layers", Value: "by name and shape", From: from})
	if len(o.Arms) == 0 && o.Axis == AxisDefault && len(j.set.arms) > 1 {
		j.set.arms = j.set.arms[:1]
		j.set.told.Again("arms", j.set.arms, from+": nothing to choose by")
	}
	return nil
}

// checkTextless refuses what only calibration could do where layers are found
// by name and shape. needed says that the settings need text.
func (j *job) checkTextless(needed bool) error {
	switch {
	case !needed && !j.texted:
		return nil
	case j.model == nil:
		return fmt.Errorf("%w: without a decoder there is no calibration, only method rtn in one arm without scales beside the groups: %w", ErrOptions, j.refuse)
	case len(j.set.include) > 0:
		return badOptions("include is for method rtn without calibration text: other layers than the decoder's are not seen by it")
	}
	return nil
}

// notes say what holds for the model as a whole.
func (j *job) notes() []string {
	if j.model != nil {
		return append(j.src.Notes(), j.fitted...)
	}
	note := fmt.Sprintf("architecture unknown: %d linears by name and shape", len(j.plan.Quantized()))
	if !errors.Is(j.refuse, decoder.ErrUnsupported) {
		note += fmt.Sprintf(" (%v)", j.refuse)
	}
	return append(append([]string{note}, j.src.Notes()...), j.fitted...)
}

// blockCount is how many blocks there are, as far as that is known.
func (j *job) blockCount() int {
	if j.model == nil {
		return 0
	}
	return j.model.Layers
}

// planByShape plans what is found by name and shape: everything, or beside the
// linears of the decoder what is included.
func (j *job) planByShape() {
	var all []fitting.Shaped
	all, j.unused = fitting.Shapes(j.src, j.model, j.set.include)
	for _, s := range all {
		if s.Why != "" {
			j.plan.AddOther(s.Layer, s.Why)
		} else if j.plan.Add(s.Layer) && s.Part != nil {
			j.places[s.Name] = *s.Part
		}
	}
}

// splitLayers shows the source with layers as tensors of their own: all of a
// stored tensor of which one is quantized.
func (j *job) splitLayers() (err error) {
	touched := map[string]bool{}
	for _, l := range j.plan.Layers {
		if !l.Dense {
			touched[j.places[l.Name].Weight] = true
		}
	}
	j.parts = nil
	for _, l := range j.plan.Layers {
		if part, ok := j.places[l.Name]; ok && touched[part.Weight] {
			j.parts = append(j.parts, part)
		}
	}
	j.layers, err = j.src.Split(j.parts)
	return err
}

// engines says which engines load the output with these linears. The
// formats judge by scheme and shape; engines look for the tensors that the
// architecture stores, and format dense alone has those.
func (j *job) engines(layers []layout.Layer) []layout.Note {
	layers = slices.DeleteFunc(slices.Clone(layers), func(l layout.Layer) bool { return j.plan.Layer(l.Name).Other })
	notes := checkpoint.EnginesFor(j.set.format, j.src.Config(), layers)
	_, whole := j.set.format.(dense.Format)
	for i := range notes {
		n := &notes[i]
		if !n.Accepted {
			continue
		}
		if j.model == nil && n.Reason == "" {
			n.Reason = "if it knows the architecture"
		}
		if whole {
			continue
		}
		for _, l := range layers {
			if p, ok := j.places[l.Name]; ok && !l.Dense && p.Weight != l.Name+layout.WeightSuffix {
				*n = layout.Note{Engine: n.Engine, Reason: fmt.Sprintf("%s is part of tensor %q, and quantized under a name of its own", l.Name, p.Weight)}
				break
			}
		}
	}
	return notes
}
