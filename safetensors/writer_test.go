package safetensors

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"
)

func listDir(t require.TestingT, dir string) []string {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func readAll(t require.TestingT, dir string) map[string]string {
	files := map[string]string{}
	for _, name := range listDir(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		files[name] = string(b)
	}
	return files
}

// The bytes of a small file, by hand.
func TestWriterBytes(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(dir, []TensorInfo{
		{Name: "q", DType: U8, Shape: []int{3}},
		{Name: `a<"é"`, DType: BF16, Shape: []int{1, 2}},
		{Name: "empty", DType: F32, Shape: []int{0, 4}},
	}, Options{})
	require.NoError(t, err)
	defer w.Abort()
	require.Equal(t, []string{SingleName}, w.Files())
	require.NoError(t, w.WriteTensor("q", []byte{1, 2, 3}))
	require.NoError(t, w.WriteFloat32(`a<"é"`, []float32{1, -2}))
	require.NotContains(t, listDir(t, dir), SingleName, "not under its final name before Close")
	require.NoError(t, w.Close())
	w.Abort()

	head := `{"__metadata__":{"format":"pt"},` +
		`"empty":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},` + // wider types first
		`"a<\"é\"":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},` +
		`"q":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}}` + "  "
	require.Zero(t, len(head)%8)
	want := string([]byte{byte(len(head)), 0, 0, 0, 0, 0, 0, 0}) + head + "\x80\x3f\x00\xc0\x01\x02\x03"
	require.Equal(t, map[string]string{SingleName: want}, readAll(t, dir))

	st, err := os.Stat(filepath.Join(dir, SingleName))
	require.NoError(t, err)
	probe := filepath.Join(t.TempDir(), "probe")
	require.NoError(t, os.WriteFile(probe, nil, 0o666))
	pst, err := os.Stat(probe)
	require.NoError(t, err)
	require.Equal(t, pst.Mode(), st.Mode(), "as any file of this user")
}

func TestWriterIndex(t *testing.T) {
	dir := t.TempDir()
	var plan []TensorInfo
	for _, name := range []string{"z", "y", "x", "huge", "b", "a"} {
		n := 4
		if name == "huge" {
			n = 30
		}
		plan = append(plan, TensorInfo{Name: name, DType: I16, Shape: []int{n / 2}})
	}
	w, err := NewWriter(dir, plan, Options{MaxShardBytes: 8, Metadata: map[string]string{"k": "v", "b": "<"}})
	require.NoError(t, err)
	defer w.Abort()
	for i, p := range plan {
		require.NoError(t, w.WriteTensor(p.Name, bytes.Repeat([]byte{byte(i)}, int(p.Size()))))
	}
	info, ok := w.Info("x")
	require.True(t, ok)
	require.Equal(t, TensorInfo{Name: "x", DType: I16, Shape: []int{2}, File: "model-00002-of-00004.safetensors", End: 4}, info)
	_, ok = w.Info("none")
	require.False(t, ok)
	require.NoError(t, w.Close())
	require.ElementsMatch(t, w.Files(), listDir(t, dir))
	require.Len(t, w.Files(), 5)

	text, err := os.ReadFile(filepath.Join(dir, IndexName))
	require.NoError(t, err)
	require.Equal(t, `{
  "metadata": {
    "total_size": 50
  },
  "weight_map": {
    "a": "model-00004-of-00004.safetensors",
    "b": "model-00004-of-00004.safetensors",
    "huge": "model-00003-of-00004.safetensors",
    "x": "model-00002-of-00004.safetensors",
    "y": "model-00001-of-00004.safetensors",
    "z": "model-00001-of-00004.safetensors"
  }
}
`, string(text))
	d, err := OpenFolder(dir)
	require.NoError(t, err)
	defer d.Close()
	require.Equal(t, []string{"z", "y", "x", "huge", "b", "a"}, d.Names())
	require.Equal(t, map[string]string{"k": "v", "b": "<"}, d.Metadata())
}

// randomPlan draws tensors of every dtype, with their bytes.
func randomPlan(t *rapid.T) ([]TensorInfo, map[string][]byte) {
	names := rapid.SliceOfNDistinct(rapid.StringN(0, 12, -1), 0, 8, rapid.ID).Draw(t, "names")
	types := []DType{Bool, U8, I8, U16, I16, U32, I32, U64, I64, F16, BF16, F32, F64, C64,
		F8E4M3, F8E5M2, F8E8M0, F8E4M3FNUZ, F8E5M2FNUZ, F6E2M3, F6E3M2, F4}
	plan := []TensorInfo{}
	data := map[string][]byte{}
	for _, name := range names {
		p := TensorInfo{
			Name:  name,
			DType: rapid.SampledFrom(types).Draw(t, "dtype"),
			Shape: rapid.SliceOfN(rapid.IntRange(0, 6), 0, 3).Draw(t, "shape"),
		}
		if p.DType.Bits()%8 != 0 {
			p.Shape = append(p.Shape, 4) // whole bytes
		}
		plan = append(plan, p)
		n := int(p.Size())
		data[name] = rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "data")
	}
	return plan, data
}

