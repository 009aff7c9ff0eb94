package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/golowbit/lowbit/checkpoint/internal/copied"
	"github.com/golowbit/lowbit/checkpoint/internal/parts"
	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// plannedFile writes the tensors of the result to the places they will have.
type plannedFile struct {
	out     *safetensors.Writer
	format  layout.Folder
	layers  []layout.Layer
	planned map[string][]layout.Spec // by layer
	dense   []layout.Spec
	stacks  []*parts.Stack         // tensors that layers are put back into,
	stacked map[string]layout.Spec // described by name
	slots   map[string]slot        // of tensors that lie in others

	mu       sync.Mutex
	progress func(done, total int64)
	written  int64
	total    int64
}

// planFile lays out the result for layers in source order and begins its files.
func (w *Writer) planFile(layers []layout.Layer) (*plannedFile, error) {
	p, plan, err := w.layOut(layers)
	if err != nil {
		return nil, err
	}
	dir := w.partial.Result()
	if err := w.disk.Mkdir(dir, 0o777); err != nil {
		return nil, err
	}
	p.out, err = safetensors.NewWriterOn(w.disk, dir, plan, w.shards())
	if err != nil {
		return nil, err
	}
	return p, nil
}

// shards says how the files are laid out, and what they say of where the model is from.
func (w *Writer) shards() safetensors.Options {
	o := safetensors.Options{MaxShardBytes: w.o.MaxShardBytes}
	if name, commit := w.o.Source.Hub(); name != "" {
		o.Metadata = map[string]string{"format": "pt", "base_model": name, "base_model_commit": commit}
	}
	return o
}

// layOut lists the tensors of the result for layers in source order.
func (w *Writer) layOut(layers []layout.Layer) (*plannedFile, []safetensors.TensorInfo, error) {
	byName := map[string]layout.Layer{}
	for _, l := range layers {
		byName[l.Name] = l
	}
	p := &plannedFile{format: w.folder, layers: layers, planned: map[string][]layout.Spec{}, stacked: map[string]layout.Spec{}, slots: map[string]slot{}, progress: w.o.Progress}
	var plan []layout.Spec
	// stacked plans the tensor that another is put back into, if there is one.
	stacked := func(name string, t safetensors.DType) bool {
		s := w.stacks[name]
		if s == nil {
			return false
		}
		if _, there := p.stacked[s.Name]; !there {
			if w.o.wide[s.Name] {
				t = safetensors.F32
			}
			spec := s.Spec(t)
			p.stacks, p.stacked[s.Name] = append(p.stacks, s), spec
			plan = append(plan, spec)
		}
		return true
	}
	err := w.eachTensor(func(name string) error {
		if stacked(name+layout.WeightSuffix, byName[name].DType) {
			return nil
		}
		specs, err := p.format.Plan(byName[name])
		if err != nil {
			return fmt.Errorf("format %s: layer %s: %w", p.format.Name(), name, err)
		}
		p.planned[name] = specs
		plan = append(plan, specs...)
		return nil
	}, func(s layout.Spec) error {
		if stacked(s.Name, s.DType) {
			return nil
		}
		p.dense = append(p.dense, s)
		plan = append(plan, s)
		return nil
	})
	if f, ok := w.folder.(layout.Stacker); ok && err == nil {
		if of := f.Stacks(w.o.Source.Config()); of != nil {
			plan, err = p.stack(plan, of)
		}
	}
	for _, s := range plan {
		p.total += s.Bytes()
	}
	return p, weights.Infos(plan), err
}

func (p *plannedFile) wrote(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.written += n
	if p.progress != nil {
		p.progress(p.written, p.total)
	}
}

// encode packs a layer into its place.
func (p *plannedFile) encode(l layout.Layer, q *quant.Weight) error {
	tensors, err := p.format.Encode(l, q)
	if err != nil {
		return fmt.Errorf("format %s: %w", p.format.Name(), err)
	}
	planned := p.planned[l.Name]
	if len(tensors) != len(planned) {
		return fmt.Errorf("format %s: %d tensors, %d were planned: the weight is not of the planned scheme", p.format.Name(), len(tensors), len(planned))
	}
	for i, t := range tensors {
		s := planned[i]
		if t.Name != s.Name || t.DType != s.DType || !slices.Equal(t.Shape, s.Shape) {
			return fmt.Errorf("format %s: tensor %q %v %v, planned was %q %v %v", p.format.Name(), t.Name, t.DType, t.Shape, s.Name, s.DType, s.Shape)
		}
	}
	for _, t := range tensors {
		if err := p.write(t.Name, t.Data, 0); err != nil {
			return err
		}
		p.wrote(int64(len(t.Data)))
	}
	return nil
}

