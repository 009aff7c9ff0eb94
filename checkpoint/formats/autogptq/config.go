package autogptq

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/vllm"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

// quantConfig is quantization_config and quantize_config.json. The keys are
// those that GPTQModel, transformers, vLLM and llama.cpp's converter read.
type quantConfig struct {
	Bits             int             `json:"bits"`
	Dynamic          json.RawMessage `json:"dynamic,omitempty"`
	GroupSize        int             `json:"group_size"`
	DescAct          bool            `json:"desc_act"`
	Sym              *bool           `json:"sym,omitempty"`
	LMHead           bool            `json:"lm_head"`
	Method           string          `json:"method,omitempty"`
	QuantMethod      string          `json:"quant_method"`
	Format           string          `json:"format,omitempty"`
	CheckpointFormat string          `json:"checkpoint_format,omitempty"`
	PackDType        string          `json:"pack_dtype,omitempty"`
	Modules          json.RawMessage `json:"modules_in_block_to_quantize,omitempty"`
	Meta             json.RawMessage `json:"meta,omitempty"`
}

// layout is the name of the layout; checkpoint_format wins over format.
func (c quantConfig) layout() string {
	switch {
	case c.CheckpointFormat != "":
		return c.CheckpointFormat
	case c.Format != "":
		return c.Format
	}
	return "gptq"
}

// producers are the values of meta.quantizer, as a list or alone.
func (c quantConfig) producers() []string {
	var list struct {
		Quantizer []string `json:"quantizer"`
	}
	if json.Unmarshal(c.Meta, &list) == nil {
		return list.Quantizer
	}
	var one struct {
		Quantizer string `json:"quantizer"`
	}
	if json.Unmarshal(c.Meta, &one) == nil {
		return []string{one.Quantizer}
	}
	return nil
}

// wordZeros reports whether the producer of a version 1 file subtracted 1
// from zero-points by whole words, so that a 0 borrows from its neighbour.
func (c quantConfig) wordZeros(bits int) bool {
	return bits != 3 && slices.ContainsFunc(c.producers(), func(p string) bool {
		return strings.HasPrefix(strings.ToLower(p), "gptqmodel:")
	})
}

// override is the value of a rule in dynamic.
type override struct {
	Bits      *int  `json:"bits,omitempty"`
	GroupSize *int  `json:"group_size,omitempty"`
	Sym       *bool `json:"sym,omitempty"`
}

// overrides are the values of the rules in dynamic, whatever they match.
func (c quantConfig) overrides() ([]override, error) {
	if len(c.Dynamic) == 0 || string(c.Dynamic) == "null" {
		return nil, nil
	}
	var rules map[string]json.RawMessage
	if err := json.Unmarshal(c.Dynamic, &rules); err != nil {
		return nil, fmt.Errorf("dynamic: %w", err)
	}
	var out []override
	for key, v := range rules {
		var o override
		if strings.HasPrefix(key, "-:") || json.Unmarshal(v, &o) != nil {
			continue // a rule that skips, or whose value is a bare false
		}
		out = append(out, o)
	}
	return out, nil
}

// layerKind is what dynamic rules may change from layer to layer.
type layerKind struct {
	bits, group int
	sym         bool
}

func kindOf(l layout.Layer) layerKind {
	return layerKind{l.Scheme.Bits, l.Scheme.GroupSize, l.Scheme.Symmetric}
}

// Config writes quantization_config, and the same as quantize_config.json.
// Layers that differ from most get rules in dynamic.
func (f Format) Config(c layout.Contents) (layout.Config, error) {
	base := layerKind{4, 128, true}
	var kinds []layerKind
	lmHead, descAct := false, false
	for _, l := range c.Layers {
		kinds = append(kinds, kindOf(l))
		lmHead = lmHead || l.Name == "lm_head"
		descAct = descAct || l.GroupIndex
	}
	if len(kinds) > 0 {
		base = layout.MostFrequent(kinds)
	}
	version := f.version(base.sym)
	for i, k := range kinds {
		if f.version(k.sym) != version {
			return layout.Config{}, layout.Unsupported("layer %q is symmetric=%v and most are not alike; %s stores them in different versions: use format gptq_v2", c.Layers[i].Name, k.sym, f.Name())
		}
	}
	name := "gptq"
	if version == 2 {
		name = "gptq_v2"
	}
	meta := struct {
		Quantizer []string        `json:"quantizer"`
		Method    json.RawMessage `json:"method,omitempty"`
	}{[]string{"lowbit"}, c.Method}
	metaJSON, err := json.Marshal(meta)
	if err != nil {
		return layout.Config{}, err
	}
	q := quantConfig{
		Bits: base.bits, GroupSize: base.group, DescAct: descAct, Sym: &base.sym, LMHead: lmHead,
		Method: "gptq", QuantMethod: "gptq", Format: name, CheckpointFormat: name, PackDType: "int32", Meta: metaJSON,
	}
	if q.Dynamic, err = dynamicRules(c, base); err != nil {
		return layout.Config{}, err
	}
	if q.Modules, err = moduleKinds(c); err != nil {
		return layout.Config{}, err
	}
	data, err := json.Marshal(q)
	if err != nil {
		return layout.Config{}, err
	}
	o, err := layout.ParseObject(data)
	if err != nil {
		return layout.Config{}, err
	}
	file := o.Bytes()
	return layout.Config{Quantization: file, Set: layout.HalfModel(c), Files: map[string][]byte{quantizeFile: file}}, nil
}

