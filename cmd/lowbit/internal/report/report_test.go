package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/picture"
	"github.com/golowbit/lowbit/quant"
)

var divergence = measure.Divergence{Mean: 0.2, SameTop: 0.9}

func ptr[T any](v T) *T { return &v }

// synthetic is a report of so many blocks, with everything that a report may have.
func synthetic(blocks, experts int) *Report {
	arms := []adadim.Arm{{Axis: quant.OC}, {Axis: quant.OC, InputScale: true}, {Axis: quant.IC}, {Axis: quant.IC, RowScale: true}}
	r := &lowbit.Report{
		Output: "out/model & co", Format: "lowbit", BytesBefore: 1 << 34, BytesAfter: 1 << 32, BitsPerWeight: 4.25, Tokens: 1000,
		Settings: []lowbit.Setting{{Name: "preset", Value: "best", From: "default"}, {Name: "bits", Value: 4, From: "given"}},
		Notes:    []string{"a note"}, Engines: []layout.Note{{Engine: "vllm", Reason: "no such format"}},
		Phases: []lowbit.Phase{{Name: phases.Forward, Seconds: 10}, {Name: phases.Solving, Seconds: 200}}, Seconds: 210, PeakMemory: 1 << 30,
		Tuned:      &lowbit.Tuned{What: lowbit.TuneScales, Steps: 100, Best: 90, Before: 0.1, After: 0.05},
		Evaluation: &lowbit.Evaluation{Perplexity: 11, KL: ptr(0.2), Against: ptr(10.0), Divergence: &divergence, Tokens: 1000, Window: 256},
	}
	add := func(name string, out, in, block, k int) {
		d := &adadim.Decision{Measured: true, OutputSize: 1}
		for i, a := range arms {
			loss := 0.01 * (1 + float64(block)/8) * (1 + 0.1*math.Sin(float64(i+k+block)))
			d.Candidates = append(d.Candidates, adadim.Candidate{Arm: a, Measured: true, Loss: loss, Objective: loss})
		}
		chosen := (block + k) % len(arms)
		d.Chosen = chosen
		margin, _ := d.Margin()
		x := make([]float64, in)
		for j := range x {
			x[j] = 1 + 0.2*math.Sin(float64(j*(k+1)))
		}
		x[in/3] = 40
		s := picture.NewSeries(x)
		r.Layers = append(r.Layers, lowbit.LayerReport{
			Name: name, Out: out, In: in, Arm: arms[chosen].String(), Scheme: quant.Scheme{Bits: 4, GroupSize: 64}, Bits: 4.25,
			Loss: ptr(d.Candidates[chosen].Loss), Relative: ptr(0.01), Margin: ptr(8 * margin), Decision: d,
			Channels: &picture.Channels{Inputs: picture.Side{Channels: in, Weight: s, Activation: s, Loss: s}, Outputs: picture.Side{Channels: in, Weight: s, Loss: s}},
		})
	}
	for b := range blocks {
		for k, role := range []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"} {
			add(fmt.Sprintf("model.layers.%d.%s", b, role), 512, 512, b, k)
		}
		for k, role := range []string{"gate_proj", "up_proj", "down_proj"} {
			if experts == 0 {
				add(fmt.Sprintf("model.layers.%d.mlp.%s", b, role), 512, 1024, b, k)
			}
			for e := range experts {
				add(fmt.Sprintf("model.layers.%d.mlp.experts.%d.%s", b, e, role), 64, 512, b, k+e)
				r.Layers[len(r.Layers)-1].Tokens = ptr(40 * e)
			}
		}
	}
	r.Allocation = &lowbit.Allocation{}
	r.Allocation.BitsPerWeight, r.Allocation.Loss = 4.25, 0.01
	r.Layers[1].Dense, r.Layers[1].Arm, r.Layers[1].Notes = true, "", []string{"left dense: rule"}
	r.Layers[2].Loss = ptr(0.5)
	told := Told{}
	told.Add("", "damping raised to 0.1: <b>of all</b>")
	told.Add("model.layers.0.self_attn.q_proj", "out of range")
	told.Add("model.layers.1.self_attn.q_proj", "out of range")
	info := &lowbit.Info{Path: "models/A & B", Architecture: "llama", Blocks: blocks, Hidden: 512, Parameters: 8e9, FileBytes: 1 << 34}
	output := &lowbit.Info{Tensors: []lowbit.TensorInfo{{Name: "model.embed_tokens.weight", Shape: []int{1000, 512}, Bytes: 1024000}}}
	plan := &lowbit.MemoryPlan{Limit: 1 << 34, Parts: []memory.Part{{Name: "weights", Bytes: 1 << 28}}, Streams: 100, Passes: 1}
	return New(Sources{Lowbit: "lowbit test", Source: info, Output: output, Report: r, Memory: plan, Told: told})
}

