package checkpoint

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/partial"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

var errBroken = errors.New("the disk is full")

// faultRoute is a way in which something is written.
type faultRoute struct {
	options WriterOptions
	write   func(ctx context.Context, o WriterOptions) error
}

// writeAll quantizes some layers to nearest.
func writeAll(names ...string) func(context.Context, WriterOptions) error {
	return func(ctx context.Context, o WriterOptions) error {
		w, err := Create(o)
		if errors.Is(err, ErrComplete) {
			return nil
		}
		if err != nil {
			return err
		}
		defer w.Close()
		for _, name := range names {
			if w.Done(name) {
				continue
			}
			m, err := o.Source.Matrix(name + ".weight")
			if err != nil {
				return err
			}
			q, err := quant.RTN{}.Quantize(ctx, m, heldScheme(o.Format, faultScheme), nil)
			if err != nil {
				return err
			}
			if err := w.Put(name, q, nil); err != nil {
				return err
			}
		}
		if _, direct := o.Format.(ggufmodel.Format); !direct && !o.Direct {
			if err := w.PutDense("model.norm.weight", make([]float32, 256)); err != nil {
				return err
			}
		}
		return w.Finish(ctx)
	}
}

var faultScheme = quant.Scheme{Bits: 4, GroupSize: 32, Symmetric: true}

var faults = flag.Bool("faults", false, "TestFaults disturbs every call, for every format")

// faultRoutes are formats, each from layers that are kept and written directly
// as far as they can be, and by Convert: a folder and a GGUF, or all.
func faultRoutes(t *testing.T, all bool) map[string]faultRoute {
	src := openModel(t, filepath.Join("..", "testdata", "tinyllama-2m"))
	names := []string{"model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"}
	var short, complete []layout.Layer
	for _, name := range names {
		shape, _ := src.Shape(name + ".weight")
		short = append(short, layout.Layer{Name: name})
		dtype, _ := src.DType(name + ".weight")
		complete = append(complete, layout.Layer{Name: name, Out: shape[0], In: shape[1], Scheme: faultScheme, DType: dtype})
	}
	routes := map[string]faultRoute{}
	quantized := map[string]*Model{} // by the format whose grids the layers have
	for _, f := range Formats() {
		of := layout.Format(native.Format{})
		if heldScheme(f, faultScheme) != faultScheme {
			of = f
		}
		complete := slices.Clone(complete)
		for i := range complete {
			complete[i].Scheme = heldScheme(f, faultScheme)
		}
		require.NoError(t, f.Check(complete[0]))
		if quantized[of.Name()] == nil {
			made := filepath.Join(t.TempDir(), "made")
			require.NoError(t, writeAll(names...)(t.Context(), WriterOptions{Out: made, Source: src, Format: of, Layers: short}))
			quantized[of.Name()] = openModel(t, made)
		}
		_, isDense := f.(dense.Format)
		if name := f.Name(); all || name == (native.Format{}).Name() || name == (ggufmodel.Format{}).Name() {
			routes[name+", kept"] = faultRoute{WriterOptions{Source: src, Format: f, Layers: short, Hash: true}, writeAll(names...)}
			routes[name+", direct"] = faultRoute{WriterOptions{Source: src, Format: f, Layers: complete, Direct: true}, writeAll(names...)}
		} else if !isDense {
			continue
		}
		routes[f.Name()+", convert"] = faultRoute{WriterOptions{Source: quantized[of.Name()], Format: f}, func(ctx context.Context, o WriterOptions) error {
			if err := Convert(ctx, o); !errors.Is(err, ErrComplete) {
				return err
			}
			return nil
		}}
	}
	require.Greater(t, len(routes), 6)
	return routes
}

// treeSums returns a checksum of every file of a result.
func treeSums(t *testing.T, out string) map[string]string {
	t.Helper()
	if st, err := os.Stat(out); err == nil && st.IsDir() {
		return folderSums(t, out)
	}
	dir := t.TempDir()
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), data, 0o666))
	return folderSums(t, dir)
}

