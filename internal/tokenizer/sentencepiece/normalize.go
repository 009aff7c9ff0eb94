package sentencepiece

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/tokenizer/model"
	"github.com/golowbit/lowbit/internal/tokenizer/prefix"
)

// Normalizer rewrites text by a NormalizerSpec.
type Normalizer struct {
	rules       *Charsmap
	whole       *prefix.Trie // user-defined pieces, which stay as they are
	prefix      bool
	suffix      bool
	removeExtra bool
	space       string // how a space is spelled
}

// Normalizer is what prepares text for the model.
func (m *Model) Normalizer() (*Normalizer, error) {
	n, err := newNormalizer(&m.normalizer)
	if err != nil {
		return nil, fmt.Errorf("normalizer_spec: %w", err)
	}
	n.prefix, n.suffix = n.prefix && !m.SpaceAsSuffix, n.prefix && m.SpaceAsSuffix
	var keys []string
	var ids []int32
	for id, p := range m.Pieces {
		if p.Type == UserDefined {
			keys, ids = append(keys, p.Text), append(ids, int32(id))
		}
	}
	n.whole = prefix.Build(keys, ids)
	return n, nil
}

func newNormalizer(s *spec) (*Normalizer, error) {
	rules, err := ParseCharsmap(s.charsmap)
	if err != nil {
		return nil, fmt.Errorf("precompiled_charsmap: %w", err)
	}
	n := &Normalizer{rules: rules, whole: &prefix.Trie{}, prefix: s.addDummyPrefix, removeExtra: s.removeExtra, space: " "}
	if s.escapeSpace {
		n.space = string(model.Metaspace)
	}
	return n, nil
}

// Normalize applies the rules to s, which is UTF-8, spells spaces and adds the dummy
// space, the one before the text only with first set.
func (n *Normalizer) Normalize(s string, first bool) string {
	if n.removeExtra {
		for s != "" {
			out, size := n.next(s)
			if out != " " {
				break
			}
			s = s[size:]
		}
	}
	if s == "" {
		return ""
	}
	var b strings.Builder
	b.Grow(len(s) + len(s)/4 + len(n.space))
	if n.prefix && first {
		b.WriteString(n.space)
	}
	afterSpace := n.removeExtra
	for s != "" {
		out, size := n.next(s)
		s = s[size:]
		if afterSpace {
			out = strings.TrimLeft(out, " ")
		}
		if out == "" {
			continue
		}
		for i := 0; i < len(out); i++ {
			if out[i] == ' ' {
				b.WriteString(n.space)
			} else {
				b.WriteByte(out[i])
			}
		}
		afterSpace = n.removeExtra && out[len(out)-1] == ' '
	}
	out := b.String()
	if n.removeExtra {
		for strings.HasSuffix(out, n.space) {
			out = out[:len(out)-len(n.space)]
		}
	}
	if n.suffix {
		out += n.space
	}
	return out
}

// next is what the first characters of s become, and how many bytes they are.
func (n *Normalizer) next(s string) (out string, size int) {
	if size, id := n.whole.Longest(s); id >= 0 {
		return s[:size], size
	}
	if size, out := n.rules.longest(s); size > 0 {
		return out, size
	}
	_, size = utf8.DecodeRuneInString(s)
	return s[:size], size
}

// Decoder joins tokens to text: runs of byte pieces become the characters they
// spell, "▁" becomes a space, and the first piece loses the space that encoding
// adds. Other tokens than the unknown one stand for themselves, control ones too.
func (m *Model) Decoder() (func(tokens []string) string, error) {
	var denormalize *Normalizer
	if len(m.denormalizer.charsmap) > 0 {
		var err error
		if denormalize, err = newNormalizer(&m.denormalizer); err != nil {
			return nil, fmt.Errorf("denormalizer_spec: %w", err)
		}
	}
	space, unknown := string(model.Metaspace), m.Pieces[m.unknown].Text
	return func(tokens []string) string {
		var b strings.Builder
		var pending []byte
		flush := func() {
			for len(pending) > 0 {
				r, n := utf8.DecodeRune(pending)
				b.WriteRune(r)
				pending = pending[n:]
			}
		}
		cut := m.normalizer.addDummyPrefix || m.normalizer.removeExtra
		for _, s := range tokens {
			if v, ok := model.ByteToken(s); ok && m.ByteFallback {
				pending = append(pending, v)
				continue
			}
			flush()
			if s == unknown {
				b.WriteString(m.UnknownSurface)
				continue
			}
			if cut && b.Len() == 0 {
				if rest, ok := strings.CutPrefix(s, space); ok {
					s = rest
					// Of all the leading spaces only the first is taken, unless extra
					// ones are removed on encoding.
					cut = m.normalizer.removeExtra
				}
			}
			b.WriteString(strings.ReplaceAll(s, space, " "))
		}
		flush()
		if denormalize != nil {
			return denormalize.Normalize(b.String(), true)
		}
		return b.String()
	}, nil
}
