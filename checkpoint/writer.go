package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/partial"
	"github.com/golowbit/lowbit/checkpoint/internal/parts"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/team"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// ErrExists is wrapped by the error for an output, or the partial folder of
// an interrupted run, that is there already.
var ErrExists = partial.ErrExists

// ErrResume is wrapped by the error for a partial folder that was started
// with other options or from another source.
var ErrResume = partial.ErrResume

// ErrComplete is wrapped by the error of Create with Resume for an output that
// the interrupted run had completed: it lacked only the removal of its partial
// folder, which is gone now.
var ErrComplete = errors.New("is complete already")

var errClosed = errors.New("the writer is closed")

// PartialSuffix is appended to the output's name for the folder in which it
// is made.
const PartialSuffix = partial.Suffix

// WriterOptions configures a Writer. Out, Source, Format and Layers are
// required.
type WriterOptions struct {
	// Out is the path of the result. It must not exist.
	Out string
	// Source is the model the layers come from. Its other tensors, its
	// config.json and its other files are copied.
	Source *Model
	// Format is the format of the result.
	Format layout.Format
	// Layers are the linears that will be quantized. The name alone will do,
	// unless Direct is set.
	Layers []layout.Layer
	// Direct writes each layer to its final place at once. Every entry of
	// Layers must then be complete, with the scheme the weight will have,
	// and an interrupted run cannot be resumed. It is ignored for formats
	// that are a File.
	Direct bool
	// Resume continues an interrupted run if its partial folder is there.
	Resume bool
	// Team, if it is a part, shares the partial folder with others of the same work: see
	// sharing.go. There is no Direct and no Hash then, and Resume goes without saying.
	Team team.Part
	// Waiting, if set, is told now and then what other part is waited for; Context, if set,
	// ends waiting.
	Waiting func(message string)
	Context context.Context
	// Fingerprint is a JSON object of all options that decide the result. A
	// run is resumed only by one with an equal fingerprint, and from the same
	// source: the Writer compares the files of the source itself.
	Fingerprint json.RawMessage
	// Hash keeps what the source's files of weights hold, so that they may be
	// copied or touched before a resume. Without it they must be the same
	// files, unchanged. They are read once more, before the first layer is
	// kept. It is ignored with Direct.
	Hash bool
	// Method is a JSON object that says how the codes are found, for formats
	// that record it.
	Method json.RawMessage
	// Parts says where layers of the result lie in larger or transposed tensors
	// of the architecture. Format dense puts them back there; others hold each
	// layer under its own name.
	Parts []Part
	// MaxShardBytes limits the tensors in one file, as in safetensors.Options.
	MaxShardBytes int64
	// Workers limits the goroutines of Finish; 0 means GOMAXPROCS.
	Workers int
	// Progress, if set, is told how many bytes of the result's tensors have
	// been written: during Finish, and with Direct also during Put. Calls do
	// not overlap.
	Progress func(done, total int64)
	// Ready, if set, is called by Finish with the path of the complete result,
	// which has not got its name yet. An error ends Finish.
	Ready func(ctx context.Context, path string) error
	// Scratch is how much will lie in the file of Writer.Scratch.
	Scratch int64
	// Warn, if set, is told what Convert had to store in another way, and of a
	// disk that may be too small.
	Warn func(message string)

	disk disk.FS // tests let it fail
	// wide are the layers, and tensors with layers in them, that format dense
	// stores as F32 because their type cannot hold them.
	wide map[string]bool
}

