package kquant

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/quant"
)

var all = []gguf.Type{
	gguf.Q2_K, gguf.Q3_K, gguf.Q4_K, gguf.Q5_K, gguf.Q6_K, gguf.IQ4_XS, gguf.IQ4_NL,
	gguf.Q4_0, gguf.Q4_1, gguf.Q5_0, gguf.Q5_1, gguf.Q8_0, gguf.MXFP4, gguf.NVFP4,
}

func grid(t require.TestingT, typ gguf.Type) Grid {
	g, ok := Of(typ)
	require.True(t, ok)
	return g
}

// sample has rows of normal weights of different sizes, some of them outliers.
func sample(seed uint64, rows, cols int) (x, importance []float32) {
	rng := rand.New(rand.NewPCG(seed, 1))
	each := make([]float32, cols)
	for i := range each {
		each[i] = float32(math.Exp(rng.NormFloat64()))
	}
	for range rows {
		size := 0.02 * math.Exp(0.3*rng.NormFloat64())
		for range cols {
			v := size * rng.NormFloat64()
			if rng.Float64() < 0.01 {
				v *= 4
			}
			x = append(x, float32(v))
		}
		importance = append(importance, each...)
	}
	return x, importance
}

// rounded puts x on a grid.
func rounded(t require.TestingT, g Grid, x, importance []float32) (codes []uint8, values, scale, shift []float32) {
	size := g.Scheme().GroupSize
	n := (len(x) + size - 1) / size
	scale, shift = make([]float32, n), make([]float32, n)
	_, err := g.Fit(scale, shift, x, importance, size, quant.ClipNone)
	require.NoError(t, err)
	codes, values = make([]uint8, len(x)), make([]float32, len(x))
	g.Round(codes, values, x, scale, shift, size)
	return codes, values, scale, shift
}

func loss(x, values, weight []float32) (sum float64) {
	for i, v := range x {
		d := float64(values[i]) - float64(v)
		if weight == nil {
			sum += d * d
		} else {
			sum += float64(weight[i]) * d * d
		}
	}
	return sum
}

// Blocks of random bytes have the values that gguf-py gives them, as scales, shifts
// and codes, and written again they are blocks of the same values.
func TestBlocks(t *testing.T) {
	var cases map[string]struct {
		Hex    string    `json:"hex"`
		Values []float32 `json:"values"`
	}
	for _, file := range []string{"superblocks.json", "levels.json"} { // into one map
		data, err := os.ReadFile(filepath.Join("..", "gguf", "testdata", file))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &cases))
	}
	seen := 0
	for _, typ := range all {
		c, ok := cases[typ.String()]
		if !ok {
			continue
		}
		seen++
		for i := range c.Values {
			c.Values[i] += 0 // zeros have no sign here
		}
		src, err := hex.DecodeString(c.Hex)
		require.NoError(t, err)
		g := grid(t, typ)
		size := g.Scheme().GroupSize
		n := len(c.Values) / size
		codes, scale, shift := make([]uint8, len(c.Values)), make([]float32, n), make([]float32, n)
		g.Unpack(src, codes, scale, shift)
		values := make([]float32, len(codes))
		g.Values(values, codes, scale, shift, size)
		require.Equal(t, c.Values, values, typ.String())
		back := make([]byte, len(src))
		require.NoError(t, g.Pack(back, codes, scale, shift))
		require.NoError(t, typ.Decode(values, back))
		require.Equal(t, c.Values, values, typ.String())
	}
	require.Equal(t, 9, seen)
}

