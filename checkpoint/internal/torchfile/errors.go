package torchfile

import (
	"errors"
	"fmt"
)

// Errors to branch on with errors.Is.
var (
	// ErrInvalid: the file is no torch file, is cut short, or breaks the format.
	ErrInvalid = errors.New("torchfile: invalid")
	// ErrGlobal: the pickle names a class or function that is not read.
	ErrGlobal = errors.New("torchfile: global not read")
	// ErrNotFound: no tensor of that name.
	ErrNotFound = errors.New("torchfile: no such tensor")
)

// fault is an error of one of the kinds above; the kind is not part of the text.
type fault struct {
	kind error
	msg  string
}

func (f *fault) Error() string { return f.msg }
func (f *fault) Unwrap() error { return f.kind }

func invalidf(format string, args ...any) error {
	return &fault{ErrInvalid, fmt.Sprintf(format, args...)}
}

// nameText quotes a name from a file, cut to a length fit for an error line.
func nameText(s string) string {
	const limit = 200
	if len(s) > limit {
		return fmt.Sprintf("%q...", s[:limit])
	}
	return fmt.Sprintf("%q", s)
}
