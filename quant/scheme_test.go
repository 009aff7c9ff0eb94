package quant_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
)

func TestSchemeValidate(t *testing.T) {
	good := quant.Scheme{Bits: 4, GroupSize: 128}
	for name, c := range map[string]struct {
		change func(*quant.Scheme)
		want   string // "" for a valid scheme
	}{
		"default":       {func(s *quant.Scheme) {}, ""},
		"least":         {func(s *quant.Scheme) { s.Bits, s.GroupSize = 2, 1 }, ""},
		"most":          {func(s *quant.Scheme) { s.Bits, s.GroupSize = 8, quant.WholeLine }, ""},
		"everything":    {func(s *quant.Scheme) { s.Axis, s.Strided, s.MinZero, s.ScaleType = quant.IC, true, 1, quant.F16Short }, ""},
		"1 bit":         {func(s *quant.Scheme) { s.Bits = 1 }, "bits 1, want 2 to 8"},
		"9 bits":        {func(s *quant.Scheme) { s.Bits = 9 }, "bits 9, want 2 to 8"},
		"no group":      {func(s *quant.Scheme) { s.GroupSize = 0 }, "group size 0, want a positive number or -1 for whole rows or columns"},
		"group -2":      {func(s *quant.Scheme) { s.GroupSize = -2 }, "group size -2, want a positive number or -1 for whole rows or columns"},
		"large group":   {func(s *quant.Scheme) { s.GroupSize = 1<<31 - 1 }, ""},
		"group 2^31":    {func(s *quant.Scheme) { s.GroupSize = math.MaxInt32 + 1 }, "group size 2147483648, want at most 2147483647, as files have it"},
		"axis":          {func(s *quant.Scheme) { s.Axis = 2 }, "unknown axis 2, want oc or ic"},
		"range":         {func(s *quant.Scheme) { s.Range = 2 }, "unknown range rule 2, want zero or paper"},
		"scale type":    {func(s *quant.Scheme) { s.ScaleType = 4 }, "unknown scale type 4, want f16, f32, f16short or bf16"},
		"strided":       {func(s *quant.Scheme) { s.Strided = true }, "strided groups need axis ic"},
		"negative zero": {func(s *quant.Scheme) { s.MinZero = -1 }, "smallest zero-point -1, want 0 or 1"},
		"zero 2":        {func(s *quant.Scheme) { s.MinZero = 2 }, "smallest zero-point 2, want 0 or 1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := good
			c.change(&s)
			err := s.Validate()
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, quant.ErrScheme)
			require.EqualError(t, err, "invalid quantization scheme: "+c.want)
			require.Equal(t, err, s.CheckShape(1, 1))
		})
	}
}

func TestSchemeCheckShape(t *testing.T) {
	s := quant.Scheme{Bits: 4, GroupSize: 4, Axis: quant.IC, Strided: true}
	require.NoError(t, s.CheckShape(8, 3))
	require.ErrorContains(t, s.CheckShape(9, 3), "strided groups of 4 do not divide 9 outputs")
	require.ErrorIs(t, s.CheckShape(2, 3), quant.ErrScheme, "a group larger than the line")
	s.GroupSize = quant.WholeLine
	require.NoError(t, s.CheckShape(9, 3))
	s.Strided = false
	require.NoError(t, s.CheckShape(9, 3))
	require.ErrorContains(t, s.CheckShape(0, 3), "weight of shape [0 3]")
	require.ErrorIs(t, s.CheckShape(3, 0), quant.ErrScheme)
}

func TestSchemeGroups(t *testing.T) {
	for _, c := range []struct{ group, length, want int }{
		{4, 8, 2}, {4, 9, 3}, {4, 3, 1}, {4, 4, 1}, {1, 7, 7}, {quant.WholeLine, 7, 1}, {8, 7, 1},
	} {
		require.Equal(t, c.want, quant.Scheme{GroupSize: c.group}.Groups(c.length), "%+v", c)
	}
	lines, length := quant.Scheme{Axis: quant.OC}.Lines(3, 5)
	require.Equal(t, []int{3, 5}, []int{lines, length})
	lines, length = quant.Scheme{Axis: quant.IC}.Lines(3, 5)
	require.Equal(t, []int{5, 3}, []int{lines, length})
	require.Equal(t, 7, quant.Scheme{Bits: 3}.MaxCode())
	require.Equal(t, 255, quant.Scheme{Bits: 8}.MaxCode())
}

func TestNames(t *testing.T) {
	for _, a := range []quant.Axis{quant.OC, quant.IC} {
		got, err := quant.ParseAxis(a.String())
		require.NoError(t, err)
		require.Equal(t, a, got)
	}
	for _, bad := range []string{"", "OC", "both", " ic"} {
		_, err := quant.ParseAxis(bad)
		require.ErrorContains(t, err, "want oc or ic", "%q", bad)
	}
	require.Equal(t, "Axis(7)", quant.Axis(7).String())
	require.Equal(t, []string{"zero", "paper", "Range(2)"}, []string{quant.RangeZero.String(), quant.RangePaper.String(), quant.Range(2).String()})
	require.Equal(t, []string{"f16", "f32", "f16short", "bf16", "ScaleType(4)"},
		[]string{quant.F16.String(), quant.F32.String(), quant.F16Short.String(), quant.BF16.String(), quant.ScaleType(4).String()})
	require.Equal(t, []int{16, 32, 16, 16}, []int{quant.F16.Bits(), quant.F32.Bits(), quant.F16Short.Bits(), quant.BF16.Bits()})
}

func TestSchemeJSON(t *testing.T) {
	s := quant.Scheme{Bits: 3, GroupSize: quant.WholeLine, Axis: quant.IC, Range: quant.RangePaper, ScaleType: quant.F16Short, Clip: true}
	text, err := json.Marshal(s)
	require.NoError(t, err)
	require.JSONEq(t, `{"bits": 3, "group_size": -1, "axis": "ic", "symmetric": false, "strided": false, "range": "paper",
		"scale_type": "f16short", "clip": true, "clip_input": false, "min_zero": 0}`, string(text))
	var got quant.Scheme
	require.NoError(t, json.Unmarshal(text, &got))
	require.Equal(t, s, got)
	require.ErrorIs(t, json.Unmarshal([]byte(`{"axis": "row"}`), &got), quant.ErrScheme)
	s.Axis = 2
	_, err = json.Marshal(s)
	require.ErrorIs(t, err, quant.ErrScheme)
}

func TestEnumTexts(t *testing.T) {
	for want, v := range map[string]fmt.Stringer{
		"oc": quant.OC, "ic": quant.IC, "Axis(2)": quant.Axis(2),
		"zero": quant.RangeZero, "paper": quant.RangePaper, "Range(2)": quant.Range(2),
		"f16": quant.F16, "f32": quant.F32, "f16short": quant.F16Short, "bf16": quant.BF16, "ScaleType(4)": quant.ScaleType(4),
	} {
		require.Equal(t, want, v.String())
	}
	a, err := quant.ParseAxis("ic")
	require.NoError(t, err)
	require.Equal(t, quant.IC, a)
	r, err := quant.ParseRange("paper")
	require.NoError(t, err)
	require.Equal(t, quant.RangePaper, r)
	st, err := quant.ParseScaleType("f32")
	require.NoError(t, err)
	require.Equal(t, quant.F32, st)
	_, err = quant.ParseScaleType("F32")
	require.EqualError(t, err, `invalid quantization scheme: unknown scale type "F32", want f16, f32, f16short or bf16`)
}
