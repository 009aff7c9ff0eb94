package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"

	"github.com/golowbit/lowbit/internal/disk"
)

// beside are the columns that a conversation may need next to its messages.
var beside = []string{"system", "tools"}

// table reads a parquet table: of every row the text or the messages, as of a JSON
// object.
func (s Source) table(name string, r io.ReaderAt, size int64) (all []Passage, err error) {
	defer func() { // the library checks less than a file can have wrong
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: parquet: %v", name, p)
		}
	}()
	f, err := openTable(r, size)
	if err != nil {
		return nil, fmt.Errorf("%s: parquet: %w", name, err)
	}
	j := records{name: name, field: s.Field}
	want := parquet.Group{}
	var names []string
	for _, c := range f.Schema().Fields() {
		names = append(names, c.Name())
		if j.reads(c.Name()) {
			want[c.Name()] = c
		}
	}
	if !slices.ContainsFunc(j.names(), func(n string) bool { return slices.Contains(names, n) }) {
		return nil, fmt.Errorf("%s: the table has no column %q; it has %q (Text.Field, --field, names the text's)", name, j.names(), names)
	}
	rows := parquet.NewGenericReader[any](f, parquet.NewSchema(f.Schema().Name(), want))
	defer rows.Close()
	batch := make([]any, 64)
	left := s.limit()
	for n := 1; ; {
		k, err := rows.Read(batch)
		for _, row := range batch[:k] {
			var b bytes.Buffer
			if err := encode(&b, f.Schema(), row); err != nil {
				return nil, fmt.Errorf("%s: row %d: %w", name, n, err)
			}
			if left -= int64(b.Len()); left < 0 {
				return nil, fmt.Errorf("%s: %w: more than %d bytes", name, disk.ErrTooLarge, s.limit())
			}
			p, err := j.object(b.Bytes(), fmt.Sprintf("row %d", n))
			if err != nil {
				return nil, err
			}
			all = append(all, p)
			n++
		}
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: row %d: parquet: %w", name, n, err)
		}
	}
}

// reads reports whether a column is needed.
func (j records) reads(column string) bool {
	return slices.Contains(j.names(), column) || slices.Contains(beside, column)
}

// openTable reads what a table says of itself.
func openTable(r io.ReaderAt, size int64) (*parquet.File, error) {
	return parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
}

// tableSize is how large the columns that are read are, before they were packed.
func tableSize(r io.ReaderAt, size int64, field string) (n int64) {
	defer func() {
		if recover() != nil { // said where it is read
			n = size
		}
	}()
	f, err := openTable(r, size)
	if err != nil {
		return size
	}
	j := records{field: field}
	for _, g := range f.Metadata().RowGroups {
		for _, c := range g.Columns {
			if len(c.MetaData.PathInSchema) > 0 && j.reads(c.MetaData.PathInSchema[0]) {
				n += c.MetaData.TotalUncompressedSize
			}
		}
	}
	return n
}

// encode writes a value of a table as JSON, with the columns in their order: a
// template may write them so.
func encode(b *bytes.Buffer, node parquet.Node, v any) error {
	switch v := v.(type) {
	case map[string]any:
		sep := byte('{')
		for _, f := range node.Fields() {
			inner, ok := v[f.Name()]
			if !ok {
				continue
			}
			b.WriteByte(sep)
			sep = ','
			if err := encode(b, parquet.String(), f.Name()); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := encode(b, f, inner); err != nil {
				return err
			}
		}
		if sep == '{' {
			b.WriteByte(sep)
		}
		b.WriteByte('}')
		return nil
	case []any:
		inner := element(node)
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := encode(b, inner, e); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	case []byte:
		if !utf8.Valid(v) {
			return errors.New("bytes that are not UTF-8")
		}
		return encode(b, node, string(v))
	}
	data, err := json.Marshal(v)
	b.Write(data)
	return err
}

// element is what a list's node has many of.
func element(node parquet.Node) parquet.Node {
	if node.Leaf() || len(node.Fields()) != 1 || node.Type().LogicalType() == nil {
		return node // repeated itself
	}
	repeated := node.Fields()[0]
	if !repeated.Leaf() && len(repeated.Fields()) == 1 {
		return repeated.Fields()[0]
	}
	return repeated
}
