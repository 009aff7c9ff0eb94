package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/frontier"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/faults"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/shared"
)

// gridFlags are the flags of quantize that a sweep takes lists of, in the order in which
// they vary.
var gridFlags = []string{
	"target", "format", "gguf-type", "fp4", "method", "preset", "bits", "group-size", "sym", "axis", "target-bits", "target-size",
	"clip", "scale-dtype", "objective", "inputs", "refine", "damp", "samples", "seq-len", "curvature", "tune",
}

// noSweep are flags of quantize that mean nothing to a sweep, or are about it as a whole.
var noSweep = []string{"output", "resume", "part", "json", "quiet", "print-config", "eval", "window", "save-imatrix", "report"}

// sweepFile keeps what a sweep has found.
const sweepFile = "sweep.json"

// sweepResult is what is written to it.
type sweepResult struct {
	Model    string           `json:"model"`
	Source   *lowbit.Compared `json:"source,omitempty"`
	Variants []*sweepVariant  `json:"variants"`

	path string // of the model
}

// sweepVariant is one setting of the grid.
type sweepVariant struct {
	Name     string            `json:"name"`
	Settings map[string]string `json:"settings"` // those that vary
	Flags    []string          `json:"flags"`    // of quantize, all of them
	Refused  string            `json:"refused,omitempty"`
	Seconds  float64           `json:"seconds,omitzero"`
	Frontier bool              `json:"frontier"`
	Result   *lowbit.Compared  `json:"result,omitempty"`

	path string
}

type sweepCommandFlags struct {
	dir         string
	eval        textFlags
	window      int
	json, quiet bool
	given       map[string][]string // of quantize's
}

func (a *app) sweepCommand() *cobra.Command {
	f := &sweepCommandFlags{given: map[string][]string{}}
	c := &cobra.Command{
		Use:   "sweep MODEL -o FOLDER --eval FILE",
		Short: "Quantize with every setting of a grid, and show quality against size",
		Long: `Quantize a model with every combination of settings, and compare the results on the text of --eval.

All flags of quantize are taken. Those of settings may be lists, as in --bits 3,4 --group-size 64,128 --preset
fast,best (` + strings.Join(gridFlags, ", ") + `);
each combination becomes a model in FOLDER. What the format or target of a combination does not hold is said and
left out. An interrupted sweep goes on where it was with the same command. FOLDER/sweep.json has
all results, FOLDER/sweep.svg the picture; * marks what no other variant is both smaller and nearer
to the model than.`,
		Example: `  lowbit sweep Llama-3.2-1B -o grid --bits 3,4 --preset fast,best --calib wiki.txt --eval heldout.txt`,
		Args:    oneArg("model", ""),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case f.dir == "":
				return usageError{errors.New("no folder given: use -o")}
			case !f.eval.given() || f.eval.stdin:
				return usageError{errors.New("want a text to compare on that can be read more than once: use --eval FILE")}
			case slices.Contains(f.given["calib"], "-"):
				return usageError{errors.New("standard input can be read once, and a sweep reads --calib for every setting")}
			}
			return a.sweep(c.Context(), args[0], f)
		},
	}
	s := c.Flags()
	s.SortFlags = false
	s.StringVarP(&f.dir, "output", "o", "", "`folder` for the results; may be that of an interrupted sweep")
	f.eval.register(s, "eval", "text to compare on", "")
	s.IntVar(&f.window, "window", 0, "tokens a window of --eval (default 2048 or the model's context)")
	s.BoolVar(&f.json, "json", false, "print one JSON object, as in "+sweepFile)
	s.BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	var q quantizeFlags
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	q.register(all)
	all.VisitAll(func(flag *pflag.Flag) {
		if slices.Contains(noSweep, flag.Name) {
			return
		}
		option(s, flag.Name, flag.Usage, func(v string) (string, error) { return v, nil }, func(v string) {
			f.given[flag.Name] = append(f.given[flag.Name], v)
		})
		s.Lookup(flag.Name).NoOptDefVal = flag.NoOptDefVal
	})
	return c
}

