// Command accuracy measures what the methods do to small real models and
// writes docs/accuracy.md.
//
//	go run ./internal/cmd/accuracy -models DIR -text DIR
//
// Measurements are kept in docs/accuracy.jsonl; remove a line to repeat it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"time"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint/rotation"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// model is one to measure on, with its text and the length of its windows.
type model struct {
	name, text string
	window     int
}

var models = []model{
	{"tinystories-260k", "tinystories", 512},
	{"tinystories-260k-outliers", "tinystories", 512},
	{"tinyllama-2m", "tinyllama-2m", 256},
}

// row is one measurement, as JSON.
type row struct {
	Model      string         `json:"model"`
	Method     string         `json:"method"`
	Bits       int            `json:"bits"`
	Group      int            `json:"group"`
	Perplexity float64        `json:"perplexity"`
	KL         float64        `json:"kl"`
	BPW        float64        `json:"bits_per_weight"`
	Seconds    float64        `json:"seconds"`
	Arms       map[string]int `json:"arms,omitempty"`
}

func main() {
	dir := flag.String("models", "../shared/models", "folder of the models")
	text := flag.String("text", "../shared/text", "folder of the texts")
	only := flag.String("model", ".", "models to measure (regular expression)")
	method := flag.String("method", ".", "methods to measure (regular expression)")
	cells := flag.String("cells", ".", "bits/group cells to measure (regular expression)")
	references := flag.String("references", "testdata/golden/perplexity.json", "what the published code makes of the models")
	rows := flag.String("rows", "docs/accuracy.jsonl", "measurements: those that are there are kept, new ones are added")
	doc := flag.String("o", "docs/accuracy.md", `page to write; "" writes none`)
	workers := flag.Int("workers", 0, "goroutines")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := runner{dir: *dir, text: *text, workers: *workers}
	for pattern, re := range map[*string]**regexp.Regexp{only: &r.model, method: &r.method, cells: &r.cells} {
		var err error
		if *re, err = regexp.Compile(*pattern); err != nil {
			fmt.Fprintln(os.Stderr, "accuracy:", err)
			os.Exit(2)
		}
	}
	if err := r.all(ctx, *references, *rows, *doc); err != nil {
		fmt.Fprintln(os.Stderr, "accuracy:", err)
		os.Exit(1)
	}
}

// all measures what is missing and writes the page.
func (r *runner) all(ctx context.Context, references, rows, doc string) error {
	var err error
	if r.references, err = readReferences(references); err != nil {
		return err
	}
	if err := r.run(ctx, rows); err != nil || doc == "" {
		return err
	}
	have, err := readRows(rows)
	if err != nil {
		return err
	}
	page, err := render(have, r.references)
	if err != nil {
		return err
	}
	return os.WriteFile(doc, page, 0o644)
}

// runner measures what is selected and not yet measured.
type runner struct {
	references           referenceSet
	dir, text            string
	model, method, cells *regexp.Regexp
	workers              int
}

func (r *runner) run(ctx context.Context, path string) error {
	have, err := readRows(path)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "accuracy")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	out, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	for _, bits := range []int{3, 4, 2, 8} {
		for _, group := range []int{64, 128, 32, quant.WholeLine} {
			for _, m := range models {
				for _, v := range methods {
					cell := fmt.Sprintf("%d/%d", bits, group)
					if !r.model.MatchString(m.name) || !r.method.MatchString(v.name) || !r.cells.MatchString(cell) || !v.wants(r.references, m.name, bits, group) {
						continue
					}
					if _, ok := have[key{m.name, v.name, bits, group}]; ok {
						continue
					}
					row, err := r.measure(ctx, tmp, m, v, bits, group)
					if err != nil {
						return fmt.Errorf("%s, %s, %s: %w", m.name, v.name, cell, err)
					}
					line, err := json.Marshal(row)
					if err != nil {
						return err
					}
					if _, err := out.Write(append(line, '\n')); err != nil {
						return err
					}
					fmt.Printf("%-26s %-36s %-6s %10.4f %8.4f %6.3f bits %6.1f s\n", m.name, v.name, cell, row.Perplexity, row.KL, row.BPW, row.Seconds)
				}
			}
		}
	}
	return out.Sync()
}

func (r *runner) measure(ctx context.Context, tmp string, m model, v variant, bits, group int) (*row, error) {
	out := filepath.Join(tmp, "out")
	if err := os.RemoveAll(out); err != nil {
		return nil, err
	}
	o := lowbit.Options{Model: filepath.Join(r.dir, m.name), Output: out, Workers: r.workers}
	o.Bits, o.GroupSize = bits, group
	o.Calibration = lowbit.Calibration{Samples: 64, SeqLen: 256,
		Text: lowbit.Text{Files: []string{filepath.Join(r.text, m.text, "calibration.txt")}, PerDocument: true, BOS: new(true)}}
	v.set(&o)
	source := o.Model
	start := time.Now()
	if kind, ok := rotations[v.name]; ok {
		r := lowbit.RotateOptions{Model: source, Calibration: o.Calibration}
		r.Output, r.Kinds, r.DType, r.Workers = filepath.Join(tmp, "rotated"), []rotation.Kind{kind}, safetensors.F32, o.Workers
		if _, _, err := lowbit.Rotate(ctx, r); err != nil {
			return nil, err
		}
		defer os.RemoveAll(r.Output)
		o.Model = r.Output
	}
	report, err := lowbit.Quantize(ctx, o)
	if err != nil {
		return nil, err
	}
	res := &row{Model: m.name, Method: v.name, Bits: bits, Group: group, BPW: report.BitsPerWeight,
		Seconds: time.Since(start).Seconds(), Arms: map[string]int{}}
	for _, l := range report.Layers {
		res.Arms[l.Arm]++
	}
	var inputs *float32
	if t, ok := int8Inputs[v.name]; ok {
		inputs = &t
	}
	e, err := lowbit.Evaluate(ctx, lowbit.EvalOptions{
		Int8Inputs: inputs,
		Model:      out, Against: source, Window: m.window, Workers: r.workers,
		Text: lowbit.Text{Files: []string{filepath.Join(r.text, m.text, "heldout.txt")}, PerDocument: true, BOS: new(true)},
	})
	if err != nil {
		return nil, err
	}
	res.Perplexity, res.KL = e.Perplexity, *e.KL
	return res, nil
}
