package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/golowbit/lowbit/checkpoint/internal/inputs"
	"github.com/golowbit/lowbit/internal/disk"
)

// partialState is state.json of a partial folder: what the run is. It is
// written last when a run begins, and always whole.
type partialState struct {
	Version     int             `json:"version"`
	Format      string          `json:"format"`
	Direct      bool            `json:"direct"`
	Fingerprint json.RawMessage `json:"fingerprint"`
	Config      json.RawMessage `json:"config"` // of the source
	Inputs      []inputs.File   `json:"inputs"`
	// Result identifies the complete result, from before it gets its name.
	Result string `json:"result,omitempty"`
}

const (
	stateVersion = 2
	stateFile    = "state.json"
	lockFile     = "lock"
	spoolFolder  = "layers"
	resultName   = "result"
	asideFolder  = "damaged"
)

// describeRun says what the run is.
func (w *Writer) describeRun() error {
	files, err := inputsOf(w.o.Source)
	w.journal = partialState{
		Version: stateVersion, Format: w.o.Format.Name(), Direct: w.o.Direct, Fingerprint: w.o.Fingerprint,
		Config: w.o.Source.Config(), Inputs: files,
	}
	return err
}

func (w *Writer) writeState(s partialState) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return w.disk.WriteFile(filepath.Join(w.partial, stateFile), append(data, '\n'))
}

// openPartial makes the partial folder, or takes over an interrupted one.
func (w *Writer) openPartial() error {
	if err := w.disk.MkdirAll(filepath.Dir(w.partial), 0o777); err != nil {
		return err
	}
	err := w.disk.Mkdir(w.partial, 0o777)
	if err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if !w.o.Resume {
			return fmt.Errorf("%s: %w: an earlier run was interrupted; resume it or remove the folder", w.partial, ErrExists)
		}
	}
	// Whoever does not get the lock removes nothing, not even a folder that it
	// has just made: another may have begun to use it.
	if w.lock, err = w.takeLock(); err != nil {
		return err
	}
	fresh, err := w.resume()
	if err != nil {
		return errors.Join(err, w.lock.Close())
	}
	if !fresh {
		return nil
	}
	err = w.disk.Remove(w.o.Out + markSuffix) // of a result that is gone
	if err == nil {
		err = w.disk.MkdirAll(filepath.Join(w.partial, spoolFolder), 0o777)
	}
	if err == nil {
		err = w.writeState(w.journal)
	}
	if err != nil {
		return errors.Join(err, w.Close())
	}
	return nil
}

func (w *Writer) takeLock() (*os.File, error) {
	// Two runs never write to the same partial folder.
	lock, err := disk.Lock(filepath.Join(w.partial, lockFile))
	if errors.Is(err, disk.ErrLocked) {
		err = fmt.Errorf("%s: %w: another run is writing there", w.partial, ErrExists)
	}
	if err != nil {
		return nil, err
	}
	// The run that held it may have removed the folder since.
	mine, err := lock.Stat()
	if err == nil && mine.Mode().IsRegular() {
		there, statErr := os.Stat(filepath.Join(w.partial, lockFile))
		if statErr != nil || !os.SameFile(mine, there) {
			err = fmt.Errorf("%s: %w: another run was writing there", w.partial, ErrExists)
		}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// readState reads state.json; nil says that the run stopped before it had
// recorded what it is, and thus before any work.
func (w *Writer) readState() (*partialState, error) {
	path := filepath.Join(w.partial, stateFile)
	data, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, w.onlyBegun()
	}
	if err != nil {
		return nil, err
	}
	if !json.Valid(data) && w.onlyBegun() == nil {
		return nil, nil
	}
	return parseState(path, data)
}

func parseState(path string, data []byte) (*partialState, error) {
	var s partialState
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("%s: %w: version %d, want %d", path, ErrResume, s.Version, stateVersion)
	}
	return &s, nil
}

// onlyBegun fails for a folder that has more than a run has made before its
// first layer.
func (w *Writer) onlyBegun() error {
	entries, err := os.ReadDir(w.partial)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case lockFile, stateFile, stateFile + ".tmp":
			continue
		case spoolFolder:
			if layers, err := os.ReadDir(filepath.Join(w.partial, spoolFolder)); err == nil && len(layers) == 0 {
				continue
			}
		}
		return fmt.Errorf("%s: %w: no %s: the folder is not an interrupted run", w.partial, ErrResume, stateFile)
	}
	return nil
}

