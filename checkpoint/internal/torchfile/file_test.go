package torchfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/safetensors"
)

// TestAgainstTorch compares files that torch wrote with the same tensors as
// safetensors (testdata/generate.py).
func TestAgainstTorch(t *testing.T) {
	for _, name := range []string{"types", "types-legacy", "views", "views-legacy", "parameters", "training"} {
		t.Run(name, func(t *testing.T) {
			f, err := Open(filepath.Join("testdata", name+".pt"))
			require.NoError(t, err)
			defer f.Close()
			same(t, filepath.Join("testdata", name+".safetensors"), f)
		})
	}
	t.Run("sharded", func(t *testing.T) {
		d, err := OpenFolder(filepath.Join("testdata", "sharded"))
		require.NoError(t, err)
		defer d.Close()
		same(t, filepath.Join("testdata", "sharded.safetensors"), d)
		require.Equal(t, []string{"a.weight", "b.weight"}, d.Names())
		require.Equal(t, filepath.Join("testdata", "sharded", "pytorch_model-00002-of-00002.bin"), d.Path("b.weight"))
	})
}

func same(t *testing.T, path string, f Reader) {
	want, err := safetensors.Open(path)
	require.NoError(t, err)
	defer want.Close()
	require.ElementsMatch(t, want.Names(), f.Names())
	for _, name := range want.Names() {
		w, _ := want.Info(name)
		g, ok := f.Info(name)
		require.True(t, ok, name)
		require.Equal(t, w.DType, g.DType, name)
		require.Equal(t, w.Shape, g.Shape, name)
		data, err := want.ReadBytes(name, nil)
		require.NoError(t, err)
		got := make([]byte, g.Size())
		require.NoError(t, f.ReadAt(name, got, 0), name)
		require.True(t, bytes.Equal(data, got), name)
		// A piece from the middle.
		at, end := len(data)/3, len(data)-len(data)/4
		require.NoError(t, f.ReadAt(name, got[:end-at], int64(at)), name)
		require.True(t, bytes.Equal(data[at:end], got[:end-at]), name)
		require.Error(t, f.ReadAt(name, make([]byte, len(data)+1), 0))
		require.Error(t, f.ReadAt(name, nil, -1))
	}
	require.ErrorIs(t, f.ReadAt("none", nil, 0), ErrNotFound)
}

// pickler writes pickles by hand.
type pickler struct{ bytes.Buffer }

func (p *pickler) op(codes ...byte) { p.Write(codes) }
func (p *pickler) str(s string) {
	p.op('X')
	binary.Write(p, binary.LittleEndian, uint32(len(s)))
	p.WriteString(s)
}
func (p *pickler) int(n int64) {
	p.op('\x8a', 8)
	binary.Write(p, binary.LittleEndian, n)
}
func (p *pickler) global(module, name string) { fmt.Fprintf(p, "c%s\n%s\n", module, name) }
func (p *pickler) ints(v ...int64) {
	p.op('(')
	for _, n := range v {
		p.int(n)
	}
	p.op('t')
}

// tensor writes a FloatStorage tensor.
func (p *pickler) tensor(key string, elems, offset int64, size, stride []int64) {
	p.global("torch._utils", "_rebuild_tensor_v2")
	p.op('(', '(')
	p.str("storage")
	p.global("torch", "FloatStorage")
	p.str(key)
	p.str("cpu")
	p.int(elems)
	p.op('t', 'Q')
	p.int(offset)
	p.ints(size...)
	p.ints(stride...)
	p.op('\x89', '}', 't', 'R')
}

// oneTensor pickles {"w": tensor}.
func oneTensor(elems, offset int64, size, stride []int64) []byte {
	var p pickler
	p.op('\x80', 2, '}')
	p.str("w")
	p.tensor("0", elems, offset, size, stride)
	p.op('s', '.')
	return p.Bytes()
}

// archive packs a pickle and storages as torch does.
func archive(t require.TestingT, pickle []byte, storages map[string][]byte) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	put := func(name string, data []byte) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		require.NoError(t, err)
		_, err = w.Write(data)
		require.NoError(t, err)
	}
	put("archive/data.pkl", pickle)
	for key, data := range storages {
		put("archive/data/"+key, data)
	}
	require.NoError(t, z.Close())
	return b.Bytes()
}

func open(data []byte) (*File, error) {
	return NewFile(bytes.NewReader(data), int64(len(data)), "model.pt")
}

