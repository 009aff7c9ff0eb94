package lowbit

import (
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/picture"
	"github.com/golowbit/lowbit/quant"
)

// EventKind says what an Event reports.
type EventKind string

// The kinds of event.
const (
	EventPlan     EventKind = "plan"     // the work is known: Plan, Blocks, Total and Kept are set
	EventBlock    EventKind = "block"    // a block is being observed: Block of Blocks
	EventLayer    EventKind = "layer"    // a layer is done: Layer, Done, Total and Kept are set
	EventProgress EventKind = "progress" // Done of Total in the phase named by Message
	EventWarning  EventKind = "warning"  // Message says what, of the layer Name if that is set
	EventWrite    EventKind = "write"    // the output is being put together: Done of Total bytes
	EventWait     EventKind = "wait"     // another part is waited for: Message says for what
	EventTune     EventKind = "tune"     // what tuning has reached was measured: Done of Total steps, KL
)

// Event is one step of progress. Fields that its kind does not name are zero.
type Event struct {
	Kind    EventKind    `json:"kind"`
	Block   int          `json:"block,omitempty"`  // from 0
	Blocks  int          `json:"blocks,omitempty"` // of the model
	Done    int          `json:"done,omitempty"`
	Total   int          `json:"total,omitempty"`
	Kept    int          `json:"kept,omitempty"` // layers that Resume would find if the run ended here
	Name    string       `json:"name,omitempty"`
	Layer   *LayerReport `json:"layer,omitempty"`
	Plan    *Plan        `json:"plan,omitempty"`
	Message string       `json:"message,omitempty"`
	KL      float64      `json:"kl,omitempty"` // nats a token, see Tuned
}

// LayerReport says what became of one layer. What was not measured, or does
// not apply, is nil or zero and absent from JSON.
type LayerReport struct {
	Name     string           `json:"name"`
	Out      int              `json:"out"`
	In       int              `json:"in"`
	Dense    bool             `json:"dense,omitempty"` // left as it was
	Arm      string           `json:"arm,omitempty"`
	Scheme   quant.Scheme     `json:"scheme,omitzero"`
	Loss     *float64         `json:"loss,omitempty"`     // tr(E H Eᵀ) / tr(W H Wᵀ)
	Relative *float64         `json:"relative,omitempty"` // mean over rows of the same
	Margin   *float64         `json:"margin,omitempty"`   // ln(L_ic/L_oc) by the objective, where both axes were tried
	Tokens   *int             `json:"tokens,omitempty"`   // of the text that were routed to the expert that it is of
	Seconds  float64          `json:"seconds,omitzero"`   // time to quantize it
	Bits     float64          `json:"bits,omitzero"`      // bits per weight, all scales included
	Folded   string           `json:"folded,omitempty"`   // the scale of its input that was folded, and where
	Notes    []string         `json:"notes,omitempty"`
	Decision *adadim.Decision `json:"decision,omitempty"`
	Channels *Channels        `json:"channels,omitempty"` // with Options.Channels
}

// measured sets what AdaDim's decision says.
func (r *LayerReport) measured(d *adadim.Decision) {
	r.Arm = d.Candidates[d.Chosen].Arm.String()
	if !d.Measured {
		return
	}
	relative := d.Relative
	r.Decision, r.Relative = d, &relative
	if d.OutputSize > 0 {
		loss := d.Loss / d.OutputSize
		r.Loss = &loss
	}
	if margin, ok := d.Margin(); ok {
		r.Margin = &margin
	}
}

type (
	// Phase is a part of a run; docs/progress.md has their names.
	Phase = phases.Phase
	// Channels is what the channels of a layer are like; see docs/report.md.
	Channels = picture.Channels
)

// Report is the outcome of Quantize.
type Report struct {
	Output        string        `json:"output"`
	Format        string        `json:"format"`
	Settings      []Setting     `json:"settings"`
	Notes         []string      `json:"notes,omitempty"` // what holds for the model as a whole
	Layers        []LayerReport `json:"layers"`
	Engines       []layout.Note `json:"engines"`         // which engines load the output
	BytesBefore   int64         `json:"bytes_before"`    // the source's files of weights
	BytesAfter    int64         `json:"bytes_after"`     // the output's
	BitsPerWeight float64       `json:"bits_per_weight"` // over the quantized layers
	Tokens        int           `json:"calibration_tokens,omitzero"`
	Seconds       float64       `json:"seconds"`              // without those of Evaluation
	Phases        []Phase       `json:"phases"`               // what the time went to
	PeakMemory    int64         `json:"peak_memory,omitzero"` // the most bytes that the process has had so far, where that is known
	Tuned         *Tuned        `json:"tuned,omitempty"`
	// Allocation is what Options.Budget led to.
	Allocation *Allocation `json:"allocation,omitempty"`
	// Part is what became of Options.Part.
	Part *Parted `json:"part,omitempty"`
	// Evaluation is the outcome of Options.Evaluation, against the source.
	Evaluation *Evaluation `json:"evaluation,omitempty"`
}
