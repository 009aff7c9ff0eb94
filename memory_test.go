package lowbit

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant"
)

// TestEvaluateBatches: the figures do not depend on how many tokens go through
// the models at once.
func TestEvaluateBatches(t *testing.T) {
	o := quick(t)
	o.Method, o.Calibration = quant.RTN{}, Calibration{}
	o.Arms = []adadim.Arm{adadim.ArmIC()}
	_, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	var windows [][]int32
	for i := range 90 {
		n := 64
		if i%7 == 0 {
			n = 3 + rng.IntN(200)
		}
		ids := make([]int32, n)
		for j := range ids {
			ids[j] = rng.Int32N(100)
		}
		windows = append(windows, ids)
	}
	var first *walk.Score
	for _, tokens := range []int{0, 1, 4096, 1 << 20} {
		s := walk.Scoring{Tokens: tokens, Alone: tokens == 1}
		for _, path := range []string{embedded, o.Output} {
			m, err := (&EvalOptions{}).open(path, "")
			require.NoError(t, err)
			defer m.Close()
			s.Models = append(s.Models, &m.Scored)
		}
		score, err := s.Run(t.Context(), windows)
		require.NoError(t, err)
		if first == nil {
			first = score
			require.Positive(t, score.Divergence[0].Mean)
		}
		require.Equal(t, first, score)
	}
}

// spilling makes the memory so small that a part of the residual streams has to
// lie in a file: a share in eighths stays.
func spilling(t *testing.T, o *Options, eighths int64) {
	t.Helper()
	j, err := newJob(*o)
	require.NoError(t, err)
	defer j.close()
	j.text, err = readCalibration(j.src, j.model, o.Calibration, Tuning{}, 0)
	require.NoError(t, err)
	j.tokens = j.text.tokens()
	const much = 1 << 30
	p, err := j.planMemory(much)
	require.NoError(t, err)
	require.Zero(t, p.InFile)
	o.Memory = much - (p.Share-p.Streams*eighths/8)*32/31 + 100
	p, err = j.planMemory(o.Memory)
	require.NoError(t, err)
	require.InDelta(t, p.Streams*(8-eighths)/8, p.InFile, float64(p.Streams)/50)
}

// TestSpilledStreams: the result does not depend on how much of the residual
// streams is in memory.
func TestSpilledStreams(t *testing.T) {
	text := func(o *Options) {
		o.Calibration.Samples, o.Calibration.SeqLen = 24, 200 // 3 batches
		o.Skip = []*regexp.Regexp{regexp.MustCompile(`layers\.[2-9]`)}
	}
	ids := func(model string) func(o *Options) {
		return func(o *Options) {
			o.Model = filepath.Join("testdata/architectures", model)
			rng := rand.New(rand.NewPCG(3, 4))
			w := make([]int32, 5000)
			for i := range w {
				w[i] = rng.Int32N(60)
			}
			o.Calibration = Calibration{Text: Text{IDs: [][]int32{w}}, SeqLen: 16, Samples: 300}
			o.GroupSize = quant.WholeLine
		}
	}
	for name, set := range map[string]func(o *Options){
		"full":            func(o *Options) { text(o); o.Preset = Paper },
		"corrected":       func(o *Options) { text(o); o.Preset, o.Curvature = Best, CurvatureOff },
		"folded":          func(o *Options) { text(o); o.Preset, o.Axis, o.Curvature = Best, AxisOC, CurvatureOff },
		"quantized":       func(o *Options) { text(o); o.Inputs = InputsQuantized },
		"block":           func(o *Options) { text(o); o.Objective = new(adadim.ObjectiveBlock) },
		"experts":         func(o *Options) { ids("mixtral")(o); o.Preset, o.Curvature = Best, CurvatureOff },
		"curved":          func(o *Options) { text(o); o.Preset, o.Axis = Best, AxisOC },
		"experts, curved": func(o *Options) { ids("gpt-oss")(o); o.Preset = Best },
		"recurrent":       func(o *Options) { ids("jamba")(o); o.Preset = Best },
		"in columns":      func(o *Options) { ids("gpt2")(o); o.Preset = Best },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := quick(t)
			set(&o)
			_, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			whole := o.Output
			shares := []int64{0}
			if name == "corrected" {
				shares = []int64{0, 3}
			}
			for _, eighths := range shares {
				o.Output = filepath.Join(t.TempDir(), "out")
				o.Memory = 0
				spilling(t, &o, eighths)
				_, err = Quantize(t.Context(), o)
				require.NoError(t, err)
				requireSameFolder(t, whole, o.Output)
				require.NoDirExists(t, o.Output+checkpoint.PartialSuffix)
			}
		})
	}
}

