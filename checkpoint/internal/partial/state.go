package partial

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

// State is state.json: what the run is. It is written last when a run begins, and
// always whole.
type State struct {
	Version     int             `json:"version"`
	Format      string          `json:"format"`
	Direct      bool            `json:"direct"`
	Parts       int             `json:"parts,omitempty"` // that make it together; 0 is one run
	Fingerprint json.RawMessage `json:"fingerprint"`
	Config      json.RawMessage `json:"config"` // of the source
	Inputs      []inputs.File   `json:"inputs"`
	// Result identifies the complete result, from before it gets its name.
	Result string `json:"result,omitempty"`
}

// Version is that of State and of what is kept.
const Version = 2

const maxBytes = 64 << 20 // of a state or a note

// WriteState writes down what the run is.
func (f *Folder) WriteState() error { return f.writeState(f.State) }

// WriteResult writes down too that info is the complete result: whoever resumes
// after a stop from then on can tell that it was made.
func (f *Folder) WriteResult(info fs.FileInfo) error {
	s := f.State
	s.Result = resultID(info)
	return f.writeState(s)
}

func (f *Folder) writeState(s State) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return f.disk.WriteFile(filepath.Join(f.path, StateFile), append(data, '\n'))
}

// readState reads state.json; nil says that the run stopped before it had
// recorded what it is, and thus before any work.
func (f *Folder) readState() (*State, error) {
	path := filepath.Join(f.path, StateFile)
	data, err := disk.ReadFile(path, maxBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, f.onlyBegun()
	}
	if err != nil {
		return nil, err
	}
	if !json.Valid(data) && f.onlyBegun() == nil {
		return nil, nil
	}
	return parseState(path, data)
}

func parseState(path string, data []byte) (*State, error) {
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Version != Version {
		return nil, fmt.Errorf("%s: %w: version %d, want %d", path, ErrResume, s.Version, Version)
	}
	return &s, nil
}

// onlyBegun fails for a folder that has more than a run has made before its
// first layer.
func (f *Folder) onlyBegun() error {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case LockFile, StateFile, StateFile + ".tmp":
			continue
		case LayerFolder:
			if layers, err := os.ReadDir(f.layers); err == nil && len(layers) == 0 {
				continue
			}
		}
		return fmt.Errorf("%s: %w: no %s: the folder is not an interrupted run", f.path, ErrResume, StateFile)
	}
	return nil
}

// same fails where the earlier run had other options or another source.
func (f *Folder) same(s *State) error {
	if s.Format != f.State.Format {
		return fmt.Errorf("%s: %w: started with other options: format was %s, is %s", f.path, ErrResume, s.Format, f.State.Format)
	}
	if s.Direct != f.State.Direct {
		return fmt.Errorf("%s: %w: started with other options: layers were written directly: %v, now: %v", f.path, ErrResume, s.Direct, f.State.Direct)
	}
	if f.team != nil && s.Parts != f.State.Parts {
		return fmt.Errorf("%s: %w: started with other options: parts were %s, are %s", f.path, ErrResume, count(s.Parts), count(f.State.Parts))
	}
	diff, err := inputs.Differences(s.Fingerprint, f.State.Fingerprint)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(f.path, StateFile), err)
	}
	if diff != "" {
		return fmt.Errorf("%s: %w: started with other options: %s", f.path, ErrResume, diff)
	}
	if diff, err = inputs.Differences(s.Config, f.State.Config); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(f.path, StateFile), err)
	}
	if diff != "" {
		return fmt.Errorf("%s: %w: started from another config.json: %s", f.path, ErrResume, diff)
	}
	other, err := inputs.Compare(f.State.Inputs, s.Inputs)
	if err != nil {
		return err
	}
	if len(other) > 0 {
		return fmt.Errorf("%s: %w: started from other files: %s", f.path, ErrResume, inputs.Some(other))
	}
	return nil
}

// resultID tells a complete result from what others may put at its place.
func resultID(info fs.FileInfo) string {
	if id := disk.FileID(info); id != "" {
		return id
	}
	return "made"
}
