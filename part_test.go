package lowbit

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
)

// ways are what parts make together, each with what it changes of quick.
var ways = map[string]func(o *Options){
	"rtn":        func(o *Options) { textless(o) },
	"rtn, clip":  func(o *Options) { textless(o); o.Clip = new(true) },
	"rtn, dense": func(o *Options) { textless(o); o.Format = mustFormat("dense") },
	"rtn, gguf": func(o *Options) {
		textless(o)
		o.Bits, o.GroupSize, o.Format, o.Output = 4, 0, mustFormat("gguf"), o.Output+".gguf"
	},
	"gptq": func(o *Options) { // on quantized inputs
		o.Preset = Plain
	},
	"paper": func(o *Options) {},
	"fast, folded": func(o *Options) {
		o.Preset, o.Axis, o.Fold = Fast, AxisOC, FoldOn
	},
	"corrected": func(o *Options) {
		o.Preset, o.Correction, o.Axis, o.Fold = Plain, new(1.0), AxisOC, FoldOff
	},
	"best": func(o *Options) {
		o.Preset, o.Calibration.Samples = Best, 30
		o.GPTQ.Refine = &gptq.Refine{Rounds: 1, Sweeps: 1}
		o.Skip = []*regexp.Regexp{regexp.MustCompile(`layers\.[12]\.`)}
	},
	"best, folded": func(o *Options) {
		o.Preset, o.Curvature, o.Axis, o.Fold, o.GPTQ.Refine = Best, CurvatureOff, AxisOC, FoldOn, &gptq.Refine{}
		o.Skip = []*regexp.Regexp{regexp.MustCompile(`layers\.[23]\.`)}
	},
	"gguf head": func(o *Options) {
		o.Preset, o.Format, o.Axis, o.Bits, o.GroupSize, o.Output = Plain, ggufmodel.Format{Type: "Q4_K_M"}, AxisOC, 0, 0, o.Output+".gguf"
	},
}

// chunked has texts divided into chunks of so many tokens.
func chunked(t *testing.T, tokens int) {
	was := chunkTokens
	chunkTokens = tokens
	t.Cleanup(func() { chunkTokens = was })
}

func mustFormat(name string) layout.Format {
	f, err := checkpoint.Lookup(name)
	if err != nil {
		panic(err)
	}
	return f
}

// textless asks for rounding without text.
func textless(o *Options) {
	o.Preset, o.Calibration, o.Method, o.Axis = PresetDefault, Calibration{}, quant.RTN{}, AxisOC
}

// requireSame compares outputs, folders or files.
func requireSame(t *testing.T, want, got string) {
	t.Helper()
	if st, err := os.Stat(want); err == nil && !st.IsDir() {
		a, err := os.ReadFile(want)
		require.NoError(t, err)
		b, err := os.ReadFile(got)
		require.NoError(t, err)
		require.True(t, string(a) == string(b), "%s and %s differ", want, got)
		return
	}
	requireSameFolder(t, want, got)
}

// together runs all parts at a time.
func together(t *testing.T, o Options, n int) []*Report {
	t.Helper()
	reports, errs := make([]*Report, n), make([]error, n)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			o := o
			o.Part, o.Workers = Part{Index: i + 1, Count: n}, 1
			reports[i], errs[i] = Quantize(t.Context(), o)
		})
	}
	wait.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	return reports
}

// TestParts: what parts make together has the bytes of what one process makes, whatever
// their number, and each tells what it has done.
func TestParts(t *testing.T) {
	for _, way := range slices.Sorted(maps.Keys(ways)) {
		t.Run(way, func(t *testing.T) {
			chunked(t, 2048)
			whole := quick(t)
			whole.Calibration.Samples = 50
			ways[way](&whole)
			want, err := Quantize(t.Context(), whole)
			require.NoError(t, err)
			require.Nil(t, want.Part)
			counts := []int{2, 3}
			if whole.Preset == Best || whole.Preset == Fast { // they are slow
				counts = counts[1:]
			}
			for _, n := range counts {
				o := quick(t)
				o.Calibration.Samples = 50
				ways[way](&o)
				merged := 0
				for i, r := range together(t, o, n) {
					require.Equal(t, Part{Index: i + 1, Count: n}, r.Part.Part)
					if r.Part.Merged {
						merged++
						require.Len(t, r.Layers, len(want.Layers))
						require.InDelta(t, want.BitsPerWeight, r.BitsPerWeight, 1e-12)
						require.Equal(t, want.BytesAfter, r.BytesAfter)
					}
				}
				require.LessOrEqual(t, merged, 1)
				if merged == 0 { // each has looked before another was done
					r, err := Quantize(t.Context(), withPart(o, 1, n))
					require.NoError(t, err)
					require.True(t, r.Part.Merged)
				}
				requireSame(t, whole.Output, o.Output)
				require.NoDirExists(t, o.Output+checkpoint.PartialSuffix)

				again, err := Quantize(t.Context(), withPart(o, n, n))
				require.NoError(t, err)
				require.Equal(t, Parted{Part: Part{Index: n, Count: n}}, *again.Part)
				o.Skip = append(slices.Clone(o.Skip), regexp.MustCompile("k_proj"))
				_, err = Quantize(t.Context(), withPart(o, n, n))
				require.ErrorIs(t, err, checkpoint.ErrResume)
				require.ErrorContains(t, err, "skip was")
			}
		})
	}
}

func withPart(o Options, i, n int) Options {
	o.Part = Part{Index: i, Count: n}
	return o
}