// Writer makes a model from a source and quantized layers. All work happens
// in a folder beside the output, "OUT.partial", which is renamed when it is
// complete and synced.
//
// Finished layers are kept in the partial folder, one small file each, until
// Finish puts the model together, because what a layer looks like (its axis,
// row scales) may be known only when it is done. With Direct they go straight
// to their place.
//
// Its methods are safe for concurrent use, but Finish and Close must be the
// last.
type Writer struct {
	o       WriterOptions
	partial *partial.Folder
	layers  map[string]layout.Layer // as far as known beforehand
	folder  layout.Folder           // the format, nil if it is a File
	file    layout.File             // the format, nil if it is a Folder
	direct  *plannedFile            // nil when spooling
	stacks  map[string]*parts.Stack // what tensors are put back into, by their names

	mu      sync.Mutex
	state   map[string]layerState
	reports map[string]json.RawMessage
	grids   map[string]quant.Scheme // of layers put on grids that are not uniform

	replaced map[string]*quant.Weight // what is written in the place of a layer
	changed  map[string][]float32     // what PutDense was given, by tensor
	notes    map[string][]byte        // what Note was given
	closed   bool
	stop     func() // the signs of life of a part

	hashOnce sync.Once // before the first layer is kept
	hashErr  error
	disk     disk.FS
}

type layerState int

const (
	pending layerState = iota
	busy
	done
)