// elements reads a page as XML, which it also is, and returns its texts, and its attributes by
// name.
func elements(t *testing.T, page []byte) (text string, attributes map[string][]string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(page))
	d.Strict, d.Entity = true, xml.HTMLEntity
	d.AutoClose = nil
	attributes = map[string][]string{}
	var b strings.Builder
	depth := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			require.Zero(t, depth)
			return b.String(), attributes
		}
		require.NoError(t, err)
		switch e := tok.(type) {
		case xml.StartElement:
			depth++
			require.NotContains(t, []string{"script", "iframe", "object", "img"}, e.Name.Local)
			for _, a := range e.Attr {
				attributes[a.Name.Local] = append(attributes[a.Name.Local], a.Value)
			}
		case xml.EndElement:
			depth--
		case xml.CharData:
			b.Write(e)
		}
	}
}

// TestPage: well-formed, with every layer, and nothing from elsewhere.
func TestPage(t *testing.T) {
	for name, r := range map[string]*Report{"4": synthetic(4, 0), "80": synthetic(80, 0), "experts": synthetic(6, 8), "one": synthetic(1, 0)} {
		t.Run(name, func(t *testing.T) {
			page, err := r.HTML()
			require.NoError(t, err)
			if to := os.Getenv("LOWBIT_TEST_PAGES"); to != "" { // to look at
				require.NoError(t, os.WriteFile(to+"/synthetic-"+name+".html", page, 0o666))
			}
			text, attributes := elements(t, page)
			require.NotRegexp(t, `(?i)https?://|@import|url\(`, string(page))
			for _, href := range slices.Concat(attributes["href"], attributes["src"]) {
				require.Equal(t, "data:,", href)
			}
			require.Empty(t, attributes["onclick"])
			for _, l := range r.Layers {
				require.Contains(t, text, l.Name)
			}
			for _, want := range []string{
				"A & B", "damping raised to 0.1: <b>of all</b>", "preset", "11.0000", "0.2000 nats a token", "solving", "3m20s", "1.00 GiB", "no such format", "a note",
				"These layers lose more than 5 %", `--rule 'model\.layers\.0\.self_attn\.v_proj: bits=8'`, "The predictions are 0.200 nats", "4.25",
			} {
				require.Contains(t, text, want)
			}
			if len(r.Layers) > 7 {
				require.Contains(t, string(page), `class="curve a-icrow"`)
			}
			require.Contains(t, text, "is beyond 8 × the median")
			require.NotContains(t, text, "ZgotmplZ")
			require.NotContains(t, string(page), "ZgotmplZ")
			require.NotContains(t, string(page), "NaN")
			again, err := r.HTML()
			require.NoError(t, err)
			require.Equal(t, page, again)
		})
	}
}

// TestMap: a row for each block, a cell for each role, of experts together.
func TestMap(t *testing.T) {
	c := synthetic(80, 0).armMap()
	require.Len(t, c.Rows, 80)
	require.Equal(t, []column{{"q", "self_attn.q_proj"}, {"k", "self_attn.k_proj"}}, c.Columns[:2])
	require.Len(t, c.Columns, 7)
	require.Equal(t, "dense", c.Rows[0].Cells[1].Class)
	require.Regexp(t, `^(oc|ic) s\d$`, c.Rows[79].Cells[6].Class)
	c = synthetic(3, 8).armMap()
	require.Len(t, c.Columns, 7)
	require.Equal(t, "mlp.experts.*.up_proj", c.Columns[5].Title)
	require.Equal(t, "ic 2/8", strings.ReplaceAll(c.Rows[0].Cells[5].Text, "ic+row", "ic"))
	require.Contains(t, c.Rows[0].Cells[5].Title, "8 layers: 2 ")
	require.Equal(t, []int{0, 0, 4, 7, 7}, []int{shade(nil), shade(ptr(0.0)), shade(ptr(-0.5)), shade(ptr(1.0)), shade(ptr(90.0))})
}

// TestEscaped: names are text, whatever is in them.
func TestEscaped(t *testing.T) {
	r := synthetic(2, 0)
	const odd = `model.layers.0."'<script>alert(1)</script>`
	r.Layers[0].Name, r.Layers[0].Arm, r.Layers[0].Loss = odd, "<i>", ptr(0.9)
	r.Model.Path, r.Output = odd, odd
	r.Settings[0].Value = odd
	page, err := r.HTML()
	require.NoError(t, err)
	require.NotContains(t, string(page), "<script")
	require.NotContains(t, string(page), "<i>oc")
	text, _ := elements(t, page)
	require.Contains(t, text, odd)
	info := &lowbit.Info{Path: odd, Format: odd, Tensors: []lowbit.TensorInfo{{Name: odd, Shape: []int{1}}}}
	page, err = ModelHTML("lowbit", info, []Layer{{Name: odd, Channels: r.Layers[0].Channels}})
	require.NoError(t, err)
	require.NotContains(t, string(page), "<script")
	text, _ = elements(t, page)
	require.Contains(t, text, odd)
}

