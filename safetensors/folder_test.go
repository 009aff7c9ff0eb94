package safetensors

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// sharedModel returns a folder of the shared test data, or skips.
func sharedModel(t testing.TB, name string) string {
	root := os.Getenv("LOWBIT_SHARED")
	if root == "" {
		root = filepath.Join("..", "..", "shared")
	}
	dir := filepath.Join(root, "models", name)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("needs the shared model %s in %s (or set LOWBIT_SHARED)", name, root)
	}
	return dir
}

func TestRealFolders(t *testing.T) {
	for _, tt := range []struct {
		name, probe string
		files       int
		tensors     int
		dtype       DType
		shape       []int
		bytes       int64
	}{
		{"tinyllama-2m", "model.layers.0.mlp.down_proj.weight", 1, 38, BF16, []int{256, 512}, 5247488},
		{"tinystories-260k", "model.layers.0.mlp.down_proj.weight", 1, 47, F32, []int{64, 172}, 1040128},
		{"tinystories-260k-outliers", "model.layers.0.mlp.down_proj.weight", 1, 47, F32, []int{64, 172}, 1040128},
		{"tinystories-260k-bf16-sharded", "model.layers.2.mlp.gate_proj.weight", 2, 47, BF16, []int{172, 64}, 520064},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := OpenFolder(sharedModel(t, tt.name))
			require.NoError(t, err)
			defer d.Close()
			require.Len(t, d.Files(), tt.files)
			require.Len(t, d.Names(), tt.tensors)
			require.Equal(t, map[string]string{"format": "pt"}, d.Metadata())
			info, ok := d.Info(tt.probe)
			require.True(t, ok)
			require.Equal(t, tt.dtype, info.DType)
			require.Equal(t, tt.shape, info.Shape)
			total := int64(0)
			for _, name := range d.Names() {
				info, ok := d.Info(name)
				require.True(t, ok)
				v, err := d.ReadFloat32(name, nil)
				require.NoError(t, err)
				require.Len(t, v, info.Elements())
				total += info.Size()
			}
			require.Equal(t, tt.bytes, total)
		})
	}
}

// The sharded folder is the float32 one rounded to bfloat16, to nearest even.
func TestShardedIsTheRoundedSingle(t *testing.T) {
	wide, err := OpenFolder(sharedModel(t, "tinystories-260k"))
	require.NoError(t, err)
	defer wide.Close()
	narrow, err := OpenFolder(sharedModel(t, "tinystories-260k-bf16-sharded"))
	require.NoError(t, err)
	defer narrow.Close()
	require.ElementsMatch(t, wide.Names(), narrow.Names())
	for _, name := range wide.Names() {
		w, err := wide.ReadFloat32(name, nil)
		require.NoError(t, err)
		_, err = writeChunks(BF16, w, func(raw []byte) error {
			b, err := narrow.ReadBytes(name, nil)
			require.NoError(t, err)
			require.Equal(t, b, raw, name)
			return nil
		})
		require.NoError(t, err)
	}
}
