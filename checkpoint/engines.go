package checkpoint

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/formats/autoawq"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/compressed"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/internal/engines"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// EngineNames lists the engines in the order in which notes are given.
func EngineNames() []string {
	return []string{layout.EngineVLLM, layout.EngineTransformers, layout.EngineGPTQModel, layout.EngineLlamaCPP, layout.EngineOllama, layout.EngineMLX}
}

// Engines says which engines load a checkpoint with these layers in the
// format: what the format's Advisor says, in the order of EngineNames. The
// layers are taken to have passed the format's Check.
func Engines(f layout.Format, layers []layout.Layer) []layout.Note {
	var said []layout.Note
	if a, ok := f.(layout.Advisor); ok {
		said = a.Engines(layers)
	}
	var notes []layout.Note
	for _, engine := range EngineNames() {
		n := layout.Note{Engine: engine, Reason: "not checked with this format"}
		if engine == layout.EngineLlamaCPP || engine == layout.EngineOllama {
			n.Reason = "reads GGUF files"
		}
		if i := slices.IndexFunc(said, func(n layout.Note) bool { return n.Engine == engine }); i >= 0 {
			n = said[i]
		}
		notes = append(notes, n)
	}
	for _, n := range said {
		if !slices.Contains(EngineNames(), n.Engine) {
			notes = append(notes, n)
		}
	}
	return notes
}

// EnginesFor is Engines for a model with this config.json, whose architecture an
// engine may not take.
func EnginesFor(f layout.Format, config json.RawMessage, layers []layout.Layer) []layout.Note {
	return engines.ForModel(f.Name(), engines.TypeOf(config), layers, Engines(f, layers))
}

// routers are linears that choose experts: no engine wants them quantized.
var routers = []string{"gate", "router", "shared_expert_gate"}

// Engines says which engines load the model, by its quantized layers and the
// linears of its blocks that are dense.
func (m *Model) Engines() []layout.Note {
	layers := m.Layers()
	for _, s := range m.Dense() {
		name, weight := strings.CutSuffix(s.Name, layout.WeightSuffix)
		inside, ok := layout.InBlock(name)
		last := inside[strings.LastIndexByte(inside, '.')+1:]
		if !weight || !ok || len(s.Shape) != 2 || layout.IsEmbedding(last) || slices.Contains(routers, last) {
			continue
		}
		layers = append(layers, layout.Layer{Name: name, Out: s.Shape[0], In: s.Shape[1], DType: s.DType, Dense: true})
	}
	f := m.format
	if g, ok := f.(autogptq.Format); ok && g.Version == 0 {
		g.Version = 1 // what is found as such is of version 1, asymmetric or not
		f = g
	}
	return EnginesFor(f, m.config, layers)
}

// Target is the format and scheme that an engine runs at full speed.
type Target struct {
	Format string
	Scheme quant.Scheme
}

// TargetFor returns what to make for an engine where nothing else is asked:
// symmetric 4 bits, in groups of 128 for the GPU engines (Marlin), of 32 for
// those that read GGUF (Q4_0); for mlx-lm 4 bits with biases in groups of 64.
func TargetFor(engine string) (Target, error) {
	all, err := TargetsFor(engine)
	if err != nil {
		return Target{}, err
	}
	return all[0], nil
}

// TargetsFor lists what to make for an engine, the best first. Later ones serve
// where bits, group size or grid are given and the first does not hold them.
func TargetsFor(engine string) ([]Target, error) {
	s := quant.Scheme{Bits: 4, GroupSize: 128, Symmetric: true}
	small, free := s, s
	small.GroupSize, free.GroupSize, free.Symmetric = 32, 64, false
	ct, gptq := Target{compressed.Format{}.Name(), s}, Target{autogptq.Format{}.Name(), s}
	awq := Target{autoawq.Format{}.Name(), s}
	switch engine {
	case layout.EngineVLLM:
		return []Target{ct, gptq, awq}, nil
	case layout.EngineTransformers:
		return []Target{ct, gptq, awq}, nil
	case layout.EngineGPTQModel:
		return []Target{gptq, awq}, nil
	case layout.EngineLlamaCPP, layout.EngineOllama:
		return []Target{{"gguf", small}}, nil
	case layout.EngineMLX:
		return []Target{{mlx.Format{}.Name(), free}, {awq.Format, free}}, nil
	}
	return nil, fmt.Errorf("unknown engine %q: want one of %v", engine, EngineNames())
}
