package safetensors

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzOpen: whatever the bytes, an error or a file whose tensors fill the data
// exactly once and that the Writer's header encoding describes in the same way.
func FuzzOpen(f *testing.F) {
	for _, tt := range badFiles {
		f.Add(tt.data)
	}
	for d, size := range allTypes {
		f.Add(fileOf(`{"__metadata__":{"format":"pt"},`+entry("a", string(d), "[2,4]", 0, size)+","+entry("b", "U8", "[0]", size, size)+"}  ", int(size)))
	}
	f.Add(fileOf("{}", 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := openBytes(data)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			require.Less(t, len(err.Error()), 4096)
			return
		}
		var all []byte
		for _, name := range file.Names() {
			info, ok := file.Info(name)
			require.True(t, ok)
			require.Equal(t, info.End-info.Begin, info.Size())
			b, err := file.ReadBytes(name, nil)
			require.NoError(t, err)
			require.Len(t, b, int(info.Size()))
			all = append(all, b...)
			if v, err := file.ReadFloat32(name, nil); err == nil {
				require.Len(t, v, info.Elements())
			} else {
				require.ErrorIs(t, err, ErrDType)
			}
		}
		require.True(t, bytes.HasSuffix(data, all))
		require.Equal(t, int64(len(data)), file.head.dataStart+int64(len(all)))

		meta := file.Metadata()
		if meta == nil {
			meta = map[string]string{}
		}
		again, err := openBytes(append(encodeHeader(file.head.tensors, meta), all...))
		require.NoError(t, err)
		require.Equal(t, file.Names(), again.Names())
		require.Equal(t, len(meta), len(again.Metadata()))
		for k, v := range meta {
			require.Equal(t, v, again.Metadata()[k])
		}
		for _, name := range file.Names() {
			a, _ := file.Info(name)
			b, _ := again.Info(name)
			require.Equal(t, a, b)
		}
	})
}

// FuzzIndex: an error, or shard names that stay in the folder.
func FuzzIndex(f *testing.F) {
	for _, text := range []string{
		`{"metadata":{"total_size":2},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}`,
		`{"weight_map":{"a":"../s"}}`, `{"weight_map":{"a":"x","a":"y"}}`, `{"weight_map":{"a":1}}`,
		`{"weight_map":null}`, `{"weight_map":{}}`, `{}`, `[]`, ``, ` {"weight_map":{"":"s"}} `,
		`{"weight_map":{"a":"\u002e\u002e\u002fs"}}`, `{"weight_map":{"a":"C:s"}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		weightMap, err := parseIndex(text, "dir/"+IndexName)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		require.NotEmpty(t, weightMap)
		for _, shard := range weightMap {
			require.False(t, strings.ContainsAny(shard, `/\`))
			require.NotContains(t, []string{"", ".", ".."}, shard)
		}
	})
}
