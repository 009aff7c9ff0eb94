package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// KeepStreams keeps what write writes, size bytes, across a resume, in place of what was
// kept before: what the text is on its way through the model. It does without where the
// disk has less than twice the room or does not take it, of which a warning tells. Whether
// it is whole is for whoever reads it to find out, since it is not brought to the disk. An
// error is that of a context in write.
func (w *Writer) KeepStreams(size int64, write func(io.Writer) error) error {
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
	err := w.partial.PutStreams(write)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if err != nil && w.o.Warn != nil {
		w.o.Warn(fmt.Sprintf("what the text is between two blocks is not kept for a resume: %v", err))
	}
	return nil
}

// KeptStreams opens what the run that is resumed has kept; nil if it has not.
func (w *Writer) KeptStreams() (*os.File, error) { return w.partial.Streams() }

// DropStreams removes it. Why it was of no use, if not nil, is told as a warning.
func (w *Writer) DropStreams(why error) error {
	if why != nil && w.o.Warn != nil {
		w.o.Warn(fmt.Sprintf("%s: what the text is between two blocks is computed again: %v", w.partial.Path(), why))
	}
	return w.partial.RemoveStreams()
}
