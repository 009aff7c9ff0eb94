package text

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/tokenizer"
)

// ErrNoBOS is returned where a beginning-of-sequence token is asked for.
var ErrNoBOS = errors.New("a beginning-of-sequence token is asked for, but the model has none")

// Memory is how much it takes to read and encode n bytes of text, at most: the
// text, what a normalizer makes of it, and four bytes a token. It is measured, of
// 64 MiB: 5 times the text with tokens of 2.8 bytes, 11 with tokens of 1.9.
func Memory(n int64) int64 { return 11 * n }

// Encoding says how passages become token ids.
type Encoding struct {
	PerDocument bool  // documents are encoded by themselves, otherwise passages
	BOS         *bool // whether documents get a beginning-of-sequence token; nil: if the tokenizer adds one
}

// Encode turns passages into one sequence of token ids.
func (e Encoding) Encode(tok *tokenizer.Tokenizer, all []Passage) ([]int32, error) {
	bos, hasBOS := tok.BOS()
	add := hasBOS && tok.AddsBOS()
	if e.BOS != nil {
		if add = *e.BOS; add && !hasBOS {
			return nil, ErrNoBOS
		}
	}
	var ids []int32
	for _, p := range all {
		if !e.PerDocument {
			if more := tok.Encode(p.Text); ids == nil {
				ids = more // of a long text it is better not copied
			} else {
				ids = append(ids, more...)
			}
			continue
		}
		docs := []string{p.Text}
		if !p.One {
			docs = documents(p.Text)
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

// Tokens encodes everything with a tokenizer, which is opened only if there is any text,
// and appends ids. Those that the model at path with so many tokens does not have are an
// error.
func (s Source) Tokens(open func() (*tokenizer.Tokenizer, error), e Encoding, more [][]int32, path string, vocab int) ([]int32, error) {
	all, err := s.Passages()
	if err != nil {
		return nil, err
	}
	var ids []int32
	name := func(id int32) string { return fmt.Sprintf("token %d", id) }
	if len(all) > 0 {
		tok, err := open()
		if err != nil {
			return nil, err
		}
		if ids, err = e.Encode(tok, all); err != nil {
			return nil, err
		}
		name = func(id int32) string {
			s, _ := tok.Token(id)
			return fmt.Sprintf("tokenizer: token %q has id %d", s, id)
		}
	}
	ids = append(ids, slices.Concat(more...)...)
	for _, id := range ids {
		if id < 0 || int(id) >= vocab {
			return nil, fmt.Errorf("%s: %s, but the model knows only %d", path, name(id), vocab)
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

// Windows cuts ids into consecutive windows of n tokens; the ragged rest is dropped.
func Windows(ids []int32, n int) [][]int32 {
	w := make([][]int32, 0, len(ids)/n)
	for ; len(ids) >= n; ids = ids[n:] {
		w = append(w, ids[:n])
	}
	return w
}

// Spread picks at most n of the windows, evenly: the indices floor(i*N/n).
func Spread(w [][]int32, n int) [][]int32 {
	if n >= len(w) {
		return w
	}
	out := make([][]int32, n)
	for i := range out {
		out[i] = w[i*len(w)/n]
	}
	return out
}

// Digest identifies windows.
func Digest(windows [][]int32) string {
	h := sha256.New()
	var buf []byte
	for _, w := range windows {
		buf = buf[:0]
		for _, id := range w {
			buf = binary.LittleEndian.AppendUint32(buf, uint32(id))
		}
		h.Write(buf)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
