package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/golowbit/lowbit/checkpoint/internal/partial"
)

// describeRun says what the run is.
func (w *Writer) describeRun() error {
	files, err := inputsOf(w.o.Source)
	w.partial.State = partial.State{
		Version: partial.Version, Format: w.o.Format.Name(), Direct: w.o.Direct, Fingerprint: w.o.Fingerprint,
		Config: w.o.Source.Config(), Inputs: files,
	}
	return err
}

// openPartial makes the partial folder, or takes over an interrupted one.
func (w *Writer) openPartial() error {
	if err := w.partial.Take(w.o.Resume); err != nil {
		return err
	}
	fresh, err := w.resume()
	if err != nil {
		return errors.Join(err, w.partial.Unlock())
	}
	if !fresh {
		return nil
	}
	if err := w.partial.Begin(); err != nil {
		return errors.Join(err, w.Close())
	}
	return nil
}

// resume compares with what the earlier run was and finds the layers that are
// done. fresh is true if there is nothing to go on with.
func (w *Writer) resume() (fresh bool, err error) {
	found, err := w.partial.Resume()
	if err != nil || !found || w.o.Direct {
		return true, err
	}
	if err := w.partial.MakeKept(); err != nil {
		return false, err
	}
	for name := range w.layers {
		if err := w.resumeLayer(name); err != nil {
			return false, err
		}
	}
	if err := w.resumeNotes(); err != nil {
		return false, err
	}
	if err := w.resumeDense(); err != nil {
		return false, err
	}
	// The files may be others by now, with the same bytes.
	return false, w.partial.WriteState()
}

func (w *Writer) resumeLayer(name string) error {
	l, report, err := w.partial.Layer(name, w.scheme(name))
	if err == nil {
		_, err = w.kept(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if want := w.layers[name]; err == nil && (l.Out != want.Out || l.In != want.In) {
		return fmt.Errorf("%s: %w: layer %q has shape [%d %d], want [%d %d]", w.partial.Path(), ErrResume, name, l.Out, l.In, want.Out, want.In)
	}
	if err != nil {
		return w.partial.SetAside(w.partial.LayerPath(name), fmt.Errorf("layer %q: %w", name, err))
	}
	w.state[name], w.reports[name] = done, report
	return nil
}

// resumeNotes finds the notes of the run that is resumed.
func (w *Writer) resumeNotes() error {
	notes, err := w.partial.Notes()
	if err != nil {
		return err
	}
	for _, n := range notes {
		if n.Damaged == nil {
			w.notes[n.Name] = n.Value
		} else if err := w.partial.SetAside(n.Path, n.Damaged); err != nil {
			return err
		}
	}
	return nil
}

// resumeDense finds the dense tensors that an interrupted run has changed.
func (w *Writer) resumeDense() error {
	vectors, err := w.partial.Vectors()
	if err != nil {
		return err
	}
	for _, v := range vectors {
		if v.Damaged == nil {
			v.Damaged = w.checkDense(v.Name, v.Value)
		}
		if v.Damaged != nil {
			// Every layer may have been made with it.
			if err := w.partial.SetAside(v.Path, v.Damaged); err != nil {
				return err
			}
			return w.giveUp()
		}
		w.changed[v.Name] = v.Value
	}
	return nil
}

// giveUp removes all that was kept.
func (w *Writer) giveUp() error {
	for name, s := range w.state {
		if s == done {
			w.state[name] = pending
			delete(w.reports, name)
			if err := w.partial.RemoveLayer(name); err != nil {
				return err
			}
		}
	}
	for name := range w.notes {
		delete(w.notes, name)
		if err := w.partial.RemoveNote(name); err != nil {
			return err
		}
	}
	for name := range w.changed {
		delete(w.changed, name)
		if err := w.partial.RemoveVector(name); err != nil {
			return err
		}
	}
	return w.partial.RemoveAllKept()
}

// published looks whether the output that exists is the result of the
// interrupted run, and if so removes what is left of its partial folder. It
// returns exists if it is not.
func (w *Writer) published(exists error) error {
	ours, err := w.partial.Complete()
	if !ours {
		return errors.Join(exists, err)
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", w.o.Out, ErrComplete)
}