// TestFaults lets every call that changes the disk fail, and the process
// stop before every single one: nothing is published by a run that fails, and
// the next run makes the bytes of one that was not disturbed.
func TestFaults(t *testing.T) {
	for name, route := range faultRoutes(t, *faults) {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait for the disk
			whole := route.options
			whole.Out = filepath.Join(t.TempDir(), "out")
			require.NoError(t, route.write(t.Context(), whole))
			want := treeSums(t, whole.Out)
			for _, stops := range []bool{false, true} {
				step := 1
				if testing.Short() && !*faults {
					step = 3
				}
				n := 0
				for ; disturbed(t, route, n, stops, want); n += step {
				}
				t.Logf("%d calls, every %d disturbed, process stops: %v", n, step, stops)
				require.Greater(t, n, 5)
			}
		})
	}
}

// disturbed runs a route whose n-th call fails, or never returns, and then
// again; it is false if there are fewer calls.
func disturbed(t *testing.T, route faultRoute, n int, stops bool, want map[string]string) bool {
	t.Helper()
	o := route.options
	dir, err := os.MkdirTemp(t.TempDir(), "")
	require.NoError(t, err)
	o.Out = filepath.Join(dir, "out")
	var mu sync.Mutex
	calls, what := 0, ""
	writes := map[string]int{}
	stopped := make(chan struct{})
	o.disk.Fail = func(call, path string) error {
		mu.Lock()
		if call == "write" {
			// Of the many writes to a large file the first few stand for all.
			if writes[path]++; writes[path] > 3 {
				mu.Unlock()
				return nil
			}
		}
		calls++
		hit := calls == n+1
		late := stops && calls > n
		if hit {
			what = fmt.Sprintf("call %d: %s %s", n, call, strings.TrimPrefix(path, dir))
			if stops {
				close(stopped)
			}
		}
		mu.Unlock()
		if late {
			select {} // as a killed process
		}
		if hit {
			return errBroken
		}
		return nil
	}
	ended := make(chan error, 1)
	go func() { ended <- route.write(t.Context(), o) }()
	select {
	case err = <-ended:
		if calls <= n {
			require.NoError(t, err)
			require.Equal(t, want, treeSums(t, o.Out))
			require.Equal(t, []string{"out"}, sortedNames(t, dir))
			return false
		}
		if err == nil {
			// What could not be removed of a result that is complete.
			require.Regexp(t, "(remove|rename) .*[.]partial", what)
			require.Equal(t, want, treeSums(t, o.Out), what)
			break
		}
		require.ErrorIs(t, err, errBroken, what)
		require.NoFileExists(t, o.Out, what)
		require.NoDirExists(t, o.Out, what)
	case <-stopped:
		time.Sleep(20 * time.Millisecond) // other goroutines reach their next call
		// The lock ends with the process.
		err := os.Remove(filepath.Join(o.Out+PartialSuffix, partial.LockFile))
		require.True(t, err == nil || errors.Is(err, fs.ErrNotExist), what)
	}
	o.disk, o.Resume = disk.FS{}, true
	if names := sortedNames(t, dir); len(names) == 1 && names[0] == "out" {
		return true // nothing was left to do but to end
	}
	require.NoError(t, route.write(t.Context(), o), what)
	require.Equal(t, want, treeSums(t, o.Out), what)
	require.Equal(t, []string{"out"}, sortedNames(t, dir), what)
	return true
}

// TestLockedOut: who does not get the lock removes nothing.
func TestLockedOut(t *testing.T) {
	src := openModel(t, writeModel(t, safetensors.BF16))
	o := WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: src, Format: native.Format{}, Layers: layerNames()}
	w, err := Create(o)
	require.NoError(t, err)
	defer w.Close()
	before := sortedNames(t, w.partial.Path())
	for _, o.Resume = range []bool{false, true} {
		_, err = Create(o)
		require.ErrorIs(t, err, ErrExists)
		require.Equal(t, before, sortedNames(t, w.partial.Path()))
	}
	require.NoError(t, w.Put(testLinears[0].name, testWeights()[testLinears[0].name], nil))
}

