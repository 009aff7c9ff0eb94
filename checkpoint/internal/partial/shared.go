package partial

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/team"
)

// Share has the folder used by several parts at a time, of which this is one. What they
// keep is theirs together; a result is made by one of them.
func (f *Folder) Share(p team.Part, tell func(string)) {
	f.team = team.NewFolder(filepath.Join(f.path, PartsFolder), p, f.disk)
	f.team.Tell = tell
	f.State.Parts = p.Count
	f.unique = func() string { return f.team.Unique("kept") }
	f.result = f.team.Unique(ResultName)
}

// Team is where parts leave things for each other; nil if there are none.
func (f *Folder) Team() *team.Folder { return f.team }

func count(n int) string {
	if n == 0 {
		return "none"
	}
	return strconv.Itoa(n)
}

// Join makes the folder, or finds the other parts in it, who must be about the same.
func (f *Folder) Join(ctx context.Context) error {
	if err := f.disk.MkdirAll(f.path, 0o777); err != nil {
		return err
	}
	var err error
	if f.lock, err = f.takeLock(); err != nil {
		return err
	}
	if err = f.join(ctx); err != nil {
		return errors.Join(err, f.Unlock())
	}
	return nil
}

func (f *Folder) join(ctx context.Context) error {
	if err := f.team.Make(); err != nil {
		return err
	}
	var state *State
	begun := func() (bool, error) {
		data, err := disk.ReadFile(filepath.Join(f.path, StateFile), maxBytes)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err == nil {
			state, err = parseState(filepath.Join(f.path, StateFile), data)
		}
		return err == nil, err
	}
	lease, err := f.team.Lease(ctx, "begin", begun)
	if err != nil {
		return err
	}
	if lease == nil {
		if err := f.same(state); err != nil {
			return err
		}
		return f.MakeKept()
	}
	return errors.Join(f.Begin(), lease.End())
}

// Finished reports whether the parts have made their result, which has its name; then
// they must have been about the same.
func (f *Folder) Finished() (bool, error) {
	if _, err := os.Lstat(f.out); err != nil {
		return false, nil
	}
	mark := f.out + markSuffix
	data, err := disk.ReadFile(mark, maxBytes)
	if errors.Is(err, fs.ErrNotExist) {
		// The part that made it may have got no further than to its name.
		mark = filepath.Join(f.path, StateFile)
		data, err = disk.ReadFile(mark, maxBytes)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	state, err := parseState(mark, data)
	if err != nil || state.Result == "" || state.Parts == 0 {
		return false, err
	}
	return true, f.same(state)
}

// Sweep removes what this part has written after another had made the result and removed
// the folder, or while it did. What yet another writes meanwhile that one removes.
func (f *Folder) Sweep() {
	for _, path := range []string{f.out, f.out + markSuffix} {
		if _, err := os.Lstat(path); err != nil {
			return
		}
	}
	_ = f.disk.RemoveAll(f.path)
}

// Note reads a note that another part may have kept; found is false if none has.
func (k Kept) Note(name string) (data []byte, found bool, err error) {
	path := k.path(notePrefix, name)
	data, damaged, err := readNote(path, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err == nil && damaged != nil {
		err = fmt.Errorf("%s: %w", path, damaged)
	}
	return data, err == nil, err
}

// writeShared makes a folder of one safetensors file, all of it at once.
func (k Kept) writeShared(dir string, tensors []layout.Tensor, metadata map[string]string) error {
	tmp := k.unique()
	err := k.fill(tmp, tensors, metadata)
	if err == nil {
		if err = k.disk.Rename(tmp, dir); err != nil {
			if _, there := os.Stat(dir); there == nil {
				err = nil // another life of this part was faster: it has kept the same
			}
		}
	}
	if left := k.disk.RemoveAll(tmp); err == nil {
		err = left
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return k.disk.SyncFolder(filepath.Dir(dir))
}

// noteShared keeps a file, all of it at once.
func (k Kept) noteShared(path string, data []byte) error {
	tmp := k.unique()
	if err := k.disk.WriteFile(tmp, data); err != nil {
		return err
	}
	if err := k.disk.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return k.disk.SyncFolder(filepath.Dir(path))
}
