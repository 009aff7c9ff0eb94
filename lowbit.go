// Package lowbit quantizes large language models to 2–8 bits on a CPU: a
// Hugging Face folder in, a folder of packed weights out.
//
// Quantize goes through a model block by block: it observes the inputs of
// every linear layer on calibration text, lets a quantization method put the
// layer's weights on a low-bit grid, writes them, and goes on. By default
// the method is GPTQ and AdaDim chooses for every layer whether groups lie
// inside output or input channels. Methods are plugged in: whatever
// implements quant.Quantizer can be run over a whole model, alone or under
// AdaDim.
//
// Evaluate measures perplexity, and the divergence from another model.
package lowbit

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
)

// ErrOptions is wrapped by errors about options that make no sense.
var ErrOptions = errors.New("invalid options")

// Inputs says what a block sees while it is calibrated.
type Inputs uint8

const (
	// InputsFull shows every block what it sees in the unquantized model.
	InputsFull Inputs = iota
	// InputsQuantized shows a block what the quantized layers before it make
	// of the text, layer group by layer group.
	InputsQuantized
)

func (i Inputs) String() string {
	if i == InputsQuantized {
		return "quantized"
	}
	return "fp"
}

// ParseInputs reads "fp" or "quantized".
func ParseInputs(s string) (Inputs, error) {
	switch s {
	case "fp":
		return InputsFull, nil
	case "quantized":
		return InputsQuantized, nil
	}
	return 0, fmt.Errorf("inputs %q: want fp or quantized", s)
}

// Text is what a model is calibrated or measured on.
type Text struct {
	Files []string // UTF-8 text files, one after another
	// PerDocument encodes every document (the text between blank lines) by
	// itself, after a beginning-of-sequence token if the model has one.
	// Otherwise the whole text is encoded in one go, without that token.
	PerDocument bool
}

// Calibration is the text that layers are observed on. It is cut into
// windows of SeqLen tokens, of which Samples are used, evenly spread.
type Calibration struct {
	Text
	Samples int // 0 means 128; fewer are used if the text has fewer
	SeqLen  int // tokens; 0 means 2048 or the model's context, if shorter
}

// Options describe a quantization. Model, Output and Scheme must be given;
// everything else has a usable zero value.
type Options struct {
	Model  string // folder of the model to quantize
	Output string // folder (or file, as the format has it) to make; must not exist
	Format string // a checkpoint format; "" means "lowbit"

	// Scheme is the grid. Its axis is that of the arm.
	Scheme quant.Scheme
	// Method quantizes each layer; nil means gptq.Quantizer{Workers: Workers}.
	Method quant.Quantizer
	// Arms are what AdaDim chooses from, layer by layer; nil means both axes.
	// With one arm nothing is searched.
	Arms      []adadim.Arm
	Objective adadim.Objective
	Search    adadim.Search

	Calibration Calibration
	Inputs      Inputs
	// Correction moves the target of each layer to make up for what the
	// layers before it have lost (after GPTAQ, arXiv 2504.02692; see
	// gptq.Correct), with this strength: 1 goes as far as the calibration text
	// bears out, 0 is none. Needs InputsQuantized.
	Correction float64
	// Fold moves scales of arms into the norm or the linear before, so that
	// nothing but plain groups needs to be stored and the format's engines
	// run the result as it is. Input scales of q, k, v and of gate, up go into
	// the norms, those of o into v, those of down into up; row scales of v and
	// up are the same thing seen from the other side. The scale of an input
	// is chosen once for all layers that read it, before they are quantized,
	// among no scale and the powers that the arms try; then the layers choose
	// among the arms that are left. Row scales of other layers are stored.
	//
	// FoldAuto, the zero value, folds only scales that the format cannot
	// store; FoldOn folds wherever it is possible, FoldOff nowhere. Without
	// arms that have scales none does anything. A layer that stays dense keeps
	// the scales of its input from being folded.
	Fold Fold

	// Skip leaves layers whose name matches any of these dense.
	Skip []*regexp.Regexp
	// Fit changes what the format cannot hold to what it can, layer by layer,
	// instead of refusing: another arm, a smaller group, or dense.
	Fit bool
	// FitArms only leaves out arms that the format cannot hold, as long as
	// one is left.
	FitArms bool

	// BF16 runs the calibration text through a bfloat16 model with activations
	// rounded to bfloat16 for the products of linear layers, whose sums stay
	// in float32: faster on CPUs with AVX512_BF16, without effect on others
	// and on other models.
	BF16 bool

	Workers int  // goroutines; 0 means GOMAXPROCS
	Resume  bool // go on with what an interrupted run left behind

	// Events, if not nil, is told of progress, from one goroutine at a time.
	Events func(Event)
}