type piece struct {
	name       string
	begin, end int
}

// unsynced spares hundreds of small files the wait for the disk.
type unsynced struct{ output }

func (unsynced) Sync() error { return nil }

func createUnsynced(path string, size int64) (output, error) {
	f, err := createTemp(path, size)
	return unsynced{f}, err
}

// Whatever the plan, the pieces, their order and the shard size: what was written
// is read back, every tensor lies at a multiple of its element size, and the
// files are the same as when written in one go.
func TestRoundTrip(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		plan, data := randomPlan(t)
		opts := Options{
			MaxShardBytes: rapid.SampledFrom([]int64{-1, 0, 1, 7, 64, 300}).Draw(t, "limit"),
			Metadata:      rapid.MapOfN(rapid.String(), rapid.String(), 0, 3).Draw(t, "metadata"),
		}
		dir, err := os.MkdirTemp(base, "")
		require.NoError(t, err)
		w, err := newWriter(dir, plan, opts, createUnsynced)
		require.NoError(t, err)
		defer w.Abort()
		var pieces []piece
		for _, p := range plan {
			for at, n := 0, int(p.Size()); at < n; {
				end := rapid.IntRange(at+1, n).Draw(t, "end")
				pieces = append(pieces, piece{p.Name, at, end})
				at = end
			}
		}
		var g errgroup.Group
		for _, p := range rapid.Permutation(pieces).Draw(t, "order") {
			g.Go(func() error { return w.WriteAt(p.name, data[p.name][p.begin:p.end], int64(p.begin)) })
		}
		require.NoError(t, g.Wait())
		require.NoError(t, w.Close())

		d, err := OpenFolder(dir)
		require.NoError(t, err)
		defer d.Close()
		require.Len(t, d.Names(), len(plan))
		if len(opts.Metadata) > 0 {
			require.Equal(t, opts.Metadata, d.Metadata())
		}
		requireAsPlanned(t, w, d, plan, data, opts)

		// Again through WriteFrom, from what was written.
		again, err := os.MkdirTemp(base, "")
		require.NoError(t, err)
		w, err = newWriter(again, plan, opts, createUnsynced)
		require.NoError(t, err)
		defer w.Abort()
		for _, p := range plan {
			s, err := d.Section(p.Name)
			require.NoError(t, err)
			require.NoError(t, w.WriteFrom(p.Name, iotest.OneByteReader(s)))
		}
		require.NoError(t, w.Close())
		require.Equal(t, readAll(t, dir), readAll(t, again))
	})
}

// requireAsPlanned wants a folder to have the tensors where they were planned, with
// their data, aligned and in files of the size that was asked for.
func requireAsPlanned(t *rapid.T, w *Writer, d *Folder, plan []TensorInfo, data map[string][]byte, opts Options) {
	used := map[string]int64{}
	count := map[string]int{}
	for _, p := range plan {
		info, ok := d.Info(p.Name)
		require.True(t, ok)
		planned, ok := w.Info(p.Name)
		require.True(t, ok)
		require.Equal(t, planned.Size(), info.Size())
		require.Equal(t, planned.Begin, info.Begin)
		require.Equal(t, planned.File, info.File)
		require.Equal(t, p.DType, info.DType)
		require.ElementsMatch(t, p.Shape, info.Shape)
		if width := p.DType.Bits() / 8; width > 0 {
			require.Zero(t, info.Begin%int64(width))
		}
		got, err := d.ReadBytes(p.Name, nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data[p.Name], got))
		used[info.File] += info.Size()
		if info.Size() > 0 {
			count[info.File]++
		}
	}
	for file, n := range used {
		if opts.MaxShardBytes > 0 && count[file] > 1 {
			require.LessOrEqual(t, n, opts.MaxShardBytes)
		}
		f, err := os.Open(filepath.Join(d.dir, file))
		require.NoError(t, err)
		var length [8]byte
		_, err = io.ReadFull(f, length[:])
		require.NoError(t, err)
		require.Zero(t, length[0]%8)
		require.NoError(t, f.Close())
	}
}

