package layout

import (
	"fmt"

	"github.com/golowbit/lowbit/quant"
)

// What a format holds and what an engine loads are two questions. Format.Check
// answers the first; an Advisor answers the second, from a table of what was
// loaded in an engine, or read in its sources (docs/engines.md). Engines change;
// a note says which versions it rests on.

// Names of engines in notes. An Advisor may speak of others too.
const (
	EngineVLLM         = "vllm"
	EngineTransformers = "transformers"
	EngineGPTQModel    = "gptqmodel"
	EngineLlamaCPP     = "llama.cpp"
	EngineOllama       = "ollama"
	EngineMLX          = "mlx-lm"
)

// Note says whether an engine loads a checkpoint.
type Note struct {
	Engine   string `json:"engine"`
	Accepted bool   `json:"accepted"`
	// Versions are those of the engine that load it, "" if there is no limit.
	Versions string `json:"versions,omitempty"`
	// GPU is whether an engine that accepts runs it on a GPU only.
	GPU bool `json:"gpu,omitempty"`
	// Verified says in which versions this was tried, "" if it rests on the
	// engine's sources and documents only.
	Verified string `json:"verified,omitempty"`
	// Layer is the first layer that the engine refuses, or "" if the reason
	// is the format or the checkpoint as a whole; Layers is how many it refuses.
	Layer  string `json:"layer,omitempty"`
	Layers int    `json:"layers,omitempty"`
	// Reason says why not, or what an engine that accepts needs for it.
	Reason string `json:"reason,omitempty"`
}

// String is one line for people: "vllm does not load it: REASON (LAYER)".
func (n Note) String() string {
	verb := "does not load it"
	if n.Accepted {
		verb = "loads it"
	}
	s := n.Name() + " " + verb
	if n.Reason != "" {
		s += ": " + n.Reason
	}
	switch {
	case n.Layers == 1:
		s += fmt.Sprintf(" (%s)", n.Layer)
	case n.Layers > 1:
		s += fmt.Sprintf(" (%s and %d more)", n.Layer, n.Layers-1)
	}
	return s
}

// Name is the engine with its versions, if not all of them load the checkpoint.
func (n Note) Name() string {
	if n.Versions == "" {
		return n.Engine
	}
	return n.Engine + " " + n.Versions
}

// Evidence says what the note rests on: "verified: VERSIONS" or "by its documents".
func (n Note) Evidence() string {
	if n.Verified == "" {
		return "by its documents"
	}
	return "verified: " + n.Verified
}

// EngineRule answers for one layer: whether the engine takes it, and why not
// or what it needs.
type EngineRule func(l Layer) (accepted bool, reason string)

// Refuse is the answer of a rule that does not take a layer.
func Refuse(format string, args ...any) (accepted bool, reason string) {
	return false, fmt.Sprintf(format, args...)
}

// Always is the rule of an engine to which the layer does not matter.
func Always(accepted bool, reason string) EngineRule {
	return func(Layer) (bool, string) { return accepted, reason }
}

// Judge is the note of an engine that takes what its rule takes of every
// layer. Without layers it judges symmetric 4 bits in groups of 128.
func Judge(engine string, layers []Layer, rule EngineRule) Note {
	n := Note{Engine: engine, Accepted: true}
	quantized := 0
	if len(layers) == 0 {
		n.Accepted, n.Reason = rule(Layer{Out: 1024, In: 1024, Scheme: quant.Scheme{Bits: 4, GroupSize: 128, Symmetric: true}})
	}
	for _, l := range layers {
		if l.Dense {
			continue
		}
		quantized++
		ok, reason := rule(l)
		switch {
		case !ok && n.Accepted:
			n.Accepted, n.Reason, n.Layer, n.Layers = false, reason, l.Name, 1
		case !ok:
			n.Layers++
		case n.Accepted && n.Reason == "":
			n.Reason = reason
		}
	}
	if n.Layers == quantized && n.Layers > 1 {
		n.Layer, n.Layers = "", 0
	}
	return n
}
