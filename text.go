package lowbit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

// Text is what a model is calibrated or measured on: files, readers, strings
// and token ids, one after another in this order.
//
// Files and readers are UTF-8. A byte order mark at the beginning is dropped
// and lines that end in CR LF end in LF. JSON is never read as text: a file
// whose first line is a JSON object holds JSON lines, each an object with a
// text, and a file that is one JSON value is an array of such objects or of
// strings. Every such text is one document.
type Text struct {
	Files   []string
	Readers []io.Reader // read to their end
	Strings []string    // each is one document
	IDs     [][]int32   // taken as they are; a model needs no tokenizer for them
	// Field is the key of the text in JSON; "" means "text".
	Field string
	// PerDocument encodes every document by itself, after a
	// beginning-of-sequence token (see BOS). Documents of plain text are what
	// lies between blank lines. Otherwise texts are encoded in one go, as they
	// are, without that token.
	PerDocument bool
	// BOS says whether, with PerDocument, documents get a beginning-of-sequence
	// token. nil means if the model's tokenizer adds one. A document that
	// starts with the token already gets no second one.
	BOS *bool
	// MaxBytes is how long each file or reader may be; 0 means 1 GiB.
	MaxBytes int64
}

const defaultMaxText = 1 << 30

// limited reads a text of at most MaxBytes.
func (t Text) limited(read func(limit int64) ([]byte, error)) ([]byte, error) {
	limit := t.MaxBytes
	if limit == 0 {
		limit = defaultMaxText
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

// given reports whether there is any text.
func (t Text) given() bool {
	return len(t.Files)+len(t.Readers)+len(t.Strings)+len(t.IDs) > 0
}

func (t Text) validate() error {
	switch {
	case t.MaxBytes < 0:
		return badOptions("texts of at most %d bytes", t.MaxBytes)
	case t.BOS != nil && !t.PerDocument:
		return badOptions("a beginning-of-sequence token is for documents that are encoded by themselves (PerDocument)")
	case slices.Contains(t.Readers, nil):
		return badOptions("a nil reader of text")
	case slices.Contains(t.Files, ""):
		return badOptions("a text file without a name")
	}
	return nil
}

// String names the text in errors.
func (t Text) String() string {
	names := slices.Clone(t.Files)
	for _, p := range []struct {
		n    int
		what string
	}{{len(t.Readers), "readers"}, {len(t.Strings), "strings"}, {len(t.IDs), "sequences of token ids"}} {
		if p.n > 0 {
			names = append(names, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return strings.Join(names, ", ")
}

// Calibration is the text that layers are observed on. It is cut into
// windows of SeqLen tokens, of which Samples are used, evenly spread.
type Calibration struct {
	Text
	Samples int // 0 means 128; fewer are used if the text has fewer
	SeqLen  int // tokens; 0 means 2048 or the model's context, if shorter
}

func (c Calibration) validate() error {
	if c.Samples < 0 || c.SeqLen < 0 {
		return badOptions("calibration of %d samples of %d tokens", c.Samples, c.SeqLen)
	}
	return c.Text.validate()
}

// passage is a piece of text: one document, or several between blank lines.
type passage struct {
	text string
	one  bool // it is one document
}

// passages reads all text but the ids.
func (t Text) passages() ([]passage, error) {
	var all []passage
	for _, name := range t.Files {
		data, err := t.limited(func(limit int64) ([]byte, error) {
			if name == "/dev/stdin" { // often a pipe
				return disk.ReadAll(os.Stdin, name, limit)
			}
			return disk.ReadFile(name, limit)
		})
		if err != nil {
			return nil, err
		}
		p, err := t.parse(name, data)
		if err != nil {
			return nil, err
		}
		all = append(all, p...)
	}
	for i, r := range t.Readers {
		name := fmt.Sprintf("text %d", i+1)
		if n, ok := r.(interface{ Name() string }); ok {
			name = n.Name()
		}
		data, err := t.limited(func(limit int64) ([]byte, error) { return disk.ReadAll(r, name, limit) })
		if err != nil {
			return nil, err
		}
		p, err := t.parse(name, data)
		if err != nil {
			return nil, err
		}
		all = append(all, p...)
	}
	for i, s := range t.Strings {
		if !utf8.ValidString(s) {
			return nil, fmt.Errorf("string %d: not UTF-8 text", i+1)
		}
		all = append(all, passage{s, true})
	}
	return all, nil
}

// parse finds out what a file holds: text, or JSON with texts in it.
func (t Text) parse(name string, data []byte) ([]passage, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s: not UTF-8 text", name)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	j := jsonText{name: name, field: t.Field}
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
	return []passage{{text: string(data)}}, j.none(data)
}

// isObject reports whether a line is a JSON object.
func isObject(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) > 0 && line[0] == '{' && json.Valid(line)
}

// jsonText takes texts out of JSON.
type jsonText struct{ name, field string }

// lines reads one object a line.
func (j jsonText) lines(data []byte) ([]passage, error) {
	var all []passage
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
func (j jsonText) value(data []byte) ([]passage, error) {
	var list []json.RawMessage
	if data = bytes.TrimSpace(data); len(data) == 0 || data[0] != '[' {
		list = []json.RawMessage{data}
	} else if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", j.name, err)
	}
	all := make([]passage, len(list))
	for i, v := range list {
		var err error
		if all[i], err = j.object(v); err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", j.name, i+1, err)
		}
	}
	return all, nil
}

// object takes the text out of an object, or is the string that there is.
func (j jsonText) object(data []byte) (passage, error) {
	var s string
	if json.Unmarshal(data, &s) == nil {
		return passage{s, true}, nil
	}
	var o map[string]json.RawMessage
	if err := json.Unmarshal(data, &o); err != nil {
		return passage{}, fmt.Errorf("want a JSON object with the text in %q: %w", j.field, err)
	}
	v, ok := o[j.field]
	if !ok {
		keys := make([]string, 0, len(o))
		for k := range o {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		return passage{}, fmt.Errorf("the JSON object has no %q; it has %q (the field of the text can be set)", j.field, keys)
	}
	if err := json.Unmarshal(v, &s); err != nil {
		return passage{}, fmt.Errorf("%q is no JSON string", j.field)
	}
	return passage{s, true}, nil
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

// encode turns passages into one sequence of token ids.
func (t Text) encode(tok *tokenizer.Tokenizer, all []passage) ([]int32, error) {
	bos, hasBOS := tok.BOS()
	add := hasBOS && tok.AddsBOS()
	if t.BOS != nil {
		if add = *t.BOS; add && !hasBOS {
			return nil, badOptions("a beginning-of-sequence token is asked for, but the model has none")
		}
	}
	var ids []int32
	for _, p := range all {
		if !t.PerDocument {
			ids = append(ids, tok.Encode(p.text)...)
			continue
		}
		docs := []string{p.text}
		if !p.one {
			docs = documents(p.text)
		}
		for _, doc := range docs {
			more := tok.Encode(doc)
			// Text that a chat template has made brings its own.
			if add && (len(more) == 0 || more[0] != bos) {
				ids = append(ids, bos)
			}
			ids = append(ids, more...)
		}
	}
	return ids, nil
}

// documents splits a text at blank lines.
func documents(text string) []string {
	var docs []string
	var lines []string
	flush := func() {
		if len(lines) > 0 {
			docs = append(docs, strings.Join(lines, "\n"))
			lines = nil
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if strings.TrimSpace(line) == "" {
			flush()
			continue
		}
		lines = append(lines, line)
	}
	flush()
	return docs
}

// windows cuts ids into consecutive windows of n tokens; the ragged rest is dropped.
func windows(ids []int32, n int) [][]int32 {
	w := make([][]int32, 0, len(ids)/n)
	for ; len(ids) >= n; ids = ids[n:] {
		w = append(w, ids[:n])
	}
	return w
}

// spread picks at most n of the windows, evenly: the indices floor(i*N/n).
func spread(w [][]int32, n int) [][]int32 {
	if n >= len(w) {
		return w
	}
	out := make([][]int32, n)
	for i := range out {
		out[i] = w[i*len(w)/n]
	}
	return out
}

const (
	defaultSamples = 128
	defaultSeqLen  = 2048
)

// calibrationText is the windows of text that layers are observed on.
type calibrationText struct {
	seqLen  int
	windows [][]int32
}

func (c *calibrationText) tokens() int { return len(c.windows) * c.seqLen }

// digest identifies the windows.
func (c *calibrationText) digest() string {
	h := sha256.New()
	var buf []byte
	for _, w := range c.windows {
		buf = buf[:0]
		for _, id := range w {
			buf = binary.LittleEndian.AppendUint32(buf, uint32(id))
		}
		h.Write(buf)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// contextLength is n, or if that is 0 what suits the model.
func contextLength(cfg *decoder.Model, n int) int {
	if n == 0 {
		n = defaultSeqLen
		if cfg.MaxPosition > 0 {
			n = min(n, cfg.MaxPosition)
		}
	}
	return n
}

func readCalibration(m *checkpoint.Model, cfg *decoder.Model, c Calibration) (*calibrationText, error) {
	t := &calibrationText{seqLen: contextLength(cfg, c.SeqLen)}
	if cfg.MaxPosition > 0 && t.seqLen > cfg.MaxPosition {
		return nil, badOptions("calibration windows of %d tokens, but the model's context is %d", t.seqLen, cfg.MaxPosition)
	}
	ids, err := tokens(m, "", cfg, c.Text)
	if err != nil {
		return nil, err
	}
	all := windows(ids, t.seqLen)
	if len(all) == 0 {
		return nil, fmt.Errorf("%v: %d tokens of calibration text, want at least one window of %d", c.Text, len(ids), t.seqLen)
	}
	n := c.Samples
	if n == 0 {
		n = defaultSamples
	}
	t.windows = spread(all, n)
	return t, nil
}

// openTokenizer opens the tokenizer in dir, or the model's own if dir is "".
func openTokenizer(m *checkpoint.Model, dir string) (*tokenizer.Tokenizer, error) {
	if dir != "" {
		return tokenizer.Open(dir)
	}
	t, err := tokenizer.OpenFS(m.Files())
	if err != nil {
		return nil, fmt.Errorf("%s: tokenizer: %w", m.Path(), err)
	}
	return t, nil
}

// tokens encodes text for a model, with the tokenizer in dir, or the model's
// own if dir is "".
func tokens(m *checkpoint.Model, dir string, cfg *decoder.Model, text Text) ([]int32, error) {
	all, err := text.passages()
	if err != nil {
		return nil, err
	}
	var ids []int32
	name := func(id int32) string { return fmt.Sprintf("token %d", id) }
	if len(all) > 0 {
		tok, err := openTokenizer(m, dir)
		if err != nil {
			return nil, err
		}
		if ids, err = text.encode(tok, all); err != nil {
			return nil, err
		}
		name = func(id int32) string {
			s, _ := tok.Token(id)
			return fmt.Sprintf("tokenizer: token %q has id %d", s, id)
		}
	}
	ids = append(ids, slices.Concat(text.IDs...)...)
	for _, id := range ids {
		if id < 0 || int(id) >= cfg.Vocab {
			return nil, fmt.Errorf("%s: %s, but the model knows only %d", m.Path(), name(id), cfg.Vocab)
		}
	}
	return ids, nil
}
