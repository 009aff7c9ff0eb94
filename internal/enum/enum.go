// Package enum gives small enumerations one table of names, from which their
// String, MarshalText, UnmarshalText, parser and validation all come, so that
// flags, JSON and messages spell a value alike.
package enum

import (
	"fmt"
	"strings"
)

// Table holds the names of the values 0, 1, 2, … of an enumeration.
type Table[T ~uint8] struct {
	typ   string // name of the Go type, for values without a name
	kind  string // what a value is called in errors
	err   error  // sentinel that errors wrap
	names []string
}

// New returns the table of the type typ, a value of which errors call a kind
// and wrap err about. names[v] is the name of value v.
func New[T ~uint8](typ, kind string, err error, names ...string) Table[T] {
	return Table[T]{typ, kind, err, names}
}

// String returns the name of v, or Type(v) if it has none.
func (t Table[T]) String(v T) string {
	if int(v) < len(t.names) {
		return t.names[v]
	}
	return fmt.Sprintf("%s(%d)", t.typ, uint8(v))
}

// Check returns an error that lists the known names if v has none.
func (t Table[T]) Check(v T) error {
	if int(v) < len(t.names) {
		return nil
	}
	return t.unknown(fmt.Sprintf("%d", uint8(v)))
}

// Parse returns the value of a name, or an error that lists the known ones.
func (t Table[T]) Parse(name string) (T, error) {
	for v, n := range t.names {
		if n == name {
			return T(v), nil
		}
	}
	return 0, t.unknown(fmt.Sprintf("%q", name))
}

// Marshal returns the name of v for MarshalText.
func (t Table[T]) Marshal(v T) ([]byte, error) {
	if err := t.Check(v); err != nil {
		return nil, err
	}
	return []byte(t.names[v]), nil
}

// Unmarshal sets v to the value of a name, for UnmarshalText.
func (t Table[T]) Unmarshal(v *T, text []byte) error {
	got, err := t.Parse(string(text))
	if err == nil {
		*v = got
	}
	return err
}

func (t Table[T]) unknown(got string) error {
	return fmt.Errorf("%w: unknown %s %s, want %s", t.err, t.kind, got, list(t.names))
}

// list writes names as "a, b or c".
func list(names []string) string {
	n := len(names) - 1
	if n == 0 {
		return names[0]
	}
	return strings.Join(names[:n], ", ") + " or " + names[n]
}
