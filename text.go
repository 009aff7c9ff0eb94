package lowbit

import (
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/tokenizer"
)

// stream turns texts into one sequence of token ids. By default a text is
// encoded in one go, without a beginning-of-sequence token; per document,
// every document (the text between blank lines) is encoded by itself with
// that token before it, if the model has one.
func stream(tok *tokenizer.Tokenizer, texts []string, perDocument bool) []int32 {
	var ids []int32
	for _, text := range texts {
		if !perDocument {
			ids = append(ids, tok.Encode(text)...)
			continue
		}
		bos, hasBOS := tok.BOS()
		for _, doc := range documents(text) {
			if hasBOS {
				ids = append(ids, bos)
			}
			ids = append(ids, tok.Encode(doc)...)
		}
	}
	return ids
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
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" {
			flush()
			continue
		}
		lines = append(lines, line)
	}
	flush()
	return docs
}

// readTexts reads UTF-8 text files.
func readTexts(files []string) ([]string, error) {
	texts := make([]string, len(files))
	for i, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if !utf8.Valid(data) {
			return nil, fmt.Errorf("%s: not UTF-8 text", name)
		}
		texts[i] = string(data)
	}
	return texts, nil
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
