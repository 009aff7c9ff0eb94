package engines

import (
	"fmt"
	"strconv"
	"strings"
)

// Markdown is the table for people, one section for each format.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# Which engine loads what

Written from the table in ` + "`checkpoint/internal/engines`" + ` by its test. For a layer the first row of its format and
engine counts; what no row speaks of is not claimed. "by its documents" stands for what the engine's sources say
(August 2026). "verified" stands for files of the model in ` + "`testdata`" + ` that ` + "`go run ./internal/cmd/engines`" + ` gave to the engine in
the versions named, on a CPU: its logits against lowbit's on the same quantized weights, missing and unexpected tensors counted
(` + "`internal/verified/results.jsonl`" + ` has every file, and the rounding of the unquantized model beside it).
`)
	last := ""
	for i, r := range Table {
		format := strings.Join(r.Formats, ", ")
		if family, _, _ := strings.Cut(r.Formats[0], "_"); family != last {
			fmt.Fprintf(&b, "\n## %s\n\n| engine | format | bits | grid | groups | index | shapes | layers | loads | note | rests on |\n|---|---|---|---|---|---|---|---|---|---|---|\n", family)
			last = family
		}
		cells := []string{
			strings.TrimSpace(r.Engine + " " + r.Only), format, numbers(r.Bits, "any"), r.Symmetry.words(), numbers(r.Groups, "any"), r.Index.words(),
			r.Needs.words(), r.Mixture.words(), r.loads(), r.Note, byRow()[i].words(r),
		}
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	return b.String()
}

func numbers(list []int, none string) string {
	if len(list) == 0 {
		return none
	}
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ", ")
}

func (s Symmetry) words() string { return [...]string{"any", "symmetric", "asymmetric"}[s] }

func (i Index) words() string { return [...]string{"any", "no", "yes"}[i] }

func (a Alike) words() string {
	return [...]string{"any", "fused ones alike", "one scheme, blocks alike", "none dense"}[a]
}

func (n Needs) words() string {
	var words []string
	add := func(there bool, format string, args ...any) {
		if there {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(n.OutBy > 0, "outputs by %d", n.OutBy)
	add(n.InBy > 0, "inputs by %d", n.InBy)
	add(n.GroupBy > 0, "groups by %d", n.GroupBy)
	add(n.GroupsIn, "groups divide inputs")
	add(n.GroupsOut, "groups divide outputs")
	if len(words) == 0 {
		return "any"
	}
	return strings.Join(words, ", ")
}

func (r Row) loads() string {
	switch {
	case !r.Loads:
		return "no"
	case r.GPU:
		return "on a GPU"
	}
	return "yes"
}
