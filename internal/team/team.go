// Package team lets processes on one machine or many make one result together, through a
// folder that all of them see: which part a process is, what it does of the work, and how
// it waits for what the others do.
package team

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Part is which of how many processes this is, from 1. The zero value is all of the work.
type Part struct{ Index, Count int }

// ErrPart is wrapped by errors about a part that there cannot be.
var ErrPart = errors.New("part")

// Alone says that there are no parts.
func (p Part) Alone() bool { return p.Count == 0 }

// String is what people are told: "part 2 of 4".
func (p Part) String() string { return fmt.Sprintf("part %d of %d", p.Index, p.Count) }

// MarshalText implements encoding.TextMarshaler: "2/4".
func (p Part) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%d/%d", p.Index, p.Count), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Part) UnmarshalText(text []byte) (err error) {
	*p, err = Parse(string(text), func(string) string { return "" })
	return err
}

// most is how many parts there may be: more are a mistake.
const most = 10000

// Validate reports what is out of range. Errors wrap ErrPart.
func (p Part) Validate() error {
	switch {
	case p == Part{}:
		return nil
	case p.Count < 1 || p.Count > most:
		return fmt.Errorf("%w %d of %d: want 1 to %d parts", ErrPart, p.Index, p.Count, most)
	case p.Index < 1 || p.Index > p.Count:
		return fmt.Errorf("%w %d of %d: parts are numbered from 1 to %d", ErrPart, p.Index, p.Count, p.Count)
	}
	return nil
}

// Parse reads "I/N", "auto" or "auto/N". The latter two ask the environment: a task of an
// array of Slurm's, or of an Indexed Job of Kubernetes, which does not tell how many there
// are. With N, tasks of Slurm are numbered from 1 to N, so that one alone can be run again;
// without, they are all of the array. Errors wrap ErrPart.
func Parse(text string, env func(string) string) (Part, error) {
	of, count, given := strings.Cut(text, "/")
	if of == "auto" {
		n := 0
		if given {
			var err error
			if n, err = strconv.Atoi(count); err != nil || n < 1 {
				return Part{}, fmt.Errorf("%w %q: want auto/N, with N parts in all", ErrPart, text)
			}
		}
		return found(n, env)
	}
	index, err := strconv.Atoi(of)
	n, err2 := strconv.Atoi(count)
	if !given || err != nil || err2 != nil {
		return Part{}, fmt.Errorf("%w %q: want I/N, such as 2/4, or auto or auto/N under Slurm or Kubernetes", ErrPart, text)
	}
	p := Part{index, n}
	if err := p.Validate(); err != nil || n == 0 {
		return Part{}, cmp.Or(err, fmt.Errorf("%w %q: want at least one part", ErrPart, text))
	}
	return p, nil
}

// found asks the environment; of n parts, 0 if that is not known.
func found(n int, env func(string) string) (Part, error) {
	var bad error
	number := func(name string, otherwise int) int {
		text := env(name)
		if text == "" && otherwise >= 0 {
			return otherwise
		}
		v, err := strconv.Atoi(text)
		if err != nil || v < 0 {
			bad = cmp.Or(bad, fmt.Errorf("%w: %s is %q in the environment, want a number", ErrPart, name, text))
		}
		return v
	}
	var p Part
	switch {
	case env("SLURM_ARRAY_TASK_ID") != "" && n > 0:
		p = Part{number("SLURM_ARRAY_TASK_ID", -1), n}
		if bad == nil && p.Validate() != nil {
			bad = fmt.Errorf("%w: task %d of the array, and %d parts: want --array=1-%d", ErrPart, p.Index, n, n)
		}
	case env("SLURM_ARRAY_TASK_ID") != "":
		step := max(1, number("SLURM_ARRAY_TASK_STEP", 1))
		p = Part{(number("SLURM_ARRAY_TASK_ID", -1)-number("SLURM_ARRAY_TASK_MIN", -1))/step + 1, number("SLURM_ARRAY_TASK_COUNT", -1)}
	case env("JOB_COMPLETION_INDEX") != "" && n > 0:
		p = Part{number("JOB_COMPLETION_INDEX", -1) + 1, n}
	case env("JOB_COMPLETION_INDEX") != "":
		bad = fmt.Errorf("%w auto: Kubernetes does not tell how many completions there are: want auto/N", ErrPart)
	default:
		bad = fmt.Errorf("%w auto: the environment has neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX", ErrPart)
	}
	return p, cmp.Or(bad, p.Validate())
}

// Shares divides pieces of work of these sizes, which are done group by group, among n
// parts: by group and piece the part, from 1. In each group the largest piece goes first,
// to the part that has least of the group, or else of all.
func Shares(groups [][]int64, n int) [][]int {
	all := make([]int64, n)
	shares := make([][]int, len(groups))
	for g, sizes := range groups {
		shares[g] = make([]int, len(sizes))
		order := make([]int, len(sizes))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(sizes[b], sizes[a]) })
		here := make([]int64, n)
		for _, i := range order {
			least := 0
			for k := range n {
				if c := cmp.Compare(here[k], here[least]); c < 0 || c == 0 && all[k] < all[least] {
					least = k
				}
			}
			shares[g][i] = least + 1
			here[least] += sizes[i]
			all[least] += sizes[i]
		}
	}
	return shares
}

// Range is the part's share [from, to) of n things in a row.
func (p Part) Range(n int) (from, to int) {
	if p.Alone() {
		return 0, n
	}
	return n * (p.Index - 1) / p.Count, n * p.Index / p.Count
}
