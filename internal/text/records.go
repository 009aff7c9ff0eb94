package text

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/golowbit/lowbit/internal/chat"
)

// fields are where a record's text is looked for, unless a field is given.
var fields = []string{"text", "messages", "conversations"}

// parse finds out what a file holds: text, or JSON with texts in it. A byte order mark
// is dropped, and CR LF becomes LF; what JSON strings say is left alone.
func (s Source) parse(name string, data []byte) ([]Passage, error) {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return nil, fmt.Errorf("%s: not UTF-8 text: UTF-16, by its byte order mark", name)
	}
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s: not UTF-8 text%s", name, wrongByte(data))
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if bytes.Contains(data, []byte("\r\n")) {
		data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	}
	j := records{name: name, field: s.Field}
	first, _, _ := bytes.Cut(bytes.TrimSpace(data), []byte("\n"))
	ext := strings.ToLower(filepath.Ext(unpackedName(name)))
	switch {
	case isObject(first) || ext == ".jsonl" || ext == ".ndjson":
		return j.lines(data)
	case ext == ".json" || len(first) > 0 && (first[0] == '{' || first[0] == '[') && json.Valid(data):
		return j.value(data)
	case ext == ".parquet":
		return nil, fmt.Errorf("%s: no parquet table: it does not begin with PAR1", name)
	}
	// Nothing else has the bytes, which a copy would double.
	return []Passage{{Text: unsafe.String(unsafe.SliceData(data), len(data))}}, j.none(data)
}

// wrongByte says where text ends to be UTF-8.
func wrongByte(data []byte) string {
	line, rest := 1, data
	for len(rest) > 0 {
		r, n := utf8.DecodeRune(rest)
		if r == utf8.RuneError && n == 1 {
			return fmt.Sprintf(": byte %#02x in line %d", rest[0], line)
		}
		if r == '\n' {
			line++
		}
		rest = rest[n:]
	}
	return ""
}

// isObject reports whether a line is a JSON object.
func isObject(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) > 0 && line[0] == '{' && json.Valid(line)
}

// records takes texts and conversations out of JSON.
type records struct{ name, field string }

// lines reads one object a line.
func (j records) lines(data []byte) ([]Passage, error) {
	var all []Passage
	n := 0
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		n++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		p, err := j.object(line, fmt.Sprintf("line %d", n))
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// value reads an array of objects or strings, or one of them.
func (j records) value(data []byte) ([]Passage, error) {
	var list []json.RawMessage
	if data = bytes.TrimSpace(data); len(data) == 0 || data[0] != '[' {
		list = []json.RawMessage{data}
	} else if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", j.name, err)
	}
	all := make([]Passage, len(list))
	for i, v := range list {
		var err error
		if all[i], err = j.object(v, fmt.Sprintf("entry %d", i+1)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// object is the text or conversation of an object, or the string that there is. where
// is its place in the file.
func (j records) object(data []byte, where string) (Passage, error) {
	where = j.name + ": " + where
	p, err := j.record(data, where)
	if err != nil {
		err = fmt.Errorf("%s: %w", where, err)
	}
	return p, err
}

func (j records) record(data []byte, where string) (Passage, error) {
	var s string
	if json.Unmarshal(data, &s) == nil {
		return Passage{Text: s, One: true}, nil
	}
	var o map[string]json.RawMessage
	if err := json.Unmarshal(data, &o); err != nil {
		return Passage{}, fmt.Errorf("want a JSON object with the text in %q: %w", j.names()[0], err)
	}
	for _, field := range j.names() {
		v, ok := o[field]
		if !ok {
			continue
		}
		if json.Unmarshal(v, &s) == nil && string(v) != "null" {
			return Passage{Text: s, One: true}, nil
		}
		if v[0] != '[' {
			return Passage{}, fmt.Errorf("%q is %s, want a string, or an array of messages", field, found(v))
		}
		c, err := conversation(o, v)
		if err != nil {
			return Passage{}, fmt.Errorf("%q: %w", field, err)
		}
		return Passage{One: true, Chat: c, From: where}, nil
	}
	other := ""
	if j.field == "" {
		other = ", and neither messages nor conversations"
	}
	return Passage{}, fmt.Errorf("the JSON object has no %q; it has %q%s (Text.Field, --field, names the text's)", j.names()[0], slices.Sorted(maps.Keys(o)), other)
}

// names are the fields that the text may be in.
func (j records) names() []string {
	if j.field == "" {
		return fields
	}
	return []string{j.field}
}

// conversation is messages, with what else an object has for the template.
func conversation(o map[string]json.RawMessage, messages json.RawMessage) (*chat.Conversation, error) {
	var system, text string
	_ = json.Unmarshal(o["system"], &system) // not there, or something else
	tools := o["tools"]
	if json.Unmarshal(tools, &text) == nil { // a table has them as text
		tools = nil
		if json.Valid([]byte(text)) {
			tools = json.RawMessage(text)
		}
	}
	return chat.Parse(messages, system, tools)
}

// found is a JSON value in errors.
func found(v []byte) string {
	switch v[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	}
	const most = 40
	if len(v) > most {
		return string(v[:most]) + "..."
	}
	return string(v)
}

// none refuses text with records of JSON in it.
func (j records) none(data []byte) error {
	n := 0
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		n++
		if isObject(line) {
			return fmt.Errorf("%s: line %d is a JSON object, the lines before it are text: want one or the other (text with such lines in it can be brought as JSON: {\"text\": ...})", j.name, n)
		}
	}
	return nil
}
