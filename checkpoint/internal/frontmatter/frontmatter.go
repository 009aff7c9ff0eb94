// Package frontmatter takes model cards apart: YAML between two lines of dashes, and text.
package frontmatter

import "bytes"

// Split returns what stands between the dashes that a card begins with, and the text behind
// them. ok is false for a card without them, also if the second line of dashes has no end.
func Split(card []byte) (front, text []byte, ok bool) {
	card = bytes.ReplaceAll(card, []byte("\r\n"), []byte("\n"))
	rest, begun := bytes.CutPrefix(card, []byte("---\n"))
	front, text, ended := bytes.Cut(append([]byte("\n"), rest...), []byte("\n---\n"))
	return front, text, begun && ended
}
