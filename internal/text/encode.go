package text

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/chat"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

// ErrNoBOS is returned where a beginning-of-sequence token is asked for.
var ErrNoBOS = errors.New("a beginning-of-sequence token is asked for, but the model has none")

// Memory is how much it takes to read and encode n bytes of text, at most: the text,
// what normalizers make of it, one after another, and four bytes a token. Measured are
// 2 to 5 times the text with tokens of 4 to 3 bytes, 4 to 7 with tokens of one, and 10
// where tokens of one turn into longer ones on the way.
func Memory(n int64) int64 { return 10 * n }

// Encoding says how passages become token ids.
type Encoding struct {
	PerDocument bool  // documents are encoded by themselves, otherwise passages
	BOS         *bool // whether documents get a beginning-of-sequence token; nil: if the tokenizer adds one
}

// Encode turns passages into one sequence of token ids. A conversation is what the
// model's chat template makes of it, and gets no beginning-of-sequence token but the
// template's, unless BOS asks for one and the template brings none.
func (e Encoding) Encode(tok *tokenizer.Tokenizer, all []Passage) ([]int32, error) {
	bos, hasBOS := tok.BOS()
	add := hasBOS && tok.AddsBOS()
	if e.BOS != nil {
		if add = *e.BOS; add && !hasBOS {
			return nil, ErrNoBOS
		}
	}
	var ids []int32
	templates := map[bool]*chat.Template{} // by whether there are tools
	for _, p := range all {
		add := add
		if p.Chat != nil {
			var err error
			tools := p.Chat.Tools()
			if templates[tools] == nil {
				if templates[tools], err = templateOf(tok, tools); err != nil {
					return nil, fmt.Errorf("%s: a conversation: %w", p.From, err)
				}
			}
			if p.Text, err = templates[tools].Render(p.Chat); err != nil {
				return nil, fmt.Errorf("%s: %w", p.From, err)
			}
			add = add && e.BOS != nil
		}
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

// Prompt encodes what somebody asks a model, with what the system is told before that ("" for
// nothing), by the model's chat template.
func Prompt(tok *tokenizer.Tokenizer, system, question string) ([]int32, error) {
	t, err := templateOf(tok, false)
	if err != nil {
		return nil, err
	}
	message, err := json.Marshal([]map[string]string{{"role": "user", "content": question}})
	if err != nil {
		return nil, err
	}
	c, err := chat.Parse(message, system, nil)
	if err != nil {
		return nil, err
	}
	prompt, err := t.Prompt(c)
	if err != nil {
		return nil, err
	}
	return tok.Encode(prompt), nil
}

// templateOf is the model's chat template with the tokens that it may write.
func templateOf(tok *tokenizer.Tokenizer, tools bool) (*chat.Template, error) {
	tokens := map[string]string{}
	for name, of := range map[string]func() (int32, bool){
		"bos_token": tok.BOS, "eos_token": tok.EOS, "unk_token": tok.Unknown, "pad_token": tok.Padding,
	} {
		if id, ok := of(); ok {
			if s, ok := tok.Token(id); ok {
				tokens[name] = s
			}
		}
	}
	source := tok.ChatTemplate()
	if tools {
		source = tok.ToolTemplate()
	}
	return chat.Compile(source, tokens)
}

// Share is a sequence of token ids that counts for so much beside others.
type Share struct {
	Weight float64
	IDs    []int32
}

// Tokens encodes everything with a tokenizer, which is opened only if there is any text,
// and more ids behind it: one share, or with weights one for each part. Ids that the
// model at path with so many tokens does not have are an error.
func (s Source) Tokens(open func() (*tokenizer.Tokenizer, error), e Encoding, more [][]int32, path string, vocab int) ([]Share, error) {
	parts, err := s.Parts()
	if err != nil {
		return nil, err
	}
	name := func(id int32) string { return fmt.Sprintf("token %d", id) }
	var shares []Share
	if slices.ContainsFunc(parts, func(p Part) bool { return len(p.Passages) > 0 }) {
		tok, err := open()
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			ids, err := e.Encode(tok, p.Passages)
			if err != nil {
				return nil, err
			}
			shares = append(shares, Share{p.Weight, ids})
		}
		name = func(id int32) string {
			s, _ := tok.Token(id)
			return fmt.Sprintf("tokenizer: token %q has id %d", s, id)
		}
	}
	switch {
	case len(shares) == 1 && len(s.Weights) == 0:
		shares[0].IDs = append(shares[0].IDs, slices.Concat(more...)...)
	case len(more) > 0:
		shares = append(shares, Share{1, slices.Concat(more...)})
	}
	for _, share := range shares {
		for _, id := range share.IDs {
			if id < 0 || int(id) >= vocab {
				return nil, fmt.Errorf("%s: %s, but the model knows only %d", path, name(id), vocab)
			}
		}
	}
	return shares, nil
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

// Sample cuts shares into windows of n tokens, all of them, and picks at most so many
// samples: evenly spread over a share, and in several shares by their weights. What a
// share is too short for the others give.
func Sample(shares []Share, n, samples int) (all, picked [][]int32) {
	windows := make([][][]int32, len(shares))
	for i, s := range shares {
		windows[i] = Windows(s.IDs, n)
		all = append(all, windows[i]...)
	}
	if samples >= len(all) {
		return all, all
	}
	for i, n := range quotas(shares, windows, samples) {
		picked = append(picked, Spread(windows[i], n)...)
	}
	return all, picked
}

// Count is how many tokens shares have.
func Count(shares []Share) int {
	n := 0
	for _, s := range shares {
		n += len(s.IDs)
	}
	return n
}

// Detach copies windows that were picked of so many, where that lets go of the others.
func Detach(all int, picked ...[][]int32) {
	for _, w := range picked {
		if len(w) == all {
			return
		}
	}
	for _, w := range picked {
		for i := range w {
			w[i] = slices.Clone(w[i])
		}
	}
}

// quotas shares samples out, one after another to the share that has least of its due.
func quotas(shares []Share, windows [][][]int32, samples int) []int {
	given := make([]int, len(shares))
	for range samples {
		next := -1
		for i, s := range shares {
			if given[i] == len(windows[i]) {
				continue
			}
			// Of d'Hondt, by halves: Sainte-Laguë, which favours no side.
			if next < 0 || s.Weight*(float64(given[next])+0.5) > shares[next].Weight*(float64(given[i])+0.5) {
				next = i
			}
		}
		given[next]++
	}
	return given
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