// Copying a real folder gives the same tensors, across shards of another size.
func TestCopyRealFolder(t *testing.T) {
	src, err := OpenFolder(sharedModel(t, "tinystories-260k-bf16-sharded"))
	require.NoError(t, err)
	defer src.Close()
	var plan []TensorInfo
	for _, name := range src.Names() {
		info, _ := src.Info(name)
		plan = append(plan, info)
	}
	for _, limit := range []int64{0, 100_000} {
		dir := t.TempDir()
		w, err := NewWriter(dir, plan, Options{MaxShardBytes: limit, Metadata: src.Metadata()})
		require.NoError(t, err)
		defer w.Abort()
		for _, name := range src.Names() {
			s, err := src.Section(name)
			require.NoError(t, err)
			require.NoError(t, w.WriteFrom(name, s))
		}
		require.NoError(t, w.Close())
		dst, err := OpenFolder(dir)
		require.NoError(t, err)
		require.Equal(t, src.Names(), dst.Names())
		require.Equal(t, limit > 0, len(dst.Files()) > 1)
		for _, name := range src.Names() {
			a, err := src.ReadBytes(name, nil)
			require.NoError(t, err)
			b, err := dst.ReadBytes(name, nil)
			require.NoError(t, err)
			require.Equal(t, a, b)
		}
		require.NoError(t, dst.Close())
	}
}

func TestWriteFloat32(t *testing.T) {
	values := make([]float32, 2<<16+5)
	for i := range values {
		values[i] = float32(math.Ldexp(1+float64(i)*0x1p-20, i%30-15))
	}
	values[3] = float32(math.Inf(1))
	for _, d := range []DType{F32, F16, BF16} {
		dir := t.TempDir()
		w, err := NewWriter(dir, []TensorInfo{{Name: "a", DType: d, Shape: []int{len(values)}}, {Name: "b", DType: I16, Shape: []int{1}}}, Options{})
		require.NoError(t, err)
		defer w.Abort()
		kept := append([]float32(nil), values...)
		require.NoError(t, w.WriteFloat32("a", values))
		require.Equal(t, kept, values)
		err = w.WriteFloat32("b", values[:1])
		require.ErrorIs(t, err, ErrDType)
		require.ErrorContains(t, err, `model.safetensors: tensor "b": dtype I16, want F32, F16 or BF16`)
		require.NoError(t, w.WriteTensor("b", []byte{0, 0}))
		require.NoError(t, w.Close())
		f, err := Open(filepath.Join(dir, SingleName))
		require.NoError(t, err)
		defer f.Close()
		got, err := f.ReadFloat32("a", nil)
		require.NoError(t, err)
		ulp := map[DType]float64{F32: 0, F16: 0x1p-11, BF16: 0x1p-8}[d]
		for i, v := range values {
			// Half floats of 2^-15 and less are subnormal: an absolute step of 2^-24.
			if !math.IsInf(float64(v), 0) && math.Abs(float64(v-got[i])) > ulp*float64(v)+0x1p-25*ulp*0x1p11 {
				require.Equal(t, v, got[i], "%s %d", d, i)
			}
		}
		require.True(t, math.IsInf(float64(got[3]), 1), "an infinity stays one")
	}

	dir := t.TempDir()
	w, err := NewWriter(dir, []TensorInfo{{Name: "a", DType: F16, Shape: []int{2}}}, Options{})
	require.NoError(t, err)
	defer w.Abort()
	require.ErrorContains(t, w.WriteFloat32("a", []float32{1}), `tensor "a": 1 values, shape [2] takes 2`)
	err = w.WriteFloat32("a", []float32{1, 65520})
	require.ErrorIs(t, err, ErrDType)
	require.ErrorContains(t, err, `tensor "a": value 65520 at 1 is too large for F16`)
	require.NoError(t, w.WriteFloat32("a", []float32{1, 65519}))
	require.NoError(t, w.Close())
}

