package checkpoint

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/golowbit/lowbit/internal/disk"
)

// input is a file that decides the result.
type input struct {
	Name string `json:"name"`
	// ID is what the system says of a file of weights: size, times, inode. As
	// long as it stays the file is not read.
	ID string `json:"id,omitempty"`
	// Hash is the XXH64 of what the file holds, "" as long as it is not known.
	Hash string `json:"hash,omitempty"`

	path string
}

// inputsOf lists the files of a model: those of weights by what the system
// says of them, and all others that go into the result, tokenizer and texts,
// by what they hold.
func inputsOf(m *Model) ([]input, error) {
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
		if strings.HasPrefix(name, ".") || isWeightFile(name) || strings.EqualFold(name, "config.json") {
			continue
		}
		st, err := fs.Stat(m.files, name)
		if err != nil {
			return nil, err
		}
		if !st.Mode().IsRegular() {
			continue
		}
		in := input{Name: name}
		if st.Size() > maxConfig {
			in.ID = disk.Identity(st)
		} else if in.Hash, err = hashFile(m.files, name); err != nil {
			return nil, err
		}
		list = append(list, in)
	}
	return list, nil
}

// weightInputs lists the files that hold the model's tensors.
func weightInputs(m *Model) ([]input, error) {
	var paths []string
	add := func(path string) {
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			// Parts of tensors lie in several of its files.
			entries, _ := os.ReadDir(path)
			for _, e := range entries {
				if isWeightFile(e.Name()) && isFile(filepath.Join(path, e.Name())) {
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
	}
	slices.Sort(paths)
	list := make([]input, 0, len(paths))
	for _, path := range slices.Compact(paths) {
		st, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		list = append(list, input{Name: m.inputName(path), ID: disk.Identity(st), path: path})
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

func hashFile(fsys fs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return hashOf(f)
}

func hashOf(r io.Reader) (string, error) {
	h := xxhash.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%016x", h.Sum64()), nil
}

// hash reads a file of weights, which must not change meanwhile.
func (in *input) hash() error {
	if in.Hash != "" || in.path == "" {
		return nil
	}
	f, err := os.Open(in.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if in.Hash, err = hashOf(f); err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && disk.Identity(st) != in.ID {
		err = fmt.Errorf("%s: the file has changed since the run began: was %s, is %s", in.path, in.ID, disk.Identity(st))
	}
	return err
}

// hashInputs puts into the journal what the files of weights hold, once, before
// anything is kept that depends on it.
func (w *Writer) hashInputs() error {
	if !w.o.Hash {
		return nil
	}
	w.hashOnce.Do(func() {
		again := false
		for i := range w.journal.Inputs {
			in := &w.journal.Inputs[i]
			again = again || in.Hash == "" && in.path != ""
			if w.hashErr = in.hash(); w.hashErr != nil {
				return
			}
		}
		if again {
			w.hashErr = w.writeState(w.journal)
		}
	})
	return w.hashErr
}

// compareInputs says in which files an earlier run differs. What is known of
// those that are the same goes into the journal.
func (w *Writer) compareInputs(was []input) (string, error) {
	old := map[string]input{}
	for _, in := range was {
		old[in.Name] = in
	}
	var list []string
	for i := range w.journal.Inputs {
		in := &w.journal.Inputs[i]
		o, ok := old[in.Name]
		delete(old, in.Name)
		switch {
		case !ok:
			list = append(list, in.Name+" was not there")
		case in.ID != "" && in.ID == o.ID:
			in.Hash = o.Hash
		case in.ID != "" && o.Hash == "":
			list = append(list, fmt.Sprintf("%s has been changed or replaced: was %s, is %s", in.Name, o.ID, in.ID))
		default:
			if err := in.hash(); err != nil {
				return "", err
			}
			if in.Hash != o.Hash {
				list = append(list, fmt.Sprintf("%s holds something else than it did", in.Name))
			}
		}
	}
	for name := range old {
		list = append(list, name+" is gone")
	}
	return joinSome(list), nil
}
