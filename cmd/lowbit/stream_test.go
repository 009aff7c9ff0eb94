package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/pace"
	"github.com/golowbit/lowbit/internal/phases"
)

// event is a line of a stream as a program would read it.
type event map[string]any

func (e event) kind() string { return e["kind"].(string) }

// documented are the fields that docs/progress.md gives to kinds of events, and those it
// describes.
func documented(t *testing.T) (byKind map[string][]string, described []string) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/progress.md")
	require.NoError(t, err)
	_, text, ok := strings.Cut(string(doc), "## Events")
	require.True(t, ok)
	byKind = map[string][]string{}
	name := regexp.MustCompile("`(\\w+)`")
	for _, line := range strings.Split(text, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.Contains(cells[1], "`") {
			continue
		}
		var names [2][]string
		for i, cell := range []string{cells[1], cells[3]} {
			for _, m := range name.FindAllStringSubmatch(cell, -1) {
				names[i] = append(names[i], m[1])
			}
		}
		if types := strings.Fields(cells[2]); len(types) == 1 && slices.Contains([]string{"string", "strings", "number", "integer", "object", "array"}, types[0]) {
			described = append(described, names[0]...)
			continue
		}
		if names[0][0] != "kind" {
			byKind[names[0][0]] = append(names[1], "kind", "seconds")
		}
	}
	require.Len(t, byKind, 11)
	return byKind, described
}

// readStream checks what docs/progress.md promises of every stream.
func readStream(t *testing.T, text string) []event {
	t.Helper()
	byKind, described := documented(t)
	var all []event
	require.True(t, strings.HasSuffix(text, "\n"))
	seconds, planned := 0.0, false
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		var e event
		require.NoError(t, json.Unmarshal([]byte(line), &e), line)
		require.Contains(t, byKind, e.kind())
		for key := range e {
			require.Contains(t, byKind[e.kind()], key, line)
			require.Contains(t, described, key, line)
		}
		require.GreaterOrEqual(t, e["seconds"].(float64), seconds)
		seconds = e["seconds"].(float64)
		if share, ok := e["share"].(float64); ok {
			require.True(t, share >= 0 && share <= 1, line)
		}
		switch e.kind() {
		case "plan":
			planned = true
		case "block", "layer", "tune":
			require.True(t, planned, line)
		}
		all = append(all, e)
	}
	kinds := make([]string, len(all))
	for i, e := range all {
		kinds[i] = e.kind()
	}
	require.Equal(t, "start", kinds[0])
	require.Equal(t, 1.0, all[0]["version"])
	require.NotContains(t, kinds[1:], "start")
	require.Equal(t, len(kinds)-1, slices.Index(kinds, "end"))
	return all
}

// of are the events of a kind.
func of(all []event, kind string) []event {
	return slices.DeleteFunc(slices.Clone(all), func(e event) bool { return e.kind() != kind })
}