// copy passes a dense tensor through, byte for byte, or what it was changed to.
// NaN and infinities are refused.
func (p *plannedFile) copy(o overlay, s layout.Spec) error {
	r, err := o.section(s)
	if err != nil {
		return err
	}
	err = eachPiece(o.src, s, r, func(piece []byte, off int64) error {
		return p.write(s.Name, piece, off)
	})
	if err != nil {
		return err
	}
	p.wrote(s.Bytes())
	return nil
}

// checkResult does what Finish will do with the tensors' names, types and shapes
// and with config.json, as far as the layers are known, and writes nothing: what
// cannot be is better known before the work.
func (w *Writer) checkResult() error {
	known := true
	layers, err := w.inOrder(func(name string) (layout.Layer, error) {
		known = known && w.layers[name].Scheme.Bits > 0
		return w.layers[name], nil
	})
	if err != nil {
		return err
	}
	if !known {
		layers = nil
	}
	if c, ok := w.o.Format.(layout.LayerChecker); ok && known {
		if err := c.CheckLayers(w.o.Source, layers); err != nil {
			return fmt.Errorf("format %s: %s: %w", w.o.Format.Name(), w.o.Source.Path(), err)
		}
	}
	if w.folder == nil {
		return nil
	}
	var dense []layout.Spec
	if known {
		p, plan, err := w.layOut(layers)
		if err == nil {
			err = safetensors.CheckPlan(w.o.Out, plan, w.shards())
		}
		if err != nil {
			return err
		}
		dense = p.dense
	}
	_, err = w.configFiles(layers, dense)
	return err
}

// Finish puts the model together, syncs it and gives it its name. After an
// error, or when ctx ends, the partial folder is as it was before.
//
// Of parts that share the folder one does it; the error of the others wraps ErrUnfinished
// while there are layers to come, or ErrComplete.
func (w *Writer) Finish(ctx context.Context) error {
	if w.stop != nil {
		return errors.Join(w.together(ctx), w.Close())
	}
	return errors.Join(w.finish(ctx), w.Close())
}

func (w *Writer) finish(ctx context.Context) error {
	if err := w.complete(); err != nil {
		return err
	}
	layers, err := w.finishedLayers()
	if err != nil {
		return err
	}
	if err := mustNotExist(w.o.Out); err != nil {
		return err
	}
	result := w.partial.Result()
	if w.direct == nil {
		if err := w.disk.RemoveAll(result); err != nil {
			return err
		}
	}
	if w.file != nil {
		err = w.file.Write(parallel.Within(disk.With(ctx, w.disk), w.o.Workers), result, w.origin(), layers, w.kept)
	} else {
		err = w.assemble(ctx, result, layers)
	}
	if err == nil && w.o.Ready != nil {
		err = w.o.Ready(ctx, result)
	}
	if err != nil {
		return errors.Join(err, w.disk.RemoveAll(result))
	}
	return w.publish(result)
}

// complete checks that nothing is missing.
func (w *Writer) complete() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errClosed
	}
	var missing []string
	for name, s := range w.state {
		if s != done {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("%d layers have not been written: %s", len(missing), strings.Join(missing, ", "))
	}
	return nil
}

// finishedLayers describes the layers as they came out, in source order.
func (w *Writer) finishedLayers() ([]layout.Layer, error) {
	if w.direct != nil {
		return w.direct.layers, nil
	}
	layers, err := w.inOrder(func(name string) (layout.Layer, error) {
		l, _, err := w.partial.Layer(name, w.scheme(name))
		l.DType, l.Bias = w.layers[name].DType, w.layers[name].Bias
		return l, err
	})
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		// Layers of a resumed run were checked against the format of that run.
		if err := w.o.Format.Check(l); err != nil {
			return nil, fmt.Errorf("format %s: layer %s: %w", w.o.Format.Name(), l.Name, err)
		}
	}
	return layers, nil
}

