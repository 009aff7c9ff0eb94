package weights

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/safetensors"
)

// memory has U8 matrices whose bytes tell where they come from.
type memory struct {
	path   string
	shapes map[string][]int
	data   map[string][]byte
	closed int
}

func (m *memory) Names() []string {
	var names []string
	for _, n := range []string{"a", "b", "c"} {
		if _, ok := m.shapes[n]; ok {
			names = append(names, n)
		}
	}
	return names
}
func (m *memory) Info(name string) (safetensors.TensorInfo, bool) {
	s, ok := m.shapes[name]
	return safetensors.TensorInfo{Name: name, DType: safetensors.U8, Shape: s}, ok
}
func (m *memory) ReadAt(name string, p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > int64(len(m.data[name])) {
		return fmt.Errorf("%s: bytes %d to %d", name, off, off+int64(len(p)))
	}
	copy(p, m.data[name][off:])
	return nil
}
func (m *memory) Path(string) string { return m.path }
func (m *memory) Close() error       { m.closed++; return nil }

func matrix(path string, first, rows, cols int) *memory {
	data := make([]byte, rows*cols)
	for i := range data {
		data[i] = byte(first + i)
	}
	return &memory{path: path, shapes: map[string][]int{"a": {rows, cols}}, data: map[string][]byte{"a": data}}
}

func TestView(t *testing.T) {
	src := matrix("file", 0, 4, 3)
	v, err := View(src, []Entry{{Name: "x", From: "a", Row: func(i int) int { return 3 - i }}, {Name: "y", From: "a"}})
	require.NoError(t, err)
	require.Equal(t, []string{"x", "y"}, v.Names())
	want := []byte{9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2}
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(0, 12).Draw(t, "at")
		p := make([]byte, rapid.IntRange(0, 12-at).Draw(t, "n"))
		require.NoError(t, v.ReadAt("x", p, int64(at)))
		require.Equal(t, want[at:at+len(p)], p)
		require.NoError(t, v.ReadAt("y", p, int64(at)))
		require.Equal(t, src.data["a"][at:at+len(p)], p)
	})
	require.Error(t, v.ReadAt("x", make([]byte, 13), 0))
	require.Error(t, v.ReadAt("a", nil, 0))
	_, ok := v.Info("a")
	require.False(t, ok)
	_, err = View(src, []Entry{{Name: "x", From: "a"}, {Name: "x", From: "a"}})
	require.ErrorContains(t, err, "both")
	_, err = View(src, []Entry{{Name: "x", From: "z"}})
	require.ErrorContains(t, err, "no tensor")
	require.NoError(t, v.Close())
	require.Equal(t, 1, src.closed)
}

func TestJoin(t *testing.T) {
	a, b := matrix("one", 0, 2, 3), matrix("two", 100, 2, 3)
	for d, want := range map[int][]byte{
		0:     {0, 1, 2, 3, 4, 5, 100, 101, 102, 103, 104, 105},
		1:     {0, 1, 2, 100, 101, 102, 3, 4, 5, 103, 104, 105},
		Whole: {0, 1, 2, 3, 4, 5},
	} {
		j, err := Join([]Tensors{a, b}, func(string) int { return d })
		require.NoError(t, err)
		info, ok := j.Info("a")
		require.True(t, ok)
		require.EqualValues(t, len(want), info.Size())
		for at := range want {
			for n := range len(want) - at + 1 {
				p := make([]byte, n)
				require.NoError(t, j.ReadAt("a", p, int64(at)))
				require.Equal(t, want[at:at+n], p)
			}
		}
		require.Error(t, j.ReadAt("a", make([]byte, 1), int64(len(want))))
	}
	_, err := Join([]Tensors{a, matrix("two", 0, 3, 3)}, func(string) int { return 0 })
	require.ErrorContains(t, err, `two: tensor "a"`)
	_, err = Join([]Tensors{a, &memory{path: "two"}}, func(string) int { return 0 })
	require.ErrorContains(t, err, "a part of another model?")
}

func TestSingle(t *testing.T) {
	values := []float64{0, 1, math.Pi, -1e-300, 1e300, 1 + 1.0/(1<<24), math.Copysign(0, -1), 7}
	data := make([]byte, 8*len(values))
	var want []byte
	for i, v := range values {
		binary.LittleEndian.PutUint64(data[8*i:], math.Float64bits(v))
		want = binary.LittleEndian.AppendUint32(want, math.Float32bits(float32(v)))
	}
	src := wide{&memory{shapes: map[string][]int{"a": {2, 4}}, data: map[string][]byte{"a": data}}}
	s := Single(src)
	info, ok := s.Info("a")
	require.True(t, ok)
	require.Equal(t, safetensors.F32, info.DType)
	for at := range want {
		for n := range len(want) - at + 1 {
			p := make([]byte, n)
			require.NoError(t, s.ReadAt("a", p, int64(at)))
			require.Equal(t, want[at:at+n], p)
		}
	}
	require.Error(t, s.ReadAt("a", make([]byte, 2), int64(len(want)-1)))
	bytes := matrix("file", 0, 1, 1)
	require.Same(t, bytes, Single(bytes))
}

// wide is a memory of F64.
type wide struct{ *memory }

func (w wide) Info(name string) (safetensors.TensorInfo, bool) {
	t, ok := w.memory.Info(name)
	t.DType = safetensors.F64
	return t, ok
}
