// Package report tells what a quantization has done, and why: for programs as JSON, for people
// as a page. docs/report.md describes both.
package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit"
)

// Version is that of the JSON. It grows when a field goes or means something else.
const Version = 1

// Report is what is written.
type Report struct {
	Version int    `json:"version"`
	Lowbit  string `json:"lowbit"` // what made it
	Model   Model  `json:"model"`  // the source
	*lowbit.Report
	Roles    []Role             `json:"roles"`
	Memory   *lowbit.MemoryPlan `json:"memory,omitempty"` // as it was planned
	Warnings []Warning          `json:"warnings"`
}

// Model is the source in short.
type Model struct {
	Path         string `json:"path"`
	Architecture string `json:"architecture"` // "" if no decoder knows it
	Blocks       int    `json:"blocks"`
	Hidden       int    `json:"hidden"`
	Context      int    `json:"context"`
	Parameters   int64  `json:"parameters"`
	Bytes        int64  `json:"bytes"` // the files of weights
}

// ModelOf is a model in short.
func ModelOf(i *lowbit.Info) Model {
	return Model{i.Path, i.Architecture, i.Blocks, i.Hidden, i.Context, i.Parameters, i.FileBytes}
}

// Role is what tensors of one place in all blocks have become.
type Role struct {
	Name      string  `json:"role"`    // such as "self_attn.q_proj" or "mlp.experts.*.up_proj"
	Tensors   int     `json:"tensors"` // in the output
	Weights   int64   `json:"weights"`
	Quantized int64   `json:"quantized"` // of the weights
	Bits      float64 `json:"bits"`      // a weight, scales counted
	Bytes     int64   `json:"bytes"`
	// Loss is the mean over the quantized layers of tr(E H Eᵀ) / tr(W H Wᵀ), nil if not measured.
	Loss *float64 `json:"loss,omitempty"`
}

// Warning is something that did not go as asked, or could be better.
type Warning struct {
	Message string   `json:"message"`
	Advice  string   `json:"advice,omitempty"` // what can be done
	Layers  []string `json:"layers,omitempty"` // that it is about; none: all
}

// Told are warnings as they came during a run: layers, "" for all, by what was said.
type Told struct {
	order  []string
	layers map[string][]string
}

// Add takes a warning.
func (t *Told) Add(layer, text string) {
	if t.layers == nil {
		t.layers = map[string][]string{}
	}
	if _, ok := t.layers[text]; !ok {
		t.order = append(t.order, text)
		t.layers[text] = nil
	}
	if layer != "" && !slices.Contains(t.layers[text], layer) {
		t.layers[text] = append(t.layers[text], layer)
	}
}

// Sources are what a report is made of. Output may be nil if it could not be looked at.
type Sources struct {
	Lowbit         string
	Source, Output *lowbit.Info
	Report         *lowbit.Report
	Memory         *lowbit.MemoryPlan
	Told           Told
}

// New makes a report.
func New(s Sources) *Report {
	r := &Report{Version: Version, Lowbit: s.Lowbit, Model: ModelOf(s.Source), Report: s.Report, Memory: s.Memory}
	r.Roles = roles(s.Report.Layers, s.Output)
	r.Warnings = append(warnings(&s.Told), advice(s.Report)...)
	if r.Warnings == nil {
		r.Warnings = []Warning{}
	}
	return r
}

// JSON is the report for programs.
func (r *Report) JSON() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, fmt.Errorf("the report cannot be put into JSON: %w", err)
	}
	return append(compact(text), '\n'), nil
}

// numbers is an array of numbers over several lines.
var numbers = regexp.MustCompile(`\[\s+-?[0-9][^\[\]{}"]*\]`)

// compact puts arrays of numbers on a line.
func compact(text []byte) []byte {
	return numbers.ReplaceAllFunc(text, func(array []byte) []byte { return []byte(strings.Join(strings.Fields(string(array)), "")) })
}

// place is where a layer is in the model.
type place struct {
	block  int    // -1: in none
	role   string // without numbers
	expert int    // -1: none
}

// placeOf takes a name apart: the first number in it is the block's, others become stars.
func placeOf(name string) place {
	p := place{block: -1, expert: -1}
	parts := strings.Split(name, ".")
	first := 0
	for i, s := range parts {
		n, err := strconv.Atoi(s)
		switch {
		case err != nil:
		case p.block < 0:
			p.block, first = n, i+1
		default:
			p.expert = n
			parts[i] = "*"
		}
	}
	p.role = strings.Join(parts[first:], ".")
	if p.role == "" {
		p.role = name
	}
	return p
}

// roles sums up what the output has: its quantized layers, as the report knows them, and its
// other tensors. Where the output is dense, or cannot be looked at, the latter are left out if they are layers'.
func roles(layers []lowbit.LayerReport, output *lowbit.Info) []Role {
	var all []*Role
	byName := map[string]*Role{}
	of := func(name string) *Role {
		role := placeOf(name).role
		if byName[role] == nil {
			byName[role] = &Role{Name: role}
			all = append(all, byName[role])
		}
		return byName[role]
	}
	losses := map[*Role][]float64{}
	done := map[string]bool{}
	for _, l := range layers {
		if l.Dense {
			continue
		}
		done[l.Name] = true
		r, n := of(l.Name), int64(l.Out)*int64(l.In)
		r.Tensors++
		r.Weights += n
		r.Quantized += n
		r.Bytes += int64(l.Bits*float64(n)/8 + 0.5)
		if l.Loss != nil {
			losses[r] = append(losses[r], *l.Loss)
		}
	}
	if output != nil {
		for _, t := range output.Tensors {
			name := strings.TrimSuffix(t.Name, ".weight")
			if done[name] {
				continue
			}
			r, n := of(name), int64(1)
			for _, d := range t.Shape {
				n *= int64(d)
			}
			r.Tensors++
			r.Weights += n
			r.Bytes += t.Bytes
		}
	}
	out := make([]Role, len(all))
	for i, r := range all {
		if r.Weights > 0 {
			r.Bits = 8 * float64(r.Bytes) / float64(r.Weights)
		}
		if x := losses[r]; len(x) > 0 {
			m := mean(x)
			r.Loss = &m
		}
		out[i] = *r
	}
	slices.SortStableFunc(out, func(a, b Role) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return out
}

func mean(x []float64) float64 {
	var sum float64
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}
