package lowbit

import (
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/inspection"
)

// Info describes a model, with its dense tensors and its quantized linears.
type (
	Info           = inspection.Info
	TensorInfo     = inspection.Tensor
	QuantizedLayer = inspection.Layer
)

// openStored opens a model to look at; unknown says why it cannot be opened to
// work with.
func openStored(path, base string) (m *checkpoint.Model, unknown, err error) {
	if base == "" {
		return checkpoint.OpenStored(path)
	}
	m, err = openModel(path, base)
	return m, nil, err
}

// Inspect describes the model at path, a folder or a file. What cannot be run,
// or is quantized in a way that cannot be read, is described as it is stored, and
// Unsupported says why. It reads headers, not weights.
func Inspect(path string) (*Info, error) { return InspectAdapter(path, "") }

// InspectAdapter is Inspect for a LoRA adapter merged into the model at base.
func InspectAdapter(path, base string) (*Info, error) {
	m, unknown, err := openStored(path, base)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return inspection.Of(m, path, unknown)
}
