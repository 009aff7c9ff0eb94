package mlx

import (
	"encoding/json"
	"fmt"

	"github.com/golowbit/lowbit/checkpoint/internal/fp4"
	"github.com/golowbit/lowbit/checkpoint/layout"
)

// key is mlx-lm's own in config.json.
const key = "quantization"

// Detect looks for group_size and bits without a quant_method.
func (Format) Detect(quantization json.RawMessage) bool {
	var c struct {
		Method *string `json:"quant_method"`
		Group  *int    `json:"group_size"`
		Bits   *int    `json:"bits"`
	}
	return json.Unmarshal(quantization, &c) == nil && c.Method == nil && c.Group != nil && c.Bits != nil
}

// config is the value of "quantization": how most modules are quantized, and
// by their names those that differ.
type config struct {
	common Scheme
	of     map[string]Scheme
}

// schemeJSON is how a scheme is written.
type schemeJSON struct {
	Group int    `json:"group_size"`
	Bits  int    `json:"bits"`
	Mode  string `json:"mode"`
}

func parse(quantization json.RawMessage) (*config, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(quantization, &keys); err != nil {
		return nil, fmt.Errorf("quantization: %w", err)
	}
	scheme := func(data json.RawMessage) (Scheme, error) {
		c := schemeJSON{Mode: affineMode}
		if err := json.Unmarshal(data, &c); err != nil {
			return Scheme{}, err
		}
		s := Scheme{c.Bits, c.Group, c.Mode}
		return s, s.Validate()
	}
	c := &config{of: map[string]Scheme{}}
	var err error
	if c.common, err = scheme(quantization); err != nil {
		return nil, fmt.Errorf("quantization: %w", err)
	}
	for key, v := range keys {
		if len(v) == 0 || v[0] != '{' {
			continue // a value of the common scheme, or false: left in floats
		}
		if c.of[key], err = scheme(v); err != nil {
			return nil, fmt.Errorf("quantization: %.200q: %w", key, err)
		}
	}
	return c, nil
}

func (c *config) scheme(module string) Scheme {
	if s, ok := c.of[module]; ok {
		return s
	}
	return c.common
}

// Config writes how most layers are quantized, and those by name that differ. It
// is written twice, as mlx-lm does: once for Hugging Face.
func (Format) Config(c layout.Contents) (layout.Config, error) {
	all := make([]schemeJSON, len(c.Layers))
	for i, l := range c.Layers {
		all[i] = schemeJSON{l.Scheme.GroupLen(l.In), l.Scheme.Bits, affineMode}
		if mode, ok := grids.Name(l.Scheme); ok {
			all[i].Mode = mode
		}
	}
	common := schemeJSON{64, 4, affineMode} // of mlx-lm's own folders
	if len(all) > 0 {
		common = layout.MostFrequent(all)
	}
	text, err := json.Marshal(common)
	if err != nil {
		return layout.Config{}, err
	}
	o, err := layout.ParseObject(text)
	if err != nil {
		return layout.Config{}, err
	}
	stacks := Format{}.Stacks(c.Config)
	for i, l := range c.Layers {
		if all[i] == common {
			continue
		}
		name := l.Name
		if stacks != nil {
			if stack, _, ok := stacks(name); ok {
				name = stack
			}
		}
		v, err := json.Marshal(all[i])
		if err != nil {
			return layout.Config{}, err
		}
		o.Set(name, v)
	}
	return layout.Config{Quantization: o.Bytes(), Set: map[string]json.RawMessage{key: o.Bytes()}}, nil
}

// ParseFP4 reads what Format.FP4 can be.
func ParseFP4(name string) (string, error) { return fp4.Parse(name) }