// variants are the combinations of what is given.
func (f *sweepCommandFlags) variants() []*sweepVariant {
	var fixed []string
	for _, name := range slices.Sorted(maps.Keys(f.given)) {
		if !slices.Contains(gridFlags, name) {
			for _, v := range f.given[name] {
				fixed = append(fixed, "--"+name+"="+v)
			}
		}
	}
	all := []*sweepVariant{{Settings: map[string]string{}}}
	for _, name := range gridFlags {
		given := f.given[name]
		if given == nil {
			continue
		}
		values := strings.Split(strings.Join(given, ","), ",")
		var next []*sweepVariant
		for _, v := range all {
			for _, value := range values {
				w := &sweepVariant{Name: v.Name, Settings: maps.Clone(v.Settings), Flags: append(slices.Clone(v.Flags), "--"+name+"="+value)}
				if len(values) > 1 {
					w.Settings[name] = value
					w.Name = strings.TrimPrefix(w.Name+"_"+name+"-"+strings.ReplaceAll(value, string(filepath.Separator), "-"), "_")
				}
				next = append(next, w)
			}
		}
		all = next
	}
	for _, v := range all {
		if v.Name == "" {
			v.Name = "only"
		}
		v.Flags = append(v.Flags, fixed...)
	}
	return all
}

// options are those of a variant; its path follows from them.
func (v *sweepVariant) options(model, dir string) (lowbit.Options, error) {
	var q quantizeFlags
	c := &cobra.Command{}
	q.register(c.Flags())
	if err := c.ParseFlags(append([]string{"--output=" + filepath.Join(dir, v.Name)}, v.Flags...)); err != nil {
		return lowbit.Options{}, usageError{err}
	}
	o, err := q.options(c, model, strings.NewReader(""))
	if err != nil {
		return o, err
	}
	if f, ok := o.Format.(layout.File); ok {
		o.Output += ".gguf"
		if parted, ok := f.(layout.Parted); ok {
			o.Output = strings.TrimSuffix(o.Output, ".gguf") + parted.Ending()
		}
	}
	v.path = o.Output
	return o, nil
}

func (a *app) sweep(ctx context.Context, model string, f *sweepCommandFlags) error {
	r := &sweepResult{Model: model, path: model}
	base := new(string)
	if given := f.given["base"]; len(given) > 0 {
		base = &given[len(given)-1]
	}
	if err := a.model(ctx, f.quiet, &r.path, base); err != nil {
		return err
	}
	r.Variants = f.variants()
	if err := os.MkdirAll(f.dir, 0o777); err != nil {
		return err
	}
	before, err := readSweep(filepath.Join(f.dir, sweepFile))
	if err != nil {
		return err
	}
	options := make([]lowbit.Options, len(r.Variants))
	for i, v := range r.Variants {
		var usage usageError
		switch options[i], err = v.options(r.path, f.dir); {
		case errors.As(err, &usage):
			return err
		case err != nil:
			v.Refused = faults.OneLine(err)
		}
		if err := v.takeUp(before[v.Name]); err != nil {
			return err
		}
	}
	if err := r.write(f.dir); err != nil { // what lies there from now on is of this sweep
		return err
	}
	alike := shared.New(f.dir)
	defer alike.Close()
	for i, v := range r.Variants {
		if v.Refused != "" {
			continue
		}
		if err := a.sweepOne(alike.With(ctx), options[i], v, f.quiet); err != nil {
			return err
		}
		if err := r.write(f.dir); err != nil {
			return err
		}
	}
	if err := a.sweepCompare(ctx, r, f); err != nil {
		return err
	}
	if err := r.write(f.dir); err != nil {
		return err
	}
	if f.json {
		return printJSON(a.stdout, r)
	}
	return r.print(a.stdout, f.dir)
}

// takeUp refuses what is in the place of a variant and is not of the same flags.
func (v *sweepVariant) takeUp(before *sweepVariant) error {
	switch {
	case before != nil && !slices.Equal(before.Flags, v.Flags):
		return fmt.Errorf("%s: made with %q by an earlier sweep, and now %q: give another folder", v.Name, before.Flags, v.Flags)
	case before != nil:
		v.Seconds = before.Seconds
	case v.path != "":
		if _, err := os.Lstat(v.path); err == nil {
			return fmt.Errorf("%s: there already, and of no earlier sweep: give another folder", v.path)
		}
	}
	return nil
}

