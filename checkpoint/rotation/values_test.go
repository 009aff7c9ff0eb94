package rotation

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/rotate"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// TestValues: the values of attention are rotated head by head in the rows that write them
// and the columns that read their means, where nothing stands between the two.
func TestValues(t *testing.T) {
	for _, c := range []struct {
		model string
		both  bool // layers rotated on the value side, one writer and one reader a block
	}{{"llama-llama3", true}, {"qwen2", true}, {"gemma", true}, {"phi3", true}, {"mamba", false}, {"mamba2", false}} {
		t.Run(c.model, func(t *testing.T) {
			m, err := checkpoint.Open("../../testdata/architectures/" + c.model)
			require.NoError(t, err)
			defer m.Close()
			d, err := arch.Open(m)
			require.NoError(t, err)
			p, err := rotate.New(d)
			require.NoError(t, err)
			writers, readers := 0, 0
			for _, e := range p.Edits {
				if e.Linear == "" {
					continue
				}
				if e.Rows.Width > 0 && e.Stream {
					writers++ // reads the stream, and its rows are not the stream
					require.Zero(t, (e.Rows.To-e.Rows.From)%e.Rows.Width)
				}
				if e.Columns.Width > 0 && !e.Stream {
					readers++
					require.Equal(t, d.Hidden, e.Rows.Width, "what reads values writes the stream")
				}
			}
			want := 0
			if c.both {
				want = len(d.Blocks)
			}
			require.Equal(t, want, writers)
			require.Equal(t, want, readers)
		})
	}
}

// TestResume: an interrupted rotation leaves nothing of a file that is not whole, and comes out the same when it is
// taken up again.
func TestResume(t *testing.T) {
	m, err := checkpoint.Open("../../testdata/tinyllama-2m")
	require.NoError(t, err)
	defer m.Close()
	windows := [][]int32{{1, 5, 9, 2, 7, 3, 3, 8}}
	write := func(o WriteOptions) error {
		_, _, err := Write(t.Context(), m, o)
		return err
	}
	whole := WriteOptions{Output: filepath.Join(t.TempDir(), "out"), Kinds: []Kind{KLT}, Options: Options{Windows: windows}}
	require.NoError(t, write(whole))
	o := whole
	o.Output = filepath.Join(t.TempDir(), "out")
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(int64, int64) { cancel() }
	_, _, err = Write(ctx, m, o)
	require.ErrorIs(t, err, context.Canceled)
	o.Progress = nil
	require.NoDirExists(t, o.Output+checkpoint.PartialSuffix, "nothing was finished")
	o.Resume = true
	require.NoError(t, write(o))
	want, err := os.ReadFile(filepath.Join(whole.Output, "model.safetensors"))
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(o.Output, "model.safetensors"))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// TestPublicKLT: the eigenvectors are those of the public code, but for their signs.
func TestPublicKLT(t *testing.T) {
	f, err := safetensors.Open("testdata/klt.safetensors")
	require.NoError(t, err)
	defer f.Close()
	const n = 24
	x, err := f.ReadFloat32("x", nil)
	require.NoError(t, err)
	want, err := f.ReadFloat32("k", nil)
	require.NoError(t, err)
	h := tensor.New(n, n)
	tensor.SyrkT(tensor.FromSlice(len(x)/n, n, x), h, 1)
	q, err := eigenvectors(h)
	require.NoError(t, err)
	for j := range n {
		var dot float64
		for i := range n {
			dot += float64(q.At(i, j)) * float64(want[i*n+j])
		}
		require.InDelta(t, 1, math.Abs(dot), 1e-5, "eigenvector %d", j)
	}
}