// TestStrides reads random views in random pieces, with rows long enough to be
// read by themselves and windows that do not hold the whole.
func TestStrides(t *testing.T) {
	floats := make([]byte, 4*300_000)
	for i := range len(floats) / 4 {
		binary.LittleEndian.PutUint32(floats[4*i:], uint32(i))
	}
	shapes := [][]int64{{300, 1000}, {3, 50, 2000}, {100_000, 3}, {10, 30, 20, 50}, {1, 300_000}}
	rapid.Check(t, func(t *rapid.T) {
		full := rapid.SampledFrom(shapes).Draw(t, "shape")
		dims := rapid.Permutation(indices(len(full))).Draw(t, "order")
		size, stride, offset := make([]int64, len(full)), make([]int64, len(full)), int64(0)
		step := int64(1)
		steps := make([]int64, len(full))
		for i := len(full) - 1; i >= 0; i-- {
			steps[i] = step
			step *= full[i]
		}
		total := int64(1)
		for i, d := range dims {
			first := rapid.Int64Range(0, full[d]-1).Draw(t, "first")
			if rapid.Bool().Draw(t, "all") {
				first = 0
			}
			by := rapid.Int64Range(1, 3).Draw(t, "by")
			size[i] = (full[d]-first-1)/by + 1
			stride[i] = steps[d] * by
			offset += first * steps[d]
			total *= size[i]
		}
		f, err := open(archive(t, oneTensor(300_000, offset, size, stride), map[string][]byte{"0": floats}))
		require.NoError(t, err)
		at := rapid.Int64Range(0, 4*total-1).Draw(t, "at")
		n := rapid.Int64Range(1, 4*total-at).Draw(t, "n")
		p := make([]byte, n)
		require.NoError(t, f.ReadAt("w", p, at))
		for _, i := range []int64{0, n / 3, n / 2, n - 1} {
			e, place := (at+i)/4, offset
			for d := len(size) - 1; d >= 0; d-- {
				place += e % size[d] * stride[d]
				e /= size[d]
			}
			require.Equal(t, floats[4*place+(at+i)%4], p[i], "byte %d of %v strides %v", at+i, size, stride)
		}
	})
}

func indices(n int) []int {
	v := make([]int, n)
	for i := range v {
		v[i] = i
	}
	return v
}

