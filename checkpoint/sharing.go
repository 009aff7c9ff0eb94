package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/golowbit/lowbit/internal/team"
)

// Parts of one work share the partial folder: each finds there what the others have
// finished. Whoever finds all layers finished puts the result together.

// ErrUnfinished is wrapped by the error of Finish where layers of other parts are missing.
var ErrUnfinished = errors.New("other parts are not done")

// share begins, or joins the parts that have begun. The error wraps ErrComplete where they
// have made the result.
func (w *Writer) share() error {
	w.o.Direct, w.o.Hash = false, false
	w.partial.State.Direct = false
	w.partial.Share(w.o.Team, w.o.Waiting)
	if err := w.Published(); err != nil {
		return err
	}
	if err := mustNotExist(w.o.Out); err != nil {
		return err
	}
	if w.o.Team.Index == 1 { // one is enough
		if err := errors.Join(w.checkSpace(), w.checkCopied()); err != nil {
			return err
		}
	}
	ctx := w.o.Context
	if ctx == nil {
		ctx = context.Background()
	}
	if err := w.partial.Join(ctx); err != nil {
		if done := w.Published(); done != nil {
			err = done // meanwhile
		}
		return err
	}
	w.stop = w.partial.Team().Alive()
	_, err := w.Missing()
	if err == nil {
		err = w.gather()
	}
	if err != nil {
		err = errors.Join(err, w.Close())
	}
	return err
}

// gather takes up what other parts have kept beside layers.
func (w *Writer) gather() error {
	notes, err := w.partial.Notes()
	if err != nil {
		return err
	}
	vectors, err := w.partial.Vectors()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range notes {
		if n.Damaged != nil {
			return fmt.Errorf("%s: %w: remove the whole folder %s and run all parts again", n.Path, n.Damaged, w.partial.Path())
		}
		w.notes[n.Name] = n.Value
	}
	for _, v := range vectors {
		if v.Damaged == nil {
			v.Damaged = w.checkDense(v.Name, v.Value)
		}
		if v.Damaged != nil {
			return fmt.Errorf("%s: %w: remove the whole folder %s and run all parts again", v.Path, v.Damaged, w.partial.Path())
		}
		w.changed[v.Name] = v.Value
	}
	return nil
}

// Published returns an error that wraps ErrComplete if the parts have made the result.
func (w *Writer) Published() error {
	done, err := w.partial.Finished()
	if err == nil && done {
		err = fmt.Errorf("%s: %w", w.o.Out, ErrComplete)
	}
	return err
}

// Team is where parts leave things for each other; nil if there are none.
func (w *Writer) Team() *team.Folder { return w.partial.Team() }

// Look looks whether another part has finished a layer meanwhile.
func (w *Writer) Look(name string) (there bool, err error) {
	if w.Done(name) {
		return true, nil
	}
	_, report, err := w.partial.Layer(name, w.scheme(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, w.Published()
	}
	if err != nil {
		return false, fmt.Errorf("layer %q: %w: remove %s and run its part again", name, err, w.partial.LayerPath(name))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state[name], w.reports[name] = done, report
	return true, nil
}

// LookNote looks whether another part has kept a note meanwhile, which Noted then returns.
func (w *Writer) LookNote(name string) (bool, error) {
	data, found, err := w.partial.Note(name)
	if found {
		w.mu.Lock()
		w.notes[name] = data
		w.mu.Unlock()
	}
	return found, err
}

// Missing returns how many layers no part has finished yet.
func (w *Writer) Missing() (n int, err error) {
	for name := range w.layers {
		done, err := w.Look(name)
		if err != nil {
			return 0, err
		}
		if !done {
			n++
		}
	}
	return n, nil
}

// together has one part at a time put the result together. The error wraps ErrUnfinished
// while there are layers to come, and ErrComplete if another part was faster.
func (w *Writer) together(ctx context.Context) error {
	n, err := w.Missing()
	if err == nil && n > 0 {
		err = fmt.Errorf("%w: %d layers are missing", ErrUnfinished, n)
	}
	if err != nil {
		return err
	}
	if err := w.gather(); err != nil {
		return errors.Join(w.Published(), err)
	}
	lease, err := w.Team().Lease(ctx, "merge", func() (bool, error) { return false, w.Published() })
	if err != nil {
		return err
	}
	defer func() { _ = lease.End() }() // with the result it is gone anyway
	return w.finish(ctx)
}
