package engines

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/internal/verified"
)

// Markdown is the table for people, one section for each format.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# Which engine loads what

Written from the table in ` + "`checkpoint/internal/engines`" + ` by its test. For a layer the first row of its format and
engine counts; what no row speaks of is not claimed. "by its documents" stands for what the engine's sources say
(August 2026). "verified" stands for files of the model in ` + "`testdata`" + ` that ` + "`go run ./internal/cmd/engines`" + ` gave to the engine in
the versions named, on a CPU: its logits against lowbit's on the same quantized weights, missing and unexpected tensors counted;
of Ollama, which shows no logits, that it goes on with the token which is the likeliest by lowbit's, and knows the chat template
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
	b.WriteString("\n## Architectures\n\nWhere an engine fails on models of some architectures in a format that it loads otherwise:\n\n| engine | format | model_type | why | rests on |\n|---|---|---|---|---|\n")
	for _, m := range Models {
		var found []verified.Result
		for _, v := range verified.Results() {
			if v.Engine == m.Engine && !v.Loads && slices.Contains(m.Types, v.Type) && slices.Contains(m.Formats, v.Format) && strings.HasPrefix(v.Version, m.Only) {
				found = append(found, v)
			}
		}
		cells := []string{strings.TrimSpace(m.Engine + " " + m.Only), strings.Join(m.Formats, ", "), strings.Join(m.Types, ", "), m.Note, "verified: " + versions(found) + ", models of testdata/architectures"}
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

func (s Symmetry) words() string {
	return [...]string{"any", "symmetric", "asymmetric", "floats of 4 bits"}[s]
}

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
