package checkpoint

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/copied"
	"github.com/golowbit/lowbit/checkpoint/internal/inputs"
	"github.com/golowbit/lowbit/checkpoint/internal/several"
	"github.com/golowbit/lowbit/internal/disk"
)

// inputsOf lists the files of a model: those of weights by what the system
// says of them, and all others that go into the result, tokenizer and texts,
// by what they hold.
func inputsOf(m *Model) ([]inputs.File, error) {
	list, err := weightInputs(m)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(m.path)
	if err != nil || !st.IsDir() {
		return list, err // what else there is comes out of the one file
	}
	entries, err := fs.ReadDir(m.files, ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || copied.IsWeights(name) || strings.EqualFold(name, "config.json") {
			continue
		}
		st, err := fs.Stat(m.files, name)
		if err != nil {
			return nil, err
		}
		if st.IsDir() {
			continue
		}
		if err := disk.Regular(filepath.Join(m.path, name)); err != nil {
			return nil, err // would be missing from the result
		}
		in, err := inputs.Other(m.files, name, maxConfig)
		if err != nil {
			return nil, err
		}
		list = append(list, in)
	}
	return list, nil
}

// weightInputs lists the files that hold the model's tensors.
func weightInputs(m *Model) ([]inputs.File, error) {
	var paths []string
	add := func(path string) {
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			// Parts of tensors lie in several of its files.
			entries, _ := os.ReadDir(path)
			for _, e := range entries {
				if copied.IsWeights(e.Name()) && isFile(filepath.Join(path, e.Name())) {
					paths = append(paths, filepath.Join(path, e.Name()))
				}
			}
			return
		}
		paths = append(paths, path)
	}
	seen := map[string]bool{}
	for _, name := range m.src.Names() {
		if file := m.src.File(name); !seen[file] {
			seen[file] = true
			add(file)
		}
	}
	if m.base != "" {
		add(m.path) // the adapter
	} else if isFile(m.path) {
		for _, part := range several.PartsOf(m.path, Formats()) {
			add(part) // the first may have no tensors
		}
	}
	slices.Sort(paths)
	list := make([]inputs.File, 0, len(paths))
	for _, path := range slices.Compact(paths) {
		in, err := inputs.Weights(m.inputName(path), path)
		if err != nil {
			return nil, err
		}
		list = append(list, in)
	}
	return list, nil
}

// inputName names a file so that another spelling of the model's path changes
// nothing.
func (m *Model) inputName(path string) string {
	if path == m.path {
		return "the model's file"
	}
	for _, dir := range []struct{ path, prefix string }{{m.path, ""}, {m.base, "base: "}} {
		if rel, err := filepath.Rel(dir.path, path); dir.path != "" && err == nil && filepath.IsLocal(rel) {
			return dir.prefix + filepath.ToSlash(rel)
		}
	}
	return filepath.Base(path)
}

// hashInputs puts into the journal what the files of weights hold, once, before
// anything is kept that depends on it.
func (w *Writer) hashInputs() error {
	if !w.o.Hash {
		return nil
	}
	w.hashOnce.Do(func() {
		again := false
		for i := range w.partial.State.Inputs {
			in := &w.partial.State.Inputs[i]
			again = again || in.Unread()
			if w.hashErr = in.Read(); w.hashErr != nil {
				return
			}
		}
		if again {
			w.hashErr = w.partial.WriteState()
		}
	})
	return w.hashErr
}
