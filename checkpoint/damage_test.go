package checkpoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// writeLowbit writes a small finished checkpoint and returns its folder.
func writeLowbit(t testing.TB, weights map[string]*quant.Weight) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "packed")
	w, err := Create(WriterOptions{Out: out, Source: openModel(t, writeModel(t, safetensors.BF16)), Format: native.Format{}, Layers: layerNames()})
	require.NoError(t, err)
	for name, q := range weights {
		require.NoError(t, w.Put(name, q, nil))
	}
	require.NoError(t, w.Finish(t.Context()))
	return out
}

// Whatever byte of the file changes, a layer is read as it was or not at all.
func TestDamage(t *testing.T) {
	weights := testWeights()
	dir := writeLowbit(t, weights)
	file := filepath.Join(dir, "model.safetensors")
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	readAll := func() (failed bool) {
		m, err := Open(dir)
		if err != nil {
			return true
		}
		defer m.Close()
		for _, name := range m.Quantized() {
			w, err := m.Weight(name)
			if err != nil {
				failed = true
				continue
			}
			// Renaming a tensor in the header may hide a layer, but not change one.
			require.True(t, reflect.DeepEqual(weights[name], w), name)
		}
		return failed
	}
	require.False(t, readAll())
	caught := 0
	for range 300 {
		bad := append([]byte(nil), good...)
		bad[rng.IntN(len(bad))] ^= byte(1 + rng.IntN(255))
		require.NoError(t, os.WriteFile(file, bad, 0o666))
		if readAll() {
			caught++
		}
	}
	require.Greater(t, caught, 100)
	for range 30 {
		require.NoError(t, os.WriteFile(file, good[:rng.IntN(len(good))], 0o666))
		require.True(t, readAll(), "a truncated file was accepted")
	}
}

const killedRun = "CHECKPOINT_TEST_KILLED_RUN"

// TestKilledChild is the body of the process that TestKill kills.
func TestKilledChild(t *testing.T) {
	out := os.Getenv(killedRun)
	if out == "" {
		t.Skip("only runs as the child of TestKill")
	}
	src, err := Open(os.Getenv(killedRun + "_SOURCE"))
	require.NoError(t, err)
	w, err := Create(WriterOptions{Out: out, Source: src, Format: native.Format{}, Layers: layerNames()})
	require.NoError(t, err)
	weights := testWeights()
	for _, l := range testLinears[:2] {
		require.NoError(t, w.Put(l.name, weights[l.name], nil))
	}
	fmt.Println("two layers are done")
	// Until it is killed it writes the third again and again, so that the
	// kill meets a write.
	l := testLinears[2]
	actual := w.actual(l.name, weights[l.name])
	for {
		require.NoError(t, w.partial.PutLayer(actual, weights[l.name], nil))
	}
}

// A process killed while it writes leaves whole layers, no lock, and nothing
// under the final name.
func TestKill(t *testing.T) {
	source := writeModel(t, safetensors.BF16)
	weights := testWeights()
	for range 3 {
		out := filepath.Join(t.TempDir(), "out")
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledChild$", "-test.v")
		cmd.Env = append(os.Environ(), killedRun+"="+out, killedRun+"_SOURCE="+source)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		for s := bufio.NewScanner(stdout); s.Scan() && s.Text() != "two layers are done"; {
		}
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		require.NoDirExists(t, out)

		w, err := Create(WriterOptions{Out: out, Source: openModel(t, source), Format: native.Format{}, Layers: layerNames(), Resume: true})
		require.NoError(t, err)
		require.True(t, w.Done(testLinears[0].name))
		require.True(t, w.Done(testLinears[1].name))
		require.False(t, w.Done(testLinears[3].name))
		putAll(t, w, weights)
		require.NoError(t, w.Finish(t.Context()))
		checkResult(t, out, source, weights)
	}
}

// oneFile is a format that is a single file, as GGUF is.
type oneFile struct{ fail bool }

func (oneFile) Name() string { return "one" }

