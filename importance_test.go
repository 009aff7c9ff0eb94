package lowbit

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/internal/imatrix"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// seer rounds, and remembers by the first weights of a layer the means of the squares of
// its inputs.
type seer struct {
	mu   *sync.Mutex
	seen map[[4]float32][]float32
}

func newSeer() seer { return seer{new(sync.Mutex), map[[4]float32][]float32{}} }

func (s seer) Quantize(ctx context.Context, w *tensor.Matrix, scheme quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	if cal == nil {
		return nil, errors.New("nothing is known of the inputs")
	}
	mean := cal.Diagonal()
	for i := range mean {
		mean[i] /= float32(cal.Tokens)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[[4]float32(w.Row(1)[:4])] = mean
	return quant.RTN{}.Quantize(ctx, w, scheme, cal)
}

// saved makes an importance matrix of a model by calibrating o.
func saved(t *testing.T, o Options) string {
	t.Helper()
	o.SaveImportance = filepath.Join(t.TempDir(), "imatrix.gguf")
	_, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	return o.SaveImportance
}

// What layers are quantized by with an importance matrix is what they were calibrated on
// when it was made, also where experts or matrices are stored in one tensor.
func TestImportanceIsTheDiagonal(t *testing.T) {
	for _, name := range []string{"granitemoe", "gpt-oss", "phi3", "gpt2"} {
		dir := filepath.Join("testdata/architectures", name)
		with, without := newSeer(), newSeer()
		o := Options{
			Model: dir, Output: filepath.Join(t.TempDir(), "out"), Bits: 4, GroupSize: 16, Inputs: InputsFull, Method: with,
			Arms: []adadim.Arm{adadim.ArmOC()}, Calibration: Calibration{Text: Text{IDs: randomIDs(t, dir, 8, 64)}, SeqLen: 32},
		}
		path := saved(t, o)
		o.Output, o.Method, o.Calibration, o.Importance = filepath.Join(t.TempDir(), "out"), without, Calibration{}, path
		report, err := Quantize(t.Context(), o)
		require.NoError(t, err, name)
		for _, l := range report.Layers {
			require.Empty(t, l.Notes, l.Name)
		}
		require.Len(t, without.seen, len(with.seen), name)
		for key, mean := range with.seen {
			got := without.seen[key]
			require.Len(t, got, len(mean), name)
			for i, v := range mean {
				require.InDelta(t, v, got[i], 1e-5*float64(v), name)
			}
		}
	}
}

// A matrix of the text makes the weighted errors less than rounding without, in every
// format, and the settings say so.
func TestImportanceHelps(t *testing.T) {
	base := quick(t)
	base.Preset = Fast
	path := saved(t, base)
	for _, c := range []struct {
		format, typ string
		method      quant.Quantizer
		axis        Axis
	}{
		{"gguf", "Q2_K", quant.RTN{}, AxisOC}, {"gguf", "Q4_K_M", nil, AxisDefault}, {"gptq", "", quant.RTN{}, AxisOC},
		{"lowbit", "", nil, AxisDefault}, {"lowbit", "", quant.RTN{}, AxisDefault}, {"hqq", "", quant.RTN{}, AxisIC},
	} {
		losses := map[bool]float64{}
		for _, weighed := range []bool{false, true} {
			o := Options{Model: embedded, Output: filepath.Join(t.TempDir(), "out"), Format: format(t, c.format), Method: c.method, Axis: c.axis, Skip: []*regexp.Regexp{regexp.MustCompile(`layers\.[123]\.`)}}
			if c.typ != "" {
				o.Format = ggufmodel.Format{Type: c.typ}
			} else {
				o.Bits, o.GroupSize = 4, 64
			}
			if weighed {
				o.Importance = path
			} else if o.Method, o.Axis = (quant.RTN{}), AxisOC; c.axis == AxisIC {
				o.Axis = c.axis
			}
			r, err := Quantize(t.Context(), o)
			require.NoError(t, err, c)
			require.Equal(t, weighed, slices.ContainsFunc(r.Settings, func(s Setting) bool { return s.Name == "importance_matrix" }))
			losses[weighed] = weightedLoss(t, o.Output, path)
		}
		t.Logf("%v: %.4g of the weighted error of rounding without", c, losses[true]/losses[false])
		require.Less(t, losses[true], losses[false], "%v", c)
	}
}

// weightedLoss is what a quantized model has lost in the layers of block 0, by the
// squares of their inputs.
func weightedLoss(t *testing.T, path, importance string) (sum float64) {
	t.Helper()
	src, err := checkpoint.Open(embedded)
	require.NoError(t, err)
	defer src.Close()
	p, err := ggufmodel.ReadImportance(importance, src)
	require.NoError(t, err)
	m, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer m.Close()
	for _, name := range m.Quantized() {
		if !regexp.MustCompile(`layers\.0\.`).MatchString(name) {
			continue
		}
		w, err := src.Matrix(name + ".weight")
		require.NoError(t, err)
		q, err := m.Matrix(name + ".weight")
		require.NoError(t, err)
		squares := p.Squares(name)
		require.Len(t, squares, w.Cols)
		var lost, whole float64
		for r := range w.Rows {
			for i, v := range w.Row(r) {
				lost += float64(squares[i]) * math.Pow(float64(q.At(r, i)-v), 2)
				whole += float64(squares[i]) * float64(v) * float64(v)
			}
		}
		sum += lost / whole
	}
	require.Positive(t, sum)
	return sum
}

// A run that was interrupted writes the same matrix, and takes up the work only with
// the same one.
func TestImportanceResume(t *testing.T) {
	for _, inputs := range []Inputs{InputsFull, InputsQuantized} {
		o := quick(t)
		o.Inputs = inputs
		want, err := os.ReadFile(saved(t, o))
		require.NoError(t, err)
		o.Resume, o.SaveImportance = true, filepath.Join(t.TempDir(), "imatrix.gguf")
		o.Output += "-again"
		ctx, cancel := context.WithCancel(t.Context())
		o.Events = func(e Event) {
			if e.Kind == EventLayer && e.Done == 12 {
				cancel()
			}
		}
		_, err = Quantize(ctx, o)
		require.ErrorIs(t, err, context.Canceled)
		require.NoFileExists(t, o.SaveImportance)
		o.Events = nil
		_, err = Quantize(t.Context(), o)
		require.NoError(t, err)
		got, err := os.ReadFile(o.SaveImportance)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	first, second := saved(t, quick(t)), filepath.Join(t.TempDir(), "other.gguf")
	f, err := imatrix.Read(first)
	require.NoError(t, err)
	f.Entries[0].Sums[0] *= 2
	require.NoError(t, f.Write(second))
	o := Options{Model: embedded, Output: filepath.Join(t.TempDir(), "out"), Preset: Fast, Importance: first, Resume: true}
	ctx, cancel := context.WithCancel(t.Context())
	o.Events = func(e Event) {
		if e.Kind == EventLayer {
			cancel()
		}
	}
	_, err = Quantize(ctx, o)
	require.ErrorIs(t, err, context.Canceled)
	o.Events, o.Importance = nil, second
	_, err = Quantize(t.Context(), o)
	require.ErrorIs(t, err, checkpoint.ErrResume)
	moved := filepath.Join(t.TempDir(), "moved.gguf")
	require.NoError(t, os.Rename(first, moved))
	o.Importance = moved
	_, err = Quantize(t.Context(), o)
	require.NoError(t, err)
}

func TestImportanceRefuses(t *testing.T) {
	path := saved(t, quick(t))
	f, err := imatrix.Read(path)
	require.NoError(t, err)
	damaged := func(change func(f *imatrix.File)) string {
		c := *f
		c.Entries = slices.Clone(f.Entries)
		change(&c)
		out := filepath.Join(t.TempDir(), "x.gguf")
		require.NoError(t, c.Write(out))
		return out
	}
	base := Options{Model: embedded, Output: filepath.Join(t.TempDir(), "out"), Method: quant.RTN{}, Axis: AxisOC, Bits: 4, GroupSize: 64}
	for _, c := range []struct {
		change func(o *Options)
		want   string
	}{
		{func(o *Options) { o.Calibration = quick(t).Calibration }, "text is given too"},
		{func(o *Options) { o.SaveImportance = "x"; o.Importance = "" }, ErrNeedsText.Error()},
		{func(o *Options) { o.Calibration, o.Importance, o.SaveImportance = quick(t).Calibration, "", path }, "already"},
		{func(o *Options) {
			o.Calibration, o.Importance, o.SaveImportance = quick(t).Calibration, "", filepath.Join(t.TempDir(), "no", "x.gguf")
		}, "no folder for it"},
		{func(o *Options) { o.Importance = embeddedHeldout }, "not a valid importance matrix"},
		{func(o *Options) { o.Model = "testdata/architectures/mixtral" }, "of another model"},
		{func(o *Options) { o.Importance = damaged(func(f *imatrix.File) { f.Entries = f.Entries[:0] }) }, "no entries"},
		{func(o *Options) {
			o.Importance = damaged(func(f *imatrix.File) {
				f.Entries[0].Sums = f.Entries[0].Sums[:64]
			})
		}, `entry "blk.0.attn_k.weight": 64 values in 1 parts, want 256`},
		{func(o *Options) {
			o.Importance = damaged(func(f *imatrix.File) {
				f.Entries = f.Entries[:1]
				f.Entries[0].Name = "blk.99.attn_k.weight"
			})
		}, "none of its 1 entries"},
		{func(o *Options) { o.Method, o.Correction = nil, new(1.0) }, ErrNeedsText.Error()},
		{func(o *Options) { o.Method, o.Curvature = nil, CurvatureOn }, ErrNeedsText.Error()},
		{func(o *Options) { o.Method, o.Preset, o.Fold = nil, Fast, FoldOn }, ErrNeedsText.Error()},
	} {
		o := base
		o.Importance = path
		c.change(&o)
		_, err := Quantize(t.Context(), o)
		require.ErrorContains(t, err, c.want)
		require.NoFileExists(t, o.Output)
	}
	// What is not known of a layer is said.
	o := base
	warned := map[string]string{}
	o.Events = func(e Event) {
		if e.Kind == EventWarning {
			warned[e.Name] = e.Message
		}
	}
	o.Importance = damaged(func(f *imatrix.File) {
		f.Entries[1] = imatrix.Entry{Name: f.Entries[1].Name, Sums: f.Entries[1].Sums, Counts: []float32{0}}
		f.Entries = f.Entries[1:]
	})
	for _, method := range []quant.Quantizer{quant.RTN{}, nil} {
		clear(warned)
		o.Method, o.Output = method, filepath.Join(t.TempDir(), "out")
		_, err = Quantize(t.Context(), o)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.o_proj"}, slices.Collect(maps.Keys(warned)))
		require.Contains(t, warned["model.layers.0.self_attn.k_proj"], "no entry")
		require.Contains(t, warned["model.layers.0.self_attn.o_proj"], "no token")
	}
}

// The form without a header means the same.
func TestImportanceOlderForm(t *testing.T) {
	path := saved(t, quick(t))
	f, err := imatrix.Read(path)
	require.NoError(t, err)
	text := func(data []byte, s string) []byte {
		return append(binary.LittleEndian.AppendUint32(data, uint32(len(s))), s...)
	}
	data := binary.LittleEndian.AppendUint32(nil, uint32(len(f.Entries)))
	const calls = 4
	for _, e := range f.Entries {
		data = binary.LittleEndian.AppendUint32(text(data, e.Name), calls)
		data = binary.LittleEndian.AppendUint32(data, uint32(len(e.Sums)))
		for _, v := range e.Sums {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v/e.Counts[0]*calls))
		}
	}
	older := filepath.Join(t.TempDir(), "imatrix.dat")
	require.NoError(t, os.WriteFile(older, text(binary.LittleEndian.AppendUint32(data, calls), "wiki.txt"), 0o600))
	src, err := checkpoint.Open(embedded)
	require.NoError(t, err)
	defer src.Close()
	a, err := ggufmodel.ReadImportance(path, src)
	require.NoError(t, err)
	b, err := ggufmodel.ReadImportance(older, src)
	require.NoError(t, err)
	for _, name := range []string{"model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj"} {
		require.InDeltaSlice(t, a.Squares(name), b.Squares(name), 1e-5)
	}
	require.Nil(t, a.Squares("model.layers.9.mlp.down_proj"))
}
