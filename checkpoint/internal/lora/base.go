package lora

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/golowbit/lowbit/checkpoint/internal/hubcache"
)

// FindBase finds the base that the configuration of the adapter in the folder
// path names: a folder, or in the hub's cache.
func (a *Adapter) FindBase(path string) (string, error) {
	const help = "give the base model's path (--base)"
	name, revision := a.Base()
	if name == "" {
		return "", fmt.Errorf("%s is a LoRA adapter whose %s names no base: %s", path, ConfigName, help)
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