// What is fitted can be stored, whatever the weights, and the file has the values
// that the grid has.
func TestFitIsStored(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := grid(t, rapid.SampledFrom(all).Draw(t, "type"))
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		size := math.Pow(10, rapid.Float64Range(-9, 1).Draw(t, "size"))
		sparse, offset := rapid.Float64Range(0, 1).Draw(t, "sparse"), rapid.Float64Range(-3, 3).Draw(t, "offset")
		x, importance := make([]float32, 512), make([]float32, 512)
		if g.Type() == gguf.NVFP4 {
			size /= 1000 // it holds no more than 2688
		}
		for i := range x {
			if rng.Float64() > sparse {
				x[i] = float32(size * (offset + rng.NormFloat64()*math.Exp(2*rng.NormFloat64())))
			}
			importance[i] = float32(max(0, rng.NormFloat64()))
		}
		if rapid.Bool().Draw(t, "plain") {
			importance = nil
		}
		codes, values, scale, shift := rounded(t, g, x, importance)
		data := make([]byte, g.Type().RowBytes(len(x)))
		require.NoError(t, g.Pack(data, codes, scale, shift))
		back := make([]float32, len(x))
		require.NoError(t, g.Type().Decode(back, data))
		require.Equal(t, values, back)
		again := make([]uint8, len(x))
		s, m := make([]float32, len(scale)), make([]float32, len(shift))
		g.Unpack(data, again, s, m)
		require.Equal(t, codes, again)
		require.Equal(t, scale, s)
		for i := range m { // a zero has no sign here
			require.True(t, shift[i] == m[i])
		}
		// Nothing is worse than all weights 0 by more than the last bit.
		require.LessOrEqual(t, loss(x, values, importance), loss(x, make([]float32, len(x)), importance)*1.05+1e-11) // steps are at least 2^-24
		// A block does not know what is beside it.
		half := len(x) / 2
		_, alone, _, _ := rounded(t, g, x[half:], part(importance, half))
		if importance == nil {
			require.Equal(t, values[half:], alone)
		}
	})
}

func part(v []float32, from int) []float32 {
	if v == nil {
		return nil
	}
	return v[from:]
}

// Codes are those of the nearest values, in runs and one by one.
func TestRoundIsNearest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := grid(t, rapid.SampledFrom(all).Draw(t, "type"))
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		const n = 70
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64() * 40)
		}
		scale, shift := make([]float32, n), make([]float32, n)
		s, m := float32(math.Exp(rng.NormFloat64())), float32(0)
		if g.Shifted() {
			m = float32(10 * rng.NormFloat64())
		} else if rng.IntN(2) == 0 {
			s = -s
		}
		for i := range scale {
			scale[i], shift[i] = s, m
		}
		codes, values, same := make([]uint8, n), make([]float32, n), make([]uint8, n)
		g.Round(codes, values, x, scale, shift, 1)
		g.Round(same, nil, x, scale[:1], shift[:1], n)
		require.Equal(t, codes, same)
		every := make([]uint8, 1<<g.Bits())
		for u := range every {
			every[u] = uint8(u)
		}
		grid, slopes := make([]float32, len(every)), make([]float32, len(every))
		g.Values(grid, every, scale[:1], shift[:1], len(every))
		g.Slopes(slopes, every, shift[:1], len(every))
		for u, v := range slopes {
			require.InDelta(t, grid[u], s*v-m, 1e-4*math.Abs(float64(s*v))+1e-4)
		}
		for i, v := range x {
			require.Equal(t, grid[codes[i]], values[i])
			nearest := slices.MinFunc(grid, func(a, b float32) int {
				return int(math.Copysign(1, math.Abs(float64(a-v))-math.Abs(float64(b-v))))
			})
			require.InDelta(t, math.Abs(float64(nearest-v)), math.Abs(float64(values[i]-v)), 1e-4*float64(max(s, -s)), "%g", v)
		}
	})
}

// The error is below that of ggml's own quantization of the same weights, with
// importance and without. The figures are those of libggml (node-llama-cpp
// 3.22.1), ggml_quantize_chunk.
func TestFitBeatsGGML(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "ggml_errors.json"))
	require.NoError(t, err)
	var theirs map[string]struct {
		Plain    float64 `json:"plain"`
		Weighted float64 `json:"weighted"`
	}
	require.NoError(t, json.Unmarshal(data, &theirs))
	require.Len(t, theirs, len(all))
	x, importance := sample(5, 64, 512)
	for _, typ := range all {
		g := grid(t, typ)
		_, plain, _, _ := rounded(t, g, x, nil)
		_, weighted, _, _ := rounded(t, g, x, importance)
		a, b := loss(x, plain, nil)/theirs[typ.String()].Plain, loss(x, weighted, importance)/theirs[typ.String()].Weighted
		t.Logf("%v: %.3f of ggml's error, %.3f with importance", typ, a, b)
		require.Less(t, a, 1.0)
		require.Less(t, b, 1.0)
	}
}

