package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
	"github.com/golowbit/lowbit/internal/tokenizer/model"
)

// decodeStep turns a list of token strings into another; the last list is
// joined.
type decodeStep func(tokens []string) []string

var decoderTypes = []string{"Sequence", "ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "BPEDecoder", "WordPiece", "CTC"}

func parseDecoder(where string, raw json.RawMessage, depth int) (decodeStep, error) {
	if absent(raw) {
		return nil, nil
	}
	if depth > maxNesting {
		return nil, tooDeep(where)
	}
	typ, err := componentType(where, raw)
	if err != nil {
		return nil, err
	}
	switch typ {
	case "Sequence":
		return parseDecoderSequence(where, raw, depth)
	case "ByteLevel":
		return decodeByteLevel, nil
	case "ByteFallback":
		return decodeByteFallback, nil
	case "Fuse":
		return func(tokens []string) []string { return []string{strings.Join(tokens, "")} }, nil
	case "Replace":
		r, err := parseReplace(where, raw)
		if err != nil {
			return nil, err
		}
		return perToken(func(_, _ int, s string) string { return r.replace(s) }), nil
	case "Strip":
		return parseStripDecoder(where, raw)
	case "Metaspace":
		c, err := parseMetaspace(where, raw)
		if err != nil {
			return nil, err
		}
		return perToken(func(i, _ int, s string) string {
			if i == 0 && c.scheme != "never" {
				return strings.ReplaceAll(s, string(c.replacement), "")
			}
			return strings.ReplaceAll(s, string(c.replacement), " ")
		}), nil
	case "BPEDecoder":
		return parseBPEDecoder(where, raw)
	case "WordPiece":
		return parseWordPieceDecoder(where, raw)
	case "CTC":
		return parseCTCDecoder(where, raw)
	}
	return nil, unsupported(where, typ, decoderTypes...)
}

func parseStripDecoder(where string, raw json.RawMessage) (decodeStep, error) {
	var c struct {
		Content string `json:"content"`
		Start   int    `json:"start"`
		Stop    int    `json:"stop"`
	}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	if _, err := oneRune(where, "content", c.Content); err != nil {
		return nil, err
	}
	return perToken(func(_, _ int, s string) string { return strip(s, c.Content, c.Start, c.Stop) }), nil
}

func parseBPEDecoder(where string, raw json.RawMessage) (decodeStep, error) {
	c := struct {
		Suffix string `json:"suffix"`
	}{"</w>"}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	return perToken(func(i, n int, s string) string {
		if i == n-1 {
			return strings.ReplaceAll(s, c.Suffix, "")
		}
		return strings.ReplaceAll(s, c.Suffix, " ")
	}), nil
}

func parseWordPieceDecoder(where string, raw json.RawMessage) (decodeStep, error) {
	c := struct {
		Prefix  string `json:"prefix"`
		Cleanup bool   `json:"cleanup"`
	}{"##", true}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	return perToken(func(i, _ int, s string) string {
		if i > 0 {
			if rest, ok := strings.CutPrefix(s, c.Prefix); ok {
				s = rest
			} else {
				s = " " + s
			}
		}
		if c.Cleanup {
			s = cleanUp(s)
		}
		return s
	}), nil
}

func parseCTCDecoder(where string, raw json.RawMessage) (decodeStep, error) {
	c := struct {
		Pad       string `json:"pad_token"`
		Delimiter string `json:"word_delimiter_token"`
		Cleanup   bool   `json:"cleanup"`
	}{"<pad>", "|", true}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	return func(tokens []string) []string {
		var out []string
		for i, s := range tokens {
			if i > 0 && s == tokens[i-1] {
				continue
			}
			s = strings.ReplaceAll(s, c.Pad, "")
			if c.Cleanup {
				s = strings.ReplaceAll(cleanUp(s), c.Delimiter, " ")
			}
			if s != "" {
				out = append(out, s)
			}
		}
		return out
	}, nil
}

// cleanUp takes away the spaces that English does not have, in the reference's
// order.
func cleanUp(s string) string {
	for _, p := range [][2]string{
		{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
		{" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
	} {
		s = strings.ReplaceAll(s, p[0], p[1])
	}
	return s
}

func parseDecoderSequence(where string, raw json.RawMessage, depth int) (decodeStep, error) {
	var seq struct {
		Decoders []json.RawMessage `json:"decoders"`
	}
	if err := decodeInto(where, raw, &seq); err != nil {
		return nil, err
	}
	var all []decodeStep
	for i, r := range seq.Decoders {
		d, err := parseDecoder(fmt.Sprintf("%s.decoders[%d]", where, i), r, depth+1)
		if err != nil {
			return nil, err
		}
		if d == nil {
			return nil, fmt.Errorf("%s.decoders[%d]: is null", where, i)
		}
		all = append(all, d)
	}
	return func(tokens []string) []string {
		for _, d := range all {
			tokens = d(tokens)
		}
		return tokens
	}, nil
}

// perToken applies f to token i of n.
func perToken(f func(i, n int, s string) string) decodeStep {
	return func(tokens []string) []string {
		out := make([]string, len(tokens))
		for i, s := range tokens {
			out[i] = f(i, len(tokens), s)
		}
		return out
	}
}

// decodeByteLevel joins the bytes of all tokens before reading them as UTF-8: a
// character may be spread over several.
func decodeByteLevel(tokens []string) []string {
	var b []byte
	for _, s := range tokens {
		b = chars.AppendFromSymbols(b, s)
	}
	return []string{chars.ValidUTF8(string(b))}
}

// decodeByteFallback turns runs of byte tokens into the text they spell, or, if
// that is not UTF-8, into one U+FFFD for each.
func decodeByteFallback(tokens []string) []string {
	out := make([]string, 0, len(tokens))
	var pending []byte
	flush := func() {
		if len(pending) == 0 {
			return
		}
		s := string(pending)
		if chars.ValidUTF8(s) == s {
			out = append(out, s)
		} else {
			for range pending {
				out = append(out, "\uFFFD")
			}
		}
		pending = pending[:0]
	}
	for _, s := range tokens {
		if b, ok := model.ByteToken(s); ok {
			pending = append(pending, b)
			continue
		}
		flush()
		out = append(out, s)
	}
	flush()
	return out
}

// strip cuts up to start copies of c from the left and stop from the right.
func strip(s, c string, start, stop int) string {
	for ; start > 0 && strings.HasPrefix(s, c); start-- {
		s = s[len(c):]
	}
	for ; stop > 0 && strings.HasSuffix(s, c); stop-- {
		s = s[:len(s)-len(c)]
	}
	return s
}
