package checkpoint

import (
	"fmt"

	"github.com/golowbit/lowbit/safetensors"
)

// ReadAt fills p with the bytes of a dense tensor as the file has them,
// little-endian, from offset off, for callers that go through it in pieces.
func (m *Model) ReadAt(name string, p []byte, off int64) error {
	if _, packed := m.part[name]; packed {
		return fmt.Errorf("%s: tensor %q is not read as it lies in the file", m.path, name)
	}
	if _, ok := m.src.Spec(name); !ok {
		return fmt.Errorf("%s: no tensor %q: %w", m.path, name, safetensors.ErrNotFound)
	}
	return m.src.ReadAt(name, p, off)
}
