package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
	"github.com/golowbit/lowbit/internal/tokenizer/model"
	"github.com/golowbit/lowbit/internal/tokenizer/pattern"
	"github.com/golowbit/lowbit/internal/tokenizer/sentencepiece"
)

// normalizer rewrites a stretch of text. atStart comes back false when what was
// at the start of s is gone, which the "first" scheme of Metaspace asks about.
type normalizer func(s string) (out string, atStart bool)

var normalizerTypes = []string{
	"Sequence", "Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Nmt", "ByteLevel",
	"BertNormalizer", "Precompiled",
}

func parseNormalizer(where string, raw json.RawMessage, depth int) (normalizer, error) {
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
		return parseNormalizerSequence(where, raw, depth)
	case "Prepend":
		var p struct {
			Prepend string `json:"prepend"`
		}
		if err := decodeInto(where, raw, &p); err != nil {
			return nil, err
		}
		return plain(func(s string) string { return p.Prepend + s }), nil
	case "Replace":
		r, err := parseReplace(where, raw)
		if err != nil {
			return nil, err
		}
		return r.normalize, nil
	case "NFC":
		return plain(func(s string) string { return chars.Normalize(s, norm.NFC) }), nil
	case "NFD":
		return plain(func(s string) string { return chars.Normalize(s, norm.NFD) }), nil
	case "NFKC":
		return plain(func(s string) string { return chars.Normalize(s, norm.NFKC) }), nil
	case "NFKD":
		return plain(func(s string) string { return chars.Normalize(s, norm.NFKD) }), nil
	case "Lowercase":
		return plain(chars.Lowercase), nil
	case "StripAccents":
		return filter(func(r rune) bool { return !chars.IsAccent(r) }), nil
	case "Strip":
		return parseStripNormalizer(where, raw)
	case "Nmt":
		drop := filter(func(r rune) bool { return !nmtControl(r) })
		return func(s string) (string, bool) {
			s, atStart := drop(s)
			return strings.Map(nmtSpace, s), atStart
		}, nil
	case "ByteLevel":
		return plain(chars.ToSymbols), nil
	case "BertNormalizer":
		return parseBertNormalizer(where, raw)
	case "Precompiled":
		return parsePrecompiled(where, raw)
	}
	return nil, unsupported(where, typ, normalizerTypes...)
}

func parseNormalizerSequence(where string, raw json.RawMessage, depth int) (normalizer, error) {
	var seq struct {
		Normalizers []json.RawMessage `json:"normalizers"`
	}
	if err := decodeInto(where, raw, &seq); err != nil {
		return nil, err
	}
	var all []normalizer
	for i, r := range seq.Normalizers {
		n, err := parseNormalizer(fmt.Sprintf("%s.normalizers[%d]", where, i), r, depth+1)
		if err != nil {
			return nil, err
		}
		if n == nil {
			return nil, fmt.Errorf("%s.normalizers[%d]: is null", where, i)
		}
		all = append(all, n)
	}
	return func(s string) (string, bool) {
		atStart := true
		for _, n := range all {
			if s == "" {
				break
			}
			out, kept := n(s)
			s, atStart = out, atStart && kept
		}
		return s, atStart
	}, nil
}

func parseStripNormalizer(where string, raw json.RawMessage) (normalizer, error) {
	var p struct {
		Left  bool `json:"strip_left"`
		Right bool `json:"strip_right"`
	}
	if err := decodeInto(where, raw, &p); err != nil {
		return nil, err
	}
	return func(s string) (string, bool) {
		n := len(s)
		if p.Left {
			s = chars.TrimLeftSpace(s)
		}
		atStart := len(s) == n
		if p.Right {
			s = chars.TrimRightSpace(s)
		}
		return s, atStart
	}, nil
}

