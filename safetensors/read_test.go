package safetensors

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"
)

// The definition: one value after the other, by the formats' own rules.
func widen(d DType, b []byte) float32 {
	switch d {
	case F32:
		return math.Float32frombits(binary.LittleEndian.Uint32(b))
	case F64:
		return float32(math.Float64frombits(binary.LittleEndian.Uint64(b)))
	case BF16:
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
	case F16:
		h := binary.LittleEndian.Uint16(b)
		sign, e, m := 1.0, int(h>>10&31), float64(h&1023)
		if h>>15 == 1 {
			sign = -1
		}
		switch e {
		case 31:
			if m != 0 {
				return float32(math.NaN())
			}
			return float32(math.Inf(int(sign)))
		case 0:
			return float32(sign * math.Ldexp(m, -24))
		}
		return float32(sign * math.Ldexp(1024+m, e-25))
	}
	panic("no float")
}

func sameFloats(t require.TestingT, want, got []float32) {
	require.Equal(t, len(want), len(got))
	for i := range want {
		if math.Float32bits(want[i]) != math.Float32bits(got[i]) && !(want[i] != want[i] && got[i] != got[i]) {
			require.Equal(t, want[i], got[i], i)
		}
	}
}

// Every 16-bit pattern, and a tensor longer than one conversion chunk.
func TestReadFloat32(t *testing.T) {
	for _, d := range []DType{F16, BF16, F32, F64} {
		width := d.Bits() / 8
		rows, cols := 3, 1<<16 // 3<<16 elements
		raw := make([]byte, rows*cols*width)
		for i := 0; i < rows*cols; i++ {
			p := raw[i*width:]
			switch d {
			case F16, BF16:
				binary.LittleEndian.PutUint16(p, uint16(i*7))
			case F32:
				binary.LittleEndian.PutUint32(p, uint32(i)*0x9e3779b1)
			case F64:
				binary.LittleEndian.PutUint64(p, math.Float64bits(math.Ldexp(1+float64(i)*0x1p-30, i%400-200)))
			}
		}
		want := make([]float32, rows*cols)
		for i := range want {
			want[i] = widen(d, raw[i*width:])
		}
		text := "{" + entry("pad", "U8", "[3]", 0, 3) + "," + entry("a", string(d), "[3,65536]", 3, 3+len(raw)) + "}"
		f, err := openBytes(append(fileOf(text, 3), raw...))
		require.NoError(t, err)

		got, err := f.ReadFloat32("a", nil)
		require.NoError(t, err)
		sameFloats(t, want, got)

		buf := make([]float32, 5, rows*cols+9)
		got, err = f.ReadFloat32("a", buf)
		require.NoError(t, err)
		require.Same(t, &buf[0], &got[0], "memory not reused")
		sameFloats(t, want, got)

		for _, r := range [][2]int{{0, 3}, {1, 3}, {2, 3}, {1, 2}, {2, 2}, {3, 3}, {0, 0}} {
			got, err := f.ReadRows("a", r[0], r[1], buf)
			require.NoError(t, err)
			sameFloats(t, want[r[0]*cols:r[1]*cols], got)
		}
		for _, r := range [][2]int{{-1, 1}, {2, 1}, {0, 4}, {4, 4}} {
			_, err := f.ReadRows("a", r[0], r[1], nil)
			require.ErrorContains(t, err, `tensor "a": rows`)
		}
		_, err = f.ReadRows("pad", 0, 1, nil)
		require.ErrorContains(t, err, `dir/x.safetensors: tensor "pad": shape [3], want a matrix`)

		s, err := f.Section("a")
		require.NoError(t, err)
		b, err := io.ReadAll(s)
		require.NoError(t, err)
		require.Equal(t, raw, b)
		b, err = f.ReadBytes("a", b[:0])
		require.NoError(t, err)
		require.Equal(t, raw, b)
	}
}

func TestNotFound(t *testing.T) {
	f, err := openBytes(fileOf("{}", 0))
	require.NoError(t, err)
	folder, err := newFolder("dir", []*File{f})
	require.NoError(t, err)
	for _, r := range []Reader{f, folder} {
		_, ok := r.Info("b")
		require.False(t, ok)
		require.Nil(t, r.Metadata())
		_, err = r.ReadBytes("b", nil)
		require.ErrorIs(t, err, ErrNotFound)
		require.ErrorContains(t, err, `tensor "b": no such tensor`)
		_, err = r.ReadFloat32("b", nil)
		require.ErrorIs(t, err, ErrNotFound)
		_, err = r.ReadRows("b", 0, 0, nil)
		require.ErrorIs(t, err, ErrNotFound)
		_, err = r.Section("b")
		require.ErrorIs(t, err, ErrNotFound)
	}
}

func TestConcurrentReads(t *testing.T) {
	f, err := openBytes(fileOf("{"+entry("a", "BF16", "[10,10]", 0, 200)+"}", 200))
	require.NoError(t, err)
	all, err := f.ReadFloat32("a", nil)
	require.NoError(t, err)
	var g errgroup.Group
	for w := range 8 {
		g.Go(func() error {
			var buf []float32
			for i := range 200 {
				r := (i + w) % 10
				var err error
				if buf, err = f.ReadRows("a", r, r+1, buf); err != nil {
					return err
				}
				sameFloats(t, all[r*10:r*10+10], buf)
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
}

func TestReadRowsIsAPartOfTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.SampledFrom([]DType{F16, BF16, F32, F64}).Draw(t, "dtype")
		rows, cols := rapid.IntRange(0, 9).Draw(t, "rows"), rapid.IntRange(0, 9).Draw(t, "cols")
		n := rows * cols * d.Bits() / 8
		raw := rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "raw")
		shape := shapeJSON([]int{rows, cols})
		f, err := openBytes(append(fileOf("{"+entry("a", string(d), shape, 0, n)+"}", 0), raw...))
		require.NoError(t, err)
		all, err := f.ReadFloat32("a", nil)
		require.NoError(t, err)
		for i, v := range all {
			sameFloats(t, []float32{widen(d, raw[i*d.Bits()/8:])}, []float32{v})
		}
		r0 := rapid.IntRange(0, rows).Draw(t, "r0")
		r1 := rapid.IntRange(r0, rows).Draw(t, "r1")
		part, err := f.ReadRows("a", r0, r1, nil)
		require.NoError(t, err)
		sameFloats(t, all[r0*cols:r1*cols], part)
	})
}

func shapeJSON(shape []int) string {
	b, err := json.Marshal(shape)
	if err != nil {
		panic(err)
	}
	return string(b)
}
