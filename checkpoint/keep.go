package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// keptKinds are what a run keeps for a resumed one beside its layers, as warnings call it.
var keptKinds = map[string]string{
	"streams":   "what the text is between two blocks",
	"curvature": "the curvature of the model's loss",
}

// Keep keeps what write writes, size bytes, across a resume, in place of what was kept
// of its kind before: "streams" or "curvature". It does without where the disk has less
// than twice the room or does not take it, of which a warning tells. Whether it is whole
// is for whoever reads it to find out, since it is not brought to the disk. An error is
// that of a context in write.
func (w *Writer) Keep(what string, size int64, write func(io.Writer) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errClosed
	}
	if w.o.Direct {
		return nil
	}
	if free, ok := w.disk.Free(w.partial.Path()); ok && free/2 < size {
		return nil
	}
	if err := w.hashInputs(); err != nil {
		return err
	}
	err := w.partial.PutKept(what, write)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if err != nil && w.o.Warn != nil {
		w.o.Warn(fmt.Sprintf("%s is not kept for a resume: %v", keptKinds[what], err))
	}
	return nil
}

// Kept opens what the run that is resumed has kept; nil if it has not.
func (w *Writer) Kept(what string) (*os.File, error) { return w.partial.OpenKept(what) }

// DropKept removes it. Why it was of no use, if not nil, is told as a warning.
func (w *Writer) DropKept(what string, why error) error {
	if why != nil && w.o.Warn != nil {
		w.o.Warn(fmt.Sprintf("%s: %s is computed again: %v", w.partial.Path(), keptKinds[what], why))
	}
	return w.partial.RemoveKept(what)
}
