// Package inputs reads the files that flags name: rules and token ids.
package inputs

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/internal/disk"
)

// Rules reads a file of rules: a list of maps, in YAML or JSON.
func Rules(path string) ([]fitting.Rule, error) {
	const limit = 1 << 20
	data, err := disk.ReadText(path, limit)
	if err != nil {
		return nil, err
	}
	var list []map[string]string
	d := yaml.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&list); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: want a list of rules, each a map such as {match: 'down_proj$', bits: 8}: %w", path, err)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one document", path)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: no rules", path)
	}
	rules := make([]fitting.Rule, len(list))
	for i, values := range list {
		match := values["match"]
		delete(values, "match")
		if rules[i], err = fitting.NewRule(match, values); err != nil {
			return nil, fmt.Errorf("%s: number %d: %w", path, i+1, err)
		}
	}
	return rules, nil
}
