package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Object is a JSON object whose keys keep their order and whose values keep
// their text, so that rewriting config.json changes only what is meant.
type Object struct {
	Keys   []string
	Values []json.RawMessage
}

// ParseObject reads the text of one JSON object.
func ParseObject(data []byte) (*Object, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	t, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	o := &Object{}
	at := map[string]int{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("not JSON: key %q: %w", t, err)
		}
		// As in Python and encoding/json, the last of equal keys counts.
		key := t.(string)
		if i, twice := at[key]; twice {
			o.Values[i] = v
			continue
		}
		at[key] = len(o.Keys)
		o.Keys, o.Values = append(o.Keys, key), append(o.Values, v)
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("not JSON: text after the object")
	}
	return o, nil
}

func (o *Object) find(key string) int {
	for i, k := range o.Keys {
		if k == key {
			return i
		}
	}
	return -1
}

// Get returns the value of a key.
func (o *Object) Get(key string) (json.RawMessage, bool) {
	if i := o.find(key); i >= 0 {
		return o.Values[i], true
	}
	return nil, false
}

// Set replaces the value of a key in its place, or appends the key.
func (o *Object) Set(key string, v json.RawMessage) {
	if i := o.find(key); i >= 0 {
		o.Values[i] = v
		return
	}
	o.Keys = append(o.Keys, key)
	o.Values = append(o.Values, v)
}

// Remove takes a key out, if it is there.
func (o *Object) Remove(key string) {
	if i := o.find(key); i >= 0 {
		o.Keys = append(o.Keys[:i], o.Keys[i+1:]...)
		o.Values = append(o.Values[:i], o.Values[i+1:]...)
	}
}

// Bytes returns the object indented by two spaces, as Hugging Face writes it.
func (o *Object) Bytes() []byte {
	var b, out bytes.Buffer
	b.WriteByte('{')
	for i, k := range o.Keys {
		if i > 0 {
			b.WriteByte(',')
		}
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.Encode(k) // a string always encodes
		b.WriteByte(':')
		b.Write(o.Values[i])
	}
	b.WriteByte('}')
	if err := json.Indent(&out, b.Bytes(), "", "  "); err != nil {
		panic("checkpoint: object holds a value that is not JSON")
	}
	out.WriteByte('\n')
	return out.Bytes()
}
