package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/cpu"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/verified"
	"github.com/golowbit/lowbit/tensor"
)

// Bounds of a difference of logits, in standard deviations: what float32 may
// differ by, and how many times the engine's own rounding that of a kernel may
// be, which rounds in other places.
const (
	exact  = 2e-4
	floors = 3
)

// bench runs checks.
type bench struct {
	cache, work string
	files       map[kind]*written
	results     []verified.Result
	peers       int // files of other tools that were read
	skipped     int
}

// run runs a check, prints its table and returns what is not as the table of
// engines has it.
func (b *bench) run(ctx context.Context, c check) (wrong []string, err error) {
	if c.avx512 && !cpu.X86.HasAVX512F {
		fmt.Printf("\n%s: skipped: %s needs a CPU with AVX-512\n", c.name, c.engine)
		b.skipped += len(c.kinds)
		return nil, nil
	}
	program := ""
	if c.isOllama() {
		if program, err = ollamaProgram(ctx, b.cache); err != nil {
			fmt.Printf("\n%s: skipped: no Ollama on this machine: %v\n", c.name, err)
			b.skipped += len(c.kinds)
			return nil, ctx.Err()
		}
	}
	if c.env != "" {
		if program, err = environment(ctx, b.cache, c.env); err != nil {
			return nil, err
		}
	}
	start := time.Now()
	asked, files, jobs, err := b.prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	var replies []reply
	var said string
	switch {
	case c.isOllama():
		replies, err = b.ollamaServer(ctx, c, program, jobs)
	case c.env == "":
		replies, said, err = node(ctx, c.script, b.work, jobs)
	default:
		replies, said, err = ask(ctx, program, c.script, b.work, jobs)
	}
	if err != nil {
		return nil, err
	}
	results := make([]verified.Result, len(jobs))
	floor := map[string]float64{}
	for i, k := range asked {
		r := reply{Error: "the engine ended: " + said}
		if i < len(replies) {
			r = replies[i]
		} else if i > len(replies) {
			r.Error = "the engine had ended"
		}
		results[i] = result(c, k, r)
		results[i].Type = files[i].modelType
		if files[i].grid != "" {
			results[i].Grid = files[i].grid
		}
		if err := measure(ctx, &results[i], files[i], jobs[i].Logits, r.answers, c.own); err != nil {
			return nil, err
		}
		if k.bits == 0 {
			if floor[k.model] = results[i].Difference; results[i].Error != "" {
				wrong = append(wrong, fmt.Sprintf("%s: %v: %s", c.name, k, results[i].Error))
			}
		}
	}
	fmt.Printf("\n%s: %s %s (%s), %s, %.0f s\n", c.name, c.engine, results[0].Version, results[0].With, c.dtype, time.Since(start).Seconds())
	fmt.Printf("%-64s %-6s %-6s %9s %9s %9s %7s %10s\n", "file", "loads", "table", "diff/std", "KL", "floor", "missing", "unexpected")
	for i, k := range asked {
		if k.bits == 0 {
			continue
		}
		if complaint := b.judge(c, k, &results[i], files[i], floor[k.model]); complaint != "" {
			wrong = append(wrong, complaint)
		}
	}
	return wrong, nil
}

// prepare writes the files of a check, the unquantized models among them, whose
// differences are the floor.
func (b *bench) prepare(ctx context.Context, c check) (asked []kind, files []*written, jobs []job, err error) {
	kinds := slices.Clone(c.kinds)
	for _, k := range c.kinds {
		plain := kind{model: k.model, older: k.older, chat: k.chat}
		if k.format == "gguf" {
			plain.format = k.format
		}
		if !slices.Contains(kinds, plain) {
			kinds = append(kinds, plain)
		}
	}
	for _, k := range kinds {
		w, err := b.file(ctx, k)
		if err != nil {
			return nil, nil, nil, err
		}
		if w.refused != nil {
			fmt.Printf("%s: %v: not written: %v\n", c.name, k, w.refused)
			continue
		}
		path, err := filepath.Abs(w.path)
		if err != nil {
			return nil, nil, nil, err
		}
		files, asked = append(files, w), append(asked, k)
		jobs = append(jobs, job{path, c.dtype, w.ids, filepath.Join(b.work, fmt.Sprintf("logits-%d", len(jobs)))})
	}
	return asked, files, jobs, nil
}