// assemble writes a folder of safetensors files.
func (w *Writer) assemble(ctx context.Context, dir string, layers []layout.Layer) error {
	p := w.direct
	if p == nil {
		var err error
		if p, err = w.planFile(layers); err != nil {
			return err
		}
	}
	defer p.out.Abort()
	origin := w.origin()
	encode := layers
	if w.direct != nil {
		encode = nil // they are in place
	}
	encode = slices.DeleteFunc(slices.Clone(encode), func(l layout.Layer) bool { return w.stacks[l.Name+layout.WeightSuffix] != nil })
	err := parallel.For(ctx, w.o.Workers, len(encode)+len(p.dense)+len(p.stacks), func(i int) error {
		if i >= len(encode)+len(p.dense) {
			return w.putBack(p, origin, p.stacks[i-len(encode)-len(p.dense)])
		}
		if i >= len(encode) {
			return p.copy(origin, p.dense[i-len(encode)])
		}
		q, err := w.kept(encode[i].Name)
		if err != nil {
			return err
		}
		if err := p.encode(encode[i], q); err != nil {
			return fmt.Errorf("layer %q: %w", encode[i].Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := p.out.Close(); err != nil {
		return err
	}
	return w.writeFiles(dir, layers, p.dense)
}

// putBack writes a tensor with all layers that lie in it.
func (w *Writer) putBack(p *plannedFile, origin overlay, s *parts.Stack) error {
	spec := p.stacked[s.Name]
	err := s.Encode(spec.DType, func(part parts.Piece) ([]float32, error) {
		if part.Bias {
			return origin.Vector(part.Name)
		}
		if _, ok := w.layers[part.Layer()]; !ok {
			m, err := origin.Matrix(part.Name)
			if err != nil {
				return nil, err
			}
			return m.Data, nil
		}
		q, err := w.kept(part.Layer())
		if err != nil {
			return nil, err
		}
		return q.Dequantize().Data, nil
	}, func(data []byte, off int64) error {
		defer p.wrote(int64(len(data)))
		return p.out.WriteAt(s.Name, data, off)
	})
	return outOfRange(s.Name, err)
}

// configFiles makes config.json and the format's own files.
func (w *Writer) configFiles(layers []layout.Layer, dense []layout.Spec) (map[string][]byte, error) {
	contents := layout.Contents{Layers: layers, Config: w.o.Source.Config(), Method: w.o.Method}
	for _, s := range dense {
		if base, ok := layout.CutWeight(s.Name); ok && len(s.Shape) == 2 {
			contents.Dense = append(contents.Dense, base)
		}
	}
	config, err := w.folder.Config(contents)
	if err != nil {
		return nil, fmt.Errorf("format %s: %w", w.o.Format.Name(), err)
	}
	files := maps.Clone(config.Files)
	if files == nil {
		files = map[string][]byte{}
	}
	if files[layout.ConfigFile], err = copied.Config(contents.Config, config); err != nil {
		return nil, err
	}
	for name := range files {
		if !disk.PlainName(name) {
			return nil, fmt.Errorf("format %s: file name %q is not allowed", w.o.Format.Name(), name)
		}
	}
	return files, nil
}

// writeFiles writes config.json and everything else that is not a tensor.
func (w *Writer) writeFiles(dir string, layers []layout.Layer, dense []layout.Spec) error {
	files, err := w.configFiles(layers, dense)
	if err != nil {
		return err
	}
	if err := copied.Files(w.disk, dir, w.o.Source.Path(), w.o.Source.Files(), files, Formats()); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := w.disk.CreateSync(filepath.Join(dir, name), func(f io.Writer) error {
			_, err := f.Write(files[name])
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// publish syncs the result, gives it its name and removes the partial folder.
// Once the name has appeared and is durable nothing fails any more.
func (w *Writer) publish(result string) error {
	info, err := os.Lstat(result)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = w.disk.SyncFolder(result)
	} else {
		err = w.disk.SyncFile(result)
	}
	if err != nil {
		return err
	}
	if err := w.partial.WriteResult(info); err != nil {
		return err
	}
	// Rename would replace an empty folder or a file.
	if err := mustNotExist(w.o.Out); err != nil {
		return err
	}
	if err := w.disk.Rename(result, w.o.Out); err != nil {
		return err
	}
	if err := w.disk.SyncFolder(filepath.Dir(w.o.Out)); err != nil {
		return errors.Join(err, os.Rename(w.o.Out, result))
	}
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	if w.stop != nil {
		w.stop()
	}
	// What cannot be removed now is recognized by a resume.
	_ = w.partial.Remove(true)
	_ = w.partial.Unlock()
	return nil
}
