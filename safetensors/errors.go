package safetensors

import (
	"errors"
	"fmt"
	"strings"
)

// Errors to branch on with errors.Is. The text of an error that wraps one says
// which file and tensor, what was expected and what was found.
var (
	// ErrInvalid: a file, an index or a plan breaks the format's rules.
	ErrInvalid = errors.New("safetensors: invalid")
	// ErrNotFound: no tensor of that name.
	ErrNotFound = errors.New("safetensors: no such tensor")
	// ErrDType: the tensor's element type does not allow what was asked.
	ErrDType = errors.New("safetensors: unsuitable dtype")
	// ErrRange: a value is too large for the element type. It wraps ErrDType.
	ErrRange = fmt.Errorf("%w", ErrDType)
	// ErrIncomplete: a Writer was closed before every byte of its plan was written.
	ErrIncomplete = errors.New("safetensors: incomplete")
)

// fileError reads "file: tensor "name": msg"; kind is a sentinel or a cause and
// is not part of the text.
type fileError struct {
	file, tensor, msg string
	kind              error
}

func (e *fileError) Error() string {
	if e.tensor == "" {
		return e.file + ": " + e.msg
	}
	return e.file + ": tensor " + e.tensor + ": " + e.msg
}

func (e *fileError) Unwrap() error { return e.kind }

// fileErrorf makes an error about a whole file.
func fileErrorf(kind error, file, format string, args ...any) error {
	return &fileError{file: file, msg: fmt.Sprintf(format, args...), kind: kind}
}

// tensorErrorf makes an error about one tensor of a file.
func tensorErrorf(kind error, file, tensor, format string, args ...any) error {
	return &fileError{file: file, tensor: nameText(tensor), msg: fmt.Sprintf(format, args...), kind: kind}
}

// nameText quotes a name from a file, cut to a length fit for an error line.
func nameText(s string) string {
	const limit = 200
	if len(s) > limit {
		return fmt.Sprintf("%q...", s[:limit])
	}
	return fmt.Sprintf("%q", s)
}

// shapeText prints a shape, cut likewise.
func shapeText(shape []int) string {
	const limit = 16
	if len(shape) <= limit {
		return fmt.Sprint(shape)
	}
	return fmt.Sprintf("%s ... %d dimensions]", strings.TrimSuffix(fmt.Sprint(shape[:limit]), "]"), len(shape))
}