// TestByExpert: the result does not depend on whether all weights of a block are in memory,
// and neither does what is measured of it.
func TestByExpert(t *testing.T) {
	for name, set := range map[string]func(o *Options){
		"full":      func(o *Options) { o.Preset = Paper },
		"quantized": func(o *Options) { o.Preset, o.Method = Plain, gptq.Quantizer{} },
		"corrected": func(o *Options) { o.Preset, o.Curvature = Best, CurvatureOff },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := quick(t)
			o.Model = "testdata/mixture-2m"
			set(&o)
			_, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			whole := o.Output
			j, err := newJob(o)
			require.NoError(t, err)
			defer j.close()
			j.text, err = readCalibration(j.src, j.model, o.Calibration, Tuning{}, 0)
			require.NoError(t, err)
			j.tokens = j.text.tokens()
			for o.Memory = 1 << 30; ; o.Memory -= 1 << 17 {
				p, err := j.planMemory(o.Memory)
				require.NoError(t, err)
				if p.ByExpert {
					require.Contains(t, p.String(), "weights of experts are read when they are needed")
					break
				}
			}
			o.Output = filepath.Join(t.TempDir(), "out")
			interrupt(t, o, 40)
			o.Resume = true
			_, err = Quantize(t.Context(), o)
			require.NoError(t, err)
			requireSameFolder(t, whole, o.Output)
		})
	}
	windows := make([][]int32, 5)
	for i := range windows {
		for k := range 100 {
			windows[i] = append(windows[i], int32((i*31+k*17)%90))
		}
	}
	m, err := (&EvalOptions{}).open("testdata/mixture-2m", "")
	require.NoError(t, err)
	defer m.Close()
	all := walk.Scoring{Models: []*walk.Scored{&m.Scored}}
	want, err := all.Run(t.Context(), windows)
	require.NoError(t, err)
	few := walk.Scoring{Models: all.Models, Experts: 1, Alone: true}
	got, err := few.Run(t.Context(), windows)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// TestSpilledResume: what a run that was killed has left of its streams does not
// disturb the next.
func TestSpilledResume(t *testing.T) {
	o := quick(t)
	o.Preset, o.Axis = Best, AxisOC // with curvature
	_, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	whole := o.Output
	o.Output = filepath.Join(t.TempDir(), "out")
	spilling(t, &o, 0)
	interrupt(t, o, 9)
	left := filepath.Join(o.Output+checkpoint.PartialSuffix, "streams")
	require.NoFileExists(t, left)
	require.NoError(t, os.WriteFile(left, make([]byte, 5000), 0o666))
	o.Resume = true
	_, err = Quantize(t.Context(), o)
	require.NoError(t, err)
	requireSameFolder(t, whole, o.Output)
}

// TestTooLittleMemory: what does not fit is refused before work starts, with a
// figure that is enough.
func TestTooLittleMemory(t *testing.T) {
	o := quick(t)
	o.Memory = 10 << 20
	_, err := Quantize(t.Context(), o)
	require.ErrorIs(t, err, ErrMemory)
	require.ErrorContains(t, err, "MiB are needed at least (weights ")
	require.NoDirExists(t, o.Output+checkpoint.PartialSuffix)
	_, err = Evaluate(t.Context(), EvalOptions{Model: embedded, Text: short(t), Memory: 10 << 20})
	require.ErrorIs(t, err, ErrMemory)
	o.Memory = -1
	require.ErrorIs(t, o.Validate(), ErrOptions)
}

// TestPasses: the result does not depend on how many passes of the text the
// statistics of a block take.
func TestPasses(t *testing.T) {
	o := quick(t)
	o.Skip = []*regexp.Regexp{regexp.MustCompile(`layers\.[2-9]`)}
	_, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	whole := o.Output
	o.Output = filepath.Join(t.TempDir(), "out")
	j, err := newJob(o)
	require.NoError(t, err)
	defer j.close()
	require.NoError(t, j.prepare(t.Context(), &o))
	j.memory.Statistics = 1 // a pass for every stage
	require.NoError(t, j.run(t.Context()))
	requireSameFolder(t, whole, o.Output)
}