// TestStream: every line is an event that is as the documentation says, in order, with all
// layers, and the report on standard output has the phases too.
func TestStream(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	o := succeed(t, quick(out, "--progress=json", "--json", "--skip", `\.k_proj$`, "--eval", shortText(t), "--tune", "scales", "--tune-steps", "2", "--samples", "8", "--curvature")...)
	all := readStream(t, o.stderr)
	require.Equal(t, "quantize", all[0]["verb"])
	plan := of(all, "plan")
	require.Len(t, plan, 1)
	require.Equal(t, 24.0, plan[0]["total"])
	require.Len(t, plan[0]["plan"].(map[string]any)["layers"], 28)
	layers := of(all, "layer")
	require.Len(t, layers, 28)
	share := 0.0
	for i, l := range layers {
		require.Equal(t, float64(i+1), l["done"])
		require.Equal(t, 28.0, l["total"])
		require.GreaterOrEqual(t, l["share"], share)
		share = l["share"].(float64)
		require.Contains(t, l["layer"], "name")
	}
	require.Equal(t, 1.0, share)
	blocks := of(all, "block")
	require.Len(t, blocks, 4)
	require.Equal(t, 0.0, blocks[0]["block"])
	steps := map[string]float64{}
	for _, e := range of(all, "progress") {
		message := e["message"].(string)
		if message == "curvature" || message == "tuning" {
			require.GreaterOrEqual(t, e["done"], steps[message])
			steps[message] = e["done"].(float64)
		} else {
			require.Contains(t, []string{embedded, out}, message)
			steps["evaluation"] = max(steps["evaluation"], e["share"].(float64))
		}
	}
	require.Equal(t, 2.0, steps["tuning"])
	require.Positive(t, steps["curvature"])
	require.Equal(t, 1.0, steps["evaluation"])
	require.NotEmpty(t, of(all, "tune"))

	end := all[len(all)-1]
	require.Equal(t, 0.0, end["code"])
	require.NotContains(t, end, "message")
	var r lowbit.Report
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
	named := map[string]float64{}
	for _, p := range r.Phases {
		named[p.Name] = p.Seconds
	}
	for _, name := range []string{phases.Text, phases.Checks, phases.Curvature, phases.Forward, phases.Statistics, phases.Solving, phases.Tuning, phases.Writing, phases.Evaluation} {
		require.Positive(t, named[name], name)
	}
	require.InDelta(t, phases.Sum(r.Phases), r.Seconds+named[phases.Evaluation], 1e-4)
	var whole float64
	for _, p := range end["phases"].([]any) {
		p := p.(map[string]any)
		whole += p["seconds"].(float64)
		if name := p["name"].(string); name != phases.Preparation {
			require.InDelta(t, named[name], p["seconds"], 1e-4, name)
		}
	}
	require.InDelta(t, end["seconds"], whole, 0.5)
	if _, err := os.Stat("/proc/self/status"); err == nil {
		require.Greater(t, r.PeakMemory, int64(10<<20))
		require.GreaterOrEqual(t, end["peak_memory"], float64(r.PeakMemory))
	}
}

// TestStreamOfVerbs: other verbs write the same stream.
func TestStreamOfVerbs(t *testing.T) {
	dir := t.TempDir()
	out, text := filepath.Join(dir, "out"), shortText(t)
	all := readStream(t, succeed(t, "quantize", embedded, "-o", out, "--method", "rtn", "--axis", "oc", "--bits", "4", "--progress", "json").stderr)
	require.Len(t, of(all, "layer"), 28)
	require.Contains(t, fmt.Sprint(all[len(all)-1]["phases"]), "name:"+phases.Rounding)
	for verb, args := range map[string][]string{
		"eval":    {out, "--text", text, "--against", embedded},
		"compare": {embedded, out, "--text", text},
		"check":   {out, embedded},
		"convert": {out, "-o", out + "2", "--format", "dense"},
		"rotate":  {embedded, "-o", out + "3", "--rotation", "hadamard"},
		"plan":    {embedded, "--calib", text},
		"inspect": {out},
		"sweep":   {embedded, "-o", filepath.Join(dir, "grid"), "--bits", "3,4", "--method", "rtn", "--axis", "oc", "--eval", text},
	} {
		t.Run(verb, func(t *testing.T) {
			all := readStream(t, succeed(t, slices.Concat([]string{verb}, args, []string{"--progress", "json"})...).stderr)
			require.Equal(t, verb, all[0]["verb"])
			kind := map[string]string{"convert": "write", "rotate": "write", "plan": "end", "inspect": "end"}[verb]
			if kind == "" {
				kind = "progress"
			}
			steps := of(all, kind)
			require.NotEmpty(t, steps)
			if kind != "end" {
				require.Equal(t, 1.0, steps[len(steps)-1]["share"])
			}
			require.Equal(t, 0.0, all[len(all)-1]["code"])
		})
	}
}

// TestStreamOfErrors: the last line tells of errors, of wrong flags too, whatever comes
// before --progress.
func TestStreamOfErrors(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"frobnicate", "--progress", "json"}, exitUsage, `unknown command "frobnicate"`},
		{[]string{"quantize", embedded, "-o", out, "--bits", "three", "--progress", "json"}, exitUsage, "invalid argument"},
		{[]string{"quantize", embedded, "-o", out, "--progress", "json", "--nonsense"}, exitUsage, "unknown flag: --nonsense"},
		{[]string{"eval", "/nowhere", "--text", heldout, "--progress=json"}, exitError, "/nowhere"},
	} {
		o := runCommand(t, c.args...)
		require.Equal(t, c.code, o.code)
		all := readStream(t, o.stderr)
		require.Len(t, all, 2)
		require.Equal(t, float64(c.code), all[1]["code"])
		require.Contains(t, all[1]["message"], c.want)
	}
	o := runCommand(t, "inspect", embedded, "--progress", "fancy")
	require.Equal(t, exitUsage, o.code)
	requireOneLine(t, o, `unknown progress "fancy", want auto, bar, plain, json or none`)
}

