package safetensors

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/disk"
)

// The file names of a model folder.
const (
	SingleName = "model.safetensors"
	IndexName  = "model.safetensors.index.json"
)

// Folder is a model's tensors in a folder: one file or shards. It implements Reader.
type Folder struct {
	dir   string
	files []*File
	where map[string]*File
}

// OpenFolder opens model.safetensors or, where there is none, the shards that
// model.safetensors.index.json names, sorted by name. Every tensor of the index
// must be in the shard it is said to be in, and none in two shards. Tensors of a
// shard that the index does not list are read like the others, so that nothing
// is lost. metadata.total_size is not checked: published indexes disagree on
// what it counts.
func OpenFolder(dir string) (*Folder, error) {
	if st, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !st.IsDir() {
		return nil, fmt.Errorf("%s: not a folder", dir)
	}
	single := filepath.Join(dir, SingleName)
	f, err := Open(single)
	if err == nil {
		return newFolder(dir, []*File{f})
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	index := filepath.Join(dir, IndexName)
	if _, err := os.Stat(index); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: neither %s nor %s: %w", dir, SingleName, IndexName, fs.ErrNotExist)
	}
	return OpenIndex(index)
}

// OpenIndex opens the shards that the index at path names, as OpenFolder does
// with one of another name.
func OpenIndex(index string) (*Folder, error) {
	dir := filepath.Dir(index)
	weightMap, err := readIndex(index)
	if err != nil {
		return nil, err
	}
	var files []*File
	for _, shard := range slices.Compact(slices.Sorted(maps.Values(weightMap))) {
		f, err := Open(filepath.Join(dir, shard))
		if errors.Is(err, fs.ErrNotExist) {
			err = fileErrorf(err, index, "shard %s is missing", nameText(shard))
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, f)
	}
	folder, err := newFolder(dir, files)
	if err != nil {
		return nil, err
	}
	if err := folder.checkIndex(index, weightMap); err != nil {
		folder.Close()
		return nil, err
	}
	return folder, nil
}

// newFolder takes the files over, also where it fails.
func newFolder(dir string, files []*File) (*Folder, error) {
	d := &Folder{dir: dir, files: files, where: map[string]*File{}}
	for _, f := range files {
		for _, t := range f.head.tensors {
			if other, ok := d.where[t.Name]; ok {
				d.Close()
				return nil, tensorErrorf(ErrInvalid, f.path, t.Name, "also in shard %s", baseName(other.path))
			}
			d.where[t.Name] = f
		}
	}
	return d, nil
}

// checkIndex goes through the names in order: the same error every time.
func (d *Folder) checkIndex(index string, weightMap map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(weightMap)) {
		f, ok := d.where[name]
		if !ok {
			return tensorErrorf(ErrInvalid, index, name, "not in shard %s", weightMap[name])
		}
		if found := baseName(f.path); found != weightMap[name] {
			return tensorErrorf(ErrInvalid, index, name, "not in shard %s but in %s", weightMap[name], found)
		}
	}
	return nil
}

// readIndex returns the index's weight_map, tensor name to shard name.
func readIndex(path string) (map[string]string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fileErrorf(ErrInvalid, path, "not a regular file")
	}
	if st.Size() > maxHeader {
		return nil, fileErrorf(ErrInvalid, path, "index too large: %d bytes, at most %d are allowed", st.Size(), maxHeader)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseIndex(text, path)
}

func parseIndex(text []byte, path string) (map[string]string, error) {
	// Editors on Windows put a byte order mark before the text.
	dec, err := openObject([]byte(strings.TrimSpace(strings.TrimPrefix(string(text), "\ufeff"))))
	if err != nil {
		return nil, fileErrorf(ErrInvalid, path, "index %v", err)
	}
	var weightMap map[string]string
	err = eachKey(dec, func(key string) error {
		if key == "weight_map" {
			weightMap, err = parseStrings(dec)
			return wrapKey(err, key)
		}
		var skip any
		return dec.Decode(&skip)
	})
	if err != nil {
		return nil, fileErrorf(ErrInvalid, path, "index: %v", err)
	}
	if len(weightMap) == 0 {
		return nil, fileErrorf(ErrInvalid, path, "index: weight_map is missing or empty")
	}
	for _, name := range slices.Sorted(maps.Keys(weightMap)) {
		if shard := weightMap[name]; !disk.PlainName(shard) {
			return nil, tensorErrorf(ErrInvalid, path, name, "shard name %s is not a plain file name: it may not leave the folder", nameText(shard))
		}
	}
	return weightMap, nil
}

func closeAll(files []*File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Names implements Reader.
func (d *Folder) Names() []string {
	names := make([]string, 0, len(d.where))
	for _, f := range d.files {
		names = append(names, f.Names()...)
	}
	return names
}

// Files returns the base names of the files, in the order of Names.
func (d *Folder) Files() []string {
	names := make([]string, len(d.files))
	for i, f := range d.files {
		names[i] = baseName(f.path)
	}
	return names
}

// Info implements Reader.
func (d *Folder) Info(name string) (TensorInfo, bool) {
	f, ok := d.where[name]
	if !ok {
		return TensorInfo{}, false
	}
	return f.Info(name)
}

// Metadata implements Reader: the strings of all files, the first file that has
// a key deciding.
func (d *Folder) Metadata() map[string]string {
	var out map[string]string
	for _, f := range d.files {
		for k, v := range f.head.metadata {
			if out == nil {
				out = map[string]string{}
			}
			if _, ok := out[k]; !ok {
				out[k] = v
			}
		}
	}
	return out
}

// Section implements Reader.
func (d *Folder) Section(name string) (*io.SectionReader, error) {
	f, err := d.find(name)
	if err != nil {
		return nil, err
	}
	return f.Section(name)
}

// ReadBytes implements Reader.
func (d *Folder) ReadBytes(name string, dst []byte) ([]byte, error) {
	f, err := d.find(name)
	if err != nil {
		return nil, err
	}
	return f.ReadBytes(name, dst)
}

// ReadFloat32 implements Reader.
func (d *Folder) ReadFloat32(name string, dst []float32) ([]float32, error) {
	f, err := d.find(name)
	if err != nil {
		return nil, err
	}
	return f.ReadFloat32(name, dst)
}

// ReadRows implements Reader.
func (d *Folder) ReadRows(name string, r0, r1 int, dst []float32) ([]float32, error) {
	f, err := d.find(name)
	if err != nil {
		return nil, err
	}
	return f.ReadRows(name, r0, r1, dst)
}

// Close implements Reader.
func (d *Folder) Close() error { return closeAll(d.files) }

func (d *Folder) find(name string) (*File, error) {
	f, ok := d.where[name]
	if !ok {
		return nil, tensorErrorf(ErrNotFound, d.dir, name, "no such tensor")
	}
	return f, nil
}
