package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/hubcache"
	"github.com/golowbit/lowbit/checkpoint/internal/lora"
	"github.com/golowbit/lowbit/checkpoint/layout"
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
		if base, err = findBase(path, a); err != nil {
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

// findBase finds the base that an adapter's configuration names.
func findBase(path string, a *lora.Adapter) (string, error) {
	const help = "give the base model's path (--base)"
	name, revision := a.Base()
	if name == "" {
		return "", fmt.Errorf("%s is a LoRA adapter whose %s names no base: %s", path, lora.ConfigName, help)
	}
	for _, dir := range []string{name, filepath.Join(path, name)} {
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			return dir, nil
		}
	}
	cache := hubcache.Dir(os.Getenv)
	dir, err := hubcache.Find(cache, name, revision)
	if errors.Is(err, hubcache.ErrNotCached) {
		return "", fmt.Errorf("%s is a LoRA adapter for %q, which is neither a folder nor in the hub's cache (%s): %s", path, name, cache, help)
	}
	return dir, err
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
	merged, err := a.Merge(tensors{m.src}, c.Tied)
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
	m.src, m.files = source{merged}, layered{os.DirFS(path), m.files}
	return nil
}

// layered shows the files of top and, where it has none of the name, of bottom.
type layered struct{ top, bottom fs.FS }

func (l layered) Open(name string) (fs.File, error) {
	f, err := l.top.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return l.bottom.Open(name)
	}
	return f, err
}

func (l layered) ReadDir(name string) ([]fs.DirEntry, error) {
	top, err := fs.ReadDir(l.top, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	bottom, err := fs.ReadDir(l.bottom, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := slices.Clone(top)
	for _, e := range bottom {
		if !slices.ContainsFunc(top, func(t fs.DirEntry) bool { return t.Name() == e.Name() }) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all, nil
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
