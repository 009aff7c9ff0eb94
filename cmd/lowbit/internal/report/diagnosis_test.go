package report

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/diagnosis"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/diagnose"
)

// diagnosed is a diagnosis of so many texts and blocks, with everything that there may be.
func diagnosed(texts, blocks int) *diagnose.Result {
	r := &diagnose.Result{Model: "models/A & B", Window: 512, Idle: 0.5, Quantized: &diagnose.Quantized{Method: "gptq", Bits: 3}}
	q := r.Quantized
	for i := range texts {
		s := &diagnosis.Seen{Windows: 4, Window: 512, Features: diagnosis.Features{Width: 64, List: []diagnosis.Feature{{Channel: 7, Largest: 80}}}}
		seen := diagnose.Seen{Name: fmt.Sprintf("text <%d>", i), Seen: s}
		for b := range blocks {
			a := diagnosis.Activation{Block: b, Largest: 10 + float64(b), InfNorm: 9 + float64(b*i), Kurtosis: 3 + float64(i), Width: 64}
			for k, role := range []string{"self_attn.q_proj", "mlp.experts.0.down_proj", "mlp.experts.1.down_proj"} {
				a.Name = fmt.Sprintf("model.layers.%d.%s", b, role)
				s.Inputs = append(s.Inputs, a)
				if i == 0 {
					q.Layers = append(q.Layers, diagnose.Layer{Name: a.Name})
				}
				l := &q.Layers[3*b+k]
				axis := []string{"oc", "ic"}[(b*i+k)%2]
				l.Axes, l.Margins = append(l.Axes, axis), append(l.Margins, 0.1-0.2*float64((b*i+k)%2))
			}
			a.Name = fmt.Sprintf("model.layers.%d", b)
			s.Blocks = append(s.Blocks, a)
			s.Heads = append(s.Heads, diagnosis.Attention{Block: b, First: []float64{0.7, 0.1}, Separators: []float64{0.2, 0}, Nothing: []float64{0.05, 0}})
			seen.IdleHeads = append(seen.IdleHeads, diagnose.Head{Block: b, First: 0.7, Separators: 0.2, Nothing: 0.05})
		}
		r.Texts = append(r.Texts, seen)
		row := make([]float64, texts)
		for j := range row {
			row[j] = 10 + 2*float64((i-j)*(i-j))
		}
		q.Full, q.Perplexities, q.Moved = append(q.Full, 9), append(q.Perplexities, row), append(q.Moved, i)
	}
	return r
}

func TestDiagnosis(t *testing.T) {
	page, err := Diagnosis("lowbit test", diagnosed(7, 5))
	require.NoError(t, err)
	text, attributes := elements(t, page)
	for _, want := range []string{
		"A & B", "text <6>", "gptq, 3 bits", "residual stream, ‖x‖∞", "what mlp.experts.*.down_proj reads, kurtosis", "Idle heads on text <0>",
		"Axis of every layer, quantized on text <6>", "(not quantized)", "outlier features of all texts", "1 of 64", "5 of 10",
	} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, string(page), "ZgotmplZ")
	svgs := strings.Count(string(page), "<svg ")
	require.Equal(t, 6, svgs, "norm and kurtosis of the stream and of two kinds of layers")
	classes := strings.Join(attributes["class"], " ")
	for i := range (style{}).Lines() {
		require.Contains(t, string(page), fmt.Sprintf(".t%d{stroke:var(--", i))
		require.Contains(t, classes, fmt.Sprintf("curve t%d", i))
	}
	require.Contains(t, attributes["title"], "block 4, head 0: first token 70.0 %, separators 20.0 %, nothing 5.0 %")
	require.Contains(t, attributes["title"], "20.0 % more than the best")
	require.Contains(t, attributes["title"], "model.layers.4.self_attn.q_proj: margin +0.100")
	require.Contains(t, text, "ic *", "moved")
}

func TestDiagnosisOfLittle(t *testing.T) {
	r := diagnosed(1, 1)
	r.Quantized = nil
	page, err := Diagnosis("lowbit test", r)
	require.NoError(t, err)
	text, _ := elements(t, page)
	require.Contains(t, text, "There is one block only.")
	for _, not := range []string{"read on another", "Axis of", "of all texts"} {
		require.NotContains(t, text, not)
	}
}