// Create starts a model. Close must be called in any case. With Resume, the
// error wraps ErrComplete if Out is what the interrupted run had made already.
func Create(o WriterOptions) (*Writer, error) {
	w, err := newWriter(o)
	if err != nil {
		return nil, err
	}
	if err := w.describeRun(); err != nil {
		return nil, err
	}
	if !o.Team.Alone() {
		if err := w.share(); err != nil {
			return nil, err
		}
		return w, nil
	}
	if err := mustNotExist(w.o.Out); err != nil {
		if w.o.Resume {
			err = w.published(err)
		}
		return nil, err
	}
	if err := w.checkSpace(); err != nil {
		return nil, err
	}
	if !w.o.Direct {
		// What is copied in the end is better known to be sound before the work.
		if err := w.checkCopied(); err != nil {
			return nil, err
		}
	}
	if err := w.openPartial(); err != nil {
		return nil, err
	}
	if w.o.Direct {
		layers, err := w.inOrder(func(name string) (layout.Layer, error) { return w.layers[name], nil })
		if err == nil {
			w.direct, err = w.planFile(layers)
		}
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	return w, nil
}

// newWriter checks what can be checked without a look at the output.
func newWriter(o WriterOptions) (*Writer, error) {
	o.Out = filepath.Clean(o.Out)
	folder, _ := o.Format.(layout.Folder)
	file, _ := o.Format.(layout.File)
	switch {
	case file != nil:
		o.Direct = false
		if err := file.CheckModel(o.Source); err != nil {
			return nil, fmt.Errorf("format %s: %s: %w", file.Name(), o.Source.Path(), err)
		}
	case folder != nil:
		if own, ok := o.Source.Files().(layout.OwnFiles); ok {
			if _, err := own.Names(); err != nil {
				return nil, fmt.Errorf("%s: %w", o.Source.Path(), err)
			}
		}
	default:
		return nil, fmt.Errorf("format %s cannot be written: it is neither a Folder nor a File", o.Format.Name())
	}
	if len(o.Fingerprint) == 0 {
		o.Fingerprint = json.RawMessage("{}")
	}
	if _, err := layout.ParseObject(o.Fingerprint); err != nil {
		return nil, fmt.Errorf("fingerprint: %w", err)
	}
	w := &Writer{
		o: o, partial: partial.New(o.Out, o.disk), folder: folder, file: file, layers: map[string]layout.Layer{},
		state: map[string]layerState{}, reports: map[string]json.RawMessage{}, grids: map[string]quant.Scheme{}, replaced: map[string]*quant.Weight{}, changed: map[string][]float32{}, notes: map[string][]byte{}, disk: o.disk,
	}
	if _, ok := o.Format.(dense.Format); ok && len(o.Parts) > 0 {
		w.stacks = parts.Stacks(storedParts(o.Parts))
		w.o.Direct = false // a tensor is written when all that is in it is done
	}
	if err := w.describeLayers(); err != nil {
		return nil, err
	}
	return w, w.checkResult()
}

// describeLayers completes the layers from the source and checks them.
func (w *Writer) describeLayers() error {
	src := w.o.Source
	for _, l := range w.o.Layers {
		shape, ok := src.Shape(l.Name + layout.WeightSuffix)
		if !ok {
			return fmt.Errorf("%s: no tensor %q to quantize", src.Path(), l.Name+layout.WeightSuffix)
		}
		if len(shape) != 2 {
			return fmt.Errorf("%s: tensor %q: shape %v, want a matrix", src.Path(), l.Name+layout.WeightSuffix, shape)
		}
		if l.Out == 0 && l.In == 0 {
			l.Out, l.In = shape[0], shape[1]
		}
		if l.Out != shape[0] || l.In != shape[1] {
			return fmt.Errorf("%s: tensor %q: shape %v, want [%d %d]", src.Path(), l.Name+layout.WeightSuffix, shape, l.Out, l.In)
		}
		if _, twice := w.layers[l.Name]; twice {
			return fmt.Errorf("layer %q is listed twice", l.Name)
		}
		l.DType, _ = src.DType(l.Name + layout.WeightSuffix)
		if w.o.wide[l.Name] {
			l.DType = safetensors.F32
		}
		l.Bias = src.Has(l.Name + biasSuffix)
		if w.o.Direct {
			if err := w.o.Format.Check(l); err != nil {
				return fmt.Errorf("format %s: layer %s: %w", w.o.Format.Name(), l.Name, err)
			}
		}
		if !w.o.Direct && l.Scheme.Bits > 0 {
			k := l
			k.Scheme = partial.Uniform(l.Scheme)
			if err := (native.Format{}).Check(k); err != nil {
				return fmt.Errorf("layer %s: finished layers are kept in format lowbit: %w", l.Name, err)
			}
		}
		w.layers[l.Name] = l
		w.state[l.Name] = pending
	}
	for _, name := range src.Quantized() {
		if _, ok := w.layers[name]; !ok {
			return fmt.Errorf("%s: layer %q is quantized already and not among those to write", src.Path(), name)
		}
	}
	return nil
}

func mustNotExist(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", path, ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Done reports whether the layer has been written, now or by the run that is
// resumed.
func (w *Writer) Done(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state[name] == done
}

// Damaged tells of what was kept by the run that is resumed and cannot be used:
// it was set aside in the partial folder and has to be put again.
func (w *Writer) Damaged() []error { return slices.Clone(w.partial.Damaged) }

// Report returns what Put was given with a layer that is done, or nil.
func (w *Writer) Report(name string) json.RawMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reports[name]
}

// Weight reads back a layer that is done. It fails with Direct.
func (w *Writer) Weight(name string) (*quant.Weight, error) {
	if !w.Done(name) {
		return nil, fmt.Errorf("layer %q is not done", name)
	}
	if w.direct != nil {
		return nil, errors.New("layers written directly cannot be read back")
	}
	return w.kept(name)
}

// kept reads a finished layer.
func (w *Writer) kept(name string) (*quant.Weight, error) {
	w.mu.Lock()
	q := w.replaced[name]
	w.mu.Unlock()
	if q != nil {
		return q, nil
	}
	return w.partial.Weight(name, w.scheme(name))
}

// scheme is that of a layer: what it was given with, or as planned.
func (w *Writer) scheme(name string) quant.Scheme {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s, ok := w.grids[name]; ok {
		return s
	}
	return w.layers[name].Scheme
}

// Put writes a finished layer, once. The report may be nil; it is kept with
// the layer across a resume. The error wraps ErrUnsupported if the format
// cannot hold the weight.
func (w *Writer) Put(name string, q *quant.Weight, report json.RawMessage) error {
	l, ok := w.layers[name]
	if !ok {
		return fmt.Errorf("layer %q is not among those to write", name)
	}
	if report != nil && !json.Valid(report) {
		return fmt.Errorf("layer %q: the report is not JSON", name)
	}
	if l.Out != q.Out || l.In != q.In {
		return fmt.Errorf("layer %q: weight of shape [%d %d], want [%d %d]", name, q.Out, q.In, l.Out, l.In)
	}
	w.mu.Lock()
	state := w.state[name]
	if w.closed {
		w.mu.Unlock()
		return errClosed
	}
	if state == pending {
		w.state[name] = busy
		if q.Scheme.Grid != nil {
			w.grids[name] = q.Scheme
		}
	}
	w.mu.Unlock()
	if state != pending {
		return fmt.Errorf("layer %q has been written already", name)
	}
	err := w.put(w.actual(name, q), q, report)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.state[name] = pending
		return fmt.Errorf("layer %q: %w", name, err)
	}
	w.state[name], w.reports[name] = done, report
	return nil
}

