package lowbit

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/quant"
)

// Every layer's round-to-nearest losses in both axes, as the published code
// finds them, raw and relative to the rows, and the axis that follows.
func TestLayerLosses(t *testing.T) {
	for _, model := range []string{"tinystories-260k", "tinystories-260k-outliers"} {
		text, err := os.ReadFile(golden.Shared(t, "golden/layer_losses_"+model+".json"))
		require.NoError(t, err)
		var want struct {
			Layers map[string]struct {
				Size float64 `json:"trWHWt"`
				RTN  map[string]struct {
					OC, IC         float64
					OCRel          float64 `json:"oc_rowrel"`
					ICRel          float64 `json:"ic_rowrel"`
					Choice         string
					ChoiceRelative string `json:"choice_rowrel"`
				}
			}
		}
		require.NoError(t, json.Unmarshal(text, &want))
		for _, bits := range []int{2, 3, 4} {
			for _, group := range []int{32, 64} {
				t.Run(fmt.Sprintf("%s/%d/%d", model, bits, group), func(t *testing.T) {
					report, err := Quantize(context.Background(), Options{
						Model: golden.Shared(t, "models/"+model), Output: filepath.Join(t.TempDir(), "out"),
						Method: quant.RTN{},
						Bits:   bits, GroupSize: group, Range: quant.RangePaper, ScaleType: new(quant.F32),
						Calibration: Calibration{Samples: 64, SeqLen: 256, Text: Text{
							Files: []string{golden.Shared(t, "text/tinystories/calibration.txt")}, PerDocument: true, BOS: new(true),
						}},
					})
					require.NoError(t, err)
					require.Len(t, report.Layers, len(want.Layers))
					for _, l := range report.Layers {
						w := want.Layers[l.Name]
						r := w.RTN[fmt.Sprintf("b%dg%d", bits, group)]
						oc, ic := l.Decision.Candidates[0], l.Decision.Candidates[1]
						// The reference keeps H at a scale of its own.
						scale := l.Decision.OutputSize / w.Size
						require.InEpsilon(t, r.OC, oc.Loss/scale, 2e-3, l.Name)
						require.InEpsilon(t, r.IC, ic.Loss/scale, 2e-3, l.Name)
						require.InEpsilon(t, r.OCRel, oc.Relative, 2e-3, l.Name)
						require.InEpsilon(t, r.ICRel, ic.Relative, 2e-3, l.Name)
						if math.Abs(math.Log(r.IC/r.OC)) > 0.005 {
							require.Equal(t, r.Choice, l.Arm, l.Name)
						}
						if math.Abs(math.Log(r.ICRel/r.OCRel)) > 0.005 {
							require.Equal(t, r.ChoiceRelative == "ic", ic.Relative < oc.Relative, l.Name)
						}
					}
				})
			}
		}
	}
}
