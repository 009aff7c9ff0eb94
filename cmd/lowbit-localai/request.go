package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/cmd/lowbit-localai/internal/pb"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/quant/olive"
	"github.com/golowbit/lowbit/quant/split"
)

// request is what a job asks for.
type request struct {
	lowbit.Options
	kind  string // of quantization
	token string // of the hub, or ""
}

// plainTypes are GGUF files of one plain type, by the bits of their symmetric grid.
var plainTypes = map[string]int{"q4_0": 4, "q5_0": 5, "q8_0": 8}

// lossless are types that quantize nothing.
var lossless = []string{"f16", "fp16", "bf16", "f32"}

// kinds lists the types of quantization that there are.
func kinds() []string {
	var all []string
	for _, t := range ggufmodel.Types() {
		all = append(all, strings.ToLower(t))
	}
	all = append(all, slices.Sorted(maps.Keys(plainTypes))...)
	return append(all, checkpoint.EngineNames()...)
}

// extra are the extra options: what each says to the settings. Their names are those of the flags
// of lowbit quantize, with _ or - between words.
var extra = map[string]func(r *request, value string) error{
	"hf_token": func(r *request, v string) error { r.token = v; return nil },
	"calib":    func(r *request, v string) error { return files(&r.Calibration.Text, v) },
	"eval":     func(r *request, v string) error { return files(&r.Evaluation.Text, v) },
	"field":    func(r *request, v string) error { r.Calibration.Field, r.Evaluation.Text.Field = v, v; return nil },
	"imatrix":  func(r *request, v string) error { r.Importance = v; return readable(v) },
	"method": func(r *request, v string) error {
		switch v {
		case "rtn":
			r.Method = quant.RTN{}
		case "int8":
			r.Method = llmint8.Quantizer{}
		case "olive":
			r.Method = olive.Quantizer{}
		case "splitquant":
			r.Method = split.Quantizer{}
		case "gptq":
			r.Preset = lowbit.Plain
		default:
			return errors.New("want gptq, rtn, int8, olive or splitquant")
		}
		return nil
	},
	"preset":      parsed(lowbit.ParsePreset, func(r *request, v lowbit.Preset) { r.Preset = v }),
	"curvature":   parsed(lowbit.ParseCurvature, func(r *request, v lowbit.Curvature) { r.Curvature = v }),
	"tune":        parsed(lowbit.ParseTune, func(r *request, v lowbit.Tune) { r.Tuning.What = v }),
	"bits":        parsed(strconv.Atoi, func(r *request, v int) { r.Bits = v }),
	"group_size":  parsed(strconv.Atoi, func(r *request, v int) { r.GroupSize = v }),
	"sym":         parsed(strconv.ParseBool, func(r *request, v bool) { r.Symmetric = &v }),
	"samples":     parsed(strconv.Atoi, func(r *request, v int) { r.Calibration.Samples = v }),
	"seq_len":     parsed(strconv.Atoi, func(r *request, v int) { r.Calibration.SeqLen = v }),
	"target_bits": parsed(number, func(r *request, v float64) { r.Budget.Bits = v }),
	"target_size": parsed(memory.ParseSize, func(r *request, v int64) { r.Budget.Size = v }),
	"memory":      parsed(memory.ParseSize, func(r *request, v int64) { r.Memory = v }),
	"workers":     parsed(strconv.Atoi, func(r *request, v int) { r.Workers = v }),
	"skip":        parsed(regexp.Compile, func(r *request, v *regexp.Regexp) { r.Skip = append(r.Skip, v) }),
}

func parsed[T any](parse func(string) (T, error), set func(*request, T)) func(*request, string) error {
	return func(r *request, text string) error {
		v, err := parse(text)
		if err == nil {
			set(r, v)
		}
		return err
	}
}

func number(text string) (float64, error) { return strconv.ParseFloat(text, 64) }

// files names texts, with : between them on Unix.
func files(t *lowbit.Text, list string) error {
	t.Files = filepath.SplitList(list)
	var errs []error
	for _, f := range t.Files {
		errs = append(errs, readable(f))
	}
	return errors.Join(errs...)
}

func readable(path string) error {
	_, err := os.Stat(path)
	return err
}

// options are those of a request, and an error says what is wrong with it.
func (s *server) options(q *pb.QuantizationRequest) (*request, error) {
	r := &request{kind: strings.ToLower(q.QuantizationType)}
	switch {
	case q.JobId == "":
		return nil, errors.New("job_id is empty")
	case q.Model == "":
		return nil, errors.New("model is empty: want a folder, a file, or a name on the hub")
	case q.OutputDir == "":
		return nil, errors.New("output_dir is empty")
	case r.kind == "":
		r.kind = "q4_k_m"
	}
	r.Model = q.Model
	if err := r.setKind(); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(q.ExtraOptions)) {
		set := extra[strings.ReplaceAll(name, "-", "_")]
		if set == nil {
			return nil, fmt.Errorf("extra option %q is unknown, want %s", name, strings.Join(slices.Sorted(maps.Keys(extra)), ", "))
		}
		if err := set(r, q.ExtraOptions[name]); err != nil {
			return nil, fmt.Errorf("extra option %s=%q: %w", name, q.ExtraOptions[name], err)
		}
	}
	if err := r.setMethod(s.calib); err != nil {
		return nil, err
	}
	r.Output = filepath.Join(q.OutputDir, r.name())
	return r, r.Validate()
}

// setKind sets the format, and what else the type of quantization says.
func (r *request) setKind() error {
	if slices.Contains(checkpoint.EngineNames(), r.kind) {
		r.Target = r.kind
		return nil
	}
	if slices.Contains(lossless, r.kind) {
		return fmt.Errorf("quantization_type %s quantizes nothing, and only what is quantized is written: want %s", r.kind, strings.Join(kinds(), ", "))
	}
	if bits := plainTypes[r.kind]; bits > 0 {
		symmetric := true
		r.Format, r.Bits, r.Symmetric = ggufmodel.Format{Q8Embeddings: true}, bits, &symmetric
		return nil
	}
	t, err := ggufmodel.ParseType(r.kind)
	if err != nil {
		return fmt.Errorf("quantization_type %q is unknown, want %s", r.kind, strings.Join(kinds(), ", "))
	}
	r.Format = ggufmodel.Format{Type: t}
	return nil
}

// setMethod takes the text that there is; without any, weights are rounded to nearest unless
// something else is asked for.
func (r *request) setMethod(calib string) error {
	rounding := r.Method != nil
	if len(r.Calibration.Files) == 0 && !rounding && r.Importance == "" && calib != "" {
		if err := files(&r.Calibration.Text, calib); err != nil {
			return fmt.Errorf("the backend's text to calibrate on: %w", err)
		}
	}
	if len(r.Calibration.Files) == 0 && r.Importance == "" && r.Method == nil && r.Preset == lowbit.PresetDefault {
		r.Method = quant.RTN{}
		clip := true // the best that there is without text
		r.Clip = &clip
	}
	return nil
}

// name is what the output is called.
func (r *request) name() string {
	model := strings.TrimSuffix(filepath.Base(filepath.Clean(r.Model)), ".gguf")
	model, _, _ = strings.Cut(model, "@")
	name := model + "-" + strings.ToUpper(r.kind)
	if r.Target != "" {
		name = model + "-" + r.kind
	}
	format := r.Format
	if format == nil {
		t, err := checkpoint.TargetFor(r.Target)
		if err != nil {
			return name
		}
		if format, err = checkpoint.Lookup(t.Format); err != nil {
			return name
		}
	}
	if _, file := format.(layout.File); file {
		name += ".gguf"
	}
	return name
}
