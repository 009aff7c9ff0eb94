// Package partial is the folder in which a model is made, "OUT.partial": whose run
// it is, the lock that keeps others out, and what is finished and kept for a
// resume, which is layers, notes and changed vectors (see Kept).
package partial

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/team"
)

var (
	// ErrExists is wrapped by the error for a folder that is there already.
	ErrExists = errors.New("exists already")
	// ErrResume is wrapped by the error for a folder of a run with other options
	// or from another source.
	ErrResume = errors.New("cannot resume")
)

// Suffix is appended to the output's name for the folder.
const Suffix = ".partial"

// markSuffix is appended to the output's name for what remains of the folder
// until it is gone: its state.json.
const markSuffix = Suffix + ".done"

// The names of what lies in the folder.
const (
	StateFile   = "state.json"
	LockFile    = "lock"
	ScratchFile = "streams"
	keptPrefix  = "kept-"
	LayerFolder = "layers"
	ResultName  = "result"
	AsideFolder = "damaged"
	PartsFolder = "parts"
)

// Folder is the partial folder of a run. It is not safe for concurrent use, but
// what is Kept is.
type Folder struct {
	Kept
	State   State   // of this run
	Damaged []error // what SetAside has moved

	path, out string
	disk      disk.FS
	lock      *os.File
	result    string       // where it is made
	team      *team.Folder // nil if no other part works here
}

// New returns the folder for an output, of which nothing is made yet.
func New(out string, d disk.FS) *Folder {
	path := out + Suffix
	return &Folder{Kept: Kept{layers: filepath.Join(path, LayerFolder), disk: d}, path: path, out: out, disk: d, result: filepath.Join(path, ResultName)}
}

// Path returns the path of the folder.
func (f *Folder) Path() string { return f.path }

// Result is where the result is made.
func (f *Folder) Result() string { return f.result }

// Scratch is the path of a file that lives no longer than the run.
func (f *Folder) Scratch() string {
	if f.team != nil {
		return f.team.Unique(ScratchFile)
	}
	return filepath.Join(f.path, ScratchFile)
}

// Take makes the folder, or takes over an interrupted one, and locks it.
func (f *Folder) Take(resume bool) error {
	if err := f.disk.MkdirAll(filepath.Dir(f.path), 0o777); err != nil {
		return err
	}
	err := f.disk.Mkdir(f.path, 0o777)
	if err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if !resume {
			return fmt.Errorf("%s: %w: an earlier run was interrupted; resume it or remove the folder", f.path, ErrExists)
		}
	}
	// Whoever does not get the lock removes nothing, not even a folder that it
	// has just made: another may have begun to use it.
	f.lock, err = f.takeLock()
	return err
}

// Unlock ends the use of the folder.
func (f *Folder) Unlock() error { return f.lock.Close() }

func (f *Folder) takeLock() (*os.File, error) {
	// Two runs never write to the same partial folder.
	take := disk.Lock
	if f.team != nil {
		take = disk.LockShared
	}
	lock, err := take(filepath.Join(f.path, LockFile))
	if errors.Is(err, disk.ErrLocked) {
		err = fmt.Errorf("%s: %w: another run is writing there", f.path, ErrExists)
	}
	if err != nil {
		return nil, err
	}
	// The run that held it may have removed the folder since.
	mine, err := lock.Stat()
	if err == nil && mine.Mode().IsRegular() {
		there, statErr := os.Stat(filepath.Join(f.path, LockFile))
		if statErr != nil || !os.SameFile(mine, there) {
			err = fmt.Errorf("%s: %w: another run was writing there", f.path, ErrExists)
		}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// Begin makes what a run has before its first layer.
func (f *Folder) Begin() error {
	err := f.disk.Remove(f.out + markSuffix) // of a result that is gone
	if err == nil {
		err = f.MakeKept()
	}
	if err == nil {
		err = f.WriteState()
	}
	return err
}

// Resume reports whether the folder is that of an interrupted run, which then was
// the same run. What it left of a result, and of its own, is removed.
func (f *Folder) Resume() (found bool, err error) {
	state, err := f.readState()
	if err != nil || state == nil {
		return false, err
	}
	if err := f.same(state); err != nil {
		return false, err
	}
	err = f.disk.RemoveAll(f.Result())
	if left := f.disk.RemoveAll(f.Scratch()); left != nil {
		err = errors.Join(err, fmt.Errorf("left by an earlier run: %w", left))
	}
	return true, err
}

// SetAside moves what cannot be used out of the way.
func (f *Folder) SetAside(path string, why error) error {
	folder := filepath.Join(f.path, AsideFolder)
	if err := f.disk.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	to, err := os.MkdirTemp(folder, "")
	if err != nil {
		return err
	}
	if err := f.disk.Rename(path, filepath.Join(to, filepath.Base(path))); err != nil {
		return err
	}
	f.Damaged = append(f.Damaged, fmt.Errorf("%w; it was moved to %s and is made again", why, to))
	return nil
}

// Complete reports whether the output that exists is the result of the interrupted
// run, and if so removes what is left of the folder.
func (f *Folder) Complete() (ours bool, err error) {
	state, lock, err := f.leftOver()
	if lock != nil {
		defer lock.Close()
	}
	if err == nil && state == nil && lock != nil {
		err = f.Remove(false) // nothing is in it
	}
	if err != nil || state == nil {
		return false, err
	}
	info, err := os.Lstat(f.out)
	if err != nil {
		return true, err
	}
	_, missing := os.Lstat(f.Result())
	if state.Result == "" || state.Result != resultID(info) || !errors.Is(missing, fs.ErrNotExist) {
		return false, nil
	}
	if err := f.same(state); err != nil {
		return true, err
	}
	return true, f.Remove(true)
}

// leftOver reads what is left of the run whose output exists: its folder, then
// locked, or the file that the folder leaves; nil if it is neither.
func (f *Folder) leftOver() (*State, *os.File, error) {
	var lock *os.File
	if _, err := os.Lstat(f.path); err == nil {
		lock, err = f.takeLock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // not there: removed just now
			return nil, nil, err
		}
		if err == nil {
			if state, err := f.readState(); state != nil || err != nil {
				return state, lock, err
			}
		}
	}
	mark := f.out + markSuffix
	data, err := disk.ReadFile(mark, maxBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, lock, nil
	}
	if err != nil {
		return nil, lock, err
	}
	state, err := parseState(mark, data)
	return state, lock, err
}

// Remove removes the folder, what says of which run it is last. If the result is
// published, that outlives even the folder: a folder and the file in it cannot go
// at once, and a stop in between must not lead to a run that is complete and
// refused. Where parts have made it that file stays: those that are run later learn from
// it that all is done.
func (f *Folder) Remove(published bool) error {
	entries, err := os.ReadDir(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != StateFile {
			if err := f.disk.RemoveAll(filepath.Join(f.path, e.Name())); err != nil {
				return err
			}
		}
	}
	state, mark := filepath.Join(f.path, StateFile), f.out+markSuffix
	if published {
		err = f.disk.Rename(state, mark)
	} else {
		err = f.disk.Remove(state)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = f.disk.RemoveAll(f.path)
	for try := 0; err != nil && f.team != nil && try < 10; try++ { // others may still give a sign of life there
		time.Sleep(20 * time.Millisecond)
		err = f.disk.RemoveAll(f.path)
	}
	if err != nil || !published || f.team != nil {
		return err
	}
	return f.disk.Remove(mark)
}
