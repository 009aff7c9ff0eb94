package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
)

// Fields reads the values of one JSON object and keeps the first error, so
// that a reader of many keys checks once.
type Fields struct {
	path   string // name of the object in the file, "" for the whole
	Values map[string]json.RawMessage
	called map[string]string // what a key is called in the file, if otherwise
	nested bool              // it is one of several, each for a type of layers
	Seen   map[string]any    // what the keys came to that were asked for
	Err    error
}

// ParseFields reads one JSON object; path is its name for messages, "" for the whole.
func ParseFields(data []byte, path string) (*Fields, error) {
	f := &Fields{path: path}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&f.Values); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			line := 1 + bytes.Count(data[:min(int(syntax.Offset), len(data))], []byte("\n"))
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if f.Values == nil {
		return nil, errors.New("not a JSON object: null")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return f, nil
}

// name is the name of a key for messages.
func (f *Fields) name(key string) string {
	if other, ok := f.called[key]; ok {
		key = other
	}
	return f.path + key
}

// Alias lets a key be called otherwise in the file.
func (f *Fields) Alias(key, other string) {
	v, ok := f.Values[other]
	if !ok || !f.Null(key) {
		return
	}
	if f.called == nil {
		f.called = map[string]string{}
	}
	f.Values[key], f.called[key] = v, other
}

// Otherwise sets what an absent key, or null, means.
func (f *Fields) Otherwise(key string, value any) {
	if f.Null(key) {
		f.Values[key], _ = json.Marshal(value)
	}
}

// Fail records an error about a key.
func (f *Fields) Fail(key, format string, args ...any) {
	if f.Err == nil {
		f.Err = fmt.Errorf("%q: %s", f.name(key), fmt.Sprintf(format, args...))
	}
}

// Unsupported records an error that wraps decoder.ErrUnsupported.
func (f *Fields) Unsupported(key, value, supported string) {
	if f.Err == nil {
		f.Err = fmt.Errorf("%q: %q is %w (supported: %s)", f.name(key), value, decoder.ErrUnsupported, supported)
	}
}

// Take adopts the error of an object inside f.
func (f *Fields) Take(inner *Fields) {
	if f.Err == nil {
		f.Err = inner.Err
	}
}

// Absent tells that the key is not there.
func (f *Fields) Absent(key string) bool { _, ok := f.Values[key]; return !ok }

// Null tells that the key is not there or null.
func (f *Fields) Null(key string) bool {
	v, ok := f.Values[key]
	return !ok || string(v) == "null"
}

// read decodes the key into dst and tells whether there was a value.
func (f *Fields) read(key string, dst any, want string) bool {
	if f.Err != nil || f.Null(key) {
		return false
	}
	if err := json.Unmarshal(f.Values[key], dst); err != nil {
		f.Fail(key, "%s, want %s", Shorten(f.Values[key]), want)
		return false
	}
	return true
}

// Shorten is a value for messages.
func Shorten(v json.RawMessage) string {
	if len(v) > 40 {
		return string(v[:40]) + "..."
	}
	return string(v)
}

// Int reads an integer; missing is what an absent key, or null, means.
func (f *Fields) Int(key string, missing int) int {
	v := missing
	if !f.read(key, &v, "an integer") {
		v = missing
	}
	f.Note(key, v)
	return v
}

// Note records what a key came to.
func (f *Fields) Note(key string, v any) {
	if f.Seen == nil {
		f.Seen = map[string]any{}
	}
	f.Seen[key] = v
}

// need reads an integer that must be there.
func (f *Fields) need(key string) int {
	if f.Null(key) {
		f.Fail(key, "missing")
	}
	return f.Int(key, 0)
}

// Float reads a number.
func (f *Fields) Float(key string, missing float64) float64 {
	v := missing
	if !f.read(key, &v, "a number") {
		v = missing
	}
	f.Note(key, v)
	return v
}

// OrNull reads a number where null means 0, absent another.
func (f *Fields) OrNull(key string, missing float64) float64 {
	if !f.Absent(key) {
		missing = 0
	}
	return f.Float(key, missing)
}

// needFloat reads a number that must be there.
func (f *Fields) needFloat(key string) float64 {
	if f.Null(key) {
		f.Fail(key, "missing")
	}
	return f.Float(key, math.NaN())
}

// Bool reads true or false.
func (f *Fields) Bool(key string, missing bool) bool {
	v := missing
	if !f.read(key, &v, "true or false") {
		v = missing
	}
	f.Note(key, v)
	return v
}

// Str reads a string.
func (f *Fields) Str(key, missing string) string {
	v := missing
	if !f.read(key, &v, "a string") {
		v = missing
	}
	f.Note(key, v)
	return v
}

