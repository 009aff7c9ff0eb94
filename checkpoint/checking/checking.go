// Package checking verifies a model as a consistency checker does a file system: whether
// its files, indexes, tensors, configuration and tokenizer agree with each other, and
// with the model it was made of.
package checking

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/safetensors"
)

// Kinds of findings.
const (
	KindHeader    = "header"    // a file that is not what its header says: sizes, offsets, types
	KindIndex     = "index"     // shards and their index disagree
	KindChecksum  = "checksum"  // a file is not the one whose checksum is stored
	KindConfig    = "config"    // config.json and the tensors disagree on how the model is quantized
	KindShape     = "shape"     // config.json and the tensors disagree on the architecture
	KindLayer     = "layer"     // a quantized layer cannot be read as what it should be
	KindPacking   = "packing"   // bits are set that belong to no code
	KindScale     = "scale"     // a scale is zero and takes codes that are not with it
	KindValue     = "value"     // NaN or infinity
	KindTokenizer = "tokenizer" // the tokenizer has tokens that the model lacks, or cannot be read
	KindSource    = "source"    // the result is not of the source
)

// Finding is something that is wrong.
type Finding struct {
	Kind    string `json:"kind"`
	Warning bool   `json:"warning,omitempty"` // it may be meant so
	File    string `json:"file,omitempty"`
	Tensor  string `json:"tensor,omitempty"` // or layer
	Text    string `json:"text,omitempty"`   // what is wrong; it may name file and tensor itself
	// Expected and Found, if there is more to say than Text.
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
}

// String is a line for people.
func (f Finding) String() string {
	s := f.Kind
	for _, part := range []string{f.File, f.Tensor, f.Text} {
		if part != "" {
			s += ": " + part
		}
	}
	if f.Expected != "" || f.Found != "" {
		s += fmt.Sprintf(": expected %s, found %s", f.Expected, f.Found)
	}
	return s
}

// Layer is how far a quantized layer is from the source's weight.
type Layer struct {
	Name string `json:"name"`
	// Error is the Frobenius norm of the difference over that of the source.
	Error float64 `json:"error"`
}

// Report is the outcome of Check.
type Report struct {
	Path     string    `json:"path"`
	Format   string    `json:"format,omitempty"`
	Findings []Finding `json:"findings"`
	Notes    []string  `json:"notes,omitempty"` // what was not checked, and why
	// Engines says which engines take the model and why others do not.
	Engines []layout.Note `json:"engines,omitempty"`

	Files     int   `json:"files"`
	Tensors   int   `json:"tensors"` // that belong to no quantized layer
	Layers    int   `json:"layers"`  // quantized ones
	Bytes     int64 `json:"bytes"`   // of all tensors
	Checksums int   `json:"checksums,omitempty"`

	Source      string  `json:"source,omitempty"`
	LayerErrors []Layer `json:"layer_errors,omitempty"`
	Identical   int     `json:"identical,omitempty"` // tensors that equal the source's bit for bit
}

// Errors is how many findings are no warnings.
func (r *Report) Errors() int {
	n := 0
	for _, f := range r.Findings {
		if !f.Warning {
			n++
		}
	}
	return n
}

// Options say what to check.
type Options struct {
	Path    string // a model folder or file, of any format that Open reads
	Source  string // the model it was made of, or ""
	Workers int    // goroutines; 0 means GOMAXPROCS
	// Step, if not nil, is called as layers and tensors are done.
	Step func(done, total int)
}

// Check verifies a model. An error means that it could not be looked at; whatever is wrong
// with it is in the report.
func Check(ctx context.Context, o Options) (*Report, error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	info, err := os.Stat(o.Path)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err == nil && !info.IsDir() && !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: neither a folder nor a file", o.Path)
	}
	c := &checker{o: o, r: &Report{Path: o.Path, Findings: []Finding{}, Source: o.Source}}
	m, err := checkpoint.Open(o.Path)
	switch {
	case err == nil:
		defer m.Close()
		if err := c.files(ctx, m.Path()); err != nil {
			return nil, err
		}
	case info == nil:
		return nil, err
	default:
		if err := c.files(ctx, o.Path); err != nil {
			return nil, err
		}
		if !c.knows(KindHeader, KindIndex) { // else it says the same
			c.add(Finding{Kind: kindOf(err), Text: err.Error()})
		}
		return c.r, nil
	}
	if err := c.model(ctx, m); err != nil {
		return nil, err
	}
	if o.Source != "" {
		if err := c.against(ctx, m); err != nil {
			return nil, err
		}
	}
	c.r.Engines = m.Engines()
	return c.r, ctx.Err()
}

// kindOf tells what an error of opening a model is about.
func kindOf(err error) string {
	if errors.Is(err, safetensors.ErrInvalid) {
		return KindHeader
	}
	return KindConfig
}

type checker struct {
	o  Options
	r  *Report
	mu sync.Mutex
}

func (c *checker) add(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Findings = append(c.r.Findings, f)
}

func (c *checker) note(format string, args ...any) {
	c.r.Notes = append(c.r.Notes, fmt.Sprintf(format, args...))
}

// knows reports whether there is a finding of one of the kinds.
func (c *checker) knows(kinds ...string) bool {
	return slices.ContainsFunc(c.r.Findings, func(f Finding) bool { return !f.Warning && slices.Contains(kinds, f.Kind) })
}

// architecture compares shapes with the configuration. It is nil where the architecture
// is not known.
func (c *checker) architecture(m *checkpoint.Model) *decoder.Model {
	if !m.HasConfig() {
		c.add(Finding{Kind: KindConfig, File: m.Path(), Text: "no config.json"})
		return nil
	}
	a, err := arch.Open(m)
	if err == nil {
		return a
	}
	if _, parseErr := arch.ParseConfig(m.Config()); parseErr != nil {
		c.note("shapes were not compared with the configuration: %v", parseErr)
		return nil
	}
	c.add(Finding{Kind: KindShape, Text: err.Error()})
	return nil
}