func TestBadPlans(t *testing.T) {
	ok := TensorInfo{Name: "a", DType: U8, Shape: []int{1}}
	for _, tt := range []struct {
		name string
		plan []TensorInfo
		opts Options
		want string
	}{
		{"twice", []TensorInfo{ok, ok}, Options{}, `tensor "a": twice in the plan`},
		{"dtype", []TensorInfo{{Name: "a", DType: "F99", Shape: []int{1}}}, Options{}, `tensor "a": unknown dtype "F99"`},
		{"no dtype", []TensorInfo{{Name: "a", Shape: []int{1}}}, Options{}, `tensor "a": unknown dtype ""`},
		{"negative", []TensorInfo{{Name: "a", DType: U8, Shape: []int{2, -1}}}, Options{}, `tensor "a": dimension 1 of shape [2 -1] is negative`},
		{"half a byte", []TensorInfo{{Name: "a", DType: F4, Shape: []int{5}}}, Options{}, `not a whole number of bytes`},
		{"overflow", []TensorInfo{{Name: "a", DType: U8, Shape: []int{math.MaxInt, 2}}}, Options{}, `tensor "a": shape`},
		{"sum overflows", []TensorInfo{{Name: "a", DType: U64, Shape: []int{math.MaxInt >> 4}}, {Name: "b", DType: U64, Shape: []int{math.MaxInt >> 4}}, {Name: "c", DType: U64, Shape: []int{math.MaxInt >> 4}}}, Options{}, `the plan overflows`},
		{"metadata as name", []TensorInfo{{Name: "__metadata__", DType: U8, Shape: []int{1}}}, Options{}, `the format does not allow this name`},
		{"name not UTF-8", []TensorInfo{{Name: "\xff", DType: U8, Shape: []int{1}}}, Options{}, `the format does not allow this name`},
		{"metadata not UTF-8", []TensorInfo{ok}, Options{Metadata: map[string]string{"k": "\xff"}}, `metadata "k": not valid UTF-8`},
		{"header too large", []TensorInfo{{Name: string(make([]byte, 16_700_000)), DType: U8, Shape: []int{1}}}, Options{}, `header too large`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "sum overflows" && math.MaxInt == math.MaxInt32 {
				t.Skip("needs 64-bit shapes")
			}
			dir := t.TempDir()
			_, err := NewWriter(dir, tt.plan, tt.opts)
			require.ErrorIs(t, err, ErrInvalid)
			require.ErrorContains(t, err, tt.want)
			require.Empty(t, listDir(t, dir))
		})
	}
}

