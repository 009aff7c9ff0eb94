package compressed

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dlclark/regexp2"

	"github.com/golowbit/lowbit/checkpoint/internal/fp4"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
)

const packFormat = "pack-quantized"

// mixedFormat says that groups differ in their formats.
const mixedFormat = "mixed-precision"

// formats are those of groups.
var formats = []string{packFormat, floatFormat(fp4.MX), floatFormat(fp4.NV)}

// elsewhere are formats of groups that are nothing packed: such tensors have become floats
// before this reader is asked.
var elsewhere = []string{"float-quantized", "int-quantized", "naive-quantized", "dense"}

// quantConfig is the quantization_config. The library refuses keys it does not
// know in the schemes, so the set written is the smallest that every version
// since 0.9 reads.
type quantConfig struct {
	QuantMethod      string          `json:"quant_method"`
	Format           string          `json:"format"`
	Status           string          `json:"quantization_status"`
	Groups           json.RawMessage `json:"config_groups"`
	Ignore           []string        `json:"ignore"`
	KVCacheScheme    json.RawMessage `json:"kv_cache_scheme"`
	CompressionRatio json.RawMessage `json:"global_compression_ratio"`
}

// configGroup is an entry of config_groups.
type configGroup struct {
	Targets []string        `json:"targets"`
	Format  string          `json:"format,omitempty"`
	Inputs  json.RawMessage `json:"input_activations"`
	Outputs json.RawMessage `json:"output_activations"`
	Weights *weightArgs     `json:"weights"`
}

type weightArgs struct {
	Bits      int             `json:"num_bits"`
	Type      string          `json:"type"`
	Symmetric bool            `json:"symmetric"`
	Strategy  string          `json:"strategy"`
	GroupSize *int            `json:"group_size,omitempty"`
	Dynamic   json.RawMessage `json:"dynamic"`
	ActOrder  json.RawMessage `json:"actorder"`
	ScaleType string          `json:"scale_dtype,omitempty"` // of floats

	float string // mxfp4 or nvfp4
}

// UnmarshalJSON sets what the library assumes where a key is absent.
func (w *weightArgs) UnmarshalJSON(data []byte) error {
	type plain weightArgs
	p := plain{Bits: 8, Type: "int", Symmetric: true}
	err := json.Unmarshal(data, &p)
	*w = weightArgs(p)
	return err
}

// layerKind is what distinguishes config groups.
type layerKind struct {
	bits, group    int
	symmetric, act bool
	float          string // mxfp4, nvfp4 or none
}

// format is what the library calls it.
func (k layerKind) format() string {
	if k.float != "" {
		return floatFormat(k.float)
	}
	return packFormat
}

func (k layerKind) weights() *weightArgs {
	if k.float != "" {
		return floatWeights(k.float)
	}
	w := &weightArgs{
		Bits: k.bits, Type: "int", Symmetric: k.symmetric, Strategy: "channel",
		Dynamic: json.RawMessage("false"), ActOrder: json.RawMessage("null"),
	}
	if k.group != quant.WholeLine {
		w.Strategy, w.GroupSize = "group", &k.group
	}
	if k.act {
		w.ActOrder = json.RawMessage(`"group"`)
	}
	return w
}

// Config writes one config group for "Linear" if all layers are alike, else
// one for each kind of layer, with an exact regular expression for each layer.
func (f Format) Config(c layout.Contents) (layout.Config, error) {
	var kinds []layerKind
	targets := map[layerKind][]string{}
	for _, l := range c.Layers {
		s := l.Scheme
		_, name, _, _ := gridsOf(s)
		k := layerKind{s.Bits, s.GroupSize, s.Symmetric, l.GroupIndex, name}
		if targets[k] == nil {
			kinds = append(kinds, k)
		}
		targets[k] = append(targets[k], "re:^"+regexp.QuoteMeta(l.Name)+"$")
	}
	if len(kinds) == 1 {
		targets[kinds[0]] = []string{"Linear"}
	}
	groups := &layout.Object{}
	format := packFormat
	for i, k := range kinds {
		if i == 0 {
			format = k.format()
		} else if format != k.format() {
			format = mixedFormat
		}
		data, err := json.Marshal(configGroup{Targets: targets[k], Format: k.format(), Weights: k.weights()})
		if err != nil {
			return layout.Config{}, err
		}
		groups.Set(fmt.Sprintf("group_%d", i), data)
	}
	data, err := json.Marshal(quantConfig{
		QuantMethod: f.Name(), Format: format, Status: "compressed", Groups: groups.Bytes(), Ignore: ignored(layout.SkippedLinears(c)),
	})
	c.Layers = slices.DeleteFunc(slices.Clone(c.Layers), func(l layout.Layer) bool { return l.Scheme.Grid != nil }) // no half floats
	return layout.Config{Quantization: data, Set: layout.HalfModel(c)}, err
}

// towers are modules beside the language model. Engines call them by other paths
// than files do, so that their linears are left out by an expression too.
var towers = []string{"vision_tower", "vision_model", "visual", "audio_tower", "multi_modal_projector"}

// ignored adds an expression for each tower to the names of dense linears.
func ignored(names []string) []string {
	for _, t := range towers {
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, t+".") || strings.Contains(n, "."+t+".") }) {
			names = append(names, `re:.*\b`+t+`\b.*`)
		}
	}
	return names
}