// TestJSON: the fields are those that docs/report.md describes.
func TestJSON(t *testing.T) {
	doc, err := os.ReadFile("../../../../docs/report.md")
	require.NoError(t, err)
	described := map[string]bool{}
	for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(string(doc), -1) {
		described[m[1]] = true
	}
	r := synthetic(4, 2)
	r.Layers[5].Folded, r.Layers[6].Decision.Candidates[0].Power = "into a norm", 0.5
	text, err := r.JSON()
	require.NoError(t, err)
	again, err := r.JSON()
	require.NoError(t, err)
	require.Equal(t, text, again)
	var all map[string]any
	require.NoError(t, json.Unmarshal(text, &all))
	require.Equal(t, 1.0, all["version"])
	var walk func(v any, path string)
	elsewhere := []string{".settings", ".engines", ".evaluation", ".tuned", ".allocation", ".scheme"} // as in --json
	walk = func(v any, path string) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				require.True(t, described[key], "%s.%s is not described", path, key)
				if !slices.Contains(elsewhere, "."+key) {
					walk(value, path+"."+key)
				}
			}
		case []any:
			for _, value := range v {
				walk(value, path)
			}
		}
	}
	walk(all, "")
	for _, key := range []string{"lowbit", "model", "output", "format", "settings", "layers", "engines", "bytes_before", "bytes_after", "bits_per_weight", "phases", "roles", "memory", "warnings"} {
		require.Contains(t, all, key)
	}
	layer := all["layers"].([]any)[0].(map[string]any)
	require.Len(t, layer["channels"].(map[string]any)["inputs"].(map[string]any)["activation"].(map[string]any)["max"], 128)
	require.Less(t, strings.Count(string(text), "\n"), len(text)/60) // arrays of numbers on a line
	require.Equal(t, 1, strings.Count(string(text), "out of range"))
}

// TestRoles: what lies in blocks is told together, the largest first.
func TestRoles(t *testing.T) {
	r := synthetic(3, 4)
	byName := map[string]Role{}
	for _, role := range r.Roles {
		byName[role.Name] = role
	}
	require.Equal(t, Role{Name: "model.embed_tokens", Tensors: 1, Weights: 512000, Bits: 16, Bytes: 1024000}, byName["model.embed_tokens"])
	up := byName["mlp.experts.*.up_proj"]
	require.Equal(t, 12, up.Tensors)
	require.Equal(t, int64(12*64*512), up.Weights)
	require.Equal(t, up.Weights, up.Quantized)
	require.Equal(t, 4.25, up.Bits)
	require.Positive(t, *up.Loss)
	require.Equal(t, 2, byName["self_attn.k_proj"].Tensors) // one is dense
	require.True(t, slices.IsSortedFunc(r.Roles, func(a, b Role) int { return int(b.Bytes - a.Bytes) }))
	require.Equal(t, place{3, "mlp.experts.*.w1", 17}, placeOf("model.layers.3.mlp.experts.17.w1"))
	require.Equal(t, place{-1, "lm_head", -1}, placeOf("lm_head"))
	require.Equal(t, place{7, "7", -1}, placeOf("7"))
}

// TestAdvice: what is found is said with what can be done, and nothing where nothing is.
func TestAdvice(t *testing.T) {
	r := synthetic(4, 4)
	var messages []string
	for _, w := range r.Warnings {
		require.NotEmpty(t, w.Advice, w.Message)
		messages = append(messages, w.Message)
	}
	require.Len(t, messages, 6)
	require.Equal(t, []string{"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"}, r.Warnings[1].Layers)
	require.Contains(t, r.Warnings[2].Message, "1000 tokens of calibration text are few for layers of 512 inputs")
	require.Contains(t, r.Warnings[3].Message, "Fewer tokens were routed")
	require.Equal(t, []string{"model.layers.0.self_attn.v_proj"}, r.Warnings[4].Layers)
	good := &lowbit.Report{Tokens: 1 << 20, Layers: []lowbit.LayerReport{{Name: "a", In: 64, Loss: ptr(0.01)}, {Name: "b", In: 64, Loss: ptr(0.011)}}}
	require.Empty(t, advice(good))
	require.Empty(t, advice(&lowbit.Report{}))
}

// TestTicks: an axis has two numbers at least and six at most, inside of it.
func TestTicks(t *testing.T) {
	for _, c := range [][2]float64{{-3, 0}, {-2.2, -2.1}, {0.01, 0.02}, {-12, 3}, {-2.5, -1.4}} {
		all := ticks(c[0], c[1])
		require.GreaterOrEqual(t, len(all), 2, c)
		require.LessOrEqual(t, len(all), 6, c)
		for _, v := range all {
			require.True(t, math.Log10(v) >= c[0]-1e-9 && math.Log10(v) <= c[1]+1e-9, "%v %v", c, v)
		}
	}
	require.Equal(t, []string{"0.00123", "12.3", "1297", "1.3e+06"}, []string{sig(0.0012345), sig(12.345), sig(1297.1), sig(1.3e6)})
	require.Empty(t, depthChart("nothing", []curve{{"a", "b", []float64{math.NaN(), 0}}}))
}