// parseBertNormalizer reads BERT's basic tokenizer up to its splitting.
func parseBertNormalizer(where string, raw json.RawMessage) (normalizer, error) {
	c := struct {
		Clean      bool  `json:"clean_text"`
		Ideographs bool  `json:"handle_chinese_chars"`
		Strip      *bool `json:"strip_accents"`
		Lowercase  bool  `json:"lowercase"`
	}{true, true, nil, true}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	strip := c.Lowercase
	if c.Strip != nil {
		strip = *c.Strip
	}
	clean := filter(func(r rune) bool {
		return r == '\t' || r == '\n' || r == '\r' || r != 0 && r != utf8.RuneError && !chars.IsControl(r)
	})
	return func(s string) (string, bool) {
		atStart := true
		if c.Clean {
			s, atStart = clean(s)
			s = strings.Map(func(r rune) rune {
				if unicode.IsSpace(r) {
					return ' '
				}
				return r
			}, s)
		}
		if c.Ideographs {
			s = spaceIdeographs(s)
		}
		if strip {
			var kept bool
			s, kept = filter(func(r rune) bool { return !chars.IsNonspacing(r) })(chars.Normalize(s, norm.NFD))
			atStart = atStart && kept
		}
		if c.Lowercase {
			s = chars.Lowercase(s)
		}
		return s, atStart
	}, nil
}

func spaceIdeographs(s string) string {
	if strings.IndexFunc(s, chars.IsIdeograph) < 0 {
		return s
	}
	var b strings.Builder
	b.Grow(2 * len(s))
	for _, r := range s {
		if chars.IsIdeograph(r) {
			b.WriteByte(' ')
			b.WriteRune(r)
			b.WriteByte(' ')
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// parsePrecompiled reads the map of characters of a SentencePiece model.
func parsePrecompiled(where string, raw json.RawMessage) (normalizer, error) {
	var c struct {
		Charsmap []byte `json:"precompiled_charsmap"`
	}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	m, err := sentencepiece.ParseCharsmap(c.Charsmap)
	if err != nil {
		return nil, fmt.Errorf("%s: precompiled_charsmap: %w", where, err)
	}
	return func(s string) (string, bool) { return m.ReplaceGraphemes(s) }, nil
}

// plain wraps a rewriting that keeps the start. Empty text stays empty: nothing
// is prepended to nothing.
func plain(f func(string) string) normalizer {
	return func(s string) (string, bool) {
		if s == "" {
			return s, true
		}
		return f(s), true
	}
}

func filter(keep func(rune) bool) normalizer {
	return func(s string) (string, bool) {
		out := strings.Map(func(r rune) rune {
			if keep(r) {
				return r
			}
			return -1
		}, s)
		for _, r := range s {
			return out, keep(r)
		}
		return out, true
	}
}

// nmtControl and nmtSpace are SentencePiece's NMT normalization.
func nmtControl(r rune) bool {
	return 1 <= r && r <= 8 || r == 0xB || 0xE <= r && r <= 0x1F || r == 0x7F || r == 0x8F || r == 0x9F
}

func nmtSpace(r rune) rune {
	switch {
	case r == '\t', r == '\n', r == '\f', r == '\r', r == 0x1680, 0x200B <= r && r <= 0x200F,
		r == 0x2028, r == 0x2029, r == model.Metaspace, r == 0xFEFF, r == 0xFFFD:
		return ' '
	}
	return r
}

// replacer is Replace, as normalizer and as decoder.
type replacer struct {
	literal string
	re      *pattern.Regex // nil: literal
	content string
}

func parseReplace(where string, raw json.RawMessage) (*replacer, error) {
	var p struct {
		Pattern patternJSON `json:"pattern"`
		Content string      `json:"content"`
	}
	if err := decodeInto(where, raw, &p); err != nil {
		return nil, err
	}
	r := &replacer{content: p.Content}
	switch {
	case p.Pattern.Regex != nil:
		re, err := pattern.Compile(*p.Pattern.Regex)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		r.re = re
	case p.Pattern.String != nil:
		r.literal = *p.Pattern.String
	default:
		return nil, fmt.Errorf(`%s: pattern has neither "String" nor "Regex"`, where)
	}
	return r, nil
}

func (r *replacer) replace(s string) string {
	if s == "" {
		return s
	}
	if r.re == nil {
		return strings.ReplaceAll(s, r.literal, r.content)
	}
	var b strings.Builder
	r.re.Find(s, func(start, end int, match bool) {
		if match {
			b.WriteString(r.content)
		} else {
			b.WriteString(s[start:end])
		}
	})
	return b.String()
}

func (r *replacer) normalize(s string) (string, bool) {
	out := r.replace(s)
	if out == s || r.content != "" {
		return out, true
	}
	// Removed from the very start?
	if r.re == nil {
		return out, !strings.HasPrefix(s, r.literal)
	}
	atStart := true
	r.re.Find(s, func(start, end int, match bool) {
		if start == 0 && match && end > 0 {
			atStart = false
		}
	})
	return out, atStart
}