func TestHostile(t *testing.T) {
	four := map[string][]byte{"0": make([]byte, 16)}
	tensorOf := func(elems, offset int64, size, stride []int64) []byte {
		return archive(t, oneTensor(elems, offset, size, stride), four)
	}
	raw := func(ops string) []byte { return archive(t, []byte(ops), four) }
	const huge = math.MaxInt64
	for name, c := range map[string]struct {
		data []byte
		kind error
		text string
	}{
		"empty":          {nil, ErrInvalid, "0 bytes"},
		"text":           {[]byte("hello world"), ErrInvalid, "not a PyTorch checkpoint"},
		"git lfs":        {[]byte("version https://git-lfs.github.com/spec/v1\n"), ErrInvalid, "git lfs pull"},
		"cut zip":        {tensorOf(4, 0, []int64{4}, []int64{1})[:80], ErrInvalid, "cut short"},
		"other zip":      {zipOf(t, "a.txt"), ErrInvalid, "0 entries named data.pkl"},
		"two pickles":    {zipOf(t, "a/data.pkl", "b/data.pkl"), ErrInvalid, "2 entries"},
		"same entry":     {zipOf(t, "a/data.pkl", "a/data/0", "a/data/0"), ErrInvalid, "twice"},
		"script":         {zipOf(t, "a/data.pkl", "a/constants.pkl"), ErrInvalid, "TorchScript"},
		"system":         {raw("\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."), ErrGlobal, `"os.system"`},
		"stack global":   {raw("\x80\x04\x8c\x08builtins\x8c\x04eval\x93."), ErrGlobal, `"builtins.eval"`},
		"other opcode":   {raw("\x80\x02i."), ErrInvalid, "opcode 0x69"},
		"call a storage": {raw("\x80\x02ctorch\nFloatStorage\n)R."), ErrInvalid, "a call of torch.FloatStorage"},
		"call a string":  {raw("\x80\x02X\x01\x00\x00\x00a)R."), ErrInvalid, "a call of"},
		"underflow":      {raw("\x80\x02."), ErrInvalid, "underflow"},
		"below the mark": {raw("\x80\x02N(0."), ErrInvalid, "underflow"},
		"no mark":        {raw("\x80\x02t."), ErrInvalid, "underflow"},
		"no end":         {raw("\x80\x02}"), ErrInvalid, "truncated"},
		"memo":           {raw("\x80\x02h\x07."), ErrInvalid, "memo entry 7"},
		"long string":    {raw("\x80\x02X\xff\xff\xff\xff."), ErrInvalid, "larger than"},
		"longer string":  {raw("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), ErrInvalid, "larger than"},
		"string past":    {raw("\x80\x02X\xff\xff\x00\x00."), ErrInvalid, "truncated"},
		"long name":      {raw("\x80\x02c" + string(bytes.Repeat([]byte("a"), 2000))), ErrInvalid, "a name of more than"},
		"protocol":       {raw("\x80\x09."), ErrInvalid, "protocol 9"},
		"a number":       {raw("\x80\x02K\x05."), ErrInvalid, "holds 5"},
		"no tensors":     {raw("\x80\x02}X\x01\x00\x00\x00aK\x05s."), ErrInvalid, "no tensors"},
		"append to dict": {raw("\x80\x02}Na."), ErrInvalid, "append to a dict"},
		"items in list":  {raw("\x80\x02]NNs."), ErrInvalid, "items set in a list"},
		"odd items":      {raw("\x80\x02}(Nu."), ErrInvalid, "items set"},
		"no storage id":  {raw("\x80\x02NQ."), ErrInvalid, "no storage"},
		"too large":      {tensorOf(4, 0, []int64{5}, []int64{1}), ErrInvalid, "does not fit"},
		"offset":         {tensorOf(4, 1, []int64{4}, []int64{1}), ErrInvalid, "does not fit"},
		"far offset":     {tensorOf(4, huge, []int64{4}, []int64{1}), ErrInvalid, "does not fit"},
		"strides":        {tensorOf(4, 0, []int64{2, 2}, []int64{huge, huge}), ErrInvalid, "does not fit"},
		"overflow":       {tensorOf(4, 0, []int64{huge, huge}, []int64{1, 1}), ErrInvalid, "of shape"},
		"negative":       {tensorOf(4, -1, []int64{4}, []int64{1}), ErrInvalid, "offset -1"},
		"negative size":  {tensorOf(4, 0, []int64{-4}, []int64{1}), ErrInvalid, "a tensor over"},
		"repeated":       {tensorOf(4, 0, []int64{1 << 40}, []int64{0}), ErrInvalid, "elements over storage"},
		"storage":        {tensorOf(5, 0, []int64{4}, []int64{1}), ErrInvalid, "truncated: storage"},
		"huge storage":   {tensorOf(huge, 0, []int64{4}, []int64{1}), ErrInvalid, "of 9223372036854775807 elements"},
		"dimensions":     {tensorOf(4, 0, make([]int64, 65), make([]int64, 65)), ErrInvalid, "a tensor over"},
		"ranks":          {tensorOf(4, 0, []int64{4}, []int64{1, 1}), ErrInvalid, "a tensor over"},
		"path":           {archive(t, bytes.ReplaceAll(oneTensor(4, 0, []int64{4}, []int64{1}), []byte("\x01\x00\x00\x000"), []byte("\x0b\x00\x00\x00../data.pkl")), four), ErrInvalid, "is not in the zip file"},
		"no magic":       {[]byte("\x80\x02K\x05."), ErrInvalid, "not of torch.save"},
		"plain pickle":   {[]byte("\x80\x02}."), ErrInvalid, "not of torch.save"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(c.data)
			require.ErrorIs(t, err, c.kind)
			require.ErrorContains(t, err, c.text)
			require.ErrorContains(t, err, "model.pt: ")
		})
	}
}

func zipOf(t *testing.T, names ...string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, n := range names {
		_, err := z.CreateHeader(&zip.FileHeader{Name: n, Method: zip.Store})
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return b.Bytes()
}

// TestCycle: a list and a dict that hold themselves are read and left alone.
func TestCycle(t *testing.T) {
	var p pickler
	p.op('\x80', 2, '}', 'q', 0)
	p.str("self")
	p.op('h', 0, 's')
	p.str("list")
	p.op(']', 'q', 1, 'h', 1, 'a', 's')
	p.str("model")
	p.op('h', 0, 's')
	p.str("w")
	p.tensor("0", 4, 0, []int64{2, 2}, []int64{1, 2})
	p.op('s', '.')
	f, err := open(archive(t, p.Bytes(), map[string][]byte{"0": make([]byte, 16)}))
	require.NoError(t, err)
	require.Equal(t, []string{"w"}, f.Names())
}

// TestObjects: a pickle of one-byte opcodes ends before it fills the memory.
func TestObjects(t *testing.T) {
	_, _, err := unpickle(bytes.NewReader(bytes.Repeat([]byte("N0"), maxObjects+2)), nil)
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "objects")
}

func TestCompressedStorage(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "a/data.pkl", Method: zip.Store})
	require.NoError(t, err)
	w.Write(oneTensor(4, 0, []int64{4}, []int64{1}))
	w, err = z.CreateHeader(&zip.FileHeader{Name: "a/data/0", Method: zip.Deflate})
	require.NoError(t, err)
	w.Write(make([]byte, 16))
	require.NoError(t, z.Close())
	_, err = open(b.Bytes())
	require.ErrorContains(t, err, "compressed")
}

