package checkpoint

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/safetensors"
)

// densePrefix begins the names of folders that hold changed dense tensors,
// beside those of finished layers.
const (
	densePrefix = "dense-"
	checksumKey = "crc32c"
)

// PutDense changes a vector that is copied from the source: a norm's gain or
// a bias. It is stored in the type that the source's tensor has, which must
// hold every value exactly. Like a finished layer it is kept across a resume;
// to put the same values again is allowed, to put others is an error.
func (w *Writer) PutDense(name string, values []float32) error {
	if err := w.checkDense(name, values); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errors.New("the writer is closed")
	}
	if old, ok := w.changed[name]; ok {
		if !slices.Equal(old, values) {
			return fmt.Errorf("tensor %q has been changed already, to other values", name)
		}
		return nil
	}
	if !w.o.Direct {
		if err := w.spoolDense(name, values); err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
	}
	w.changed[name] = slices.Clone(values)
	return nil
}

// checkDense reports whether a tensor can be changed to values.
func (w *Writer) checkDense(name string, values []float32) error {
	src := w.o.Source
	spec, ok := src.src.Spec(name)
	if _, packed := src.part[name]; !ok || packed {
		return fmt.Errorf("%s: no dense tensor %q to change", src.Path(), name)
	}
	if !slices.Equal(spec.Shape, []int{len(values)}) {
		return fmt.Errorf("%s: tensor %q: shape %v, want a vector of %d", src.Path(), name, spec.Shape, len(values))
	}
	switch spec.DType {
	case safetensors.F32, safetensors.F16, safetensors.BF16:
	default:
		return fmt.Errorf("%s: tensor %q: dtype %v, want F32, F16 or BF16", src.Path(), name, spec.DType)
	}
	if i := wire.NotFinite(values); i >= 0 {
		return fmt.Errorf("tensor %q: element %d is %g", name, i, values[i])
	}
	_, err := layout.FloatTensor(name, spec.DType, values, len(values))
	return err
}

func (w *Writer) densePath(name string) string {
	return filepath.Join(w.partial, spoolFolder, densePrefix+url.PathEscape(name))
}

func (w *Writer) spoolDense(name string, values []float32) error {
	spec, _ := w.o.Source.src.Spec(name)
	t, err := layout.FloatTensor(name, spec.DType, values, len(values))
	if err != nil {
		return err
	}
	dir := w.densePath(name)
	// What an interrupted run may have left there is incomplete.
	if err := w.disk.RemoveAll(dir); err != nil {
		return err
	}
	if err := w.hashInputs(); err != nil {
		return err
	}
	if err := w.disk.Mkdir(dir, 0o777); err != nil {
		return err
	}
	out, err := safetensors.NewWriterOn(w.disk, dir, specInfos([]layout.Spec{t.Spec}), safetensors.Options{
		MaxShardBytes: -1, Metadata: map[string]string{checksumKey: checksum(t.Data)},
	})
	if err != nil {
		return err
	}
	defer out.Abort()
	if err := out.WriteTensor(name, t.Data); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return w.disk.SyncFolder(filepath.Dir(dir))
}

// resumeDense finds the dense tensors that an interrupted run has changed.
func (w *Writer) resumeDense() error {
	folder := filepath.Join(w.partial, spoolFolder)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		escaped, ok := strings.CutPrefix(e.Name(), densePrefix)
		if !ok {
			continue
		}
		dir := filepath.Join(folder, e.Name())
		name, err := url.PathUnescape(escaped)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		values, err := readSpooledDense(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // incomplete
		}
		if err == nil {
			err = w.checkDense(name, values)
		}
		if err != nil {
			// Every layer may have been made with it.
			if err := w.setAside(dir, err); err != nil {
				return err
			}
			return w.setAllAside()
		}
		w.changed[name] = values
	}
	return nil
}

func readSpooledDense(dir, name string) ([]float32, error) {
	r, err := safetensors.OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	values, err := readChecked(source{weights.Safetensors(r, dir)}, name, r.Metadata()[checksumKey])
	return values, errors.Join(err, r.Close())
}

func readChecked(src layout.Source, name, sum string) ([]float32, error) {
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

// origin is the source as it is with the changed tensors.
func (w *Writer) origin() overlay {
	w.mu.Lock()
	defer w.mu.Unlock()
	return overlay{w.o.Source, maps.Clone(w.changed)}
}