// TestResumeBeginnings: what a run leaves that was killed at once is gone on
// with, and what another program made is not touched.
func TestResumeBeginnings(t *testing.T) {
	source := writeModel(t, safetensors.BF16)
	for name, files := range map[string]map[string]string{
		"nothing":         {},
		"lock":            {partial.LockFile: ""},
		"empty state":     {partial.LockFile: "", partial.StateFile: ""},
		"half a state":    {partial.LockFile: "", partial.StateFile: `{"version":2,"form`},
		"state not named": {partial.LockFile: "", partial.StateFile + ".tmp": `{"version":2,"form`},
		"no layers":       {partial.LockFile: "", partial.StateFile: "whole"},
	} {
		t.Run(name, func(t *testing.T) {
			o := WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: openModel(t, source), Format: native.Format{}, Layers: layerNames(), Resume: true}
			require.NoError(t, os.Mkdir(o.Out+PartialSuffix, 0o777))
			for file, text := range files {
				if text == "whole" {
					w := &Writer{o: o, partial: partial.New(o.Out, disk.FS{})}
					w.o.Fingerprint = []byte("{}")
					require.NoError(t, w.describeRun())
					require.NoError(t, w.partial.WriteState())
					continue
				}
				require.NoError(t, os.WriteFile(filepath.Join(o.Out+PartialSuffix, file), []byte(text), 0o666))
			}
			w, err := Create(o)
			require.NoError(t, err)
			putAll(t, w, testWeights())
			require.NoError(t, w.Finish(t.Context()))
			checkResult(t, o.Out, source, testWeights())
		})
	}
}

// TestCopiedNotFinite: NaN and infinities in tensors that are only copied are
// refused on every route, before the output has its name.
func TestCopiedNotFinite(t *testing.T) {
	weights := testWeights()
	var layers []layout.Layer
	for _, l := range layerNames() {
		layers = append(layers, layout.LayerOf(l.Name, weights[l.Name]))
	}
	for _, dtype := range []safetensors.DType{safetensors.BF16, safetensors.F16, safetensors.F32} {
		made := filepath.Join(t.TempDir(), "made")
		sound := writeModel(t, dtype)
		w, err := Create(WriterOptions{Out: made, Source: openModel(t, sound), Format: native.Format{}, Layers: layerNames()})
		require.NoError(t, err)
		putAll(t, w, weights)
		require.NoError(t, w.Finish(t.Context()))
		for _, tensor := range []string{"model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.bias", "model.norm.weight"} {
			for i, value := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
				source, quantized := filepath.Join(t.TempDir(), "s"), filepath.Join(t.TempDir(), "q")
				require.NoError(t, os.CopyFS(source, os.DirFS(sound)))
				require.NoError(t, os.CopyFS(quantized, os.DirFS(made)))
				at := 7 + 11*i
				poison(t, source, tensor, at, value)
				poison(t, quantized, tensor, at, value)
				want := fmt.Sprintf("tensor %q: element %d is ", tensor, at)

				o := WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: openModel(t, source), Format: native.Format{}, Layers: layerNames()}
				_, err := Create(o)
				require.ErrorContains(t, err, want)
				o.Format = oneFile{}
				_, err = Create(o)
				require.ErrorContains(t, err, want)
				o.Format, o.Layers, o.Direct = native.Format{}, layers, true
				if w, err = Create(o); err == nil {
					putAll(t, w, weights)
					err = w.Finish(t.Context())
				}
				require.ErrorContains(t, err, want)
				for _, format := range []layout.Format{native.Format{}, dense.Format{}} {
					err = Convert(t.Context(), WriterOptions{Out: o.Out, Source: openModel(t, quantized), Format: format})
					require.ErrorContains(t, err, want)
				}
				require.Empty(t, sortedNames(t, filepath.Dir(o.Out)))
			}
		}
	}
}

// poison sets an element of a tensor in a folder's one safetensors file.
func poison(t *testing.T, dir, tensor string, at int, v float64) {
	t.Helper()
	f, err := safetensors.OpenFolder(dir)
	require.NoError(t, err)
	info, ok := f.Info(tensor)
	require.True(t, ok)
	require.NoError(t, f.Close())
	path := filepath.Join(dir, "model.safetensors")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	head := int(data[0]) | int(data[1])<<8 | int(data[2])<<16
	raw := data[8+head+int(info.Begin):]
	var bits []byte
	switch info.DType {
	case safetensors.F32:
		b := math.Float32bits(float32(v))
		bits = []byte{byte(b), byte(b >> 8), byte(b >> 16), byte(b >> 24)}
	default:
		b := uint16(math.Float32bits(float32(v)) >> 16)
		if info.DType == safetensors.F16 {
			b = map[bool]uint16{true: 0x7c00, false: 0xfc00}[v > 0]
			if math.IsNaN(v) {
				b = 0x7e01
			}
		}
		bits = []byte{byte(b), byte(b >> 8)}
	}
	copy(raw[at*len(bits):], bits)
	require.NoError(t, os.WriteFile(path, data, 0o666))
}
