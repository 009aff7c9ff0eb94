package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
	"github.com/golowbit/lowbit/internal/tokenizer/pattern"
)

// emitFunc takes one piece. first is set for the piece that holds the very
// start of the text.
type emitFunc func(s string, first bool)

// stage cuts one piece into smaller ones.
type stage func(s string, first bool, emit emitFunc)

// preTokenizer is a chain of stages.
type preTokenizer struct {
	stages []stage
	// bytes: what comes out is plain text that the model is to see as byte-level
	// symbols. That is ByteLevel in the last place, done without writing them.
	bytes     bool
	byteLevel bool
	metaspace bool
	regexes   []string // of the Split stages, for SplitRegexes
}

// run hands every piece of s to emit.
func (p *preTokenizer) run(s string, first bool, emit emitFunc) {
	p.from(0, s, first, emit)
}

func (p *preTokenizer) from(k int, s string, first bool, emit emitFunc) {
	if k == len(p.stages) {
		emit(s, first)
		return
	}
	p.stages[k](s, first, func(s string, first bool) {
		if s != "" {
			p.from(k+1, s, first, emit)
		}
	})
}

var preTokenizerTypes = []string{
	"Sequence", "Split", "ByteLevel", "Metaspace", "Digits", "Whitespace", "WhitespaceSplit", "Punctuation", "CharDelimiterSplit",
	"BertPreTokenizer", "UnicodeScripts", "FixedLength",
}

