package faults

import (
	"errors"
	"fmt"
)

// ErrOptions is wrapped by errors about options that make no sense.
var ErrOptions = errors.New("invalid options")

// Options returns an error that wraps ErrOptions.
func Options(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrOptions, fmt.Errorf(format, args...))
}
