// Package golden reads the reference outputs in testdata/golden for tests:
// what the published AdaDim and GPTQ code computes on matrices made for it.
package golden

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// Case is one matrix with everything that was computed from it.
type Case struct {
	Name    string            `json:"case"`
	Group   int               `json:"group"`
	Dead    []int             `json:"dead_channels"`
	Results []Result          `json:"results"`
	Choice  map[string]string `json:"adadim_choice_linear"` // by bits
	Size    float64           `json:"trWHWt"`
	Order   []int             `json:"perm_desc_diagH"`

	W *tensor.Matrix `json:"-"` // [out, in]
	H *tensor.Matrix `json:"-"` // [in, in]

	file *safetensors.File
}

// Result is the outcome of one method at one bit width.
type Result struct {
	Method string  `json:"method"`
	Bits   int     `json:"bits"`
	Axis   string  `json:"axis"`
	Prefix string  `json:"prefix"`
	Loss   float64 `json:"loss"`

	Codes  []uint8   `json:"-"` // [out, in]
	Scales []float32 `json:"-"` // axis oc: [out, groups]; axis ic: [groups, in]
	Zeros  []float32 `json:"-"`
}

// Cases returns all cases.
func Cases(t testing.TB) []*Case {
	t.Helper()
	dir := filepath.Join(Root(), "testdata", "golden")
	text, err := os.ReadFile(filepath.Join(dir, "quant_cases.json"))
	require.NoError(t, err)
	var cases []*Case
	require.NoError(t, json.Unmarshal(text, &cases))
	for _, c := range cases {
		c.file, err = safetensors.Open(filepath.Join(dir, c.Name+".safetensors"))
		require.NoError(t, err)
		c.W, c.H = c.matrix(t, "W"), c.matrix(t, "H")
		for i := range c.Results {
			r := &c.Results[i]
			r.Codes, err = c.file.ReadBytes(r.Prefix+"codes", nil)
			require.NoError(t, err)
			r.Scales, err = c.file.ReadFloat32(r.Prefix+"scales", nil)
			require.NoError(t, err)
			r.Zeros, err = c.file.ReadFloat32(r.Prefix+"zeros", nil)
			require.NoError(t, err)
		}
		require.NoError(t, c.file.Close())
	}
	return cases
}

func (c *Case) matrix(t testing.TB, name string) *tensor.Matrix {
	info, ok := c.file.Info(name)
	require.True(t, ok, name)
	data, err := c.file.ReadFloat32(name, nil)
	require.NoError(t, err)
	return tensor.FromSlice(info.Shape[0], info.Shape[1], data)
}

// Root is the project's root folder.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// Shared returns a path in the folder of shared reference data, which is
// "../shared" beside the project or LOWBIT_SHARED, and skips the test where
// it is absent.
func Shared(t testing.TB, path string) string {
	t.Helper()
	dir := os.Getenv("LOWBIT_SHARED")
	if dir == "" {
		dir = filepath.Join(Root(), "..", "shared")
	}
	full := filepath.Join(dir, path)
	if _, err := os.Stat(full); err != nil {
		t.Skipf("needs the reference data %s (set LOWBIT_SHARED)", path)
	}
	return full
}
