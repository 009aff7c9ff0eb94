package partial

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Kept is what lies in OUT.partial/layers. Finished layers have a folder of their
// own named after the layer, a safetensors file in the format "lowbit" with the
// report in its metadata. Vectors that were changed lie beside them in the same
// way, notes as files. A file appears under its name when it is complete and
// synced, so that its presence says that it is done. Names come from a stranger's
// file; escaped, they cannot leave the folder.
type Kept struct {
	layers string
	disk   disk.FS
	// unique, if set, is a path that nothing else has: others may keep the same here at
	// the same time, and have it then.
	unique func() string
}

const (
	layerPrefix  = "layer-"
	notePrefix   = "note-"
	vectorPrefix = "dense-"

	reportKey   = "report"
	checksumKey = "crc32c"
)

// MakeKept makes the folder.
func (k Kept) MakeKept() error { return k.disk.MkdirAll(k.layers, 0o777) }

func (k Kept) path(prefix, name string) string {
	return filepath.Join(k.layers, prefix+url.PathEscape(name))
}

// LayerPath is the folder of a layer.
func (k Kept) LayerPath(name string) string { return k.path(layerPrefix, name) }

// RemoveLayer, RemoveNote and RemoveVector give one up.
func (k Kept) RemoveLayer(name string) error  { return k.disk.RemoveAll(k.LayerPath(name)) }
func (k Kept) RemoveNote(name string) error   { return k.disk.RemoveAll(k.path(notePrefix, name)) }
func (k Kept) RemoveVector(name string) error { return k.disk.RemoveAll(k.path(vectorPrefix, name)) }

// PutLayer keeps a layer. The report may be nil.
func (k Kept) PutLayer(l layout.Layer, q *quant.Weight, report json.RawMessage) error {
	l, q, shifts, metadata, err := uniform(l, q)
	if err != nil {
		return err
	}
	tensors, err := native.Format{}.Encode(l, q)
	if err != nil {
		return err
	}
	tensors = append(tensors, shifts...)
	metadata["format"] = "pt"
	if report != nil {
		metadata[reportKey] = string(report)
	}
	return k.write(k.LayerPath(l.Name), tensors, metadata)
}

// write makes a folder of one safetensors file.
func (k Kept) write(dir string, tensors []layout.Tensor, metadata map[string]string) error {
	if k.unique != nil {
		return k.writeShared(dir, tensors, metadata)
	}
	// What an interrupted run may have left there is incomplete.
	if err := k.disk.RemoveAll(dir); err != nil {
		return err
	}
	if err := k.fill(dir, tensors, metadata); err != nil {
		return err
	}
	return k.disk.SyncFolder(filepath.Dir(dir))
}

// fill makes a folder with the file in it.
func (k Kept) fill(dir string, tensors []layout.Tensor, metadata map[string]string) error {
	if err := k.disk.Mkdir(dir, 0o777); err != nil {
		return err
	}
	var plan []layout.Spec
	for _, t := range tensors {
		plan = append(plan, t.Spec)
	}
	out, err := safetensors.NewWriterOn(k.disk, dir, weights.Infos(plan), safetensors.Options{MaxShardBytes: -1, Metadata: metadata})
	if err != nil {
		return err
	}
	defer out.Abort()
	for _, t := range tensors {
		if err := out.WriteTensor(t.Name, t.Data); err != nil {
			return err
		}
	}
	return out.Close()
}

// openLayer opens a layer; the error wraps fs.ErrNotExist if it is not done.
func (k Kept) openLayer(name string) (layout.Decoder, *safetensors.Folder, error) {
	dir := k.LayerPath(name)
	r, err := safetensors.OpenFolder(dir)
	if err != nil {
		return nil, nil, err
	}
	src := weights.Source{Tensors: weights.Safetensors(r, dir)}
	dec, err := native.Format{}.Open(json.RawMessage("{}"), src)
	if err == nil && (len(dec.Layers()) != 1 || dec.Layers()[0].Name != name) {
		err = layout.TensorError(src, name, "want this layer alone")
	}
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return dec, r, nil
}

