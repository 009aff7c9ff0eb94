package autoawq

import (
	"encoding/json"
	"errors"

	"github.com/golowbit/lowbit/checkpoint/layout"
)

var _ layout.Sidecar = Format{}

// Sidecar is the file of the first AutoAWQ.
func (Format) Sidecar() string { return "quant_config.json" }

// FromSidecar names the method, which the file leaves out:
// {"zero_point": true, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}.
func (Format) FromSidecar(data []byte) (json.RawMessage, error) {
	o, err := layout.ParseObject(data)
	if err != nil {
		return nil, err
	}
	if _, ok := o.Get("w_bit"); !ok {
		return nil, errors.New("no w_bit: not the file of AutoAWQ")
	}
	o.Set("quant_method", json.RawMessage(`"awq"`))
	return o.Bytes(), nil
}