func TestWriterMisuse(t *testing.T) {
	dir := t.TempDir()
	plan := []TensorInfo{{Name: "a", DType: U8, Shape: []int{10}}}
	w, err := NewWriter(dir, plan, Options{})
	require.NoError(t, err)
	defer w.Abort()
	data := make([]byte, 10)
	require.ErrorIs(t, w.WriteAt("b", data, 0), ErrNotFound)
	require.ErrorIs(t, w.WriteTensor("b", data), ErrNotFound)
	require.ErrorIs(t, w.WriteFrom("b", bytes.NewReader(data)), ErrNotFound)
	require.ErrorIs(t, w.WriteFloat32("b", nil), ErrNotFound)
	require.ErrorContains(t, w.WriteTensor("a", data[:9]), `model.safetensors: tensor "a": 9 bytes, shape [10] of U8 takes 10`)
	require.ErrorContains(t, w.WriteAt("a", data[:2], 9), `tensor "a": 2 bytes at 9, the tensor has 10`)
	require.ErrorContains(t, w.WriteAt("a", data[:1], -1), "1 bytes at -1")
	require.ErrorContains(t, w.WriteAt("a", data[:1], math.MaxInt64), "the tensor has 10")
	require.NoError(t, w.WriteAt("a", data[:4], 3))
	require.ErrorContains(t, w.WriteAt("a", data[:1], 6), "bytes from 6 to 7 written twice")
	require.NoError(t, w.WriteAt("a", data[:3], 0))
	require.NoError(t, w.WriteAt("a", data[:3], 7))
	require.NoError(t, w.Close())
	require.ErrorIs(t, w.Close(), fs.ErrClosed)
	require.ErrorIs(t, w.WriteAt("a", nil, 0), fs.ErrClosed)

	for _, opts := range []Options{{}, {MaxShardBytes: 5}} {
		_, err = NewWriter(dir, plan, opts)
		require.ErrorIs(t, err, fs.ErrExist)
		require.ErrorContains(t, err, "model.safetensors: exists already")
	}
	_, err = NewWriter(filepath.Join(dir, "none"), plan, Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = NewWriter(filepath.Join(dir, SingleName), plan, Options{})
	require.ErrorContains(t, err, "not a folder")
}

func TestWriteFromOtherLength(t *testing.T) {
	for _, n := range []int{0, 1, 1 << 20, 1<<20 + 1, 3 << 20} {
		for _, d := range []int{-1, 0, 1} {
			if n+d < 0 {
				continue
			}
			dir := t.TempDir()
			w, err := NewWriter(dir, []TensorInfo{{Name: "a", DType: U8, Shape: []int{n}}}, Options{})
			require.NoError(t, err)
			data := make([]byte, n+d)
			for i := range data {
				data[i] = byte(i * 7 >> 3)
			}
			err = w.WriteFrom("a", bytes.NewReader(data))
			switch d {
			case 0:
				require.NoError(t, err)
				require.NoError(t, w.Close())
				f, err := Open(filepath.Join(dir, SingleName))
				require.NoError(t, err)
				got, err := f.ReadBytes("a", nil)
				require.NoError(t, err)
				require.True(t, bytes.Equal(data, got))
				require.NoError(t, f.Close())
			case -1:
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
				require.ErrorIs(t, w.Close(), ErrIncomplete)
			case 1:
				require.ErrorContains(t, err, "the source holds more than")
			}
			w.Abort()
		}
	}
	dir := t.TempDir()
	w, err := NewWriter(dir, []TensorInfo{{Name: "a", DType: U8, Shape: []int{5}}}, Options{})
	require.NoError(t, err)
	defer w.Abort()
	broken := errors.New("broken source")
	err = w.WriteFrom("a", iotest.ErrReader(broken))
	require.ErrorIs(t, err, broken)
	require.ErrorContains(t, err, `tensor "a": reading its source: broken source`)
}

func TestIncompleteLeavesNothing(t *testing.T) {
	var plan []TensorInfo
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		plan = append(plan, TensorInfo{Name: name, DType: U8, Shape: []int{2}})
	}
	for _, limit := range []int64{0, 4} {
		dir := t.TempDir()
		w, err := NewWriter(dir, plan, Options{MaxShardBytes: limit})
		require.NoError(t, err)
		require.NoError(t, w.WriteTensor("a", []byte{1, 2}))
		require.NoError(t, w.WriteAt("b", []byte{1}, 1)) // half of it
		require.NotEmpty(t, listDir(t, dir))
		err = w.Close()
		require.ErrorIs(t, err, ErrIncomplete)
		require.ErrorContains(t, err, dir+`: 7 of 8 tensors are missing or incomplete: "b", "c", "d", "e", "f", and 2 more`)
		require.Empty(t, listDir(t, dir))
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(dir, []TensorInfo{{Name: "a", DType: U8, Shape: []int{2}}}, Options{})
	require.NoError(t, err)
	require.NoError(t, w.WriteTensor("a", []byte{1, 2}))
	w.Abort()
	w.Abort()
	require.Empty(t, listDir(t, dir))
	require.ErrorIs(t, w.Close(), fs.ErrClosed)
	require.ErrorIs(t, w.WriteTensor("a", []byte{1, 2}), fs.ErrClosed)
}

// A file that appears under a final name meanwhile is not replaced, and what had
// its final name already is taken away again.
func TestFileAppearsMeanwhile(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(dir, []TensorInfo{{Name: "a", DType: U8, Shape: []int{2}}, {Name: "b", DType: U8, Shape: []int{2}}}, Options{MaxShardBytes: 2})
	require.NoError(t, err)
	require.NoError(t, w.WriteTensor("a", []byte{1, 2}))
	require.NoError(t, w.WriteTensor("b", []byte{1, 2}))
	require.NoError(t, os.WriteFile(filepath.Join(dir, IndexName), []byte("mine"), 0o666))
	require.ErrorIs(t, w.Close(), fs.ErrExist)
	require.Equal(t, map[string]string{IndexName: "mine"}, readAll(t, dir))
}

// failing is a disk that takes some bytes and then fails, or lies about it.
type failing struct {
	output
	left  *int
	err   error // of WriteAt once the bytes are used up; nil means a short write
	sync  error
	close error
}

func (f *failing) WriteAt(p []byte, off int64) (int, error) {
	if *f.left < len(p) {
		n, err := f.output.WriteAt(p[:*f.left], off)
		*f.left = 0
		return n, errors.Join(f.err, err)
	}
	*f.left -= len(p)
	return f.output.WriteAt(p, off)
}

func (f *failing) Sync() error  { return errors.Join(f.output.Sync(), f.sync) }
func (f *failing) Close() error { return errors.Join(f.output.Close(), f.close) }

func TestDiskErrors(t *testing.T) {
	plan := []TensorInfo{{Name: "a", DType: U8, Shape: []int{100}}, {Name: "b", DType: U8, Shape: []int{100}}}
	full := &fs.PathError{Op: "write", Path: "x.tmp", Err: syscall.ENOSPC}
	shards, err := planShards("", plan, Options{})
	require.NoError(t, err)
	for _, tt := range []struct {
		name  string
		bytes int // after the header
		disk  failing
		is    error
		want  string // in the error of the first call that fails
	}{
		{"full at the header", -1, failing{err: full}, syscall.ENOSPC, "model.safetensors: writing the header: no space left on device"},
		{"full at a", 50, failing{err: full}, syscall.ENOSPC, `model.safetensors: tensor "a": writing 100 bytes: no space left on device`},
		{"full at b", 150, failing{err: full}, syscall.ENOSPC, `model.safetensors: tensor "b": writing 100 bytes: no space left on device`},
		{"short write", 150, failing{}, io.ErrShortWrite, `model.safetensors: tensor "b": writing 100 bytes: short write`},
		{"sync", 1000, failing{sync: syscall.EIO}, syscall.EIO, `model.safetensors: syncing: input/output error`},
		{"close", 1000, failing{close: syscall.EDQUOT}, syscall.EDQUOT, `model.safetensors: closing: disk quota exceeded`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if runtime.GOOS != "linux" {
				t.Skip("needs the error texts of Linux")
			}
			dir := t.TempDir()
			left := len(shards[0].head) + tt.bytes
			create := func(path string, size int64) (output, error) {
				f, err := createTemp(path, size)
				if err != nil {
					return nil, err
				}
				d := tt.disk
				d.output, d.left = f, &left
				return &d, nil
			}
			w, err := newWriter(dir, plan, Options{}, create)
			for _, p := range plan {
				if err == nil {
					err = w.WriteTensor(p.Name, make([]byte, 100))
				}
			}
			if w != nil {
				cerr := w.Close()
				if err != nil {
					require.Equal(t, err, cerr, "Close returns the first error again")
				}
				err = cerr
			}
			require.ErrorIs(t, err, tt.is)
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), ".tmp")
			require.Empty(t, listDir(t, dir))
		})
	}
}

// More than any disk holds is refused before anything is written.
func TestReserve(t *testing.T) {
	if runtime.GOOS != "linux" || math.MaxInt == math.MaxInt32 {
		t.Skip("needs fallocate and 64 bits")
	}
	dir := t.TempDir()
	_, err := NewWriter(dir, []TensorInfo{{Name: "a", DType: U64, Shape: []int{1 << 30, 1 << 23}}}, Options{})
	require.ErrorContains(t, err, "model.safetensors: reserving 72057594037928")
	require.Empty(t, listDir(t, dir))
}

func TestSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 12
		var s spans
		var model [size]bool
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			a := rapid.IntRange(0, size).Draw(t, "a")
			b := rapid.IntRange(a, size).Draw(t, "b")
			free, all := true, true
			for _, taken := range model[a:b] {
				free = free && !taken
			}
			require.Equal(t, free, s.add(int64(a), int64(b)))
			if free {
				for i := a; i < b; i++ {
					model[i] = true
				}
			}
			for _, taken := range model {
				all = all && taken
			}
			require.Equal(t, all, s.cover(size))
			runs := 0
			for i, taken := range model {
				if taken && (i == 0 || !model[i-1]) {
					runs++
				}
			}
			require.Len(t, s, runs)
		}
	})
}
