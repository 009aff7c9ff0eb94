package frontier

import (
	"bytes"
	"encoding/xml"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOf: what none is both smaller and nearer than.
func TestOf(t *testing.T) {
	require.Equal(t, []bool{true, false, true, false, false, true}, Of([]Point{
		{"a", 10, 0.5}, {"b", 12, 0.6}, {"c", 12, 0.2}, {"d", 15, 0.2}, {"same size", 10, 0.7}, {"e", 20, 0.1},
	}))
	require.Equal(t, []bool{false, true}, Of([]Point{{"a few bytes less", 100_000, 0.5}, {"nearer", 100_050, 0.4}}))
	require.Empty(t, Of(nil))
	require.Equal(t, []bool{true}, Of([]Point{{"a", 1, 1}}))
}

// TestSVG: a picture that is XML, with every name in it.
func TestSVG(t *testing.T) {
	for _, points := range [][]Point{
		{{"one", 1000, 0.5}, {"two <&>", 2000, 0.25}, {"three", 2500, 0.3}},
		{{"alone", 1000, 0.5}},
	} {
		svg, err := SVG("model & co", points)
		require.NoError(t, err)
		d := xml.NewDecoder(bytes.NewReader(svg))
		texts := map[string]bool{}
		for {
			tok, err := d.Token()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			if c, ok := tok.(xml.CharData); ok {
				texts[string(bytes.TrimSpace(c))] = true
			}
		}
		for _, p := range points {
			require.True(t, texts[p.Name], p.Name)
		}
	}
	_, err := SVG("", []Point{{"zero", 1, 0}})
	require.ErrorContains(t, err, "zero: divergence 0")
}
