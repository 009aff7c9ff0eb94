package lowbit

import (
	"cmp"
	"context"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/internal/blocks"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/team"
)

// Part is which of how many processes this is that make one result together, from 1. The
// zero value is a process that does it alone.
type Part = team.Part

// ParsePart reads "I/N", or "auto" or "auto/N", which ask the environment (env, such as
// os.Getenv) of a task of Slurm's or Kubernetes'. Errors wrap ErrOptions.
func ParsePart(text string, env func(name string) string) (Part, error) {
	p, err := team.Parse(text, env)
	if err != nil {
		err = badOptions("%w", err)
	}
	return p, err
}

// Parted is what became of a part of the work.
type Parted struct {
	Part Part `json:"part"`
	// Missing is how many layers other parts have still to finish: until then there is no
	// output.
	Missing int `json:"missing"`
	// Merged says that it was this part that put the output together, and not one before.
	Merged bool `json:"merged"`
}

// checkPart refuses what parts cannot do together, before any work.
func (j *job) checkPart(o Options) error {
	if err := o.Part.Validate(); err != nil {
		return badOptions("%w", err)
	}
	what := ""
	switch {
	case o.Part.Alone():
		return nil
	case o.Calibration.Self != nil:
		what = "text that the model writes itself is"
	case j.set.tuning.What != TuneOff:
		what = "tuning is"
	case j.set.budget:
		what = "a budget of bits is"
	case j.saveImportance != nil:
		what = "writing an importance matrix is"
	case j.set.objective == adadim.ObjectiveBlock:
		what = "objective block is"
	}
	if what != "" {
		return badOptions("%v: %s not for parts: do it in one run", o.Part, what)
	}
	j.team = o.Part
	sizes, names := j.groups()
	j.others = map[string]int{}
	for g, shares := range team.Shares(sizes, j.team.Count) {
		for i, part := range shares {
			if part != j.team.Index {
				j.others[names[g][i]] = part
			}
		}
	}
	return nil
}

// groups are the layers to quantize, by what is to be done before the next group begins,
// and about how much work each is. Without text they are one.
func (j *job) groups() (sizes [][]int64, names [][]string) {
	group, n := map[string]int{}, 1
	if j.texted {
		for _, b := range j.model.Blocks {
			for _, s := range b.Stages {
				for _, i := range s.Linears {
					group[b.Linears[i].Name] = n
				}
				if j.set.inputs != InputsFull {
					n++
				}
			}
			n++
		}
	}
	sizes, names = make([][]int64, n), make([][]string, n)
	for _, l := range j.plan.Layers {
		if l.Dense {
			continue
		}
		g, size := group[l.Name], int64(l.Out)*int64(l.In)
		if g > 0 {
			size = int64(1e6 * memory.Solves(l.Out, l.In))
		}
		sizes[g], names[g] = append(sizes[g], size), append(names[g], l.Name)
	}
	return sizes, names
}

// chunkTokens is blocks.Options.Chunk: tests have texts that are shorter.
var chunkTokens = 0

// teamwork is how parts divide the work on blocks; nil if there are none.
func (j *job) teamwork() *blocks.Team {
	if j.team.Alone() {
		return nil
	}
	return &blocks.Team{Folder: j.out.Team(), Look: j.out.Look, Note: j.out.LookNote, Owner: func(layer string) int { return cmp.Or(j.others[layer], j.team.Index) }}
}

// mine says that a layer is not another part's.
func (j *job) mine(name string) bool { return j.others[name] == 0 }

// end puts the output together, if nothing is missing of what parts have to do before.
func (j *job) end(ctx context.Context) error {
	if j.team.Alone() {
		return phases.In(ctx, phases.Writing, func() error { return j.out.Finish(ctx) })
	}
	var err error
	j.parted = &Parted{Part: j.team}
	if j.parted.Missing, err = j.out.Missing(); err != nil || j.parted.Missing > 0 {
		return err
	}
	for _, p := range j.plan.Layers {
		if j.done[p.Name] != nil {
			continue
		}
		if p.Dense {
			j.finish(j.reportOf(p), false)
		} else if _, err := j.resumed(p); err != nil {
			return err
		}
	}
	err = phases.In(ctx, phases.Writing, func() error { return j.out.Finish(ctx) })
	j.parted.Merged = err == nil
	return err
}

// ended is the error that a part has ended with, or that others have made the output
// meanwhile, and with that taken away what the part was at.
func (j *job) ended(err error) error {
	if err == nil || j.out == nil || j.team.Alone() {
		return err
	}
	if done := j.out.Published(); done != nil {
		err = done
	}
	return err
}

// complete reports on an output that was made before.
func (j *job) complete(ctx context.Context) error {
	if !j.team.Alone() {
		j.parted = &Parted{Part: j.team}
		return j.readBack()
	}
	if err := j.readBack(); err != nil {
		return err
	}
	return j.measure(ctx, j.output)
}
