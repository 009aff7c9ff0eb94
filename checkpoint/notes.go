package checkpoint

import (
	"fmt"
	"slices"
)

// Note keeps data under a name across a resume, beside the finished layers:
// what was decided for several of them. It is durable when Note returns. With
// Direct, of which nothing is resumed, it lasts as long as the Writer.
func (w *Writer) Note(name string, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errClosed
	}
	if !w.o.Direct {
		if err := w.hashInputs(); err != nil {
			return err
		}
		if err := w.partial.PutNote(name, data); err != nil {
			return fmt.Errorf("note %q: %w", name, err)
		}
	}
	w.notes[name] = slices.Clone(data)
	return nil
}

// Noted returns what Note was given, now or by the run that is resumed; ok is
// false if it was not.
func (w *Writer) Noted(name string) (data []byte, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	data, ok = w.notes[name]
	return slices.Clone(data), ok
}