func TestFitRefuses(t *testing.T) {
	for _, typ := range all {
		g := grid(t, typ)
		size := g.Scheme().GroupSize
		x := make([]float32, 512)
		scale, shift := make([]float32, 512/size), make([]float32, 512/size)
		x[300] = float32(math.NaN())
		k, err := g.Fit(scale, shift, x, nil, size, quant.ClipNone)
		require.ErrorIs(t, err, quant.ErrNotFinite)
		require.Equal(t, 300/size, k)
		for i := range x {
			x[i] = float32(i-200) * 1e30
		}
		_, err = g.Fit(scale, shift, x, nil, size, quant.ClipNone)
		require.ErrorIs(t, err, quant.ErrScaleRange)
		require.Error(t, g.Encode(make([]byte, typ.RowBytes(512)), x))
		require.ErrorContains(t, g.Pack(make([]byte, typ.RowBytes(512)), make([]uint8, 512), slices.Repeat([]float32{1.0 / 3}, 512/size), shift), "block 0")
	}
	_, ok := Of(gguf.F16)
	require.False(t, ok)
	_, err := Grid{}.MarshalText()
	require.Error(t, err)
}

// Encode writes what fitting and rounding give.
func TestEncode(t *testing.T) {
	x, _ := sample(6, 2, 512)
	for _, typ := range all {
		g := grid(t, typ)
		_, values, _, _ := rounded(t, g, x, nil)
		data, back := make([]byte, typ.RowBytes(len(x))), make([]float32, len(x))
		require.NoError(t, g.Encode(data, x))
		require.NoError(t, typ.Decode(back, data))
		require.Equal(t, values, back)
	}
}

// ParamBits and codes add up to the bytes of a block.
func TestBits(t *testing.T) {
	for _, typ := range all {
		g := grid(t, typ)
		groups := typ.Block() / g.Scheme().GroupSize
		require.EqualValues(t, 8*typ.BlockBytes(), int64(typ.Block()*g.Bits())+g.ParamBits(groups), typ.String())
		if g.kind().scales == nil {
			require.Equal(t, groups, g.Span())
		}
		require.NoError(t, g.Scheme().Validate())
		text, err := g.MarshalText()
		require.NoError(t, err)
		require.Equal(t, typ.String(), string(text))
	}
}

// quadratic draws a positive definite A and a gradient.
func quadratic(rng *rand.Rand, n int) (a, g []float64) {
	m := make([]float64, n*n)
	for i := range m {
		m[i] = rng.NormFloat64()
	}
	a, g = make([]float64, n*n), make([]float64, n)
	for i := range n {
		g[i] = 5 * rng.NormFloat64()
		for j := range n {
			for k := range n {
				a[i*n+j] += m[k*n+i] * m[k*n+j]
			}
		}
	}
	return a, g
}

// FitSpan finds what can be stored, lowers the loss when it says so and leaves
// everything alone when it does not.
func TestFitSpan(t *testing.T) {
	better := 0
	rapid.Check(t, func(t *rapid.T) {
		g := grid(t, rapid.SampledFrom(all).Draw(t, "type"))
		seed := rapid.Uint64().Draw(t, "seed")
		x, importance := sample(seed, 1, 256)
		for i := range x {
			x[i] *= 100
		}
		_, _, scale, shift := rounded(t, g, x, importance)
		n := g.Span()
		scale, shift = scale[:n], shift[:n]
		p := n
		if g.Shifted() {
			p = 2 * n
		}
		a, grad := quadratic(rand.New(rand.NewPCG(seed, 2)), p)
		s, m := slices.Clone(scale), slices.Clone(shift)
		found := g.FitSpan(s, m, a, grad)
		if !found {
			require.Equal(t, scale, s)
			require.Equal(t, shift, m)
			return
		}
		better++
		require.True(t, storable(g, s, m))
		delta := make([]float64, p)
		for i := range n {
			delta[i] = float64(s[i]) - float64(scale[i])
			if g.Shifted() {
				delta[n+i] = float64(m[i]) - float64(shift[i])
			}
		}
		var change float64
		for i := range p {
			change += 2 * grad[i] * delta[i]
			for j := range p {
				change += delta[i] * a[i*p+j] * delta[j]
			}
		}
		require.Negative(t, change)
	})
	require.Positive(t, better)
	g := grid(t, gguf.Q4_K)
	scale, shift := make([]float32, 8), make([]float32, 8)
	require.False(t, g.FitSpan(scale, shift, make([]float64, 16*16), make([]float64, 16)), "nothing depends on them")
}