// TestPartAgain: a part that was stopped goes on with what it has, one that comes late
// finds what the others have made, and a run of its own can take the folder over.
func TestPartAgain(t *testing.T) {
	whole := quick(t)
	textless(&whole)
	_, err := Quantize(t.Context(), whole)
	require.NoError(t, err)

	o := quick(t)
	textless(&o)
	r, err := Quantize(t.Context(), withPart(o, 2, 3))
	require.NoError(t, err)
	require.False(t, r.Part.Merged)
	require.Equal(t, 28-len(r.Layers), r.Part.Missing)
	require.NoFileExists(t, o.Output)

	ctx, cancel := context.WithCancel(t.Context())
	stopped := withPart(o, 1, 3)
	stopped.Workers = 1
	seen := 0
	stopped.Events = func(e Event) {
		if e.Kind == EventLayer {
			if seen++; seen == 3 {
				cancel()
			}
		}
	}
	_, err = Quantize(ctx, stopped)
	cancel()
	require.ErrorIs(t, err, context.Canceled)

	// What parts of another number, or with other options, would do is something else.
	_, err = Quantize(t.Context(), withPart(o, 1, 2))
	require.ErrorIs(t, err, checkpoint.ErrResume)
	require.ErrorContains(t, err, "parts were 3, are 2")
	other := withPart(o, 1, 3)
	other.GroupSize = 32
	_, err = Quantize(t.Context(), other)
	require.ErrorContains(t, err, "group_size was 64, is 32")

	r, err = Quantize(t.Context(), withPart(o, 1, 3))
	require.NoError(t, err)
	require.False(t, r.Part.Merged)
	r, err = Quantize(t.Context(), withPart(o, 3, 3))
	require.NoError(t, err)
	require.True(t, r.Part.Merged)
	requireSame(t, whole.Output, o.Output)
}

// TestPartStopped: of parts with text one is stopped, and stopped again, while the other
// waits for it; run again it goes on, and the result is the same. What waits notices that
// it is to stop.
func TestPartStopped(t *testing.T) {
	for way, at := range map[string][]int{"gptq": {0, 3, 14}, "paper": {5, 12}} {
		t.Run(way, func(t *testing.T) {
			chunked(t, 2048)
			run := quick(t)
			run.Calibration.Samples = 50
			ways[way](&run)
			whole := run
			whole.Output += "-whole"
			_, err := Quantize(t.Context(), whole)
			require.NoError(t, err)

			other := make(chan error, 1)
			go func() {
				_, err := Quantize(t.Context(), withPart(run, 1, 2))
				other <- err
			}()
			for _, layers := range at {
				o := withPart(run, 2, 2)
				ctx, cancel := context.WithCancel(t.Context())
				o.Events = func(e Event) {
					if e.Kind == EventPlan && layers == 0 || e.Kind == EventLayer && e.Done == layers {
						cancel()
					}
				}
				_, err := Quantize(ctx, o)
				cancel()
				require.ErrorIs(t, err, context.Canceled)
			}
			_, err = Quantize(t.Context(), withPart(run, 2, 2))
			require.NoError(t, err)
			require.NoError(t, <-other)
			if _, err := os.Stat(run.Output); err != nil {
				_, err = Quantize(t.Context(), withPart(run, 1, 2))
				require.NoError(t, err)
			}
			requireSame(t, whole.Output, run.Output)
		})
	}
	o := withPart(quick(t), 1, 2) // the other never comes
	o.Preset = Plain
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Events = func(e Event) {
		if e.Kind == EventBlock {
			time.AfterFunc(100*time.Millisecond, cancel)
		}
	}
	_, err := Quantize(ctx, o)
	require.ErrorIs(t, err, context.Canceled)
}

// TestPartDamaged: what was damaged in the folder is named, and nothing is published.
func TestPartDamaged(t *testing.T) {
	o := quick(t)
	textless(&o)
	_, err := Quantize(t.Context(), withPart(o, 1, 2))
	require.NoError(t, err)
	list, err := filepath.Glob(filepath.Join(o.Output+checkpoint.PartialSuffix, "layers", "layer-*", "*.safetensors"))
	require.NoError(t, err)
	require.NotEmpty(t, list)
	edit(t, list[0], func(data []byte) []byte { data[len(data)-1] ^= 1; return data })
	_, err = Quantize(t.Context(), withPart(o, 2, 2))
	name, _ := strings.CutPrefix(filepath.Base(filepath.Dir(list[0])), "layer-")
	require.ErrorContains(t, err, name)
	t.Log(err)
	require.NoDirExists(t, o.Output)
	require.NoError(t, os.RemoveAll(filepath.Dir(list[0])))
	for i := range 2 {
		r, err := Quantize(t.Context(), withPart(o, i+1, 2))
		require.NoError(t, err)
		require.Equal(t, i == 1, r.Part.Merged)
	}
}

// TestPartRefused: what parts cannot do together is refused before any work.
func TestPartRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Options)
		text   string
	}{
		"number": {func(o *Options) { o.Part.Index = 3 }, "part 3 of 2: parts are numbered from 1 to 2"},
		"tuning": {func(o *Options) { o.Tuning.What = TuneScales }, "tuning is not for parts"},
		"budget": {func(o *Options) { o.Budget.Bits = 4 }, "a budget of bits is not for parts"},
		"block":  {func(o *Options) { o.Objective = new(adadim.ObjectiveBlock) }, "objective block is not for parts"},
		"matrix": {func(o *Options) { o.SaveImportance = filepath.Join(t.TempDir(), "m.gguf") }, "writing an importance matrix is not for parts"},
	} {
		t.Run(name, func(t *testing.T) {
			o := withPart(quick(t), 1, 2)
			c.change(&o)
			_, err := Resolve(o)
			require.ErrorIs(t, err, ErrOptions)
			require.ErrorContains(t, err, c.text)
		})
	}
}
