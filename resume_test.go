package lowbit

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// copyModel copies the embedded model.
func copyModel(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.CopyFS(dir, os.DirFS(embedded)))
	return dir
}

// edit rewrites a file in its place.
func edit(t *testing.T, path string, change func(data []byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	changed := change(bytes.Clone(data))
	require.NotEqual(t, data, changed)
	require.NoError(t, os.WriteFile(path, changed, 0o666))
}

// interrupt runs until n layers are done.
func interrupt(t *testing.T, o Options, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Events = func(e Event) {
		if e.Kind == EventLayer && e.Done == n {
			cancel()
		}
	}
	_, err := Quantize(ctx, o)
	require.ErrorIs(t, err, context.Canceled)
	require.DirExists(t, o.Output+checkpoint.PartialSuffix)
}

// otherWeights changes a weight, and neither size nor time of the file.
func otherWeights(t *testing.T, path string) {
	st, err := os.Stat(path)
	require.NoError(t, err)
	edit(t, path, func(data []byte) []byte { data[len(data)-1] ^= 1; return data })
	require.NoError(t, os.Chtimes(path, st.ModTime(), st.ModTime()))
}

// replaced replaces a text in a file of the model.
func replaced(name, old, with string) func(*testing.T, *Options) {
	return func(t *testing.T, o *Options) {
		edit(t, filepath.Join(o.Model, name), func(data []byte) []byte {
			return bytes.Replace(data, []byte(old), []byte(with), 1)
		})
	}
}

// TestResumeKnowsItsInputs: what changes the result is refused, in words, and
// nothing else is.
func TestResumeKnowsItsInputs(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, o *Options)
		want   string // "" if it is accepted
	}{
		"weights of the same size and time": {func(t *testing.T, o *Options) {
			otherWeights(t, filepath.Join(o.Model, "model.safetensors"))
		}, "model.safetensors holds something else"},
		"another model": {func(t *testing.T, o *Options) {
			o.Model = copyModel(t)
			otherWeights(t, filepath.Join(o.Model, "model.safetensors"))
		}, "model.safetensors holds something else"},
		"config.json":      {replaced("config.json", `"rms_norm_eps": 1e-05`, `"rms_norm_eps": 1e-06`), "config.json: rms_norm_eps was 1e-05, is 1e-06"},
		"tokenizer.json":   {replaced("tokenizer.json", "\n", " "), "tokenizer.json holds something else"},
		"tokenizer config": {replaced("tokenizer_config.json", "\n", "  \n"), "tokenizer_config.json holds something else"},
		"a file more": {func(t *testing.T, o *Options) {
			require.NoError(t, os.WriteFile(filepath.Join(o.Model, "added_tokens.json"), []byte("{}"), 0o666))
		}, "added_tokens.json was not there"},
		"a file less": {func(t *testing.T, o *Options) {
			require.NoError(t, os.Remove(filepath.Join(o.Model, "generation_config.json")))
		}, "generation_config.json is gone"},
		"format":         {func(t *testing.T, o *Options) { o.Format = format(t, "gptq"); o.Fit = FitOn }, "format was"},
		"target":         {func(t *testing.T, o *Options) { o.Target = "llama.cpp" }, "was"},
		"shard size":     {func(t *testing.T, o *Options) { o.MaxShardBytes = 1 << 20 }, "max_shard_bytes was 0, is 1048576"},
		"preset":         {func(t *testing.T, o *Options) { o.Preset = Best }, "was"},
		"text":           {func(t *testing.T, o *Options) { o.Calibration.Files = []string{embeddedHeldout} }, "text was"},
		"inner text":     {func(t *testing.T, o *Options) { o.Calibration.PerDocument, o.Calibration.BOS = false, nil }, "text was"},
		"arms":           {func(t *testing.T, o *Options) { o.Arms = adadim.AllArms() }, "arms was"},
		"axis":           {func(t *testing.T, o *Options) { o.Axis = AxisOC }, "axis was"},
		"nothing":        {func(*testing.T, *Options) {}, ""},
		"workers":        {func(_ *testing.T, o *Options) { o.Workers = 3 }, ""},
		"other spelling": {func(_ *testing.T, o *Options) { o.Model += "/../model/" }, ""},
		"a link": {func(t *testing.T, o *Options) {
			link := filepath.Join(t.TempDir(), "link")
			require.NoError(t, os.Symlink(o.Model, link))
			o.Model = link
		}, ""},
		"touched": {func(t *testing.T, o *Options) {
			require.NoError(t, os.Chtimes(filepath.Join(o.Model, "model.safetensors"), time.Now(), time.Now()))
		}, ""},
		"a copy":  {func(t *testing.T, o *Options) { o.Model = copyModel(t) }, ""},
		"renamed": {func(t *testing.T, o *Options) { require.NoError(t, os.Rename(o.Model, o.Model+"2")); o.Model += "2" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := quick(t)
			o.Model, o.Resume = copyModel(t), true
			interrupt(t, o, 2)
			before := folder(t, o.Output+checkpoint.PartialSuffix)
			changed := o
			c.change(t, &changed)
			interrupted := false
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			kept := 0
			changed.Events = func(e Event) {
				if e.Kind == EventPlan {
					kept, interrupted = e.Kept, true
					cancel()
				}
			}
			_, err := Quantize(ctx, changed)
			if c.want == "" {
				require.ErrorIs(t, err, context.Canceled)
				require.Equal(t, 2, kept)
				return
			}
			require.ErrorIs(t, err, checkpoint.ErrResume)
			require.ErrorContains(t, err, c.want)
			require.False(t, interrupted)
			require.True(t, maps.Equal(before, folder(t, o.Output+checkpoint.PartialSuffix)), "a refusal changes nothing")
		})
	}
}

