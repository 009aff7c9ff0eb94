// Package text reads texts as people have them, cuts them into documents and windows,
// and turns them into token ids.
package text

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/chat"
	"github.com/golowbit/lowbit/internal/disk"
)

// Source is where text comes from: files, readers, strings and documents, one after
// another in this order. Files and readers may hold plain text, JSON lines, one JSON
// value or a parquet table, packed by gzip or zstd or not; every text and every
// conversation in JSON or a table, and every string, is one document.
type Source struct {
	Files     []string  // or folders of such
	Weights   []float64 // of Files, one each; none: they count by their length
	Readers   []io.Reader
	Strings   []string
	Documents iter.Seq[string]
	Field     string // key of the text or the messages; "": text, else messages, else conversations
	MaxBytes  int64  // of each file or reader, unpacked; 0 means 1 GiB
}

const defaultMaxBytes = 1 << 30

func (s Source) limit() int64 {
	if s.MaxBytes == 0 {
		return defaultMaxBytes
	}
	return s.MaxBytes
}

// Name names the text, and so many sequences of token ids beside it, in errors.
func (s Source) Name(ids int) string {
	names := slices.Clone(s.Files)
	for _, p := range []struct {
		n    int
		what string
	}{{len(s.Readers), "readers"}, {len(s.Strings), "strings"}, {ids, "sequences of token ids"}} {
		if p.n > 0 {
			names = append(names, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return strings.Join(names, ", ")
}

// told adds to an error in reading what can be done.
func told(err error) error {
	switch {
	case errors.Is(err, disk.ErrTooLarge):
		err = fmt.Errorf("%w; Text.MaxBytes (--max-text) sets the limit", err)
	case errors.Is(err, disk.ErrNotRegular):
		err = fmt.Errorf("%w; what is no file can come through standard input (-)", err)
	}
	return err
}

// Passage is a piece of text: one document, or several between blank lines.
type Passage struct {
	Text string
	One  bool               // it is one document
	Chat *chat.Conversation // or one that the model's chat template turns into text
	From string             // where that stands
}

// Part is passages that count for so much beside the other parts.
type Part struct {
	Weight   float64
	Passages []Passage
}

// Size is how many bytes there are, unpacked, as far as that is known before they are
// read: not of readers and iterators.
func (s Source) Size() int64 {
	var n int64
	for _, name := range s.Files {
		names := []string{name}
		if st, err := os.Stat(name); err == nil && st.IsDir() {
			names, _ = folder(name) // what is wrong with it is said where it is read
		}
		for _, name := range names {
			n += unpackedSize(name, s.Field)
		}
	}
	for _, str := range s.Strings {
		n += int64(len(str))
	}
	return n
}

// Parts reads everything: one part, or with weights one for each file, each reader,
// and what else there is.
func (s Source) Parts() ([]Part, error) {
	if len(s.Weights) > 0 && len(s.Weights) != len(s.Files) {
		return nil, fmt.Errorf("%d weights for %d files of text", len(s.Weights), len(s.Files))
	}
	var parts []Part
	add := func(weight float64, p []Passage) {
		if len(s.Weights) == 0 && len(parts) > 0 {
			parts[0].Passages = append(parts[0].Passages, p...)
			return
		}
		parts = append(parts, Part{weight, p})
	}
	for i, name := range s.Files {
		p, err := s.file(name)
		if err != nil {
			return nil, told(err)
		}
		weight := 1.0
		if len(s.Weights) > 0 {
			weight = s.Weights[i]
		}
		add(weight, p)
	}
	for i, r := range s.Readers {
		name := fmt.Sprintf("text %d", i+1)
		if n, ok := r.(interface{ Name() string }); ok {
			name = n.Name()
		}
		p, err := s.reader(name, r)
		if err != nil {
			return nil, told(err)
		}
		add(1, p)
	}
	p, err := s.given()
	if err != nil {
		return nil, err
	}
	if len(p) > 0 {
		add(1, p)
	}
	return parts, nil
}

// given are the documents that a program has.
func (s Source) given() ([]Passage, error) {
	docs := slices.Values(s.Strings)
	all := make([]Passage, 0, len(s.Strings))
	for _, docs := range []iter.Seq[string]{docs, s.Documents} {
		if docs == nil {
			continue
		}
		n := 0
		for doc := range docs {
			if n++; !utf8.ValidString(doc) {
				return nil, fmt.Errorf("string %d: not UTF-8 text", n)
			}
			all = append(all, Passage{Text: doc, One: true})
		}
	}
	return all, nil
}
