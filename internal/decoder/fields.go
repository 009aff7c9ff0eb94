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
	err    error
}

// parseFields reads one JSON object; path is its name for messages, "" for the whole.
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

// fail records an error about a key.
func (f *fields) fail(key, format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("%q: %s", f.name(key), fmt.Sprintf(format, args...))
	}
}

// unsupported records an error that wraps decoder.ErrUnsupported.
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

// absent tells that the key is not there.
func (f *fields) absent(key string) bool { _, ok := f.values[key]; return !ok }

// null tells that the key is not there or null.
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

// shorten is a value for messages.
func shorten(v json.RawMessage) string {
	if len(v) > 40 {
		return string(v[:40]) + "..."
	}
	return string(v)
}

// int reads an integer; missing is what an absent key, or null, means.
func (f *fields) int(key string, missing int) int {
	v := missing
	if !f.read(key, &v, "an integer") {
		return missing
	}
	return v
}

// need reads an integer that must be there.
func (f *fields) need(key string) int {
	if f.null(key) {
		f.fail(key, "missing")
	}
	return f.int(key, 0)
}

// float reads a number.
func (f *fields) float(key string, missing float64) float64 {
	v := missing
	if !f.read(key, &v, "a number") {
		return missing
	}
	return v
}

// orNull reads a number where null means 0, absent another.
func (f *fields) orNull(key string, missing float64) float64 {
	if !f.absent(key) {
		missing = 0
	}
	return f.float(key, missing)
}

// needFloat reads a number that must be there.
func (f *fields) needFloat(key string) float64 {
	if f.null(key) {
		f.fail(key, "missing")
	}
	return f.float(key, math.NaN())
}

// bool reads true or false.
func (f *fields) bool(key string, missing bool) bool {
	v := missing
	if !f.read(key, &v, "true or false") {
		return missing
	}
	return v
}

// str reads a string.
func (f *fields) str(key, missing string) string {
	v := missing
	if !f.read(key, &v, "a string") {
		return missing
	}
	return v
}

// strs reads a list of strings, nil if it is absent.
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

// floats reads a list of numbers, nil if it is absent.
func (f *fields) floats(key string) []float64 {
	var v []float64
	f.read(key, &v, "a list of numbers")
	return v
}

// object reads an object, nil if it is absent.
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

// missing sets what an absent key means.
func (f *fields) missing(key string, v int) {
	if f.absent(key) {
		f.values[key], _ = json.Marshal(v)
	}
}

// factors reads n numbers, ones if they are absent.
func (f *fields) factors(key string, n int) []float64 {
	v := f.floats(key)
	if f.null(key) {
		for range n {
			v = append(v, 1)
		}
	}
	if f.err == nil && len(v) != n {
		f.fail(key, "%d numbers, want %d", len(v), n)
	}
	return v
}

// expand makes the inner width a multiple of that of the stream, whatever is said
// about it elsewhere.
func (f *fields) expand(key string, missing float64) {
	w := int(f.float(key, missing) * float64(f.int("hidden_size", 0)))
	delete(f.values, "intermediate_size")
	f.otherwise("intermediate_size", w)
}

// auto tells whether a key is "auto", null or absent.
func (f *fields) auto(key string) bool { return f.null(key) || string(f.values[key]) == `"auto"` }

// limits reads two bounds, 0 and infinity if they are absent.
func (f *fields) limits(key string) (least, most float64) {
	most = math.Inf(1)
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
	if len(list) != 2 || !(least <= most) {
		f.fail(key, "%s, want two numbers in order", shorten(f.values[key]))
	}
	return least, most
}

// nonFinite writes the bare words Infinity and -Infinity, which Python writes and
// JSON does not have, as transformers 5 does: {"__float__": "Infinity"}.
func nonFinite(data []byte) []byte {
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
