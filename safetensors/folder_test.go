package safetensors

import (
	"encoding/json"
	"io/fs"
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
			// The reference wrote these headers; ours are the same, byte for byte.
			for i, name := range d.Files() {
				b, err := os.ReadFile(filepath.Join(d.dir, name))
				require.NoError(t, err)
				head := d.files[i].head
				require.Equal(t, string(b[:head.dataStart]), string(encodeHeader(head.tensors, head.metadata)))
			}
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
		raw := make([]byte, 2*len(w))
		require.NoError(t, EncodeFloat32(raw, BF16, w))
		b, err := narrow.ReadBytes(name, nil)
		require.NoError(t, err)
		require.Equal(t, b, raw, name)
	}
}

// folderOf writes files and returns their folder.
func folderOf(t *testing.T, files map[string]string) string {
	dir := t.TempDir()
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
	}
	return dir
}

func TestBadFolders(t *testing.T) {
	one := func(name string) string { return string(fileOf("{"+entry(name, "U8", "[1]", 0, 1)+"}", 1)) }
	index := func(weightMap string) string { return `{"metadata":{"total_size":2},"weight_map":` + weightMap + `}` }
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
		is    error
	}{
		{"empty", nil, "neither model.safetensors nor model.safetensors.index.json", fs.ErrNotExist},
		{"shards without index", map[string]string{"model-00001-of-00001.safetensors": one("a")}, "neither model.safetensors nor", fs.ErrNotExist},
		{"bad single", map[string]string{SingleName: "xx"}, "model.safetensors: truncated", ErrInvalid},
		{"bad single hides the index", map[string]string{SingleName: "xx", IndexName: index(`{"a":"s1"}`), "s1": one("a")}, "model.safetensors: truncated", ErrInvalid},
		{"index empty", map[string]string{IndexName: ""}, "model.safetensors.index.json: index is not a JSON object", ErrInvalid},
		{"index not JSON", map[string]string{IndexName: "{"}, "index is not valid JSON", ErrInvalid},
		{"no weight_map", map[string]string{IndexName: "{}"}, "index: weight_map is missing or empty", ErrInvalid},
		{"weight_map null", map[string]string{IndexName: index("null")}, "index: weight_map is missing or empty", ErrInvalid},
		{"weight_map empty", map[string]string{IndexName: index("{}")}, "index: weight_map is missing or empty", ErrInvalid},
		{"weight_map an array", map[string]string{IndexName: index("[]")}, "index: weight_map: is '[', want an object", ErrInvalid},
		{"shard a number", map[string]string{IndexName: index(`{"a":1}`)}, "index: weight_map: a: is 1, want a string", ErrInvalid},
		{"two weight_maps", map[string]string{IndexName: `{"weight_map":{"a":"s1"},"weight_map":{"a":"s2"}}`}, `duplicate key "weight_map"`, ErrInvalid},
		{"a tensor twice", map[string]string{IndexName: index(`{"a":"s1","a":"s2"}`)}, `index: weight_map: duplicate key "a"`, ErrInvalid},
		{"missing shard", map[string]string{IndexName: index(`{"a":"s1","b":"s2"}`), "s1": one("a")}, `model.safetensors.index.json: shard "s2" is missing`, fs.ErrNotExist},
		{"bad shard", map[string]string{IndexName: index(`{"a":"s1"}`), "s1": one("a")[:20]}, "s1: truncated", ErrInvalid},
		{"tensor not in its shard", map[string]string{IndexName: index(`{"a":"s1","b":"s1"}`), "s1": one("a")}, `model.safetensors.index.json: tensor "b": not in shard s1`, ErrInvalid},
		{"tensor in another shard", map[string]string{IndexName: index(`{"a":"s2","b":"s1"}`), "s1": one("a"), "s2": one("b")}, `tensor "a": not in shard s2 but in s1`, ErrInvalid},
		{"tensor in two shards", map[string]string{IndexName: index(`{"a":"s1","b":"s2"}`), "s1": one("a"), "s2": one("a")}, `s2: tensor "a": also in shard s1`, ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := OpenFolder(folderOf(t, tt.files))
			require.ErrorIs(t, err, tt.is)
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "\n")
		})
	}
	_, err := OpenFolder(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = OpenFolder(filepath.Join(folderOf(t, map[string]string{"x": ""}), "x"))
	require.ErrorContains(t, err, "not a folder")
}

func TestShardMayNotLeaveTheFolder(t *testing.T) {
	outer := t.TempDir()
	dir := filepath.Join(outer, "model")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o777))
	good := fileOf("{"+entry("a", "U8", "[1]", 0, 1)+"}", 1)
	for _, path := range []string{filepath.Join(outer, "s"), filepath.Join(dir, "s"), filepath.Join(dir, "sub", "s")} {
		require.NoError(t, os.WriteFile(path, good, 0o666))
	}
	open := func(shard string) error {
		text, err := json.Marshal(map[string]any{"weight_map": map[string]string{"a": shard}})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, IndexName), text, 0o666))
		d, err := OpenFolder(dir)
		if err == nil {
			d.Close()
		}
		return err
	}
	require.NoError(t, open("s"))
	for _, shard := range []string{"../s", "sub/s", "./s", "sub/../s", "s/", "/etc/passwd", filepath.Join(outer, "s"),
		`..\s`, `sub\s`, `C:s`, `C:\s`, "", ".", "..", "s\x00"} {
		err := open(shard)
		require.ErrorIs(t, err, ErrInvalid, shard)
		require.ErrorContains(t, err, `model.safetensors.index.json: tensor "a": shard name `)
		require.ErrorContains(t, err, "it may not leave the folder")
	}
	require.ErrorContains(t, open("sub"), "sub: not a regular file")
}

func TestFolderMergesShards(t *testing.T) {
	shard := func(meta, name string) string {
		return string(fileOf(`{"__metadata__":`+meta+","+entry(name, "U8", "[1]", 0, 1)+","+entry(name+"2", "U8", "[1]", 1, 2)+"}", 2))
	}
	d, err := OpenFolder(folderOf(t, map[string]string{
		IndexName: ` {"weight_map":{"x":"s1","y":"s2","y2":"s2"}}` + "\n",
		"s1":      shard(`{"format":"pt","k":"1"}`, "x"),
		"s2":      shard(`{"format":"np","l":"2"}`, "y"),
	}))
	require.NoError(t, err)
	require.Equal(t, []string{"x", "x2", "y", "y2"}, d.Names(), "x2 is not in the index, and read all the same")
	require.Equal(t, []string{"s1", "s2"}, d.Files())
	require.Equal(t, map[string]string{"format": "pt", "k": "1", "l": "2"}, d.Metadata())
	info, ok := d.Info("y2")
	require.True(t, ok)
	require.Equal(t, TensorInfo{Name: "y2", DType: U8, Shape: []int{1}, File: "s2", Begin: 1, End: 2}, info)
	b, err := d.ReadBytes("y2", nil)
	require.NoError(t, err)
	require.Equal(t, []byte{1}, b)
	require.NoError(t, d.Close())
	_, err = d.ReadBytes("x", nil)
	require.ErrorIs(t, err, fs.ErrClosed)
}

// An index may have a byte order mark before its text.
func TestIndexByteOrderMark(t *testing.T) {
	weights, err := parseIndex([]byte("\ufeff"+`{"weight_map":{"a":"s1"}}`), "index")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "s1"}, weights)
}
