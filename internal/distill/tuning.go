package distill

import (
	"github.com/golowbit/lowbit/internal/enum"
	"github.com/golowbit/lowbit/internal/faults"
	"github.com/golowbit/lowbit/internal/text"
)

// Tune says what is tuned once all layers are quantized: the quantized model as a whole
// learns to predict what the unquantized one does (distillation). A model with an
// operation that no gradient goes back through is refused. Its text is "off", "scales"
// or "codes".
type Tune uint8

const (
	// TuneOff leaves layers as the method has made them.
	TuneOff Tune = iota
	// TuneScales tunes group scales.
	TuneScales
	// TuneCodes tunes group scales, and codes by straight-through estimation; on grids
	// whose codes are not evenly spaced (IQ4) scales alone.
	TuneCodes
)

var tunes = enum.New[Tune]("Tune", "tuning", faults.ErrOptions, "off", "scales", "codes")

// String returns the text of t.
func (t Tune) String() string { return tunes.String(t) }

// MarshalText implements encoding.TextMarshaler.
func (t Tune) MarshalText() ([]byte, error) { return tunes.Marshal(t) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Tune) UnmarshalText(text []byte) error { return tunes.Unmarshal(t, text) }

// ParseTune reads "off", "scales" or "codes". Errors wrap ErrOptions.
func ParseTune(s string) (Tune, error) { return tunes.Parse(s) }

// Tuning is how a quantized model is tuned.
type Tuning struct {
	What  Tune
	Steps int // of about 2048 tokens; 0 means 100 for scales and 200 for codes
	// Tokens is how many of the calibration text are used, evenly spread; 0 means all,
	// also those that layers are not calibrated on. Every eighth window is held out.
	Tokens int
}

// Validate reports what makes no sense. Errors wrap faults.ErrOptions.
func (t Tuning) Validate() error {
	if err := tunes.Check(t.What); err != nil {
		return err
	}
	if t.Steps < 0 || t.Tokens < 0 {
		return faults.Options("tuning of %d steps on %d tokens, want none negative", t.Steps, t.Tokens)
	}
	if t.What == TuneOff && t != (Tuning{}) {
		return faults.Options("steps or tokens of a tuning, and nothing is tuned")
	}
	return nil
}

// Tuned is the outcome of a Tuning.
type Tuned struct {
	What  Tune `json:"what"`
	Steps int  `json:"steps"`
	Best  int  `json:"best"` // the step whose weights were taken; 0 if none was better
	// KL is the mean divergence from the unquantized model's predictions on the windows
	// held out, in nats a token, before and after.
	Before float64 `json:"kl_before"`
	After  float64 `json:"kl_after"`
}

// Windows are those of a text that are tuned on.
func (t Tuning) Windows(all [][]int32, seqLen int) ([][]int32, error) {
	if t.What == TuneOff {
		return nil, nil
	}
	n := len(all)
	if t.Tokens > 0 {
		n = min(n, (t.Tokens+seqLen-1)/seqLen)
	}
	if n < HeldOut {
		return nil, faults.Options("tuning on %d windows of %d tokens, want at least %d, of which one is held out", n, seqLen, HeldOut)
	}
	return text.Spread(all, n), nil
}
