package formattest

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Golden is what AutoGPTQ's and GPTQModel's own packers made.
func Golden(t testing.TB, testdata string) (*safetensors.File, []GoldenCase) {
	t.Helper()
	file, err := safetensors.Open(filepath.Join(testdata, "golden", "packed.safetensors"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) })
	text, err := os.ReadFile(filepath.Join(testdata, "golden", "packed_cases.json"))
	require.NoError(t, err)
	var cases []GoldenCase
	require.NoError(t, json.Unmarshal(text, &cases))
	require.Len(t, cases, 24)
	return file, cases
}

// GoldenCase is one weight that they packed.
type GoldenCase struct {
	Prefix  string `json:"prefix"`
	Out     int    `json:"out"`
	In      int    `json:"in"`
	Group   int    `json:"group"`
	Bits    int    `json:"bits"`
	Sym     bool   `json:"sym"`
	Trivial bool   `json:"g_idx_trivial"`
	ZeroMin int    `json:"zero_min"`
}

// Weight builds the weight of a case from its codes, scales and zero-points.
func (c GoldenCase) Weight(t testing.TB, file *safetensors.File) *quant.Weight {
	t.Helper()
	read := func(name string) []byte {
		data, err := file.ReadBytes(c.Prefix+name, nil)
		require.NoError(t, err)
		return data
	}
	w := quant.NewWeight(c.Out, c.In, quant.Scheme{Bits: c.Bits, GroupSize: c.Group, Symmetric: c.Sym, MinZero: min(c.ZeroMin, 1)})
	codes := read("codes")
	for r := range c.Out {
		w.SetLine(r, codes[r*c.In:(r+1)*c.In])
	}
	w.Zeros = layout.Transposed(read("zeros"), w.Groups(), c.Out)
	scales, err := file.ReadFloat32(c.Prefix+"scales", nil)
	require.NoError(t, err)
	w.Scales = layout.Transposed(scales, w.Groups(), c.Out)
	if !c.Trivial {
		for i := range c.In {
			w.GroupIndex = append(w.GroupIndex, int32(binary.LittleEndian.Uint32(read("g_idx")[4*i:])))
		}
	}
	return w
}