// storable tells whether the parameters of a span can be stored.
func storable(g Grid, scale, shift []float32) bool {
	if g.kind().scales != nil {
		return g.FP4Scales(make([]byte, len(scale)), scale) == nil
	}
	_, ok := g.kind().factor(scale, shift)
	return ok
}

// Store finds scales near the wanted ones and ignores what is none.
func TestStore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := grid(t, rapid.SampledFrom(all).Draw(t, "type"))
		x, _ := sample(rapid.Uint64().Draw(t, "seed"), 1, 512)
		_, _, scale, shift := rounded(t, g, x, nil)
		want := make([]float64, len(scale))
		for i, v := range scale {
			want[i] = 1.01 * float64(v)
		}
		stored := slices.Clone(scale)
		g.Store(stored, want)
		var most float64
		for _, v := range want {
			most = max(most, math.Abs(v))
		}
		for i, v := range stored {
			require.InDelta(t, want[i], v, most/float64(g.kind().c.high)*0.7+0.002*most)
		}
		for i := 0; i < len(stored); i += g.Span() {
			require.True(t, storable(g, stored[i:i+g.Span()], shift[i:i+g.Span()]))
		}
		for i := range want {
			want[i] = []float64{math.NaN(), math.Inf(1), 0, 1e300}[i%4]
		}
		again := slices.Clone(stored)
		g.Store(again, want)
		for i, v := range stored {
			require.InDelta(t, v, again[i], most/float64(g.kind().c.high)*0.7+0.002*most)
		}
	})
}

// Rounding to nearest without importances, and its parts, in ns a weight.
func BenchmarkFit(b *testing.B)   { benchmark(b, func(g Grid, w *encoding) { w.fit(g) }) }
func BenchmarkRound(b *testing.B) { benchmark(b, func(g Grid, w *encoding) { w.round(g) }) }
func BenchmarkPack(b *testing.B)  { benchmark(b, func(g Grid, w *encoding) { w.pack(g) }) }
func BenchmarkEncode(b *testing.B) {
	benchmark(b, func(g Grid, w *encoding) { w.fit(g); w.round(g); w.pack(g) })
}

// encoding is a matrix on its way into a file.
type encoding struct {
	b               *testing.B
	x, scale, shift []float32
	codes           []uint8
	data            []byte
}

func (w *encoding) fit(g Grid) {
	if _, err := g.Fit(w.scale, w.shift, w.x, nil, g.Scheme().GroupSize, quant.ClipNone); err != nil {
		w.b.Fatal(err)
	}
}

func (w *encoding) round(g Grid) { g.Round(w.codes, nil, w.x, w.scale, w.shift, g.Scheme().GroupSize) }

func (w *encoding) pack(g Grid) {
	if err := g.Pack(w.data, w.codes, w.scale, w.shift); err != nil {
		w.b.Fatal(err)
	}
}

func benchmark(b *testing.B, step func(g Grid, w *encoding)) {
	x, _ := sample(5, 8, 4096)
	for _, typ := range all {
		g := grid(b, typ)
		n := len(x) / g.Scheme().GroupSize
		b.Run(typ.String(), func(b *testing.B) {
			w := &encoding{b, x, make([]float32, n), make([]float32, n), make([]uint8, len(x)), make([]byte, typ.RowBytes(len(x)))}
			w.fit(g)
			w.round(g)
			for b.Loop() {
				step(g, w)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(x)), "ns/weight")
		})
	}
}