// sweepOne makes a variant, unless an earlier run has.
func (a *app) sweepOne(ctx context.Context, o lowbit.Options, v *sweepVariant, quiet bool) error {
	if _, err := os.Stat(v.path); err == nil {
		return nil
	}
	if !quiet {
		a.note(v.Name)
	}
	_, partial := os.Stat(v.path + checkpoint.PartialSuffix)
	o.Resume = partial == nil
	p := a.progress(quiet)
	o.Events = p.event
	report, err := lowbit.Quantize(ctx, o)
	p.close()
	switch {
	case err == nil:
		v.Seconds = report.Seconds
	case errors.Is(err, layout.ErrUnsupported) || errors.Is(err, lowbit.ErrOptions):
		v.Refused = faults.OneLine(err)
	case ctx.Err() != nil:
		return interrupted{"interrupted; the same command goes on"}
	default:
		return fmt.Errorf("%s: %w", v.Name, err)
	}
	return nil
}

// sweepCompare runs what was made.
func (a *app) sweepCompare(ctx context.Context, r *sweepResult, f *sweepCommandFlags) error {
	o := lowbit.CompareOptions{Source: r.path}
	reading := f.eval
	if len(f.given["field"]) > 0 {
		reading.field = f.given["field"][len(f.given["field"])-1]
	}
	o.Text, o.Window = reading.text(a.stdin), f.window
	var made []*sweepVariant
	for _, v := range r.Variants {
		if v.Refused == "" {
			made = append(made, v)
			o.Variants = append(o.Variants, v.path)
		}
	}
	if len(made) == 0 {
		return fmt.Errorf("no setting of the grid can be made: %s", r.Variants[0].Refused)
	}
	p := a.progress(f.quiet)
	o.Events = p.event
	all, err := lowbit.Compare(ctx, o)
	p.close()
	if err != nil {
		return err
	}
	r.Source = &all[0]
	r.Source.Path = r.Model
	points := make([]frontier.Point, len(made))
	var drawn []frontier.Point
	for i, v := range made {
		v.Result = &all[i+1]
		points[i] = frontier.Point{Name: v.Name, Bytes: v.Result.Bytes, KL: *v.Result.KL}
		if points[i].KL > 0 { // one that is the model itself has no logarithm
			drawn = append(drawn, points[i])
		}
	}
	for i, on := range frontier.Of(points) {
		made[i].Frontier = on
	}
	if len(drawn) == 0 {
		return nil
	}
	svg, err := frontier.SVG(filepath.Base(r.Model), drawn)
	if err != nil {
		return err
	}
	return disk.FS{}.WriteFile(filepath.Join(f.dir, "sweep.svg"), svg)
}

// readSweep is what an earlier sweep in the folder has kept, by name.
func readSweep(path string) (map[string]*sweepVariant, error) {
	data, err := disk.ReadFile(path, 1<<26)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var r sweepResult
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	byName := map[string]*sweepVariant{}
	for _, v := range r.Variants {
		byName[v.Name] = v
	}
	return byName, nil
}

// write keeps the results.
func (r *sweepResult) write(dir string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return disk.FS{}.WriteFile(filepath.Join(dir, sweepFile), append(data, '\n'))
}

func (r *sweepResult) print(w io.Writer, dir string) error {
	var t table
	t.add("", "variant", "size", "bits", "perplexity", "KL mean", "99 %", "same top", "seconds")
	row := func(mark, name, seconds string, c *lowbit.Compared) {
		cells := []string{mark, name, memory.Decimal(c.Bytes), fmt.Sprintf("%.2f", c.BitsPerWeight), fmt.Sprintf("%.4f", c.Perplexity)}
		if d := c.Divergence; d != nil {
			cells = append(cells, fmt.Sprintf("%.5f ± %.5f", d.Mean, d.Error), fmt.Sprintf("%.5f", d.P99), fmt.Sprintf("%.2f %%", 100*d.SameTop))
		} else {
			cells = append(cells, "-", "-", "-")
		}
		t.add(append(cells, seconds)...)
	}
	row("", r.Model, "-", r.Source)
	for _, v := range r.Variants {
		if v.Result == nil {
			continue
		}
		mark := ""
		if v.Frontier {
			mark = "*"
		}
		row(mark, v.Name, fmt.Sprintf("%.1f", v.Seconds), v.Result)
	}
	if err := t.write(w); err != nil {
		return err
	}
	text := ""
	for _, v := range r.Variants {
		if v.Refused != "" {
			text += fmt.Sprintf("%s: left out: %s\n", v.Name, v.Refused)
		}
	}
	text += fmt.Sprintf("%s and sweep.svg are in %s\n", sweepFile, dir)
	_, err := io.WriteString(w, text)
	return err
}
