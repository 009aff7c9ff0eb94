// Command accuracy measures what the methods do to small real models and
// prints the tables of docs/accuracy.md.
//
//	go run ./internal/accuracy -models DIR -text DIR
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/golowbit/lowbit"
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
	cells := flag.String("cells", `^3/64$`, "bits/group cells to measure (regular expression)")
	workers := flag.Int("workers", 0, "goroutines")
	flag.Parse()
	if err := run(*dir, *text, *only, *method, *cells, *workers); err != nil {
		fmt.Fprintln(os.Stderr, "accuracy:", err)
		os.Exit(1)
	}
}

func run(dir, text, only, method, cells string, workers int) error {
	onlyRE, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	methodRE, err := regexp.Compile(method)
	if err != nil {
		return err
	}
	cellRE, err := regexp.Compile(cells)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "accuracy")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	enc := json.NewEncoder(os.Stdout)
	for _, m := range models {
		if !onlyRE.MatchString(m.name) {
			continue
		}
		for _, bits := range []int{2, 3, 4} {
			for _, group := range []int{32, 64, 128} {
				if !cellRE.MatchString(fmt.Sprintf("%d/%d", bits, group)) {
					continue
				}
				for _, v := range methods {
					if !methodRE.MatchString(v.name) {
						continue
					}
					r, err := measure(dir, text, tmp, m, v, bits, group, workers)
					if err != nil {
						return fmt.Errorf("%s, %s, %d bits, groups of %d: %w", m.name, v.name, bits, group, err)
					}
					if err := enc.Encode(r); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func measure(dir, text, tmp string, m model, v variant, bits, group, workers int) (*row, error) {
	out := filepath.Join(tmp, "out")
	if err := os.RemoveAll(out); err != nil {
		return nil, err
	}
	o := lowbit.Options{Model: filepath.Join(dir, m.name), Output: out, Workers: workers}
	o.Scheme.Bits, o.Scheme.GroupSize = bits, group
	o.Calibration = lowbit.Calibration{Samples: 64, SeqLen: 256,
		Text: lowbit.Text{Files: []string{filepath.Join(text, m.text, "calibration.txt")}, PerDocument: true}}
	v.set(&o)
	start := time.Now()
	report, err := lowbit.Quantize(context.Background(), o)
	if err != nil {
		return nil, err
	}
	r := &row{Model: m.name, Method: v.name, Bits: bits, Group: group, BPW: report.BitsPerWeight,
		Seconds: time.Since(start).Seconds(), Arms: map[string]int{}}
	for _, l := range report.Layers {
		r.Arms[l.Arm]++
	}
	e, err := lowbit.Evaluate(context.Background(), lowbit.EvalOptions{
		Model: out, Against: o.Model, Window: m.window, Workers: workers,
		Text: lowbit.Text{Files: []string{filepath.Join(text, m.text, "heldout.txt")}, PerDocument: true},
	})
	if err != nil {
		return nil, err
	}
	r.Perplexity, r.KL = e.Perplexity, *e.KL
	return r, nil
}
