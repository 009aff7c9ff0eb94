package coded

import "encoding/json"

// Sidecar is the file in which modelopt says how a model is quantized where config.json
// does not.
type Sidecar struct{}

// Sidecar implements layout.Sidecar.
func (Sidecar) Sidecar() string { return "hf_quant_config.json" }

// FromSidecar implements layout.Sidecar.
func (Sidecar) FromSidecar([]byte) (json.RawMessage, error) {
	return json.RawMessage(`{"quant_method":"modelopt"}`), nil
}