func (oneFile) Check(layout.Layer) error { return nil }

func (oneFile) CheckModel(layout.Origin) error { return nil }

func (oneFile) Read(string) (*layout.Opened, error) { return nil, nil }

func (f oneFile) Write(_ context.Context, path string, _ layout.Origin, layers []layout.Layer, weight func(string) (*quant.Weight, error)) error {
	text := ""
	for _, l := range layers {
		w, err := weight(l.Name)
		if err != nil {
			return err
		}
		text += fmt.Sprintln(l.Name, len(w.Codes), l.DType, l.Bias)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		return err
	}
	if f.fail {
		return errors.New("it broke")
	}
	return nil
}

func TestFileFormat(t *testing.T) {
	source := openModel(t, writeModel(t, safetensors.BF16))
	weights := testWeights()
	o := WriterOptions{Out: filepath.Join(t.TempDir(), "out.one"), Source: source, Format: oneFile{fail: true}, Layers: layerNames(), Direct: true}
	w, err := Create(o)
	require.NoError(t, err)
	putAll(t, w, weights)
	require.ErrorContains(t, w.Finish(t.Context()), "it broke")
	require.NoFileExists(t, o.Out)
	require.Equal(t, []string{"layers", "lock", "state.json"}, sortedNames(t, o.Out+PartialSuffix))

	// The layers are there; only the end is done again.
	o.Format, o.Resume = oneFile{}, true
	w, err = Create(o)
	require.NoError(t, err)
	require.NoError(t, w.Finish(t.Context()))
	text, err := os.ReadFile(o.Out)
	require.NoError(t, err)
	require.Equal(t, `model.layers.0.self_attn.q_proj 384 BF16 true
model.layers.0.mlp.down_proj 576 BF16 false
model.layers.1.self_attn.q_proj 384 BF16 false
model.layers.1.mlp.down_proj 576 BF16 false
`, string(text))
	require.Equal(t, []string{"out.one"}, sortedNames(t, filepath.Dir(o.Out)))
}

// halfZeros is a decoder of a layer whose zero-points are not integers.
type halfZeros struct{ broken bool }

func (halfZeros) Layers() []layout.Layer { return []layout.Layer{{Name: "fc", Out: 1, In: 2}} }

func (halfZeros) Tensors(string) []string { return []string{"fc.packed"} }

func (d halfZeros) Weight(string) (*quant.Weight, error) {
	if d.broken {
		return nil, errors.New("truncated")
	}
	return nil, fmt.Errorf("zero-point 0.5: %w", layout.ErrNotWeight)
}

func (halfZeros) Matrix(string) (*tensor.Matrix, error) {
	return tensor.FromSlice(1, 2, []float32{0.5, -0.5}), nil
}

func TestDenseDecoder(t *testing.T) {
	src := formattest.NewMemory(layout.Tensor{Spec: layout.Spec{Name: "fc.packed", DType: safetensors.U8, Shape: []int{1}}, Data: []byte{1}})
	m, err := newModel("m", []byte(`{"torch_dtype":"float32"}`), src, native.Format{}, halfZeros{})
	require.NoError(t, err)
	d, err := m.Matrix("fc.weight")
	require.NoError(t, err)
	require.Equal(t, []float32{0.5, -0.5}, d.Data)
	_, err = m.Weight("fc")
	require.ErrorIs(t, err, layout.ErrNotWeight)
	require.Empty(t, m.Dense())
	require.Equal(t, []layout.Spec{{Name: "fc.packed", DType: safetensors.U8, Shape: []int{1}}}, m.LayerTensors("fc"))
	dtype, ok := m.DType("fc.weight")
	require.True(t, ok)
	require.Equal(t, safetensors.F32, dtype)

	m, err = newModel("m", []byte(`{}`), src, native.Format{}, halfZeros{broken: true})
	require.NoError(t, err)
	_, err = m.Matrix("fc.weight")
	require.EqualError(t, err, "truncated")
}
