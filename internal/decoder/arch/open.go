package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
)

// Checkpoint is a model as it is stored.
type Checkpoint interface {
	program.Weights
	Path() string
	HasConfig() bool
	Config() json.RawMessage // config.json
	// CheckTypes refuses tensors of types that are not read.
	CheckTypes(names []string) error
}

// UnknownError is an error about a config.json that no decoder takes, or whose
// tensors have other names.
type UnknownError struct{ err error }

func (u *UnknownError) Error() string { return u.err.Error() }
func (u *UnknownError) Unwrap() error { return u.err }

// Open describes the model of a checkpoint, its tensors held to config.json. Errors
// name the path; one that is an *UnknownError says that the model is none of those
// that can be run, others that it is one and there is something wrong with it.
func Open(src Checkpoint) (*decoder.Model, error) {
	if !src.HasConfig() {
		return nil, &UnknownError{fmt.Errorf("%s: no config.json: %w", src.Path(), fs.ErrNotExist)}
	}
	m, err := ParseConfig(src.Config())
	if err != nil {
		return nil, &UnknownError{fmt.Errorf("%s: config.json: %w", src.Path(), err)}
	}
	switch err := m.Fit(src); {
	case errors.Is(err, decoder.ErrNoHead): // an incomplete model, not one of other names
		return nil, fmt.Errorf("%s: %w", src.Path(), err)
	case err != nil:
		return nil, &UnknownError{fmt.Errorf("%s: %w", src.Path(), err)}
	}
	if err = m.CheckShapes(src); err == nil {
		err = src.CheckTypes(stored(m))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src.Path(), err)
	}
	return m, nil
}

// stored names the tensors of a model.
func stored(m *decoder.Model) []string {
	var names []string
	for _, l := range m.Linears() {
		names = append(names, l.Stored().Weight)
	}
	for _, t := range m.Tensors() {
		names = append(names, t.Name)
	}
	return names
}
