package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/golowbit/lowbit/checkpoint/internal/lora"
	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/disk"
)

// OpenAdapter opens the LoRA adapter in the folder path merged into its base:
// base is the base's path or, if it is "", what the adapter's configuration
// names, as a folder or in the hub's cache. The sum is made in float32 while
// tensors are read. The base must not be quantized.
func OpenAdapter(path, base string, extra ...layout.Format) (*Model, error) {
	a, err := lora.Open(path)
	if err != nil {
		return nil, err
	}
	if base == "" {
		if base, err = a.FindBase(path); err != nil {
			return nil, errors.Join(err, a.Close())
		}
	}
	m, err := Open(base, extra...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the base of %s: %w", path, err), a.Close())
	}
	if err := m.merge(path, a); err != nil {
		return nil, errors.Join(err, m.Close(), a.Close())
	}
	return m, nil
}

// OpenMerged opens a model, or, with a base, the LoRA adapter at path merged into it.
func OpenMerged(path, base string) (*Model, error) {
	if base == "" {
		return Open(path)
	}
	return OpenAdapter(path, base)
}

// merge lays the adapter over the model. The model owns the adapter only if
// there is no error.
func (m *Model) merge(path string, a *lora.Adapter) error {
	if len(m.layers) > 0 {
		return fmt.Errorf("%s: the base %s is quantized (%s): merging needs it in floating point", path, m.path, m.format.Name())
	}
	var c struct {
		Tied bool `json:"tie_word_embeddings"`
	}
	if err := json.Unmarshal(m.config, &c); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(m.path, layout.ConfigFile), err)
	}
	merged, err := a.Merge(weights.Of(m.src), c.Tied)
	if err != nil {
		return err
	}
	if n := merged.Vocab(); n > 0 {
		o, err := layout.ParseObject(m.config)
		if err != nil {
			return err
		}
		o.Set("vocab_size", json.RawMessage(strconv.Itoa(n)))
		m.config = o.Bytes()
	}
	m.base, m.path = m.path, path
	m.src, m.files = weights.Source{Tensors: merged}, disk.Layered(os.DirFS(path), m.files)
	return nil
}

// IsAdapter says whether a folder holds an adapter and no model: those who
// merge one often leave its configuration beside the result.
func IsAdapter(path string) bool {
	if !lora.IsAdapter(path) {
		return false
	}
	_, err := os.Stat(filepath.Join(path, layout.ConfigFile))
	return errors.Is(err, fs.ErrNotExist) || nothingElse(path)
}

func nothingElse(path string) bool {
	src, _, err := openFolder(path, json.RawMessage("{}"))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	src.Close()
	return false
}
