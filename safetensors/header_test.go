package safetensors

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fileOf puts a header text and n bytes of data together.
func fileOf(text string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	b = append(b, text...)
	for i := range n {
		b = append(b, byte(i))
	}
	return b
}

func openBytes(b []byte) (*File, error) {
	return NewFile(bytes.NewReader(b), int64(len(b)), "dir/x.safetensors")
}

// entry is one tensor's header entry.
func entry(name, dtype, shape string, begin, end any) string {
	return fmt.Sprintf(`%q:{"dtype":%q,"shape":%s,"data_offsets":[%v,%v]}`, name, dtype, shape, begin, end)
}

var badFiles = []struct {
	name string
	data []byte
	want string // after "dir/x.safetensors: "
}{
	{"empty", nil, "truncated: 0 bytes, a header length alone takes 8"},
	{"seven bytes", make([]byte, 7), "truncated: 7 bytes, a header length alone takes 8"},
	{"no header", make([]byte, 8), "header is not a JSON object: it does not start with '{'"},
	{"Git LFS", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"), "a Git LFS pointer, not the file itself: fetch it with git lfs pull"},
	{"header too large", binary.LittleEndian.AppendUint64(nil, 100_000_001), "header too large: 100000001 bytes, at most 100000000 are allowed"},
	{"header length negative", binary.LittleEndian.AppendUint64(nil, 1<<63), "header too large: 9223372036854775808 bytes"},
	{"header past the end", fileOf("{}", 0)[:9], "truncated: header of 2 bytes in a file of 9"},
	{"array", fileOf("[]", 0), "header is not a JSON object"},
	{"leading space", fileOf(" {}", 0), "header is not a JSON object"},
	{"not UTF-8", fileOf("{\"a\xff\":1}", 0), "header is not valid UTF-8"},
	{"not JSON", fileOf("{", 0), "header is not valid JSON"},
	{"trailing comma", fileOf(`{"__metadata__":{},}`, 0), "header is not valid JSON"},
	{"two objects", fileOf("{}{}", 0), "header is not valid JSON"},
	{"trailing zeros", fileOf("{}\x00\x00", 0), "header is not valid JSON"},

	{"metadata not an object", fileOf(`{"__metadata__":[]}`, 0), "header: __metadata__: is '[', want an object"},
	{"metadata value", fileOf(`{"__metadata__":{"a":1}}`, 0), "header: __metadata__: a: is 1, want a string"},
	{"metadata twice", fileOf(`{"__metadata__":{},"__metadata__":{}}`, 0), `header: duplicate key "__metadata__"`},
	{"metadata key twice", fileOf(`{"__metadata__":{"a":"","a":""}}`, 0), `header: __metadata__: duplicate key "a"`},

	{"tensor not an object", fileOf(`{"a":3}`, 0), `tensor "a": is 3, want an object`},
	{"tensor null", fileOf(`{"a":null}`, 0), `tensor "a": is null, want an object`},
	{"tensor twice", fileOf("{"+entry("a", "U8", "[1]", 0, 1)+","+entry("a", "U8", "[1]", 1, 2)+"}", 2), `header: duplicate key "a"`},
	{"tensor twice, once escaped", fileOf("{"+entry("a", "U8", "[1]", 0, 1)+`,"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), `header: duplicate key "a"`},
	{"dtype twice", fileOf(`{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), `tensor "a": duplicate key "dtype"`},
	{"no dtype", fileOf(`{"a":{"shape":[1],"data_offsets":[0,1]}}`, 1), `tensor "a": no dtype`},
	{"no shape", fileOf(`{"a":{"dtype":"U8","data_offsets":[0,1]}}`, 1), `tensor "a": no shape`},
	{"no offsets", fileOf(`{"a":{"dtype":"U8","shape":[1]}}`, 1), `tensor "a": no data_offsets`},
	{"capital key", fileOf(`{"a":{"DType":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), `tensor "a": no dtype`},
	{"dtype unknown", fileOf("{"+entry("a", "Q4_K", "[1]", 0, 1)+"}", 1), `tensor "a": unknown dtype "Q4_K"`},
	{"dtype in small letters", fileOf("{"+entry("a", "f32", "[1]", 0, 4)+"}", 4), `tensor "a": unknown dtype "f32"`},
	{"dtype a number", fileOf(`{"a":{"dtype":7,"shape":[1],"data_offsets":[0,1]}}`, 1), `tensor "a": dtype: is 7, want a string`},
	{"shape not an array", fileOf("{"+entry("a", "U8", "1", 0, 1)+"}", 1), `tensor "a": shape: is 1, want an array`},
	{"shape of strings", fileOf("{"+entry("a", "U8", `["1"]`, 0, 1)+"}", 1), `tensor "a": shape: holds "1", want integers`},
	{"shape nested", fileOf("{"+entry("a", "U8", "[[1]]", 0, 1)+"}", 1), `tensor "a": shape: holds '[', want integers`},
	{"shape negative", fileOf("{"+entry("a", "U8", "[-1]", 0, 1)+"}", 1), `tensor "a": shape: holds -1, want integers from 0 to`},
	{"shape minus zero", fileOf("{"+entry("a", "U8", "[-0]", 0, 0)+"}", 0), `tensor "a": shape: holds -0, want integers`},
	{"too many dimensions", fileOf("{"+entry("a", "U8", "["+strings.Repeat("1,", 99_999)+"1]", 0, 1)+"}", 1), `tensor "a": shape: 100000 dimensions, at most 64 are allowed`},
	{"shape fraction", fileOf("{"+entry("a", "U8", "[1.0]", 0, 1)+"}", 1), `tensor "a": shape: holds 1.0, want integers`},
	{"shape exponent", fileOf("{"+entry("a", "U8", "[1e0]", 0, 1)+"}", 1), `tensor "a": shape: holds 1e0, want integers`},
	{"dimension overflows", fileOf("{"+entry("a", "U8", "[18446744073709551617]", 0, 1)+"}", 1), `tensor "a": shape: holds 18446744073709551617, want integers from 0 to`},
	{"shape overflows", fileOf("{"+entry("a", "U8", "[4294967296,4294967296]", 0, 0)+"}", 0), `tensor "a": shape`},
	{"shape overflows to one", fileOf("{"+entry("a", "U8", "[2147483647,2147483647,2147483647]", 0, 1)+"}", 1), `overflows: more than 2^`},
	{"bytes overflow", fileOf("{"+entry("a", "F64", "[2147483647,2147483647]", 0, 0)+"}", 0), `overflows: more than 2^`},
	{"offset negative", fileOf("{"+entry("a", "U8", "[1]", -1, 0)+"}", 1), `tensor "a": data_offsets: holds -1, want integers from 0 to 2^63-1`},
	{"offset overflows", fileOf("{"+entry("a", "U8", "[1]", 0, uint64(1<<63))+"}", 1), `tensor "a": data_offsets: holds 9223372036854775808, want integers`},
	{"one offset", fileOf(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1]}}`, 1), `tensor "a": data_offsets hold 1 numbers, want 2`},
	{"three offsets", fileOf(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}`, 1), `tensor "a": data_offsets hold 3 numbers, want 2`},
	{"offsets backwards", fileOf("{"+entry("a", "U8", "[1]", 1, 0)+"}", 1), `tensor "a": data_offsets [1 0] end before they begin`},
	{"offsets against shape", fileOf("{"+entry("a", "F32", "[2,3]", 0, 20)+"}", 20), `tensor "a": data_offsets [0 20] hold 20 bytes, shape [2 3] of F32 takes 24`},
	{"half a byte", fileOf("{"+entry("a", "F4", "[3]", 0, 1)+"}", 1), `tensor "a": shape [3] of F4 is not a whole number of bytes`},
	{"six bits", fileOf("{"+entry("a", "F6_E2M3", "[2]", 0, 1)+"}", 1), `tensor "a": shape [2] of F6_E2M3 is not a whole number of bytes`},

	{"truncated data", fileOf("{"+entry("a", "F32", "[2]", 0, 8)+"}", 7), `tensor "a": truncated: data_offsets [0 8], the file has 7 bytes of data`},
	{"bytes after the last", fileOf("{"+entry("a", "U8", "[2]", 0, 2)+"}", 3), "the tensors end at 2, the file has 3 bytes of data"},
	{"data but no tensor", fileOf("{}", 1), "the tensors end at 0, the file has 1 bytes of data"},
	{"hole at the start", fileOf("{"+entry("a", "U8", "[2]", 1, 3)+"}", 3), `tensor "a": hole: begins at 1, bytes from 0 on belong to no tensor`},
	{"hole between", fileOf("{"+entry("a", "U8", "[1]", 0, 1)+","+entry("b", "U8", "[1]", 2, 3)+"}", 3), `tensor "b": hole: begins at 2, bytes from 1 on belong to no tensor`},
	{"overlap", fileOf("{"+entry("b", "U8", "[2]", 1, 3)+","+entry("a", "U8", "[2]", 0, 2)+"}", 3), `tensor "b": overlap: begins at 1 inside tensor "a", which ends at 2`},
	{"same bytes twice", fileOf("{"+entry("a", "U8", "[2]", 0, 2)+","+entry("b", "U8", "[2]", 0, 2)+"}", 2), `tensor "b": overlap: begins at 0 inside tensor "a", which ends at 2`},
	{"empty tensor inside another", fileOf("{"+entry("a", "U8", "[2]", 0, 2)+","+entry("b", "U8", "[0]", 1, 1)+"}", 2), `tensor "b": overlap: begins at 1 inside tensor "a", which ends at 2`},
}

func TestBadFiles(t *testing.T) {
	for _, tt := range badFiles {
		t.Run(tt.name, func(t *testing.T) {
			_, err := openBytes(tt.data)
			require.ErrorIs(t, err, ErrInvalid)
			require.True(t, strings.HasPrefix(err.Error(), "dir/x.safetensors: "), err)
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "\n")

			path := filepath.Join(t.TempDir(), "x.safetensors")
			require.NoError(t, os.WriteFile(path, tt.data, 0o666))
			_, err = Open(path)
			require.ErrorIs(t, err, ErrInvalid)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestErrorTextsStayShort(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for _, text := range []string{
		`{"` + long + `":3}`,
		"{" + entry("a", long, "[1]", 0, 1) + "}",
		"{" + entry("a", "U8", "["+strings.Repeat("1,", 50_000)+"2]", 0, 1) + "}",
		"{" + entry("a", "U8", "["+strings.Repeat("9", 50_000)+"]", 0, 1) + "}",
		`{"__metadata__":{"` + long + `":2}}`,
	} {
		_, err := openBytes(fileOf(text, 1))
		require.ErrorIs(t, err, ErrInvalid)
		require.Less(t, len(err.Error()), 600)
	}
}

func TestGoodFiles(t *testing.T) {
	for _, tt := range []struct {
		name  string
		data  []byte
		names []string
	}{
		{"nothing at all", fileOf("{}", 0), []string{}},
		{"padding", fileOf("{}      ", 0), []string{}},
		{"null metadata", fileOf(`{"__metadata__":null}`, 0), []string{}},
		{"scalar", fileOf("{"+entry("a", "F32", "[]", 0, 4)+"}", 4), []string{"a"}},
		{"empty name", fileOf("{"+entry("", "U8", "[1]", 0, 1)+"}", 1), []string{""}},
		{"out of order", fileOf("{"+entry("b", "U8", "[1]", 1, 2)+","+entry("a", "U8", "[1]", 0, 1)+"}", 2), []string{"a", "b"}},
		{"empty tensors anywhere", fileOf("{"+entry("a", "U8", "[2]", 0, 2)+","+entry("b", "U8", "[0,7]", 0, 0)+","+entry("c", "F32", "[0]", 2, 2)+"}", 2), []string{"b", "a", "c"}},
		{"zero before an overflow", fileOf("{"+entry("a", "U8", "[0,2147483647,2147483647,2147483647]", 0, 0)+"}", 0), []string{"a"}},
		{"unknown keys", fileOf(`{"a":{"x":{"y":[1,{}]},"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), []string{"a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := openBytes(tt.data)
			require.NoError(t, err)
			require.Equal(t, tt.names, f.Names())
			require.NoError(t, f.Close())
		})
	}
}

// Every dtype, with the bytes eight elements take.
var allTypes = map[DType]int64{
	Bool: 8, U8: 8, I8: 8, U16: 16, I16: 16, U32: 32, I32: 32, U64: 64, I64: 64,
	F16: 16, BF16: 16, F32: 32, F64: 64, C64: 64,
	F8E4M3: 8, F8E5M2: 8, F8E8M0: 8, F8E4M3FNUZ: 8, F8E5M2FNUZ: 8,
	F6E2M3: 6, F6E3M2: 6, F4: 4,
}

func TestEveryDType(t *testing.T) {
	for d, size := range allTypes {
		f, err := openBytes(fileOf("{"+entry("a", string(d), "[2,4]", 0, size)+"}", int(size)))
		require.NoError(t, err, d)
		info, ok := f.Info("a")
		require.True(t, ok)
		require.Equal(t, TensorInfo{Name: "a", DType: d, Shape: []int{2, 4}, File: "x.safetensors", End: size}, info)
		require.Equal(t, size, info.Size())
		require.Equal(t, 8, info.Elements())
		b, err := f.ReadBytes("a", nil)
		require.NoError(t, err)
		require.Len(t, b, int(size))
		require.Equal(t, byte(size-1), b[size-1])
		_, err = f.ReadFloat32("a", nil)
		switch d {
		case F32, F16, BF16, F64:
			require.NoError(t, err)
		default:
			require.ErrorIs(t, err, ErrDType)
			require.ErrorContains(t, err, `dir/x.safetensors: tensor "a": dtype `+string(d)+", want F32, F16, BF16 or F64")
		}
	}
	require.Zero(t, DType("F128").Bits())
	require.Equal(t, int64(-1), TensorInfo{DType: "F128"}.Size())
	require.Equal(t, int64(-1), TensorInfo{DType: U8, Shape: []int{-1}}.Size())
	require.Equal(t, -1, TensorInfo{DType: U8, Shape: []int{1 << 30, 1 << 30, 1 << 30}}.Elements())
}

// A file that shrinks, or a disk that fails, after it was opened.
func TestReadErrors(t *testing.T) {
	data := fileOf("{"+entry("a", "BF16", "[4]", 0, 8)+"}", 8)
	path := filepath.Join(t.TempDir(), "x.safetensors")
	require.NoError(t, os.WriteFile(path, data, 0o666))
	f, err := Open(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, int64(len(data)-1)))
	_, err = f.ReadBytes("a", nil)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.ErrorContains(t, err, `tensor "a": the file has become shorter since it was opened`)
	_, err = f.ReadFloat32("a", nil)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	v, err := f.ReadFloat32("a", nil)
	require.Error(t, err)
	require.Nil(t, v)
	require.NoError(t, f.Close())
	_, err = f.ReadBytes("a", nil)
	require.ErrorIs(t, err, os.ErrClosed)

	_, err = Open(t.TempDir())
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "not a regular file")
	_, err = Open(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = NewFile(bytes.NewReader(data[:3]), int64(len(data)), "x")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = NewFile(bytes.NewReader(data[:20]), int64(len(data)), "x")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}