// Layer describes a layer, as far as the weight tells, and returns its report. planned
// has the layer's grid, if that is not uniform. The error wraps fs.ErrNotExist if
// the layer is not done.
func (k Kept) Layer(name string, planned quant.Scheme) (layout.Layer, json.RawMessage, error) {
	dec, r, err := k.openLayer(name)
	if err != nil {
		return layout.Layer{}, nil, err
	}
	l, err := gridded(dec.Layers()[0], planned, r)
	if err != nil {
		return l, nil, errors.Join(err, r.Close())
	}
	var report json.RawMessage
	if s, ok := r.Metadata()[reportKey]; ok {
		report = json.RawMessage(s)
	}
	return l, report, r.Close()
}

// Weight reads a layer that is done; planned is that of Layer.
func (k Kept) Weight(name string, planned quant.Scheme) (*quant.Weight, error) {
	dec, r, err := k.openLayer(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: finished layer %q has gone: %w", filepath.Dir(k.layers), name, err)
	}
	if err != nil {
		return nil, err
	}
	q, err := dec.Weight(name)
	if err == nil {
		var l layout.Layer
		if l, err = gridded(dec.Layers()[0], planned, r); err == nil {
			err = regrid(q, l, r)
		}
	}
	return q, errors.Join(err, r.Close())
}

// PutNote keeps data under a name.
func (k Kept) PutNote(name string, data []byte) error {
	path, all := k.path(notePrefix, name), slices.Concat([]byte(checksum(data)), []byte("\n"), data)
	if k.unique != nil {
		return k.noteShared(path, all)
	}
	return k.disk.WriteFile(path, all)
}

// Found is what was kept under a name. Damaged says why it cannot be used.
type Found[T any] struct {
	Name, Path string
	Value      T
	Damaged    error
}

// Notes reads all notes. What is not whole was damaged later: they get their names
// last.
func (k Kept) Notes() ([]Found[[]byte], error) {
	return find(k, notePrefix, readNote)
}

func readNote(path, name string) (data []byte, damaged, err error) {
	data, err = disk.ReadFile(path, maxBytes)
	if err != nil {
		return nil, nil, err
	}
	sum, data, _ := bytes.Cut(data, []byte("\n"))
	if got := checksum(data); got != string(sum) {
		return nil, fmt.Errorf("note %q: checksum %s, want %s: the file is damaged", name, got, sum), nil
	}
	return data, nil, nil
}

// find reads what is kept with a prefix. What is not there is incomplete.
func find[T any](k Kept, prefix string, read func(path, name string) (value T, damaged, err error)) ([]Found[T], error) {
	entries, err := os.ReadDir(k.layers)
	if err != nil {
		return nil, err
	}
	var all []Found[T]
	for _, e := range entries {
		escaped, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok {
			continue
		}
		f := Found[T]{Path: filepath.Join(k.layers, e.Name())}
		if !e.IsDir() && strings.HasSuffix(escaped, ".tmp") {
			if err := k.disk.Remove(f.Path); err != nil {
				return nil, err
			}
			continue
		}
		if f.Name, err = url.PathUnescape(escaped); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
		f.Value, f.Damaged, err = read(f.Path, f.Name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// PutVector keeps a vector.
func (k Kept) PutVector(t layout.Tensor) error {
	return k.write(k.path(vectorPrefix, t.Name), []layout.Tensor{t}, map[string]string{checksumKey: checksum(t.Data)})
}

// Vectors reads all vectors.
func (k Kept) Vectors() ([]Found[[]float32], error) {
	return find(k, vectorPrefix, func(dir, name string) (values []float32, damaged, err error) {
		r, err := safetensors.OpenFolder(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		if err != nil {
			return nil, err, nil
		}
		values, err = checked(weights.Source{Tensors: weights.Safetensors(r, dir)}, name, r.Metadata()[checksumKey])
		return values, errors.Join(err, r.Close()), nil
	})
}

// checked reads a vector whose checksum is known.
func checked(src layout.Source, name, sum string) ([]float32, error) {
	spec, data, err := layout.ReadBytes(src, name, []int{layout.AnyDim}, layout.FloatTypes()...)
	if err != nil {
		return nil, err
	}
	if got := checksum(data); got != sum {
		return nil, layout.TensorError(src, name, "checksum %s, want %s: the file is damaged", got, sum)
	}
	values := make([]float32, spec.Elems())
	return values, safetensors.DecodeFloat32(values, spec.DType, data)
}

func checksum(data []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
}
