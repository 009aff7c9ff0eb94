package lowbit

import (
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/enum"
)

// Preset is how hard a quantization tries: what is set where an option is
// not given. Its text is "default", "plain", "paper", "fast" or "best".
type Preset uint8

const (
	// PresetDefault is Best, or Plain where a method is given.
	PresetDefault Preset = iota
	// Plain is a method as it is, with AdaDim choosing between the two axes by
	// round-to-nearest and the raw error. No clip, no refinement. A method that
	// needs data sees what the quantized layers before make of it, as GPTQ does.
	Plain
	// Paper is AdaDim over GPTQ as published: both axes, raw error, search by
	// round-to-nearest, calibrated on full-precision inputs.
	Paper
	// Fast is GPTQ with clip: all arms, counted with their bits, relative
	// error, search by round-to-nearest.
	Fast
	// Best tries all arms with the method itself, counted with their bits, with clip
	// and refinement, judges errors by the curvature of the model's loss where gradients go
	// through the model, and calibrates on quantized inputs with corrected targets.
	Best
)

var presets = enum.New[Preset]("Preset", "preset", ErrOptions, "default", "plain", "paper", "fast", "best")

// String returns the preset's text.
func (p Preset) String() string { return presets.String(p) }

// MarshalText implements encoding.TextMarshaler.
func (p Preset) MarshalText() ([]byte, error) { return presets.Marshal(p) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Preset) UnmarshalText(text []byte) error { return presets.Unmarshal(p, text) }

// ParsePreset reads "default", "plain", "paper", "fast" or "best". Errors
// wrap ErrOptions.
func ParsePreset(s string) (Preset, error) { return presets.Parse(s) }

// Presets lists the presets in the order of their cost.
func Presets() []Preset { return []Preset{Plain, Paper, Fast, Best} }

// base is what a preset sets.
type base struct {
	arms            []adadim.Arm
	clip, clipInput bool
	objective       adadim.Objective
	search          adadim.Search
	inputs          Inputs
	correction      float64
	refine          gptq.Refine
	countBits       bool
	curvature       bool
	shrink          bool // statistics of few tokens
}

func (p Preset) base() base {
	switch p {
	case Fast:
		return base{
			arms: adadim.AllArms(), clip: true, clipInput: true,
			objective: adadim.ObjectiveRelative, search: adadim.SearchRTN, inputs: InputsFull, countBits: true, shrink: true,
		}
	case Best:
		return base{
			arms: adadim.AllArms(), clip: true, clipInput: true,
			objective: adadim.ObjectiveRelative, search: adadim.SearchMethod,
			inputs: InputsQuantized, correction: 1, refine: gptq.DefaultRefine(), countBits: true, curvature: true, shrink: true,
		}
	}
	b := base{
		arms:      adadim.PaperArms(),
		objective: adadim.ObjectiveLinear, search: adadim.SearchRTN, inputs: InputsFull,
	}
	if p == Plain {
		b.inputs = InputsQuantized
	}
	return b
}
