package lora

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/disk"
)

// ConfigName is the file that makes a folder an adapter.
const ConfigName = "adapter_config.json"

// ErrUnsupported is wrapped where an adapter is of a kind that is not merged.
var ErrUnsupported = errors.New("adapter not supported")

const maxConfig = 16 << 20 // bytes

// config is adapter_config.json.
type config struct {
	PEFTType     string          `json:"peft_type"`
	Base         string          `json:"base_model_name_or_path"`
	Revision     string          `json:"revision"`
	Rank         int             `json:"r"`
	Alpha        *float64        `json:"lora_alpha"`
	RankPattern  pattern         `json:"rank_pattern"`
	AlphaPattern pattern         `json:"alpha_pattern"`
	RSLoRA       bool            `json:"use_rslora"`
	FanInFanOut  bool            `json:"fan_in_fan_out"`
	Tying        bool            `json:"ensure_weight_tying"`
	Init         json.RawMessage `json:"init_lora_weights"`
	FineTuneType string          `json:"fine_tune_type"` // of mlx-lm's adapters
}

// refusedKeys ask for another merge where they are neither absent, null, false
// nor empty.
var refusedKeys = []string{
	"use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "target_parameters",
	"trainable_token_indices", "alora_invocation_tokens", "arrow_config", "velora_config",
	"monteclora_config", "kasa_config",
}

// plainInits are the ways to start A and B that leave the base as it is; the
// others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) also change its weights.
var plainInits = []string{"", "null", "true", "false", `"gaussian"`, `"eva"`, `"orthogonal"`}

func readConfig(dir string) (*config, error) {
	path := filepath.Join(dir, ConfigName)
	data, err := disk.ReadText(path, maxConfig)
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func parseConfig(data []byte) (*config, error) {
	c := &config{Rank: 8}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("not an adapter's configuration: %w", err)
	}
	if c.PEFTType == "" && c.FineTuneType != "" {
		return nil, fmt.Errorf("%w: made by mlx-lm; fuse it first: mlx_lm.fuse --model BASE --adapter-path ADAPTER --save-path MODEL", ErrUnsupported)
	}
	if !strings.EqualFold(c.PEFTType, "LORA") {
		return nil, fmt.Errorf("%w: peft_type %q, want LORA", ErrUnsupported, c.PEFTType)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return nil, err
	}
	for _, key := range refusedKeys {
		if v, ok := keys[key]; ok && !slices.Contains([]string{"null", "false", "[]", "{}", `""`}, string(v)) {
			return nil, fmt.Errorf("%w: %s is set; merge it with PEFT first (merge_and_unload)", ErrUnsupported, key)
		}
	}
	if !slices.Contains(plainInits, string(c.Init)) {
		return nil, fmt.Errorf("%w: init_lora_weights %s changes the base's weights too; merge it with PEFT first (merge_and_unload)", ErrUnsupported, c.Init)
	}
	if c.Rank < 1 {
		return nil, fmt.Errorf("r is %d, want 1 or more", c.Rank)
	}
	for _, p := range c.RankPattern {
		if p.value != math.Trunc(p.value) {
			return nil, fmt.Errorf("rank_pattern has the rank %g", p.value)
		}
	}
	if c.Alpha == nil {
		alpha := 8.0 // PEFT's default
		c.Alpha = &alpha
	}
	return c, nil
}

// rank and scale of a module, by its name in the base.
func (c *config) rank(module string) int {
	if v, ok := c.RankPattern.find(module); ok {
		return int(v)
	}
	return c.Rank
}

func (c *config) scale(module string) float32 {
	alpha := *c.Alpha
	if v, ok := c.AlphaPattern.find(module); ok {
		alpha = v
	}
	r := float64(c.rank(module))
	if c.RSLoRA {
		r = math.Sqrt(r)
	}
	return float32(alpha / r)
}

// pattern maps names to numbers. A key is a regular expression that matches the
// name or the end of it after a dot; the first that does counts.
type pattern []rule

type rule struct {
	key   *regexp.Regexp
	value float64
}

func (p pattern) find(module string) (float64, bool) {
	for _, r := range p {
		if r.key.MatchString(module) {
			return r.value, true
		}
	}
	return 0, false
}

// UnmarshalJSON keeps the order of the keys.
func (p *pattern) UnmarshalJSON(data []byte) error {
	*p = nil
	if string(data) == "null" {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("a pattern is %.40s, want an object", data)
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		key := t.(string)
		var v float64
		if err := dec.Decode(&v); err != nil {
			return fmt.Errorf("pattern %q: %w", key, err)
		}
		expr, err := regexp.Compile(`^(.*\.)?(` + key + `)$`)
		if err != nil {
			return fmt.Errorf("pattern %q: %w", key, err)
		}
		if !(v > 0 && v <= math.MaxInt32) {
			return fmt.Errorf("pattern %q: %g, want a positive number", key, v)
		}
		*p = append(*p, rule{expr, v})
	}
	return nil
}
