package checkpoint

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// What a format writes is recognized as that format, and as no other.
func TestDetect(t *testing.T) {
	as := map[string]string{"gptq_v1": "gptq"}
	for _, f := range Formats() {
		folder, ok := f.(layout.Folder)
		if !ok {
			continue
		}
		for _, symmetric := range []bool{true, false} {
			l := layout.Layer{Name: "model.layers.0.mlp.up_proj", Out: 64, In: 128, Scheme: quant.Scheme{Bits: 4, GroupSize: 64, Symmetric: symmetric, MinZero: 1}}
			c, err := folder.Config(layout.Contents{Layers: []layout.Layer{l}, Config: json.RawMessage("{}")})
			require.NoError(t, err)
			if c.Quantization == nil {
				require.Equal(t, "dense", f.Name())
				continue
			}
			want := f.Name()
			if n, ok := as[want]; ok {
				want = n
			} else if want == "gptq" && !symmetric {
				want = "gptq_v2"
			}
			var found []string
			for _, other := range Formats() {
				if r, ok := other.(layout.Reader); ok && r.Detect(c.Quantization) {
					found = append(found, other.Name())
				}
			}
			require.Equal(t, []string{want}, found, "%s symmetric=%v", f.Name(), symmetric)
		}
	}
}

// Whatever a format does not hold is ErrUnsupported, and says nothing of a
// command's flags.
func TestRefusalsAreUnsupported(t *testing.T) {
	good := layout.Layer{Name: "model.layers.0.mlp.up_proj", Out: 64, In: 128, DType: safetensors.F16, Scheme: quant.Scheme{Bits: 4, GroupSize: 64, Symmetric: true}}
	for _, f := range Formats() {
		good := good
		good.Scheme = heldScheme(f, good.Scheme)
		require.NoError(t, f.Check(good), f.Name())
		for _, edit := range []func(l *layout.Layer){
			func(l *layout.Layer) { l.Scheme.Bits = 9 },
			func(l *layout.Layer) { l.Scheme.GroupSize = -2 },
			func(l *layout.Layer) { l.Scheme.Axis, l.RowScale, l.Scheme.ScaleType = quant.IC, true, quant.F32 },
			func(l *layout.Layer) { l.InputScale, l.GroupIndex = true, true },
			func(l *layout.Layer) { l.Name, l.In, l.Scheme.Symmetric = "fc", 24, false },
		} {
			l := good
			edit(&l)
			if err := f.Check(l); err != nil {
				require.ErrorIs(t, err, layout.ErrUnsupported, f.Name())
				require.NotContains(t, err.Error(), "--", f.Name())
			}
		}
	}
}
