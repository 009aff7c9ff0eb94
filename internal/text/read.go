// Package text reads texts, cuts them into documents and windows, and turns
// them into token ids.
package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/disk"
)

// Source is where text comes from: files, readers and strings, one after
// another in this order. Files and readers may hold plain text, JSON lines or
// one JSON value; every text in JSON, and every string, is one document.
type Source struct {
	Files    []string
	Readers  []io.Reader
	Strings  []string
	Field    string // key of the text in JSON; "" means "text"
	MaxBytes int64  // of each file or reader; 0 means 1 GiB
}

const defaultMaxBytes = 1 << 30

// limited reads a text of at most MaxBytes.
func (s Source) limited(read func(limit int64) ([]byte, error)) ([]byte, error) {
	limit := s.MaxBytes
	if limit == 0 {
		limit = defaultMaxBytes
	}
	data, err := read(limit)
	switch {
	case errors.Is(err, disk.ErrTooLarge):
		err = fmt.Errorf("%w; Text.MaxBytes (--max-text) sets the limit", err)
	case errors.Is(err, disk.ErrNotRegular):
		err = fmt.Errorf("%w; what is no file can come through standard input (-)", err)
	}
	return data, err
}

// Passage is a piece of text: one document, or several between blank lines.
type Passage struct {
	Text string
	One  bool // it is one document
}

// Size is how many bytes there are, as far as that is known before they are read:
// not of readers.
func (s Source) Size() int64 {
	var n int64
	for _, name := range s.Files {
		if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() {
			n += st.Size()
		}
	}
	for _, str := range s.Strings {
		n += int64(len(str))
	}
	return n
}

// Passages reads everything.
func (s Source) Passages() ([]Passage, error) {
	var all []Passage
	add := func(name string, read func(limit int64) ([]byte, error)) error {
		data, err := s.limited(read)
		if err != nil {
			return err
		}
		p, err := s.parse(name, data)
		all = append(all, p...)
		return err
	}
	for _, name := range s.Files {
		err := add(name, func(limit int64) ([]byte, error) {
			if name == "/dev/stdin" { // often a pipe
				return disk.ReadAll(os.Stdin, name, limit)
			}
			return disk.ReadFile(name, limit)
		})
		if err != nil {
			return nil, err
		}
	}
	for i, r := range s.Readers {
		name := fmt.Sprintf("text %d", i+1)
		if n, ok := r.(interface{ Name() string }); ok {
			name = n.Name()
		}
		if err := add(name, func(limit int64) ([]byte, error) { return disk.ReadAll(r, name, limit) }); err != nil {
			return nil, err
		}
	}
	for i, str := range s.Strings {
		if !utf8.ValidString(str) {
			return nil, fmt.Errorf("string %d: not UTF-8 text", i+1)
		}
		all = append(all, Passage{str, true})
	}
	return all, nil
}

// parse finds out what a file holds: text, or JSON with texts in it.
func (s Source) parse(name string, data []byte) ([]Passage, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s: not UTF-8 text", name)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if bytes.Contains(data, []byte("\r\n")) {
		data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	}
	j := jsonText{name: name, field: s.Field}
	if j.field == "" {
		j.field = "text"
	}
	first, _, _ := bytes.Cut(bytes.TrimSpace(data), []byte("\n"))
	ext := strings.ToLower(filepath.Ext(name))
	switch {
	case isObject(first) || ext == ".jsonl":
		return j.lines(data)
	case ext == ".json" || len(first) > 0 && (first[0] == '{' || first[0] == '[') && json.Valid(data):
		return j.value(data)
	}
	return []Passage{{Text: string(data)}}, j.none(data)
}

// isObject reports whether a line is a JSON object.
func isObject(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) > 0 && line[0] == '{' && json.Valid(line)
}

// jsonText takes texts out of JSON.
type jsonText struct{ name, field string }

// lines reads one object a line.
func (j jsonText) lines(data []byte) ([]Passage, error) {
	var all []Passage
	n := 0
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		n++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		p, err := j.object(line)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", j.name, n, err)
		}
		all = append(all, p)
	}
	return all, nil
}

// value reads an array of objects or strings, or one of them.
func (j jsonText) value(data []byte) ([]Passage, error) {
	var list []json.RawMessage
	if data = bytes.TrimSpace(data); len(data) == 0 || data[0] != '[' {
		list = []json.RawMessage{data}
	} else if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", j.name, err)
	}
	all := make([]Passage, len(list))
	for i, v := range list {
		var err error
		if all[i], err = j.object(v); err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", j.name, i+1, err)
		}
	}
	return all, nil
}

// object takes the text out of an object, or is the string that there is.
func (j jsonText) object(data []byte) (Passage, error) {
	var s string
	if json.Unmarshal(data, &s) == nil {
		return Passage{s, true}, nil
	}
	var o map[string]json.RawMessage
	if err := json.Unmarshal(data, &o); err != nil {
		return Passage{}, fmt.Errorf("want a JSON object with the text in %q: %w", j.field, err)
	}
	v, ok := o[j.field]
	if !ok {
		keys := make([]string, 0, len(o))
		for k := range o {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		return Passage{}, fmt.Errorf("the JSON object has no %q; it has %q (the field of the text can be set)", j.field, keys)
	}
	if err := json.Unmarshal(v, &s); err != nil {
		return Passage{}, fmt.Errorf("%q is no JSON string", j.field)
	}
	return Passage{s, true}, nil
}

// none refuses text in which records of JSON have been left.
func (j jsonText) none(data []byte) error {
	n := 0
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		n++
		if !isObject(line) {
			continue
		}
		if _, err := j.object(line); err == nil {
			return fmt.Errorf("%s: line %d is a JSON object with a %q, the lines before it are text: want one or the other", j.name, n, j.field)
		}
	}
	return nil
}
