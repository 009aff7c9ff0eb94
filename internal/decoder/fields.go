package decoder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// fields reads the values of one JSON object and keeps the first error, so
// that a reader of many keys checks once.
type fields struct {
	path   string // name of the object in the file, "" for the whole
	values map[string]json.RawMessage
	called map[string]string // what a key is called in the file, if otherwise
	nested bool              // it is one of several, each for a type of layers
	seen   map[string]any    // what the keys came to that were asked for
	err    error
}

func parseFields(data []byte, path string) (*fields, error) {
	f := &fields{path: path}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&f.values); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			line := 1 + bytes.Count(data[:min(int(syntax.Offset), len(data))], []byte("\n"))
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if f.values == nil {
		return nil, errors.New("not a JSON object: null")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return f, nil
}

// name is the name of a key for messages.
func (f *fields) name(key string) string {
	if other, ok := f.called[key]; ok {
		key = other
	}
	return f.path + key
}

// alias lets a key be called otherwise in the file.
func (f *fields) alias(key, other string) {
	v, ok := f.values[other]
	if !ok || !f.null(key) {
		return
	}
	if f.called == nil {
		f.called = map[string]string{}
	}
	f.values[key], f.called[key] = v, other
}

// otherwise sets what an absent key, or null, means.
func (f *fields) otherwise(key string, value any) {
	if f.null(key) {
		f.values[key], _ = json.Marshal(value)
	}
}

func (f *fields) fail(key, format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("%q: %s", f.name(key), fmt.Sprintf(format, args...))
	}
}

func (f *fields) unsupported(key, value, supported string) {
	if f.err == nil {
		f.err = fmt.Errorf("%q: %q is %w (supported: %s)", f.name(key), value, ErrUnsupported, supported)
	}
}

// take adopts the error of an object inside f.
func (f *fields) take(inner *fields) {
	if f.err == nil {
		f.err = inner.err
	}
}

// absent tells that the key is not there; null also holds if it is null.
func (f *fields) absent(key string) bool { _, ok := f.values[key]; return !ok }

func (f *fields) null(key string) bool {
	v, ok := f.values[key]
	return !ok || string(v) == "null"
}

// read decodes the key into dst and tells whether there was a value.
func (f *fields) read(key string, dst any, want string) bool {
	if f.err != nil || f.null(key) {
		return false
	}
	if err := json.Unmarshal(f.values[key], dst); err != nil {
		f.fail(key, "%s, want %s", shorten(f.values[key]), want)
		return false
	}
	return true
}

func shorten(v json.RawMessage) string {
	if len(v) > 40 {
		return string(v[:40]) + "..."
	}
	return string(v)
}

func (f *fields) int(key string, missing int) int {
	v := missing
	if !f.read(key, &v, "an integer") {
		v = missing
	}
	f.note(key, v)
	return v
}

// note records what a key came to.
func (f *fields) note(key string, v any) {
	if f.seen == nil {
		f.seen = map[string]any{}
	}
	f.seen[key] = v
}

func (f *fields) need(key string) int {
	if f.null(key) {
		f.fail(key, "missing")
	}
	return f.int(key, 0)
}

func (f *fields) float(key string, missing float64) float64 {
	v := missing
	if !f.read(key, &v, "a number") {
		v = missing
	}
	f.note(key, v)
	return v
}

// orNull reads a number where null means 0, absent another.
func (f *fields) orNull(key string, missing float64) float64 {
	if !f.absent(key) {
		missing = 0
	}
	return f.float(key, missing)
}

func (f *fields) needFloat(key string) float64 {
	if f.null(key) {
		f.fail(key, "missing")
	}
	return f.float(key, math.NaN())
}

func (f *fields) bool(key string, missing bool) bool {
	v := missing
	if !f.read(key, &v, "true or false") {
		v = missing
	}
	f.note(key, v)
	return v
}

func (f *fields) str(key, missing string) string {
	v := missing
	if !f.read(key, &v, "a string") {
		v = missing
	}
	f.note(key, v)
	return v
}

func (f *fields) strs(key string) []string {
	var v []string
	f.read(key, &v, "a list of strings")
	return v
}

// ints reads one integer or a list of them.
func (f *fields) ints(key string) []int {
	if f.err != nil || f.null(key) {
		return nil
	}
	var one int
	if json.Unmarshal(f.values[key], &one) == nil {
		return []int{one}
	}
	var v []int
	f.read(key, &v, "an integer or a list of them")
	return v
}

func (f *fields) floats(key string) []float64 {
	var v []float64
	f.read(key, &v, "a list of numbers")
	return v
}

func (f *fields) object(key string) *fields {
	if f.err != nil || f.null(key) {
		return nil
	}
	o, err := parseFields(f.values[key], f.path+key+".")
	if err != nil {
		f.fail(key, "%v", err)
		return nil
	}
	return o
}

// size0 reads a number that is not negative.
func (f *fields) size0(key string, missing int) int {
	v := f.int(key, missing)
	if f.err == nil && (v < 0 || v > maxWidth) {
		f.fail(key, "%d, want 0 to %d", v, maxWidth)
	}
	return min(max(v, 0), maxWidth)
}

// size reads a positive number.
func (f *fields) size(key string, missing int) int {
	v := f.int(key, missing)
	if f.err == nil && (v < 1 || v > maxWidth) {
		f.fail(key, "%d, want 1 to %d", v, maxWidth)
		v = 1
	}
	return max(v, 1)
}
