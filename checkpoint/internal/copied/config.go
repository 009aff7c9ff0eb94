package copied

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/layout"
)

// Other keys than layout.QuantizationKey: what compressed-tensors first called
// it, and mlx-lm's.
const (
	OlderKey = "compression_config"
	MLXKey   = "quantization"
)

// Config changes what a format wants changed in a config.json and
// leaves order and text of the rest.
func Config(source json.RawMessage, c layout.Config) ([]byte, error) {
	o, err := layout.ParseObject(source)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", layout.ConfigFile, err)
	}
	o.Remove(OlderKey)
	if v, ok := o.Get(MLXKey); ok && (mlx.Format{}).Detect(v) {
		o.Remove(MLXKey)
	}
	if c.Quantization == nil {
		o.Remove(layout.QuantizationKey)
	} else {
		o.Set(layout.QuantizationKey, c.Quantization)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Set)) {
		o.Set(key, c.Set[key])
	}
	for i, v := range o.Values {
		if !json.Valid(v) {
			return nil, fmt.Errorf("%s: value of %q is not JSON", layout.ConfigFile, o.Keys[i])
		}
	}
	return o.Bytes(), nil
}
