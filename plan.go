package lowbit

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
)

// Plan is what Quantize does with given options.
type Plan struct {
	Model    string      `json:"model"`
	Output   string      `json:"output"`
	Settings []Setting   `json:"settings"` // everything that was decided, and by whom
	Layers   []LayerPlan `json:"layers"`
	// Notes say what holds for the model as a whole.
	Notes []string `json:"notes,omitempty"`
	// Engines says which engines load the output, as far as that can be known.
	Engines []layout.Note `json:"engines"`
	// Memory is what the run will need, nil before the text is known.
	Memory *MemoryPlan `json:"memory,omitempty"`
	// Disk is what the run will take of the disk, where it was foreseen.
	Disk *DiskSpace `json:"disk,omitempty"`
	// Seconds is about how long it takes, where it was foreseen.
	Seconds float64 `json:"seconds,omitempty"`
	// NeedsText says that calibration text must be given.
	NeedsText bool `json:"needs_text"`
}

// LayerPlan is what will be done with one linear layer.
type LayerPlan struct {
	Name  string `json:"name"`
	Out   int    `json:"out"`
	In    int    `json:"in"`
	Dense bool   `json:"dense,omitempty"` // left as it is
	// Scheme is the grid. Its axis is that of the first of Arms; with one arm
	// it is certain.
	Scheme quant.Scheme `json:"scheme,omitzero"`
	Arms   []adadim.Arm `json:"arms,omitempty"`   // what is chosen from
	Folded bool         `json:"folded,omitempty"` // a scale of its input is chosen beforehand and folded
	Notes  []string     `json:"notes,omitempty"`  // why it is not as the settings say
}

// Resolve decides everything about a quantization that can be known from the
// options and the headers of the model, and says what it has decided. It fails
// where Quantize would before it reads any text.
func Resolve(o Options) (*Plan, error) {
	j, err := newJob(o)
	if err != nil {
		return nil, err
	}
	defer j.close()
	return j.explain(), nil
}

// explain puts the plan into words.
func (j *job) explain() *Plan {
	p := &Plan{
		Model: j.path, Output: j.output, Settings: j.settings(), Notes: j.notes(),
		Memory:  j.memory,
		Engines: j.engines(j.plan.Engines()), NeedsText: j.mustHaveText(),
	}
	for _, l := range j.plan.Layers {
		e := LayerPlan{Name: l.Name, Out: l.Out, In: l.In, Dense: l.Dense, Notes: slices.Clone(l.Notes)}
		if !l.Dense {
			e.Scheme, e.Arms, e.Folded = l.First().Scheme, slices.Clone(l.Arms), l.Folds
		}
		p.Layers = append(p.Layers, e)
	}
	return p
}

// settings lists all settings, those of the run last.
func (j *job) settings() []Setting { return slices.Concat(j.set.told, j.more) }

// rules are what layers are held to.
func (s *settings) fitting() *fitting.Rules {
	return &fitting.Rules{
		Format: s.format, Scheme: s.scheme, Method: s.method, Arms: s.arms, Drop: s.fit != FitOff, Shrink: s.fit == FitOn,
		Fold: map[Fold]fitting.Folding{FoldAuto: fitting.FoldUnstored, FoldOn: fitting.FoldAll}[s.fold],
		Skip: s.skip, Include: s.include, Change: s.rules, Given: s.given, TooLarge: s.tooLarge, Mix: s.mix,
	}
}

// planLayers plans every linear of the model, and fails where the format cannot
// hold it, alone or with the others, or the target does not load it.
func (j *job) planLayers() error {
	j.plan, j.places = j.set.fitting().NewPlan(), map[string]checkpoint.Part{}
	if j.model != nil {
		for _, b := range j.model.Blocks {
			j.planBlock(b)
		}
		j.plan.AddOuter(j.src, j.model.EmbeddingName(), j.model.HeadName(), j.model.Tied)
	}
	if j.model == nil || len(j.set.include) > 0 {
		j.planByShape()
	}
	if err := j.plan.CheckRules(); err != nil {
		return badOptions("%w", err)
	}
	if err := j.plan.Err(); err != nil {
		return err
	}
	if err := j.checkSkip(); err != nil {
		return err
	}
	if err := j.checkTarget(); err != nil {
		return err
	}
	return j.plan.CheckTogether()
}

// planBlock plans the linears of a block. The places that scales are folded into
// are its stages.
func (j *job) planBlock(b *program.Program) {
	linears := make([]fitting.Linear, len(b.Linears))
	columns := 0
	if j.texted && quant.KeepsColumns(j.set.method) {
		columns = 1 // or more
	}
	for i, l := range b.Linears {
		d, _ := j.src.DType(l.WeightName())
		if part, ok := fitting.PartOf(j.src, l); ok {
			j.places[l.Name] = part
			d, _ = j.src.DType(part.Weight)
		}
		linears[i] = fitting.Linear{
			Layer: layout.Layer{Name: l.Name, Out: l.Out, In: l.In, Bias: l.Bias, DType: d, Columns: columns},
			Input: -1, Rows: b.After(i),
		}
		if b.Stages[l.Stage].Fold != nil {
			linears[i].Input = l.Stage
		}
	}
	j.plan.AddBlock(len(b.Stages), linears)
}

// denseAnyway are linear maps that are never quantized: to skip them is no mistake.
var denseAnyway = []string{"lm_head", "model.embed_tokens"}

// checkSkip refuses expressions that match nothing, and Fit that leaves nothing.
func (j *job) checkSkip() error {
	layers := j.plan.Layers
	if len(layers) == 0 {
		return fmt.Errorf("%s: %w: no linear layer found by name and shape (include takes more)", j.path, fitting.ErrNothing)
	}
	if err := j.plan.CheckSkip(denseAnyway); err != nil {
		return badOptions("%w", err)
	}
	if j.unused != nil {
		return badOptions("nothing to include: no matrix is named like %q", j.unused)
	}
	if err := j.plan.CheckLeft(); err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	return nil
}

// checkTarget refuses what the target does not load.
func (j *job) checkTarget() error {
	if j.set.target == "" {
		return nil
	}
	for _, n := range j.engines(j.plan.Engines()) {
		if n.Engine == j.set.target && !n.Accepted {
			return fmt.Errorf("%w %v", ErrTarget, n)
		}
	}
	return nil
}