// Strs reads a list of strings, nil if it is absent.
func (f *Fields) Strs(key string) []string {
	var v []string
	f.read(key, &v, "a list of strings")
	return v
}

// Ints reads one integer or a list of them.
func (f *Fields) Ints(key string) []int {
	if f.Err != nil || f.Null(key) {
		return nil
	}
	var one int
	if json.Unmarshal(f.Values[key], &one) == nil {
		return []int{one}
	}
	var v []int
	f.read(key, &v, "an integer or a list of them")
	return v
}

// floats reads a list of numbers, nil if it is absent.
func (f *Fields) floats(key string) []float64 {
	var v []float64
	f.read(key, &v, "a list of numbers")
	return v
}

// Object reads an object, nil if it is absent.
func (f *Fields) Object(key string) *Fields {
	if f.Err != nil || f.Null(key) {
		return nil
	}
	o, err := ParseFields(f.Values[key], f.path+key+".")
	if err != nil {
		f.Fail(key, "%v", err)
		return nil
	}
	return o
}

// Size0 reads a number that is not negative.
func (f *Fields) Size0(key string, missing int) int {
	v := f.Int(key, missing)
	if f.Err == nil && (v < 0 || v > program.MaxWidth) {
		f.Fail(key, "%d, want 0 to %d", v, program.MaxWidth)
	}
	return min(max(v, 0), program.MaxWidth)
}

// Size reads a positive number.
func (f *Fields) Size(key string, missing int) int {
	v := f.Int(key, missing)
	if f.Err == nil && (v < 1 || v > program.MaxWidth) {
		f.Fail(key, "%d, want 1 to %d", v, program.MaxWidth)
		v = 1
	}
	return max(v, 1)
}

// Missing sets what an absent key means.
func (f *Fields) Missing(key string, v int) {
	if f.Absent(key) {
		f.Values[key], _ = json.Marshal(v)
	}
}

// Factors reads n numbers, ones if they are absent.
func (f *Fields) Factors(key string, n int) []float64 {
	v := f.floats(key)
	if f.Null(key) {
		for range n {
			v = append(v, 1)
		}
	}
	if f.Err == nil && len(v) != n {
		f.Fail(key, "%d numbers, want %d", len(v), n)
	}
	return v
}

// Expand makes the inner width a multiple of that of the stream, whatever is said
// about it elsewhere.
func (f *Fields) Expand(key string, missing float64) {
	w := int(f.Float(key, missing) * float64(f.Int("hidden_size", 0)))
	delete(f.Values, "intermediate_size")
	f.Otherwise("intermediate_size", w)
}

// Auto tells whether a key is "auto", null or absent.
func (f *Fields) Auto(key string) bool { return f.Null(key) || string(f.Values[key]) == `"auto"` }

// Limits reads two bounds, 0 and infinity if they are absent. What they came to is
// a string, "" for those.
func (f *Fields) Limits(key string) (least, most float64) {
	most = math.Inf(1)
	f.Note(key, "")
	var list []any
	if !f.read(key, &list, "two numbers") {
		return 0, most
	}
	bound := func(v any) float64 {
		switch v := v.(type) {
		case float64:
			return v
		case map[string]any:
			switch v["__float__"] {
			case "Infinity":
				return math.Inf(1)
			case "-Infinity":
				return math.Inf(-1)
			}
		}
		return math.NaN()
	}
	if len(list) == 2 {
		least, most = bound(list[0]), bound(list[1])
	}
	if least != 0 || !math.IsInf(most, 1) {
		f.Note(key, fmt.Sprintf("%g to %g", least, most))
	}
	if len(list) != 2 || !(least <= most) {
		f.Fail(key, "%s, want two numbers in order", Shorten(f.Values[key]))
	}
	return least, most
}

// NonFinite writes the bare words Infinity and -Infinity, which Python writes and
// JSON does not have, as transformers 5 does: {"__float__": "Infinity"}.
func NonFinite(data []byte) []byte {
	var out []byte
	quoted := false
	for i := 0; i < len(data); i++ {
		ch := data[i]
		switch {
		case quoted && ch == '\\' && i+1 < len(data):
			out = append(out, ch)
			i++
			ch = data[i]
		case ch == '"':
			quoted = !quoted
		case !quoted && (ch == 'I' || ch == '-'):
			for _, word := range []string{"-Infinity", "Infinity"} {
				if len(data)-i >= len(word) && string(data[i:i+len(word)]) == word {
					out = append(out, `{"__float__": "`+word+`"}`...)
					i += len(word) - 1
					ch = 0
					break
				}
			}
			if ch == 0 {
				continue
			}
		}
		out = append(out, ch)
	}
	return out
}
