package lora

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/torchfile"
	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/safetensors"
)

// Adapter is an opened adapter.
type Adapter struct {
	dir     string
	config  *config
	src     weights.Tensors
	pairs   []pair
	replace []replacement
}

// pair is A and B of one module.
type pair struct {
	module    string // in the base, as the adapter names it
	a, b      string // tensors of the adapter
	embedding bool
}

// replacement is a tensor that takes the place of the base's.
type replacement struct{ name, from string }

const keyPrefix = "base_model.model."

// IsAdapter says whether the folder holds an adapter.
func IsAdapter(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, ConfigName))
	return err == nil
}

// Open opens an adapter folder.
func Open(dir string) (*Adapter, error) {
	c, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	src, err := openTensors(dir)
	if err != nil {
		return nil, err
	}
	a := &Adapter{dir: dir, config: c, src: src}
	if err := a.sort(); err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return a, nil
}

func openTensors(dir string) (weights.Tensors, error) {
	f, err := safetensors.Open(filepath.Join(dir, "adapter_model.safetensors"))
	if err == nil {
		return weights.Safetensors(f, dir), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	t, err := torchfile.Open(filepath.Join(dir, "adapter_model.bin"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: a LoRA adapter without weights: neither adapter_model.safetensors nor adapter_model.bin: %w", dir, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// sort tells pairs from replacements.
func (a *Adapter) sort() error {
	halves := map[string]*pair{}
	var order []string
	half := func(module string, embedding bool) *pair {
		if halves[module] == nil {
			halves[module] = &pair{module: module, embedding: embedding}
			order = append(order, module)
		}
		return halves[module]
	}
	for _, key := range a.src.Names() {
		name := strings.ReplaceAll(strings.TrimPrefix(key, keyPrefix), ".default", "")
		if module, ok := strings.CutSuffix(name, ".lora_A.weight"); ok {
			half(module, false).a = key
		} else if module, ok := strings.CutSuffix(name, ".lora_B.weight"); ok {
			half(module, false).b = key
		} else if module, ok := strings.CutSuffix(name, ".lora_embedding_A"); ok {
			half(module, true).a = key
		} else if module, ok := strings.CutSuffix(name, ".lora_embedding_B"); ok {
			half(module, true).b = key
		} else if strings.Contains(name, ".lora_") || strings.Contains(name, "trainable_tokens") {
			return fmt.Errorf("%s: tensor %q: %w: neither lora_A nor lora_B; merge it with PEFT first (merge_and_unload)", a.src.Path(key), key, ErrUnsupported)
		} else {
			a.replace = append(a.replace, replacement{plainName(name), key})
		}
	}
	for _, module := range order {
		p := halves[module]
		if p.a == "" || p.b == "" {
			return fmt.Errorf("%s: module %q has only one of lora_A and lora_B", a.src.Path(p.a+p.b), module)
		}
		a.pairs = append(a.pairs, *p)
	}
	if len(a.pairs)+len(a.replace) == 0 {
		return fmt.Errorf("%s: a LoRA adapter with no tensors", a.src.Path(""))
	}
	return nil
}

// plainName is the name without PEFT's wrappers.
func plainName(name string) string {
	for _, w := range []string{".modules_to_save", ".base_layer", ".original_module"} {
		name = strings.ReplaceAll(name, w+".", ".")
	}
	return name
}

// Base is the base model's name or path and revision, as the configuration has
// them; "" where it has none.
func (a *Adapter) Base() (name, revision string) { return a.config.Base, a.config.Revision }

// Close closes the adapter's files.
func (a *Adapter) Close() error { return a.src.Close() }
