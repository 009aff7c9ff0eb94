package imatrix

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/gguf"
)

var example = File{
	Datasets: []string{"wiki.txt", "more.txt"}, Chunks: 3, ChunkSize: 512,
	Entries: []Entry{
		{"blk.0.ffn_down_exps.weight", []float32{1, 2, 3, 0, 0, 0}, []float32{1500, 0}},
		{"blk.0.ffn_up.weight", []float32{4, 0.5}, []float32{1536}},
	},
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.gguf")
	for _, f := range []File{example, {Entries: example.Entries[1:]}} {
		require.NoError(t, f.Write(path))
		got, err := Read(path)
		require.NoError(t, err)
		if f.Datasets == nil {
			f.Datasets = []string{}
		}
		require.Equal(t, &f, got)
	}
}

// bytesOf is a file of the form without a header.
func bytesOf(values ...any) []byte {
	var b bytes.Buffer
	for _, v := range values {
		switch v := v.(type) {
		case string:
			v2 := append(binary.LittleEndian.AppendUint32(nil, uint32(len(v))), v...)
			b.Write(v2)
		case int:
			b.Write(binary.LittleEndian.AppendUint32(nil, uint32(v)))
		case float64:
			b.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(v))))
		}
	}
	return b.Bytes()
}

func TestOlder(t *testing.T) {
	entries := []any{2, "a", 4, 2, 8.0, 2.0, "bc", 0, 1, 0.5}
	want := []Entry{{"a", []float32{8, 2}, []float32{4}}, {"bc", []float32{0.5}, []float32{1}}}
	for _, c := range []struct {
		end  []any
		want File
	}{
		{nil, File{Entries: want}},
		{[]any{7}, File{Entries: want, Chunks: 7}},
		{[]any{7, "wiki.txt"}, File{Entries: want, Chunks: 7, Datasets: []string{"wiki.txt"}}},
		{[]any{7, ""}, File{Entries: want, Chunks: 7}},
	} {
		path := filepath.Join(t.TempDir(), "x.dat")
		data := bytesOf(append(entries[:len(entries):len(entries)], c.end...)...)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		got, err := Read(path)
		require.NoError(t, err)
		require.Equal(t, &c.want, got)
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	made := 0
	write := func(data []byte) string {
		made++
		path := filepath.Join(dir, strconv.Itoa(made))
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	whole := bytesOf(1, "a", 1, 2, 1.0, 2.0, 7, "text")
	for n := range whole {
		_, err := Read(write(whole[:n]))
		if n == 25 || n == 29 { // the end is optional
			require.NoError(t, err, n)
			continue
		}
		require.ErrorIs(t, err, ErrFormat, n)
	}
	for _, c := range []struct {
		data []byte
		want string
	}{
		{bytesOf(0), "no entries"},
		{bytesOf(-1), "-1 entries"},
		{bytesOf(1<<30, "abcdefgh"), "entries in the"},
		{bytesOf(1, 1<<30, 0, 0), "bytes of the name"},
		{bytesOf(1, "a", 1, 1<<30, 1.0), "values in the"},
		{bytesOf(1, "a", 1, 0), `entry "a": 0 sums`},
		{bytesOf(2, "a", 1, 1, 1.0, "a", 1, 1, 1.0), "twice"},
		{bytesOf(1, "a", 1, 1, -1.0), `entry "a": sum 0 is -1`},
		{bytesOf(1, "a", 1, 2, 0.0, math.NaN()), "sum 1 is NaN"},
		{bytesOf(1, "a", 1, 1, math.Inf(1)), "sum 0 is +Inf"},
	} {
		_, err := Read(write(c.data))
		require.ErrorIs(t, err, ErrFormat)
		require.ErrorContains(t, err, c.want)
	}
	f32 := func(name string, n int) gguf.Tensor { return gguf.Tensor{Name: name, Type: gguf.F32, Dims: []int{n}} }
	for _, c := range []struct {
		kind    string
		tensors []gguf.Tensor
		want    string
	}{
		{"model", nil, `"general.type": "model", want "imatrix"`},
		{typeValue, nil, "no entries"},
		{typeValue, []gguf.Tensor{f32("a.in_sum2", 2)}, `no tensor "a.counts"`},
		{typeValue, []gguf.Tensor{f32("a.counts", 2)}, `no "a.in_sum2" beside it`},
		{typeValue, []gguf.Tensor{f32("a.in_sum2", 3), f32("a.counts", 2)}, "3 sums and 2 counts"},
		{typeValue, []gguf.Tensor{{Name: "a.in_sum2", Type: gguf.F16, Dims: []int{2}}, f32("a.counts", 1)}, "type F16, want F32"},
	} {
		path := filepath.Join(dir, "x.gguf")
		w, err := gguf.Create(path, []gguf.KV{{Key: typeKey, Value: c.kind}}, c.tensors)
		require.NoError(t, err)
		for _, tensor := range c.tensors {
			require.NoError(t, w.Append(tensor.Name, make([]byte, tensor.Bytes())))
		}
		require.NoError(t, w.Close())
		_, err = Read(path)
		require.ErrorIs(t, err, ErrFormat)
		require.ErrorContains(t, err, c.want)
	}
	_, err := Read(dir)
	require.Error(t, err)
	_, err = Read(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Whatever a file holds, it is read or refused, and what was read is written and read again.
func FuzzRead(f *testing.F) {
	f.Add(bytesOf(1, "a", 1, 2, 1.0, 2.0, 7, "text"))
	f.Add(bytesOf(2, "a", 4, 2, 8.0, 2.0, "bc", 0, 1, 0.5))
	path := filepath.Join(f.TempDir(), "x.gguf")
	if err := example.Write(path); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "x")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		m, err := Read(path)
		if err != nil {
			require.ErrorIs(t, err, ErrFormat)
			return
		}
		if err := m.Write(path); err != nil { // a name longer than GGUF has room for
			return
		}
		again, err := Read(path)
		require.NoError(t, err)
		require.Len(t, again.Entries, len(m.Entries))
	})
}