// TestResumeAdapter: the files of an adapter and of its base both count.
func TestResumeAdapter(t *testing.T) {
	for _, name := range []string{"adapter", "adapter config", "base", "neither"} {
		o := quick(t)
		o.Model, o.Base, o.Resume = writeAdapter(t, "model.layers.1.mlp.down_proj", 256, 512), copyModel(t), true
		interrupt(t, o, 2)
		want := "holds something else"
		switch name {
		case "adapter":
			otherWeights(t, filepath.Join(o.Model, "adapter_model.safetensors"))
		case "adapter config":
			require.NoError(t, os.WriteFile(filepath.Join(o.Model, "adapter_config.json"), []byte(`{"peft_type": "LORA", "r": 1, "lora_alpha": 1}`), 0o666))
		case "base":
			otherWeights(t, filepath.Join(o.Base, "model.safetensors"))
			want = "base: model.safetensors " + want
		case "neither":
			_, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			continue
		}
		_, err := Quantize(t.Context(), o)
		require.ErrorIs(t, err, checkpoint.ErrResume, name)
		require.ErrorContains(t, err, want, name)
	}
}

// TestResumeRounding: layers that were rounded without text to a format of one
// file are kept too; changed files are refused though they are not hashed.
func TestResumeRounding(t *testing.T) {
	options := func() Options {
		return Options{
			Model: copyModel(t), Output: filepath.Join(t.TempDir(), "out.gguf"), Format: format(t, "gguf"),
			Method: quant.RTN{}, Bits: 4, GroupSize: 32, Axis: AxisOC, Symmetric: new(true), Workers: 1,
		}
	}
	whole := options()
	_, err := Quantize(t.Context(), whole)
	require.NoError(t, err)
	want, err := os.ReadFile(whole.Output)
	require.NoError(t, err)

	o := options()
	interrupt(t, o, 3)
	o.Resume = true
	var kept []int
	o.Events = func(e Event) {
		if e.Kind == EventPlan {
			kept = append(kept, e.Kept)
		}
	}
	other := o
	other.Model = copyModel(t)
	_, err = Quantize(t.Context(), other)
	require.ErrorIs(t, err, checkpoint.ErrResume)
	require.ErrorContains(t, err, "model.safetensors has been changed or replaced: was")
	_, err = Quantize(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, kept, 1)
	require.GreaterOrEqual(t, kept[0], 3)
	got, err := os.ReadFile(o.Output)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.NoDirExists(t, o.Output+checkpoint.PartialSuffix)
}

// TestResumeDamagedLayer: a layer that cannot be read any more is named and
// made again.
func TestResumeDamagedLayer(t *testing.T) {
	whole := quick(t)
	_, err := Quantize(t.Context(), whole)
	require.NoError(t, err)
	o := quick(t)
	interrupt(t, o, 5)
	files, err := filepath.Glob(filepath.Join(o.Output+checkpoint.PartialSuffix, "layers", "layer-*", "model.safetensors"))
	require.NoError(t, err)
	require.Len(t, files, 5)
	edit(t, files[1], func(data []byte) []byte { return data[:len(data)/2] })
	edit(t, files[3], func(data []byte) []byte { data[len(data)*3/4] ^= 0x10; return data })
	var warnings []string
	o.Resume, o.Events = true, func(e Event) {
		if e.Kind == EventWarning {
			warnings = append(warnings, e.Message)
		}
	}
	_, err = Quantize(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, warnings, 2)
	require.True(t, slices.ContainsFunc(warnings, func(s string) bool { return bytes.Contains([]byte(s), []byte(files[1])) }), "%q", warnings)
	requireSameFolder(t, whole.Output, o.Output)
}

// countedGPTQ counts how often it is asked.
type countedGPTQ struct{ calls *atomic.Int64 }

func (c countedGPTQ) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	c.calls.Add(1)
	return gptq.Quantizer{}.Quantize(ctx, w, s, cal)
}

func (countedGPTQ) Parameters() any { return 0 }