// Replace has another weight written for a layer that is done, on the same grid and of
// the same shape. It is not kept across a resume.
func (w *Writer) Replace(name string, q *quant.Weight) error {
	old, err := w.Weight(name)
	if err != nil {
		return err
	}
	if old.Out != q.Out || old.In != q.In || old.Scheme.Bits != q.Scheme.Bits || old.Scheme.Axis != q.Scheme.Axis || len(old.Scales) != len(q.Scales) {
		return fmt.Errorf("layer %q: replaced by a weight of another shape or scheme", name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.replaced[name] = q
	return nil
}

// actual describes a weight as it came out.
func (w *Writer) actual(name string, q *quant.Weight) layout.Layer {
	l := layout.LayerOf(name, q)
	l.DType, l.Bias = w.layers[name].DType, w.layers[name].Bias
	return l
}

func (w *Writer) put(l layout.Layer, q *quant.Weight, report json.RawMessage) error {
	if err := w.o.Format.Check(l); err != nil {
		return fmt.Errorf("format %s: %w", w.o.Format.Name(), err)
	}
	if w.direct != nil {
		return w.direct.encode(l, q)
	}
	if err := w.hashInputs(); err != nil {
		return err
	}
	return w.partial.PutLayer(l, q, report)
}

// Close ends an unfinished run. Finished layers stay in the partial folder
// for a resume; if there are none, or with Direct, the folder is removed.
// After Finish it does nothing.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	if w.stop != nil {
		w.stop()
		defer w.partial.Sweep()
		return w.partial.Unlock()
	}
	if w.direct != nil {
		w.direct.out.Abort()
	}
	keep := len(w.partial.Damaged) > 0 // what was set aside can be looked at
	for _, s := range w.state {
		keep = keep || s == done
	}
	var err error
	if !keep || w.o.Direct {
		err = w.partial.Remove(false)
	}
	return errors.Join(err, w.partial.Unlock())
}

// Discard is Close, but finished layers are removed too.
func (w *Writer) Discard() error {
	w.mu.Lock()
	for name := range w.state {
		w.state[name] = pending
	}
	w.mu.Unlock()
	return w.Close()
}

// inOrder returns the layers in the order of the source's tensors.
func (w *Writer) inOrder(get func(name string) (layout.Layer, error)) ([]layout.Layer, error) {
	var layers []layout.Layer
	err := w.eachTensor(func(name string) error {
		l, err := get(name)
		layers = append(layers, l)
		return err
	}, func(layout.Spec) error { return nil })
	return layers, err
}

// eachTensor goes through the source's tensors in order and calls layer for
// each layer to write, where its first tensor is, and dense for each tensor
// to copy.
func (w *Writer) eachTensor(layer func(name string) error, dense func(layout.Spec) error) error {
	src := w.o.Source
	seen := map[string]bool{}
	for _, name := range src.src.Names() {
		base, packed := src.part[name]
		if !packed {
			if b, ok := layout.CutWeight(name); ok {
				if _, quantized := w.layers[b]; quantized {
					base, packed = b, true
				}
			}
		}
		if !packed {
			spec, _ := src.src.Spec(name)
			if err := dense(spec); err != nil {
				return err
			}
			continue
		}
		if seen[base] {
			continue
		}
		seen[base] = true
		if err := layer(base); err != nil {
			return err
		}
	}
	return nil
}