// dynamicRules makes the rules for layers that are dense or not of the base
// kind. The first rule that matches counts. vLLM asks for the fused linears
// qkv_proj and gate_up_proj, so a rule for a member that is like its siblings
// matches those as well.
func dynamicRules(c layout.Contents, base layerKind) (json.RawMessage, error) {
	kind := map[string]layerKind{}
	for _, l := range c.Layers {
		kind[l.Name] = kindOf(l)
	}
	rules := &layout.Object{}
	for _, name := range c.Dense {
		if inside, ok := layout.InBlock(name); ok && !layout.IsEmbedding(inside) {
			same := func(n string) bool { return slices.Contains(c.Dense, n) }
			rules.Set("-:"+exactPattern(name, same), json.RawMessage("{}"))
		}
	}
	for _, l := range c.Layers {
		k := kind[l.Name]
		if k == base {
			continue
		}
		same := func(n string) bool { other, ok := kind[n]; return ok && other == k }
		v, err := json.Marshal(override{&k.bits, &k.group, &k.sym})
		if err != nil {
			return nil, err
		}
		rules.Set("+:"+exactPattern(l.Name, same), v)
	}
	if len(rules.Keys) == 0 {
		return nil, nil
	}
	return rules.Bytes(), nil
}

// exactPattern is a regular expression for one linear, and for the fused one
// it becomes part of if the other members are the same.
func exactPattern(name string, same func(string) bool) string {
	fused, members, ok := vllm.FusedWith(name)
	if !ok || slices.ContainsFunc(members, func(m string) bool { return !same(m) }) {
		return "^" + regexp.QuoteMeta(name) + "$"
	}
	dot := strings.LastIndexByte(name, '.') + 1
	return "^" + regexp.QuoteMeta(name[:dot]) + "(" + name[dot:] + "|" + fused[dot:] + ")$"
}

// moduleKinds lists the kinds of linears that are quantized, for transformers,
// which cannot skip a linear of one block but can skip a kind: only where a
// kind is dense in every block.
func moduleKinds(c layout.Contents) (json.RawMessage, error) {
	var quantized []string
	for _, l := range c.Layers {
		if inside, ok := layout.InBlock(l.Name); ok && !slices.Contains(quantized, inside) {
			quantized = append(quantized, inside)
		}
	}
	skips := slices.ContainsFunc(c.Dense, func(name string) bool {
		inside, ok := layout.InBlock(name)
		return ok && !slices.Contains(quantized, inside)
	})
	if !skips || len(quantized) == 0 {
		return nil, nil
	}
	return json.Marshal([][]string{quantized})
}

// parseConfig reads a quantization_config and refuses what no layer can be read
// with.
func parseConfig(quantization json.RawMessage) (c quantConfig, version int, err error) {
	if err := json.Unmarshal(quantization, &c); err != nil {
		return c, 0, fmt.Errorf("%s: %w", layout.QuantizationKey, err)
	}
	fail := func(format string, args ...any) (quantConfig, int, error) {
		return c, 0, fmt.Errorf("%s: %s", layout.QuantizationKey, fmt.Sprintf(format, args...))
	}
	switch c.layout() {
	case "gptq":
		version = 1
	case "gptq_v2":
		version = 2
	case "gptq_p":
		return fail("checkpoint_format gptq_p, the planar layout of GPTQModel, cannot be read: want gptq or gptq_v2")
	default:
		return fail("checkpoint_format %q, want gptq or gptq_v2", c.layout())
	}
	switch {
	case !slices.Contains([]int{2, 3, 4, 8}, c.Bits):
		return fail("bits %d, want 2, 3, 4 or 8", c.Bits)
	case c.GroupSize == 0 || c.GroupSize < quant.WholeLine:
		return fail("group_size %d, want a positive number or -1", c.GroupSize)
	case c.PackDType != "" && c.PackDType != "int32" && c.PackDType != "torch.int32":
		return fail("pack_dtype %q, want int32", c.PackDType)
	}
	return c, version, nil
}