// parseConfig reads a quantization_config and refuses what the reader cannot read.
func parseConfig(quantization json.RawMessage) ([]configGroup, error) {
	fail := func(format string, args ...any) ([]configGroup, error) {
		return nil, fmt.Errorf("%s: %s", layout.QuantizationKey, fmt.Sprintf(format, args...))
	}
	var c quantConfig
	if err := json.Unmarshal(quantization, &c); err != nil {
		return fail("%v", err)
	}
	if !slices.Contains(formats, c.Format) && c.Format != mixedFormat {
		return fail("compressed-tensors format %q cannot be read: want one of %v", c.Format, formats)
	}
	groups, err := layout.ParseObject(c.Groups)
	if err != nil {
		return fail("config_groups: %v", err)
	}
	var schemes []configGroup
	for i, key := range groups.Keys {
		var s configGroup
		if err := json.Unmarshal(groups.Values[i], &s); err != nil {
			return fail("config_groups.%s: %v", key, err)
		}
		switch {
		case slices.Contains(elsewhere, s.Format):
			continue
		case s.Format != "" && !slices.Contains(formats, s.Format):
			return fail("config_groups.%s: format %q cannot be read: want one of %v", key, s.Format, formats)
		case s.Weights == nil:
			return fail("config_groups.%s: no weights", key)
		case s.Weights.Type == "float" && s.Weights.Bits == 4:
			if err := s.Weights.floats(); err != nil {
				return fail("config_groups.%s: %v", key, err)
			}
			if want := floatFormat(s.Weights.float); s.Format != "" && s.Format != want {
				return fail("config_groups.%s: format %q with weights of %s", key, s.Format, want)
			}
			schemes = append(schemes, s)
			continue
		case s.Format != "" && s.Format != packFormat:
			return fail("config_groups.%s: format %q with weights of type %q", key, s.Format, s.Weights.Type)
		case s.Weights.Type != "" && s.Weights.Type != "int":
			return fail("config_groups.%s: weights of type %q, want int", key, s.Weights.Type)
		case s.Weights.Bits < 2 || s.Weights.Bits > 8:
			return fail("config_groups.%s: num_bits %d, want 2 to 8", key, s.Weights.Bits)
		}
		if _, err := s.Weights.groupSize(); err != nil {
			return fail("config_groups.%s: %v", key, err)
		}
		schemes = append(schemes, s)
	}
	return schemes, nil
}

// floats finds the grid of weights that are floats of 4 bits, which their groups tell.
func (w *weightArgs) floats() error {
	for _, name := range []string{fp4.MX, fp4.NV} {
		want := floatWeights(name)
		if w.GroupSize != nil && *w.GroupSize == *want.GroupSize && w.Strategy == want.Strategy && w.Symmetric {
			w.float = name
			return nil
		}
	}
	return fmt.Errorf("floats of 4 bits with strategy %q, want group with group_size 32 or tensor_group with 16, symmetric", w.Strategy)
}

// groupSize interprets strategy and group_size, of which either may be absent.
func (w *weightArgs) groupSize() (int, error) {
	size := 0
	if w.GroupSize != nil {
		size = *w.GroupSize
	}
	switch {
	case (w.Strategy == "group" || w.Strategy == "") && size > 0:
		return size, nil
	case w.Strategy == "channel" && size <= 0 && size >= quant.WholeLine, w.Strategy == "" && size == quant.WholeLine:
		return quant.WholeLine, nil
	case w.Strategy == "group":
		return 0, fmt.Errorf("strategy group with group_size %d, want a positive number", size)
	case w.Strategy == "channel":
		return 0, fmt.Errorf("strategy channel with group_size %d, want -1 or none", size)
	}
	return 0, fmt.Errorf("strategy %q with group_size %d, want group or channel", w.Strategy, size)
}

// matchTarget finds the scheme of a layer: exact names first, then regular
// expressions, then class names, as the library does.
func matchTarget(schemes []configGroup, name string) (*weightArgs, error) {
	if len(schemes) == 1 {
		return schemes[0].Weights, nil
	}
	for pass := range 3 {
		for _, s := range schemes {
			for _, target := range s.Targets {
				pattern, isRegexp := strings.CutPrefix(target, "re:")
				ok := false
				switch {
				case pass == 0:
					ok = target == name
				case pass == 1 && isRegexp:
					var err error
					if ok, err = matchStart(pattern, name); err != nil {
						return nil, fmt.Errorf("%s: target %q: %w", layout.QuantizationKey, target, err)
					}
				case pass == 2:
					ok = target == "Linear"
				}
				if ok {
					return s.Weights, nil
				}
			}
		}
	}
	return nil, fmt.Errorf("%s: no target of config_groups matches layer %q", layout.QuantizationKey, name)
}

// matchStart reports whether a regular expression matches s from its start,
// as re.match does in Python. Expressions that Go cannot compile, such as those
// that look ahead, go to a backtracking engine that gives up in time.
func matchStart(pattern, s string) (bool, error) {
	if re, err := regexp.Compile(`^(?:` + pattern + `)`); err == nil {
		return re.MatchString(s), nil
	}
	re, err := regexp2.Compile(`\A(?:`+pattern+`)`, regexp2.None)
	if err != nil {
		return false, err
	}
	re.MatchTimeout = 5 * time.Second
	return re.MatchString(s)
}