// Validate reports what is wrong with o, without looking at any file.
func (o *Options) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrOptions, fmt.Sprintf(format, args...))
	}
	if o.Model == "" {
		return bad("no model given")
	}
	if o.Output == "" {
		return bad("no output given")
	}
	if err := o.Scheme.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrOptions, err)
	}
	if o.Calibration.Samples < 0 || o.Calibration.SeqLen < 0 {
		return bad("calibration of %d samples of %d tokens", o.Calibration.Samples, o.Calibration.SeqLen)
	}
	if !(o.Correction >= 0 && o.Correction <= 1) {
		return bad("correction %g, want 0 to 1", o.Correction)
	}
	if o.Correction > 0 && o.Inputs != InputsQuantized {
		return bad("correction needs quantized inputs")
	}
	if o.Fold > FoldOn {
		return bad("%v", o.Fold)
	}
	for _, r := range o.Skip {
		if r == nil {
			return bad("a nil pattern to skip")
		}
	}
	return nil
}

func (o *Options) method() quant.Quantizer {
	if o.Method == nil {
		return gptq.Quantizer{Workers: o.Workers}
	}
	return o.Method
}

func (o *Options) arms() []adadim.Arm {
	if o.Arms == nil {
		return adadim.PaperArms()
	}
	return o.Arms
}

func (o *Options) format() (layout.Format, error) {
	if o.Format == "" {
		return native.Format{}, nil
	}
	return checkpoint.Lookup(o.Format)
}

// EventKind says what an Event reports.
type EventKind string

// The kinds of event.
const (
	EventPlan     EventKind = "plan"     // the work is known: Blocks and Layers are set
	EventBlock    EventKind = "block"    // a block is being observed
	EventLayer    EventKind = "layer"    // a layer is quantized and kept: Layer is set
	EventProgress EventKind = "progress" // Done of Total in the phase named by Message
	EventWarning  EventKind = "warning"  // Message says what
	EventWrite    EventKind = "write"    // the output is being put together
)

// Event is one step of progress.
type Event struct {
	Kind    EventKind    `json:"kind"`
	Block   int          `json:"block,omitempty"`
	Blocks  int          `json:"blocks,omitempty"`
	Done    int          `json:"done,omitempty"`
	Total   int          `json:"total,omitempty"`
	Layer   *LayerReport `json:"layer,omitempty"`
	Message string       `json:"message,omitempty"`
}

// LayerReport says what became of one layer.
type LayerReport struct {
	Name     string           `json:"name"`
	Out      int              `json:"out"`
	In       int              `json:"in"`
	Dense    bool             `json:"dense,omitempty"` // left as it was
	Arm      string           `json:"arm,omitempty"`
	Scheme   quant.Scheme     `json:"scheme"`
	Loss     float64          `json:"loss"`             // tr(E H Eᵀ) / tr(W H Wᵀ)
	Relative float64          `json:"relative"`         // mean over rows of the same
	Margin   float64          `json:"margin"`           // ln(L_ic/L_oc) by the objective
	Seconds  float64          `json:"seconds"`          // time to quantize it
	Bits     float64          `json:"bits"`             // bits per weight, all scales included
	Folded   string           `json:"folded,omitempty"` // the scale of its input that was folded, and where
	Notes    []string         `json:"notes,omitempty"`
	Decision *adadim.Decision `json:"decision,omitempty"`
}

// Report is the outcome of Quantize.
type Report struct {
	Output        string        `json:"output"`
	Format        string        `json:"format"`
	Layers        []LayerReport `json:"layers"`
	BytesBefore   int64         `json:"bytes_before"`    // all tensors of the source
	BytesAfter    int64         `json:"bytes_after"`     // all tensors of the output
	BitsPerWeight float64       `json:"bits_per_weight"` // over the quantized layers
	Tokens        int           `json:"calibration_tokens"`
	Seconds       float64       `json:"seconds"`
}