func parsePreTokenizer(raw json.RawMessage) (*preTokenizer, error) {
	p := &preTokenizer{}
	if err := p.add("pre_tokenizer", raw, 0); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *preTokenizer) add(where string, raw json.RawMessage, depth int) error {
	if absent(raw) {
		if depth > 0 {
			return fmt.Errorf("%s: is null", where)
		}
		return nil
	}
	if depth > maxNesting {
		return tooDeep(where)
	}
	typ, err := componentType(where, raw)
	if err != nil {
		return err
	}
	if typ == "Sequence" {
		var seq struct {
			PreTokenizers []json.RawMessage `json:"pretokenizers"`
		}
		if err := decodeInto(where, raw, &seq); err != nil {
			return err
		}
		for i, r := range seq.PreTokenizers {
			if err := p.add(fmt.Sprintf("%s.pretokenizers[%d]", where, i), r, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if p.bytes {
		// Something follows ByteLevel and must see its symbols.
		p.bytes = false
		p.stages = append(p.stages, func(s string, first bool, emit emitFunc) { emit(chars.ToSymbols(s), first) })
	}
	var st stage
	switch typ {
	case "ByteLevel":
		st, err = p.byteLevelStage(where, raw)
	case "Split":
		st, err = p.splitStage(where, raw)
	case "Metaspace":
		st, err = p.metaspaceStage(where, raw)
	case "Digits":
		st, err = digitsStage(where, raw)
	case "Punctuation":
		st, err = punctuationStage(where, raw)
	case "Whitespace":
		st = cut(words, removed)
	case "WhitespaceSplit":
		st = cut(runes(unicode.IsSpace), removed)
	case "CharDelimiterSplit":
		st, err = delimiterStage(where, raw)
	case "BertPreTokenizer":
		p.stages = append(p.stages, cut(runes(unicode.IsSpace), removed))
		st = cut(runes(chars.IsPunct), isolated)
	case "UnicodeScripts":
		st = splitScripts
	case "FixedLength":
		st, err = fixedLengthStage(where, raw)
	default:
		return unsupported(where, typ, preTokenizerTypes...)
	}
	if err != nil {
		return err
	}
	if st != nil {
		p.stages = append(p.stages, st)
	}
	return nil
}

func (p *preTokenizer) byteLevelStage(where string, raw json.RawMessage) (stage, error) {
	var c struct {
		AddPrefixSpace bool  `json:"add_prefix_space"`
		UseRegex       *bool `json:"use_regex"`
	}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	p.bytes, p.byteLevel = true, true
	split := c.UseRegex == nil || *c.UseRegex
	if !split && !c.AddPrefixSpace {
		return nil, nil
	}
	return func(s string, first bool, emit emitFunc) {
		if c.AddPrefixSpace && !strings.HasPrefix(s, " ") {
			s = " " + s
		}
		if !split {
			emit(s, first)
			return
		}
		for i := 0; i < len(s); {
			end := pattern.NextGPT2(s, i)
			emit(s[i:end], first && i == 0)
			i = end
		}
	}, nil
}

func (p *preTokenizer) splitStage(where string, raw json.RawMessage) (stage, error) {
	var c struct {
		Pattern  patternJSON `json:"pattern"`
		Behavior string      `json:"behavior"`
		Invert   bool        `json:"invert"`
	}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	b, err := parseBehavior(where, c.Behavior)
	if err != nil {
		return nil, err
	}
	var m matcher
	switch {
	case c.Pattern.Regex != nil:
		re, err := pattern.Compile(*c.Pattern.Regex)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		p.regexes = append(p.regexes, *c.Pattern.Regex)
		m = re.Find
	case c.Pattern.String != nil:
		m = literal(*c.Pattern.String)
	default:
		return nil, fmt.Errorf(`%s: pattern has neither "String" nor "Regex"`, where)
	}
	if c.Invert {
		m = invert(m)
	}
	return cut(m, b), nil
}

func (p *preTokenizer) metaspaceStage(where string, raw json.RawMessage) (stage, error) {
	c, err := parseMetaspace(where, raw)
	if err != nil {
		return nil, err
	}
	p.metaspace = true
	rep := string(c.replacement)
	split := cut(literal(rep), mergedWithNext)
	return func(s string, first bool, emit emitFunc) {
		s = strings.ReplaceAll(s, " ", rep)
		if !strings.HasPrefix(s, rep) && (c.scheme == "always" || c.scheme == "first" && first) {
			s = rep + s
		}
		if !c.split {
			emit(s, first)
			return
		}
		split(s, first, emit)
	}, nil
}

// metaspaceConfig is Metaspace, as pre-tokenizer and as decoder.
type metaspaceConfig struct {
	replacement rune
	scheme      string // always, first, never
	split       bool
}

func parseMetaspace(where string, raw json.RawMessage) (metaspaceConfig, error) {
	var c struct {
		Replacement    *string `json:"replacement"`
		AddPrefixSpace *bool   `json:"add_prefix_space"`
		PrependScheme  *string `json:"prepend_scheme"`
		Split          *bool   `json:"split"`
	}
	var out metaspaceConfig
	if err := decodeInto(where, raw, &c); err != nil {
		return out, err
	}
	if c.Replacement == nil {
		return out, fmt.Errorf("%s: no replacement", where)
	}
	r, err := oneRune(where, "replacement", *c.Replacement)
	if err != nil {
		return out, err
	}
	out = metaspaceConfig{replacement: r, scheme: "always", split: c.Split == nil || *c.Split}
	if c.PrependScheme != nil {
		out.scheme = *c.PrependScheme
	}
	switch out.scheme {
	case "always", "first", "never":
	default:
		return out, fmt.Errorf(`%s: prepend_scheme is %q, want "always", "first" or "never"`, where, out.scheme)
	}
	// The older spelling of "never".
	if c.AddPrefixSpace != nil && !*c.AddPrefixSpace {
		if c.PrependScheme != nil && out.scheme != "never" {
			return out, fmt.Errorf("%s: add_prefix_space false contradicts prepend_scheme %q", where, out.scheme)
		}
		out.scheme = "never"
	}
	return out, nil
}

func digitsStage(where string, raw json.RawMessage) (stage, error) {
	var c struct {
		Individual bool `json:"individual_digits"`
	}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	if c.Individual {
		return cut(runes(chars.IsNumber), isolated), nil
	}
	return cut(runes(chars.IsNumber), contiguous), nil
}

func punctuationStage(where string, raw json.RawMessage) (stage, error) {
	c := struct {
		Behavior string `json:"behavior"`
	}{"Isolated"}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	b, err := parseBehavior(where, c.Behavior)
	if err != nil {
		return nil, err
	}
	return cut(runes(chars.IsPunct), b), nil
}

func delimiterStage(where string, raw json.RawMessage) (stage, error) {
	var c struct {
		Delimiter string `json:"delimiter"`
	}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	d, err := oneRune(where, "delimiter", c.Delimiter)
	if err != nil {
		return nil, err
	}
	return cut(runes(func(r rune) bool { return r == d }), removed), nil
}

// splitScripts cuts where the script changes. Characters without a script go with
// what is before them; those that nothing is before are lost, as in the reference.
func splitScripts(s string, first bool, emit emitFunc) {
	start, last := len(s), chars.Script(0)
	for i, r := range s {
		script := chars.ScriptOf(r)
		if script == 0 {
			continue
		}
		if script != last {
			if last != 0 {
				emit(s[start:i], first && start == 0)
			}
			start = i
		}
		last = script
	}
	emit(s[start:], first && start == 0)
}

func fixedLengthStage(where string, raw json.RawMessage) (stage, error) {
	c := struct {
		Length int `json:"length"`
	}{5}
	if err := decodeInto(where, raw, &c); err != nil {
		return nil, err
	}
	if c.Length < 1 {
		return nil, fmt.Errorf("%s: length is %d, want at least 1", where, c.Length)
	}
	return func(s string, first bool, emit emitFunc) {
		start, n := 0, 0
		for i := range s {
			if n == c.Length {
				emit(s[start:i], first && start == 0)
				start, n = i, 0
			}
			n++
		}
		emit(s[start:], first && start == 0)
	}, nil
}

// behavior says what becomes of the matches of a splitting pattern.
type behavior int

const (
	removed behavior = iota
	isolated
	mergedWithPrevious
	mergedWithNext
	contiguous
)

func parseBehavior(where, s string) (behavior, error) {
	switch s {
	case "Removed":
		return removed, nil
	case "Isolated":
		return isolated, nil
	case "MergedWithPrevious":
		return mergedWithPrevious, nil
	case "MergedWithNext":
		return mergedWithNext, nil
	case "Contiguous":
		return contiguous, nil
	}
	return 0, fmt.Errorf("%s: behavior %q is not known (known: Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous)", where, s)
}

// matcher covers a text with consecutive stretches, each a match or not.
type matcher func(s string, yield func(start, end int, match bool))

func invert(m matcher) matcher {
	return func(s string, yield func(int, int, bool)) {
		m(s, func(start, end int, match bool) { yield(start, end, !match) })
	}
}

// literal matches a fixed string. The empty one matches between all characters.
func literal(text string) matcher {
	return func(s string, yield func(int, int, bool)) {
		if text == "" {
			for i := 0; i < len(s); {
				yield(i, i, true)
				_, n := utf8.DecodeRuneInString(s[i:])
				yield(i, i+n, false)
				i += n
			}
			yield(len(s), len(s), true)
			return
		}
		for i := 0; i < len(s); {
			k := strings.Index(s[i:], text)
			if k < 0 {
				yield(i, len(s), false)
				return
			}
			if k > 0 {
				yield(i, i+k, false)
			}
			i += k + len(text)
			yield(i-len(text), i, true)
		}
	}
}

// runes matches single characters.
func runes(is func(rune) bool) matcher {
	return func(s string, yield func(int, int, bool)) {
		done := 0
		for i := 0; i < len(s); {
			r, n := utf8.DecodeRuneInString(s[i:])
			if is(r) {
				if done < i {
					yield(done, i, false)
				}
				yield(i, i+n, true)
				done = i + n
			}
			i += n
		}
		if done < len(s) {
			yield(done, len(s), false)
		}
	}
}

// words is the complement of \w+|[^\w\s]+, what Whitespace removes.
func words(s string, yield func(int, int, bool)) {
	kind := func(r rune) int {
		switch {
		case chars.IsWord(r):
			return 1
		case unicode.IsSpace(r):
			return 0
		}
		return 2
	}
	start, last := 0, -1
	for i, r := range s {
		k := kind(r)
		if k != last && last >= 0 {
			yield(start, i, last == 0)
			start = i
		}
		last = k
	}
	if last >= 0 {
		yield(start, len(s), last == 0)
	}
}

// cut builds a stage from a matcher and what to do with its matches.
func cut(m matcher, b behavior) stage {
	return func(s string, first bool, emit emitFunc) {
		put := func(start, end int) {
			if start < end {
				emit(s[start:end], first && start == 0)
			}
		}
		// from, to: a stretch that may still grow.
		from, to, open, previous := 0, 0, false, false
		flush := func() {
			if open {
				put(from, to)
				open = false
			}
		}
		m(s, func(start, end int, match bool) {
			switch b {
			case isolated:
				put(start, end)
				return
			case removed:
				if !match {
					put(start, end)
				}
				return
			case contiguous:
				if open && match == previous {
					to = end
				} else {
					flush()
					from, to, open = start, end, true
				}
			case mergedWithPrevious:
				if open && match && !previous {
					to = end
				} else {
					flush()
					from, to, open = start, end, true
				}
			case mergedWithNext:
				if open && previous && !match {
					to = end
				} else {
					flush()
					from, to, open = start, end, true
				}
			}
			previous = match
		})
		flush()
	}
}
