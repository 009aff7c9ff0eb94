package gguf

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
)

// A model may lie in several files (llama.cpp's llama-gguf-split): the first has the
// metadata, each has some of the tensors, and in each are these keys.
const (
	splitNoKey      = "split.no" // from 0
	splitCountKey   = "split.count"
	splitTensorsKey = "split.tensors.count" // of all parts
)

var partName = regexp.MustCompile(`^(.*)-([0-9]{5})-of-([0-9]{5})\.gguf$`)

// Parts lists the files of a model of which path is one, by its name alone,
// PREFIX-00001-of-00003.gguf; path itself where that is no part's.
func Parts(path string) []string {
	dir, name := filepath.Split(path)
	m := partName.FindStringSubmatch(name)
	if m == nil {
		return []string{path}
	}
	no, _ := strconv.Atoi(m[2])
	count, _ := strconv.Atoi(m[3])
	if no < 1 || no > count {
		return []string{path}
	}
	parts := make([]string, count)
	for i := range parts {
		parts[i] = dir + fmt.Sprintf("%s-%05d-of-%05d.gguf", m[1], i+1, count)
	}
	return parts
}

// OpenParts opens a file and, where it is part of a model in several, all of them as
// one, with the metadata of the first.
func OpenParts(path string) (*File, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	count, err := f.number(splitCountKey, 1)
	if err == nil && count <= 1 {
		return f, nil
	}
	var paths []string
	if err == nil {
		if paths = Parts(path); len(paths) != count {
			err = fmt.Errorf("one of %d parts (key %q), and the name does not end in -00001-of-%05d.gguf or the like", count, splitCountKey, count)
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	whole := &File{path: paths[0], names: map[string]int{}, owner: map[string]*File{}}
	whole.close = whole.closeParts
	for i, p := range paths {
		if err := whole.addPart(p, i, count); err != nil {
			return nil, errors.Join(err, whole.closeParts())
		}
	}
	if want, err := whole.number(splitTensorsKey, len(whole.tensors)); err != nil || want != len(whole.tensors) {
		if err == nil {
			err = fmt.Errorf("%d tensors in %d parts, want %d (key %q): the parts are not of one model", len(whole.tensors), count, want, splitTensorsKey)
		}
		return nil, errors.Join(fmt.Errorf("%s: %w", paths[0], err), whole.closeParts())
	}
	return whole, nil
}

// addPart opens part i and adds its tensors.
func (f *File) addPart(path string, i, count int) error {
	p, err := Open(path)
	if err != nil {
		return fmt.Errorf("part %d of %d: %w", i+1, count, err)
	}
	f.parts = append(f.parts, p)
	for _, want := range []struct {
		key   string
		value int
	}{{splitNoKey, i}, {splitCountKey, count}} {
		if got, err := p.number(want.key, -1); err != nil || got != want.value {
			return errors.Join(err, fmt.Errorf("%s: key %q is %d, want %d of part %d of %d", path, want.key, got, want.value, i+1, count))
		}
	}
	if i == 0 {
		f.version, f.kv, f.keys = p.version, p.kv, p.keys
	}
	for _, e := range p.kv {
		first, ok := f.Value(e.Key)
		if ok && e.Key != splitNoKey && e.Key != alignmentKey && !reflect.DeepEqual(first, e.Value) {
			return fmt.Errorf("%s: key %q is %v, and %v in the first part: they are not of one model", path, e.Key, e.Value, first)
		}
	}
	for _, t := range p.tensors {
		if other, twice := f.owner[t.Name]; twice {
			return fmt.Errorf("%s: tensor %q is in %s too", path, t.Name, other.path)
		}
		f.owner[t.Name], f.names[t.Name] = p, len(f.tensors)
		f.tensors = append(f.tensors, t)
	}
	return nil
}

func (f *File) closeParts() error {
	var errs []error
	for _, p := range f.parts {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// number is the value of a key that is a whole number, or otherwise where it is absent.
func (f *File) number(key string, otherwise int) (int, error) {
	v, ok := f.Value(key)
	if !ok {
		return otherwise, nil
	}
	switch n := reflect.ValueOf(v); {
	case n.CanInt():
		return int(n.Int()), nil
	case n.CanUint() && n.Uint() < 1<<31:
		return int(n.Uint()), nil
	}
	return 0, fmt.Errorf("key %q: %v of type %T, want a whole number", key, v, v)
}

// Path is the file that a tensor is in.
func (f *File) Path(tensor string) string {
	if p, ok := f.owner[tensor]; ok {
		return p.path
	}
	return f.path
}