// TestStreamInterrupted: an interrupt ends the stream with how to go on.
func TestStreamInterrupted(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stderr := &stopperAt{at: `"kind":"layer"`, stop: cancel}
	a := &app{args: quick(out, "--progress", "json"), stdout: io.Discard, stderr: stderr}
	require.Equal(t, exitInterrupted, a.run(ctx))
	all := readStream(t, stderr.String())
	require.Equal(t, 130.0, all[len(all)-1]["code"])
	require.Contains(t, all[len(all)-1]["message"], "--resume")
}

// stopperAt calls stop when something is written.
type stopperAt struct {
	bytes.Buffer
	at   string
	stop func()
}

func (s *stopperAt) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(s.at)) {
		s.stop()
	}
	return s.Buffer.Write(p)
}

// TestStreamOfPanics: so does what should not happen.
func TestStreamOfPanics(t *testing.T) {
	var stderr bytes.Buffer
	a := &app{args: []string{"eval", embedded, "--text", "-", "--progress", "json"}, stdin: panicking{}, stdout: io.Discard, stderr: &stderr}
	require.Equal(t, exitError, a.run(t.Context()))
	all := readStream(t, stderr.String())
	require.Contains(t, all[1]["message"], "internal error: no end in sight")
}

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("no end in sight") }

// TestStreamOddNumbers: what JSON has no number for does not break the stream.
func TestStreamOddNumbers(t *testing.T) {
	var b bytes.Buffer
	s := newStream(&b)
	s.event(lowbit.Event{Kind: lowbit.EventTune, KL: math.NaN()}, &pace.Work{})
	var e event
	require.NoError(t, json.Unmarshal(b.Bytes(), &e))
	require.Equal(t, "warning", e.kind())
	require.Contains(t, e["message"], "(tune) cannot be put into JSON")
}

// TestModes: what is asked for is shown, a bar on a terminal and lines elsewhere.
func TestModes(t *testing.T) {
	run := func(terminal bool, more ...string) string {
		out := filepath.Join(t.TempDir(), "out")
		var stderr bytes.Buffer
		a := &app{args: quick(out, slices.Concat([]string{"--samples", "1"}, more)...), stdout: io.Discard, stderr: &stderr, terminal: terminal}
		require.Equal(t, exitOK, a.run(t.Context()), stderr.String())
		return stderr.String()
	}
	const bar, line = "█", "1/28  model.layers.0.self_attn.q_proj"
	for name, c := range map[string]struct {
		shown     string
		bar, line bool
	}{
		"a terminal":            {run(true), true, false},
		"a pipe":                {run(false), false, true},
		"a bar in a pipe":       {run(false, "--progress", "bar"), true, false},
		"lines on a terminal":   {run(true, "--progress", "plain"), false, true},
		"nothing":               {run(true, "--progress", "none"), false, false},
		"quiet":                 {run(true, "-q"), false, false},
		"quiet, lines":          {run(false, "-q", "--progress", "plain"), false, true},
		"verbose on a terminal": {run(true, "-v"), true, false},
	} {
		require.Equal(t, c.bar, strings.Contains(c.shown, bar), name)
		require.Equal(t, c.line, strings.Contains(c.shown, line), name)
	}
	require.Regexp(t, `block \d of 4, (self_attn|mlp)\.\w+_proj +\d+%`, run(true))
	log := run(false, "-v", "-q")
	require.Regexp(t, `level=DEBUG msg=layer name=model\.layers\.0\.self_attn\.q_proj out=256 in=256 arm=\S+ bits=3\.\d+ seconds=\S+ loss=\S+ objective\.oc=\S+ objective\.ic=\S+`, log)
	require.Equal(t, 28, strings.Count(log, "msg=layer "))
	require.GreaterOrEqual(t, strings.Count(log, "msg=seconds "), 4)
	require.Regexp(t, `msg=seconds .*solving=`, log)
	require.Contains(t, log, "msg=plan layers=28 blocks=4 kept=0")
	require.Contains(t, log, "msg=block number=4 of=4")
}
