package torchfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/safetensors"
)

// The file names of a model folder.
const (
	SingleName = "pytorch_model.bin"
	IndexName  = "pytorch_model.bin.index.json"
)

const maxIndex = 100_000_000 // bytes

// Folder is a model's tensors in a folder: one file or shards. It implements Reader.
type Folder struct {
	dir   string
	files []*File
	where map[string]*File
}

// OpenFolder opens pytorch_model.bin or, where there is none, the shards that
// pytorch_model.bin.index.json names. A folder with neither is an error that
// wraps fs.ErrNotExist. Every tensor of the index must be in the shard it is
// said to be in, and none in two shards.
func OpenFolder(dir string) (*Folder, error) {
	f, err := Open(filepath.Join(dir, SingleName))
	if err == nil {
		return newFolder(dir, []*File{f})
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	index := filepath.Join(dir, IndexName)
	weights, err := readIndex(index)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: neither %s nor %s: %w", dir, SingleName, IndexName, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	shards := slices.Compact(slices.Sorted(maps.Values(weights)))
	for i, shard := range shards {
		shards[i] = filepath.Join(dir, shard)
	}
	d, err := OpenFiles(dir, shards)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", IndexName, err)
	}
	if err := d.checkIndex(index, weights); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// OpenFiles opens the files at the paths as one. No tensor may be in two.
func OpenFiles(dir string, paths []string) (*Folder, error) {
	var files []*File
	for _, path := range paths {
		f, err := Open(path)
		if err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
		files = append(files, f)
	}
	return newFolder(dir, files)
}

// newFolder takes the files over, also where it fails.
func newFolder(dir string, files []*File) (*Folder, error) {
	d := &Folder{dir: dir, files: files, where: map[string]*File{}}
	for _, f := range files {
		for _, name := range f.names {
			if other, ok := d.where[name]; ok {
				return nil, errors.Join(invalidf("%s: tensor %s: also in %s", f.path, nameText(name), filepath.Base(other.path)), d.Close())
			}
			d.where[name] = f
		}
	}
	return d, nil
}

func (d *Folder) checkIndex(index string, weights map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if f, ok := d.where[name]; !ok || filepath.Base(f.path) != weights[name] {
			return invalidf("%s: tensor %s: not in %s", index, nameText(name), nameText(weights[name]))
		}
	}
	return nil
}

// readIndex returns the index's weight_map, tensor name to shard name.
func readIndex(path string) (map[string]string, error) {
	text, err := disk.ReadText(path, maxIndex)
	if errors.Is(err, disk.ErrNotRegular) || errors.Is(err, disk.ErrTooLarge) {
		return nil, invalidf("%v", err)
	}
	if err != nil {
		return nil, err
	}
	var index struct {
		Weights map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, invalidf("%s: not an index of shards: %v", path, err)
	}
	if len(index.Weights) == 0 {
		return nil, invalidf("%s: weight_map is missing or empty", path)
	}
	for _, name := range slices.Sorted(maps.Keys(index.Weights)) {
		if shard := index.Weights[name]; !disk.PlainName(shard) {
			return nil, invalidf("%s: shard name %s is not a plain file name: it may not leave the folder", path, nameText(shard))
		}
	}
	return index.Weights, nil
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
	var names []string
	for _, f := range d.files {
		names = append(names, f.names...)
	}
	return names
}

// Info implements Reader.
func (d *Folder) Info(name string) (safetensors.TensorInfo, bool) {
	f, ok := d.where[name]
	if !ok {
		return safetensors.TensorInfo{}, false
	}
	return f.Info(name)
}

// ReadAt implements Reader.
func (d *Folder) ReadAt(name string, p []byte, off int64) error {
	f, ok := d.where[name]
	if !ok {
		return &fault{ErrNotFound, fmt.Sprintf("%s: tensor %s: no such tensor", d.dir, nameText(name))}
	}
	return f.ReadAt(name, p, off)
}

// Path implements Reader.
func (d *Folder) Path(name string) string {
	if f, ok := d.where[name]; ok {
		return f.path
	}
	return d.dir
}

// Close implements Reader.
func (d *Folder) Close() error { return closeAll(d.files) }