// resume compares with what the earlier run was and finds the layers that are
// done. fresh is true if there is nothing to go on with.
func (w *Writer) resume() (fresh bool, err error) {
	state, err := w.readState()
	if err != nil {
		return false, err
	}
	if state == nil {
		return true, nil
	}
	if err := w.sameRun(state); err != nil {
		return false, err
	}
	if err := errors.Join(w.disk.RemoveAll(filepath.Join(w.partial, resultName)), w.removeScratch()); err != nil {
		return false, err
	}
	if w.o.Direct {
		return true, nil
	}
	if err := w.disk.MkdirAll(filepath.Join(w.partial, spoolFolder), 0o777); err != nil {
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
	return false, w.writeState(w.journal)
}

// sameRun fails where the earlier run had other options or another source.
func (w *Writer) sameRun(s *partialState) error {
	if s.Format != w.journal.Format {
		return fmt.Errorf("%s: %w: started with other options: format was %s, is %s", w.partial, ErrResume, s.Format, w.journal.Format)
	}
	if s.Direct != w.journal.Direct {
		return fmt.Errorf("%s: %w: started with other options: layers were written directly: %v, now: %v", w.partial, ErrResume, s.Direct, w.journal.Direct)
	}
	diff, err := inputs.Differences(s.Fingerprint, w.o.Fingerprint)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(w.partial, stateFile), err)
	}
	if diff != "" {
		return fmt.Errorf("%s: %w: started with other options: %s", w.partial, ErrResume, diff)
	}
	if diff, err = inputs.Differences(s.Config, w.journal.Config); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(w.partial, stateFile), err)
	}
	if diff != "" {
		return fmt.Errorf("%s: %w: started from another config.json: %s", w.partial, ErrResume, diff)
	}
	other, err := inputs.Compare(w.journal.Inputs, s.Inputs)
	if err != nil {
		return err
	}
	if len(other) > 0 {
		return fmt.Errorf("%s: %w: started from other files: %s", w.partial, ErrResume, inputs.Some(other))
	}
	return nil
}

func (w *Writer) resumeLayer(name string) error {
	l, report, err := w.readSpooled(name)
	if err == nil {
		_, err = w.spooledWeight(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if want := w.layers[name]; err == nil && (l.Out != want.Out || l.In != want.In) {
		return fmt.Errorf("%s: %w: layer %q has shape [%d %d], want [%d %d]", w.partial, ErrResume, name, l.Out, l.In, want.Out, want.In)
	}
	if err != nil {
		return w.setAside(w.spoolPath(name), fmt.Errorf("layer %q: %w", name, err))
	}
	w.state[name], w.reports[name] = done, report
	return nil
}

// setAside moves what cannot be used out of the way.
func (w *Writer) setAside(path string, why error) error {
	folder := filepath.Join(w.partial, asideFolder)
	if err := w.disk.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	to, err := os.MkdirTemp(folder, "")
	if err != nil {
		return err
	}
	if err := w.disk.Rename(path, filepath.Join(to, filepath.Base(path))); err != nil {
		return err
	}
	w.damaged = append(w.damaged, fmt.Errorf("%w; it was moved to %s and is made again", why, to))
	return nil
}

// setAllAside gives up all that was kept.
func (w *Writer) setAllAside() error {
	for name, s := range w.state {
		if s == done {
			w.state[name] = pending
			delete(w.reports, name)
			if err := w.disk.RemoveAll(w.spoolPath(name)); err != nil {
				return err
			}
		}
	}
	for name := range w.notes {
		delete(w.notes, name)
		if err := w.disk.RemoveAll(w.notePath(name)); err != nil {
			return err
		}
	}
	for name := range w.changed {
		delete(w.changed, name)
		if err := w.disk.RemoveAll(w.densePath(name)); err != nil {
			return err
		}
	}
	return nil
}

// published looks whether the output that exists is the result of the
// interrupted run, and if so removes what is left of its partial folder. It
// returns exists if it is not.
func (w *Writer) published(exists error) error {
	state, lock, err := w.leftOver()
	if lock != nil {
		defer lock.Close()
	}
	if err == nil && state == nil && lock != nil {
		err = w.removePartial(false) // nothing is in it
	}
	if err != nil || state == nil {
		return errors.Join(exists, err)
	}
	info, err := os.Lstat(w.o.Out)
	if err != nil {
		return err
	}
	_, missing := os.Lstat(filepath.Join(w.partial, resultName))
	if state.Result == "" || state.Result != resultID(info) || !errors.Is(missing, fs.ErrNotExist) {
		return exists
	}
	if err := w.sameRun(state); err != nil {
		return err
	}
	if err := w.removePartial(true); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", w.o.Out, ErrComplete)
}

// leftOver reads what is left of the run whose output exists: its partial
// folder, then locked, or the file that the folder leaves; nil if it is neither.
func (w *Writer) leftOver() (*partialState, *os.File, error) {
	var lock *os.File
	if _, err := os.Lstat(w.partial); err == nil {
		lock, err = w.takeLock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // not there: removed just now
			return nil, nil, err
		}
		if err == nil {
			if state, err := w.readState(); state != nil || err != nil {
				return state, lock, err
			}
		}
	}
	mark := w.o.Out + markSuffix
	data, err := readSmall(mark)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, lock, nil
	}
	if err != nil {
		return nil, lock, err
	}
	state, err := parseState(mark, data)
	return state, lock, err
}

// resultID tells a complete result from what others may put at its place.
func resultID(info fs.FileInfo) string {
	if id := disk.FileID(info); id != "" {
		return id
	}
	return "made"
}

// removePartial removes the partial folder, what says of which run it is last.
// If the result has its name, that outlives even the folder: a folder and the
// file in it cannot go at once, and a stop in between must not lead to a run
// that is complete and refused.
func (w *Writer) removePartial(published bool) error {
	entries, err := os.ReadDir(w.partial)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != stateFile {
			if err := w.disk.RemoveAll(filepath.Join(w.partial, e.Name())); err != nil {
				return err
			}
		}
	}
	state, mark := filepath.Join(w.partial, stateFile), w.o.Out+markSuffix
	if published {
		err = w.disk.Rename(state, mark)
	} else {
		err = w.disk.Remove(state)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := w.disk.RemoveAll(w.partial); err != nil || !published {
		return err
	}
	return w.disk.Remove(mark)
}
