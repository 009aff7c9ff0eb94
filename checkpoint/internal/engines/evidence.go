package engines

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/affine"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/internal/verified"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
)

// tried is the model of the repository, on which rows are checked.
const tried = "tinyllama-2m"

// evidence is what a row rests on: what the checks found of files that the row
// is the first to speak of. Without results it is the engine's sources and documents.
type evidence struct {
	results []verified.Result
	// mixed are results with a linear of one block dense.
	mixed []verified.Result
}

// byRow is the evidence of every row of the Table.
var byRow = sync.OnceValue(func() []evidence {
	all := make([]evidence, len(Table))
	for _, v := range verified.Results() {
		if v.Model != tried {
			continue
		}
		i := index(v.Engine, v.Format, layerOf(v))
		if i < 0 || !Table[i].about(v.Version) {
			continue
		}
		if v.Mixed {
			all[i].mixed = append(all[i].mixed, v)
		} else {
			all[i].results = append(all[i].results, v)
		}
	}
	return all
})

// layerOf is a layer like those of a result.
func layerOf(v verified.Result) layout.Layer {
	s := quant.Scheme{Bits: v.Bits, GroupSize: v.Group, Symmetric: v.Symmetric}
	if v.Axis == "ic" {
		s.Axis, s.Strided = quant.IC, true
	}
	if g, ok := kquant.Named(v.Grid); ok {
		s = g.Scheme()
	}
	if v.Grid == (llmint8.Grid{}).String() {
		s = llmint8.Grid{}.Scheme()
	}
	if g, ok := affine.Named(v.Grid); ok {
		s = g.Scheme(v.Group)
	}
	return layout.Layer{Name: "model.layers.0.mlp.down_proj", Out: 256, In: 512, Scheme: s}
}

// about tells whether the row speaks of a version.
func (r Row) about(version string) bool {
	return r.Only == "" || strings.HasPrefix(version, r.Only+".")
}

// of are the versions in which layers like this one were tried with the outcome
// of the row, "" if none were.
func (e evidence) of(l layout.Layer, loads, mixed bool) string {
	results := e.results
	if mixed {
		results = e.mixed
	}
	s := l.Scheme
	return versions(slices.DeleteFunc(slices.Clone(results), func(v verified.Result) bool {
		return v.Loads != loads || v.Bits != s.Bits || v.Group != s.GroupSize || v.Symmetric != s.Symmetric || v.Grid != gridText(s) || (v.Axis == "ic") != (s.Axis == quant.IC)
	}))
}

// gridText is the text of a grid that is not uniform, else "".
func gridText(s quant.Scheme) string {
	if s.Grid == nil {
		return ""
	}
	text, err := s.Grid.MarshalText()
	if err != nil {
		return "?"
	}
	return string(text)
}

// versions names those of results, the engine's and what it ran with.
func versions(results []verified.Result) string {
	var all []string
	for _, v := range results {
		text := v.Version
		if v.With != "" {
			text += " (" + v.With + ")"
		}
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return strings.Join(all, " and ")
}

// mixtureVersions are those in which an engine was seen to refuse, or to spoil,
// a format's model with one linear of one block dense.
func mixtureVersions(engine, format string) string {
	var seen []verified.Result
	for _, v := range verified.Results() {
		if v.Engine == engine && v.Mixed && !v.Loads && family(v.Format) == family(format) {
			seen = append(seen, v)
		}
	}
	return versions(seen)
}

// family is a format's name without a version.
func family(format string) string {
	name, _, _ := strings.Cut(format, "_")
	return name
}

// words is the evidence in the table for people: versions, check and what was
// tried.
func (e evidence) words(r Row) string {
	if len(e.results) == 0 || r.GPU {
		return "by its documents"
	}
	var checks, what []string
	add := func(list *[]string, s string) {
		if !slices.Contains(*list, s) {
			*list = append(*list, s)
		}
	}
	grids := map[string][]string{}
	for _, v := range e.results {
		add(&checks, v.Check)
		group := fmt.Sprint(v.Group)
		if v.Group == quant.WholeLine {
			group = "rows"
		}
		grid := fmt.Sprintf("%d bits", v.Bits)
		if !v.Symmetric {
			grid += " asymmetric"
		}
		if v.Axis == "ic" {
			grid += " inside inputs"
		}
		if _, ok := kquant.Named(v.Grid); ok || v.Format == "gguf" && v.Grid != "" {
			add(&what, v.Grid)
			continue
		}
		if v.Grid != "" {
			grid = v.Grid
		}
		add(&what, grid)
		list := grids[grid]
		add(&list, group)
		grids[grid] = list
	}
	for i, grid := range what {
		what[i] = strings.TrimSpace(grid + " " + strings.Join(grids[grid], "/"))
	}
	text := "verified: " + versions(e.results) + " by " + strings.Join(checks, ", ") + ": " + strings.Join(what, ", ")
	if slices.ContainsFunc(e.mixed, func(v verified.Result) bool { return v.Loads }) {
		text += "; a dense linear"
	}
	return text
}