func TestModuleIsRefused(t *testing.T) {
	_, err := Open(filepath.Join("testdata", "module.pt"))
	require.ErrorIs(t, err, ErrGlobal)
	require.ErrorContains(t, err, "torch.nn.modules.container.Sequential")
	require.ErrorContains(t, err, "model.state_dict()")
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	_, err := OpenFolder(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	index := filepath.Join(dir, IndexName)
	for text, want := range map[string]string{
		`{}`:                                 "weight_map is missing or empty",
		`[`:                                  "not an index",
		`{"weight_map":{"a":"../x.bin"}}`:    "not a plain file name",
		`{"weight_map":{"a":"shard-1.bin"}}`: "shard-1.bin",
	} {
		require.NoError(t, os.WriteFile(index, []byte(text), 0o644))
		_, err = OpenFolder(dir)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, IndexName)
	}
	data := archive(t, oneTensor(4, 0, []int64{4}, []int64{1}), map[string][]byte{"0": make([]byte, 16)})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "1.bin"), data, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "2.bin"), data, 0o644))
	require.NoError(t, os.WriteFile(index, []byte("\ufeff"+`{"weight_map":{"w":"1.bin","v":"2.bin"}}`), 0o644))
	_, err = OpenFolder(dir)
	require.ErrorContains(t, err, "also in 1.bin")
	require.NoError(t, os.WriteFile(index, []byte(`{"weight_map":{"v":"2.bin"}}`), 0o644))
	_, err = OpenFolder(dir)
	require.ErrorContains(t, err, `tensor "v": not in "2.bin"`)
	// The one file wins over the index.
	require.NoError(t, os.WriteFile(filepath.Join(dir, SingleName), data, 0o644))
	d, err := OpenFolder(dir)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.Error(t, d.ReadAt("w", make([]byte, 4), 0))
}

// legacy writes a file as torch did before 1.6, with one storage of floats.
func legacy(pickle []byte, key string, elems int64) []byte {
	var p pickler
	p.op('\x80', 2, '\x8a', byte(len(magic)))
	p.Write(magic)
	p.op('.', '\x80', 2)
	p.int(legacyProtocol)
	p.op('.', '\x80', 2, '}')
	p.str("little_endian")
	p.op('\x88', 's', '.')
	p.Write(pickle)
	p.op('\x80', 2, ']')
	p.str(key)
	p.op('a', '.')
	binary.Write(&p, binary.LittleEndian, elems)
	p.Write(make([]byte, 4*elems))
	return p.Bytes()
}

func TestLegacyHostile(t *testing.T) {
	pickle := oneTensor(4, 0, []int64{2, 2}, []int64{1, 2})
	good := legacy(pickle, "0", 4)
	_, err := open(good)
	require.NoError(t, err)
	for cut := range good {
		_, err := open(good[:cut])
		require.ErrorIs(t, err, ErrInvalid, "cut to %d bytes", cut)
	}
	_, err = open(legacy(pickle, "1", 4))
	require.ErrorContains(t, err, "belongs to no tensor")
	_, err = open(legacy(pickle, "0", 5))
	require.ErrorContains(t, err, "has 5 elements, want 4")
	_, err = open(bytes.Replace(good, []byte{'\x88', 's'}, []byte{'\x89', 's'}, 1))
	require.ErrorContains(t, err, "big-endian")
}

func FuzzOpen(f *testing.F) {
	// Small seeds: the fuzzer's time goes with their size.
	pickle := oneTensor(4, 0, []int64{2, 2}, []int64{1, 2})
	f.Add(archive(f, pickle, map[string][]byte{"0": make([]byte, 16)}))
	f.Add(legacy(pickle, "0", 4))
	f.Fuzz(func(t *testing.T, data []byte) {
		readAll(t, data)
	})
}

// FuzzPickle changes the pickle inside a whole archive.
func FuzzPickle(f *testing.F) {
	f.Add(oneTensor(4, 0, []int64{2, 2}, []int64{1, 2}))
	f.Add([]byte("\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94ccollections\nOrderedDict\n)R\x94s."))
	f.Fuzz(func(t *testing.T, pickle []byte) {
		readAll(t, archive(t, pickle, map[string][]byte{"0": make([]byte, 64)}))
	})
}

func readAll(t *testing.T, data []byte) {
	file, err := open(data)
	if err != nil {
		return
	}
	for _, name := range file.Names() {
		info, ok := file.Info(name)
		require.True(t, ok)
		require.GreaterOrEqual(t, info.Size(), int64(0))
		require.LessOrEqual(t, info.Size(), int64(len(data))+8<<20)
		require.NoError(t, file.ReadAt(name, make([]byte, info.Size()), 0))
	}
}
