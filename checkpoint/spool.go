package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"

	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Finished layers lie in OUT.partial/layers, each in a folder of its own
// named after the layer, as a safetensors file in the format "lowbit" with
// the report in its metadata. The file appears under its name when it is
// complete and synced, so that its presence says the layer is done.

const reportKey = "report"

func (w *Writer) spoolPath(name string) string {
	// The name comes from a stranger's file; escaped, it cannot leave the folder.
	return filepath.Join(w.partial, spoolFolder, "layer-"+url.PathEscape(name))
}

func (w *Writer) spool(l layout.Layer, q *quant.Weight, report json.RawMessage) error {
	if err := w.hashInputs(); err != nil {
		return err
	}
	tensors, err := native.Format{}.Encode(l, q)
	if err != nil {
		return err
	}
	dir := w.spoolPath(l.Name)
	// What an interrupted run may have left there is incomplete.
	if err := w.disk.RemoveAll(dir); err != nil {
		return err
	}
	if err := w.disk.Mkdir(dir, 0o777); err != nil {
		return err
	}
	var plan []layout.Spec
	for _, t := range tensors {
		plan = append(plan, t.Spec)
	}
	opts := safetensors.Options{MaxShardBytes: -1, Metadata: map[string]string{"format": "pt"}}
	if report != nil {
		opts.Metadata[reportKey] = string(report)
	}
	out, err := safetensors.NewWriterOn(w.disk, dir, specInfos(plan), opts)
	if err != nil {
		return err
	}
	defer out.Abort()
	for _, t := range tensors {
		if err := out.WriteTensor(t.Name, t.Data); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	return w.disk.SyncFolder(filepath.Dir(dir))
}

// openSpooled opens a finished layer; the error wraps fs.ErrNotExist if the
// layer is not done.
func (w *Writer) openSpooled(name string) (layout.Decoder, *safetensors.Folder, error) {
	dir := w.spoolPath(name)
	r, err := safetensors.OpenFolder(dir)
	if err != nil {
		return nil, nil, err
	}
	dec, err := native.Format{}.Open(json.RawMessage("{}"), source{weights.Safetensors(r, dir)})
	if err == nil && (len(dec.Layers()) != 1 || dec.Layers()[0].Name != name) {
		err = layout.TensorError(source{weights.Safetensors(r, dir)}, name, "want this layer alone")
	}
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return dec, r, nil
}

func (w *Writer) readSpooled(name string) (layout.Layer, json.RawMessage, error) {
	dec, r, err := w.openSpooled(name)
	if err != nil {
		return layout.Layer{}, nil, err
	}
	l := dec.Layers()[0]
	l.DType, l.Bias = w.layers[name].DType, w.layers[name].Bias
	var report json.RawMessage
	if s, ok := r.Metadata()[reportKey]; ok {
		report = json.RawMessage(s)
	}
	return l, report, r.Close()
}

func (w *Writer) spooledWeight(name string) (*quant.Weight, error) {
	dec, r, err := w.openSpooled(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: finished layer %q has gone: %w", w.partial, name, err)
	}
	if err != nil {
		return nil, err
	}
	q, err := dec.Weight(name)
	return q, errors.Join(err, r.Close())
}