// judge decides whether the engine loads the file, and says what is wrong if
// that is not what the table says.
func (b *bench) judge(c check, k kind, r *verified.Result, w *written, floor float64) string {
	r.Floor = floor
	within := max(exact, floors*floor, c.within)
	if c.isOllama() {
		within = c.within // of choices, not of logits
	}
	r.Loads = r.Error == "" && r.Missing == 0 && r.Unexpected == 0 && r.Difference <= within
	claimed, found := claim(c, r.Version, w)
	b.results = append(b.results, *r)
	fmt.Printf("%-64v %-6t %-6t %9.2g %9.2g %9.2g %7d %10d %s\n", k, r.Loads, claimed, r.Difference, r.KL, r.Floor, r.Missing, r.Unexpected, r.Error)
	if !found {
		return fmt.Sprintf("%s: %v: the table does not speak of the engine", c.name, k)
	}
	if claimed != r.Loads {
		return fmt.Sprintf("%s: %v: the table says loads %t; it is %t (difference %.2g, floor %.2g, %d missing, %d unexpected) %s", c.name, k, claimed, r.Loads, r.Difference, floor, r.Missing, r.Unexpected, r.Error)
	}
	return ""
}

// claim is what the table says of a file in this version of the engine, on a CPU.
func claim(c check, version string, w *written) (loads, found bool) {
	for _, n := range w.notes {
		if n.Engine == c.engine {
			return n.Accepted && !n.GPU && (n.Versions == "" || strings.HasPrefix(version, n.Versions+".")), true
		}
	}
	return false, false
}

// result is a reply about a file, without what the logits say.
func result(c check, k kind, r reply) verified.Result {
	v := verified.Result{
		Engine: c.engine, Version: r.Versions[c.about], Check: c.script,
		Model: k.model, Format: k.format, Bits: k.bits, Group: k.group, Symmetric: k.symmetric, Mixed: k.mixed, Grid: k.grid, DType: c.dtype,
		Missing: r.Missing, Unexpected: r.Unexpected, Error: firstLine(r.Error),
	}
	if k.inInputs {
		v.Axis = "ic"
	}
	var with []string
	for p, version := range r.Versions {
		if p != c.about {
			with = append(with, p+" "+version)
		} else if p != c.engine {
			with = append(with, "as "+p)
		}
	}
	slices.Sort(with)
	v.With = strings.Join(with, ", ")
	return v
}

// firstLine is an error's, no longer than is useful.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s[:min(len(s), 200)]
}

// measure compares an engine's logits, or its answers, with ours.
func measure(ctx context.Context, r *verified.Result, w *written, path string, answers []answered, own bool) error {
	if r.Error != "" {
		return nil
	}
	if answers != nil {
		return follow(ctx, r, w, answers, own)
	}
	theirs, err := readLogits(path, w.logits.Rows, w.logits.Cols)
	if err != nil {
		return err
	}
	compare(r, w.logits, theirs)
	return nil
}

// readLogits reads what an engine has written.
func readLogits(path string, rows, cols int) (*tensor.Matrix, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := tensor.New(rows, cols)
	if len(data) != 4*len(m.Data) {
		return nil, fmt.Errorf("%s: %d bytes of logits, want %d x %d float32", path, len(data), rows, cols)
	}
	for i := range m.Data {
		m.Data[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return m, nil
}

// compare sets differences of logits from those that ought to be.
func compare(r *verified.Result, want, theirs *tensor.Matrix) {
	sum, square, most := 0.0, 0.0, 0.0
	for i, v := range want.Data {
		sum, square = sum+float64(v), square+float64(v)*float64(v)
		d := math.Abs(float64(v) - float64(theirs.Data[i]))
		if math.IsNaN(d) {
			r.Error = "NaN among the logits"
			return
		}
		most = max(most, d)
	}
	n := float64(len(want.Data))
	r.Difference = two(most / math.Sqrt(square/n-sum/n*sum/n))
	for i := range theirs.Rows {
		r.KL += decoder.KL(theirs.Row(i), want.Row(i)) / float64(theirs.Rows)
	}
	r.KL = two(r.KL)
}

// two rounds to two digits.
func two(v float64) float64 {
	v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'g', 2, 64), 64)
	return v
}

// save writes results, one a line, and keeps those in the file from checks of
// other engines and versions, or of other formats.
func save(path string, results []verified.Result) error {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	kept, err := verified.Parse(string(data))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	type tried struct{ engine, check, major, models string }
	key := func(r verified.Result) tried {
		major, _, _ := strings.Cut(r.Version, ".")
		return tried{r.Engine, r.Check + r.DType + r.Format, major, filepath.Dir(r.Model)}
	}
	for _, r := range results {
		kept = slices.DeleteFunc(kept, func(old verified.Result) bool { return key(old) == key(r) })
	}
	var text strings.Builder
	for _, r := range append(kept, results...) {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		text.Write(append(line, '\n'))
	}
	return os.WriteFile(path, []byte(text.String()), 0o644)
}