// TestResumeFolded: a resume takes the scales that were chosen and repeats no
// search, on unquantized inputs and on quantized ones. Without them, because
// they are damaged, it chooses the same again.
func TestResumeFolded(t *testing.T) {
	for _, inputs := range []Inputs{InputsFull, InputsQuantized} {
		t.Run(inputs.String(), func(t *testing.T) {
			options := func() (Options, *atomic.Int64) {
				calls := new(atomic.Int64)
				o := quick(t)
				o.Preset, o.Bits, o.Format, o.Axis, o.Arms = PresetDefault, 4, format(t, "gptq"), AxisOC, []adadim.Arm{{}, {InputScale: true}}
				o.Method, o.Search, o.Fold, o.Inputs, o.Workers = countedGPTQ{calls}, new(adadim.SearchMethod), FoldOn, inputs, 1
				return o, calls
			}
			whole, calls := options()
			_, err := Quantize(t.Context(), whole)
			require.NoError(t, err)
			want := calls.Load()
			for _, damaged := range []bool{false, true} {
				o, calls := options()
				interrupt(t, o, 10) // in the second of four blocks
				notes, err := filepath.Glob(filepath.Join(o.Output+checkpoint.PartialSuffix, "layers", "note-fold-*"))
				require.NoError(t, err)
				require.Len(t, notes, 2)
				warnings := 0
				o.Resume, o.Events = true, func(e Event) {
					if e.Kind == EventWarning {
						warnings++
						require.Contains(t, e.Message, "checksum")
					}
				}
				if damaged {
					edit(t, notes[1], func(data []byte) []byte { data[len(data)/2] ^= 1; return data })
				}
				_, err = Quantize(t.Context(), o)
				require.NoError(t, err)
				requireSameFolder(t, whole.Output, o.Output)
				if damaged {
					require.Equal(t, 1, warnings)
					require.Greater(t, calls.Load(), want+5)
				} else {
					require.Zero(t, warnings)
					require.LessOrEqual(t, calls.Load(), want+2, "what was under way when it was interrupted")
				}
			}
		})
	}
}

// TestResumeKeepsCurvature: a resumed run does not send the text back through the model
// again, unless what was kept of it is damaged or gone.
func TestResumeKeepsCurvature(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, path string)
		again  bool // it is computed again
		told   int  // warnings
	}{
		"kept": {damage: func(*testing.T, string) {}},
		"damaged": {again: true, told: 1, damage: func(t *testing.T, path string) {
			edit(t, path, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}},
		"gone": {again: true, damage: func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) }},
	} {
		t.Run(name, func(t *testing.T) {
			whole := quick(t)
			whole.Axis, whole.Curvature = AxisOC, CurvatureOn
			_, err := Quantize(t.Context(), whole)
			require.NoError(t, err)
			o := whole
			o.Output = filepath.Join(t.TempDir(), "out")
			interrupt(t, o, 3)
			c.damage(t, filepath.Join(o.Output+checkpoint.PartialSuffix, "kept-curvature"))
			again, told := false, 0
			o.Resume, o.Events = true, func(e Event) {
				again = again || e.Kind == EventProgress && e.Message == "curvature"
				if e.Kind == EventWarning {
					told++
				}
			}
			_, err = Quantize(t.Context(), o)
			require.NoError(t, err)
			requireSameFolder(t, whole.Output, o.Output)
			require.Equal(t, c.again, again)
			require.Equal(t, c.told, told)
		})
	}
}

// TestResumeKeepsText: a resumed run takes the text up where it was before the block that
// was interrupted; where that is damaged, or a layer before it, from the beginning.
func TestResumeKeepsText(t *testing.T) {
	for _, inputs := range []Inputs{InputsFull, InputsQuantized} {
		t.Run(inputs.String(), func(t *testing.T) {
			options := func() Options {
				o := quick(t)
				o.Inputs, o.Axis, o.Arms = inputs, AxisOC, []adadim.Arm{{}}
				if inputs == InputsQuantized {
					o.Correction = new(1.0)
				}
				return o
			}
			whole := options()
			_, err := Quantize(t.Context(), whole)
			require.NoError(t, err)
			for name, damage := range map[string]func(t *testing.T, partial string){
				"": func(*testing.T, string) {},
				"text": func(t *testing.T, dir string) {
					edit(t, filepath.Join(dir, "kept-streams"), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
				},
				"layer": func(t *testing.T, dir string) {
					edit(t, filepath.Join(dir, "layers", "layer-model.layers.0.mlp.up_proj", "model.safetensors"), func(b []byte) []byte { return b[1:] })
				},
				"no text": func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "kept-streams"))) },
			} {
				o := options()
				interrupt(t, o, 17) // in the third of four blocks
				damage(t, o.Output+checkpoint.PartialSuffix)
				var blocks []int
				var warnings []string
				o.Resume, o.Events = true, func(e Event) {
					switch e.Kind {
					case EventBlock:
						blocks = append(blocks, e.Block)
					case EventWarning:
						warnings = append(warnings, e.Message)
					}
				}
				_, err := Quantize(t.Context(), o)
				require.NoError(t, err, name)
				requireSameFolder(t, whole.Output, o.Output)
				want, told := []int{0, 1, 2, 3}, 1
				switch name {
				case "":
					want, told = []int{2, 3}, 0
				case "no text":
					told = 0
				}
				require.Equal(t, want, blocks, name)
				require.Len(t, warnings, told, "%s: %q", name, warnings)
			}
		})
	}
}
