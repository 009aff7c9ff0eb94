package tokenizer

import (
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
	"github.com/golowbit/lowbit/internal/tokenizer/prefix"
)

// added is one entry of added_tokens: a string that is cut out of the text
// before the model sees it.
type added struct {
	addedJSON
	id int32
	// normal is the content after normalization, where "normalized" is set.
	normal string
}

// splitAdded cuts s at the added tokens of t: text(start, end) for what lies
// between, token(id) for each token, in order.
func (tk *Tokenizer) splitAdded(t *prefix.Trie, s string, text func(start, end int), token func(id int32)) {
	done := 0     // everything before is already emitted
	spaceEnd := 0 // end of the last run of white space that was looked at
	for from := 0; !t.Empty(); {
		start, end, v := t.Find(s, from)
		if v < 0 {
			break
		}
		from = end
		a := &tk.added[v]
		if a.SingleWord && (start > 0 && endsWithWord(s[:start]) || end < len(s) && startsWithWord(s[end:])) {
			continue
		}
		if a.LStrip {
			start = max(start, done)
			start = done + len(chars.TrimRightSpace(s[done:start]))
		}
		if a.RStrip {
			if spaceEnd < end {
				spaceEnd = len(s) - len(chars.TrimLeftSpace(s[end:]))
			}
			end = spaceEnd
		}
		if done < start {
			text(done, start)
		}
		if start < end {
			token(a.id)
		}
		done = end
	}
	if done < len(s) {
		text(done, len(s))
	}
}

func startsWithWord(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return chars.IsWord(r)
}

func endsWithWord(s string) bool {
	r, _ := utf8.DecodeLastRuneInString(s)
	return chars.IsWord(r)
}
