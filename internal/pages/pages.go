// Package pages finds the commands in this repository's documents, so that a test can run them.
//
// Pages are Markdown. Fenced blocks marked sh hold commands, one a line; those marked console
// hold commands behind "$ ", each with what it prints on standard output below it, where "…" stands
// for any text within a line, and for any lines where it is alone. An HTML comment
//
//	<!-- norun: REASON -->
//
// before a block says why its commands cannot be run here.
package pages

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Block is what stands in a fenced block.
type Block struct {
	Line     int    // of the page, counted from 1: the one that opens the block
	Language string // what the fence is marked with
	Text     string // without the fences
	NoRun    string // why it cannot be run, or ""
}

// Command is one that a page has its reader type.
type Command struct {
	Line   int
	Shell  string
	Output []string // what the page has it print; nil if the page does not show that
	NoRun  string
}

// OutputLine is the line of the page at which the output begins.
func (c Command) OutputLine() int { return c.Line + 1 + strings.Count(c.Shell, "\n") }

// languages are those that a block may be marked with.
var languages = []string{"sh", "console", "go", "json", "yaml", "text", "hexdump", "powershell"}

// Parse returns the blocks of a page.
func Parse(page string) ([]Block, error) {
	var blocks []Block
	var open *Block
	var body []string
	reason := ""
	for i, line := range strings.Split(page, "\n") {
		mark, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case open != nil && fence && mark == "":
			open.Text = strings.Join(body, "\n")
			blocks = append(blocks, *open)
			open, body = nil, nil
		case open != nil:
			body = append(body, line)
		case fence:
			if !slices.Contains(languages, mark) {
				return nil, fmt.Errorf("line %d: a block is marked %q, expected one of %s", i+1, mark, strings.Join(languages, ", "))
			}
			open, reason = &Block{Line: i + 1, Language: mark, NoRun: reason}, ""
		case strings.HasPrefix(line, "<!-- norun"):
			var ok bool
			if reason, ok = strings.CutPrefix(line, "<!-- norun: "); ok {
				reason, ok = strings.CutSuffix(reason, " -->")
			}
			if !ok || strings.TrimSpace(reason) == "" {
				return nil, fmt.Errorf("line %d: found %q, expected <!-- norun: REASON -->", i+1, line)
			}
		case strings.TrimSpace(line) != "" && reason != "":
			return nil, fmt.Errorf("line %d: text stands between a norun comment and its block", i+1)
		}
	}
	if open != nil {
		return nil, fmt.Errorf("line %d: the block is not closed", open.Line)
	}
	if reason != "" {
		return nil, fmt.Errorf("a norun comment at the end has no block")
	}
	return blocks, nil
}

// Commands are those in a block of sh or console, in order; others have none.
func (b Block) Commands() []Command {
	var commands []Command
	continued := false
	for i, line := range strings.Split(b.Text, "\n") {
		at := b.Line + 1 + i
		last := len(commands) - 1
		switch {
		case b.Language != "sh" && b.Language != "console":
		case continued:
			commands[last].Shell += "\n" + line
			continued = strings.HasSuffix(line, `\`)
		case b.Language == "console" && strings.HasPrefix(line, "$ "):
			commands = append(commands, Command{Line: at, Shell: line[2:], Output: []string{}, NoRun: b.NoRun})
			continued = strings.HasSuffix(line, `\`)
		case b.Language == "console" && last >= 0:
			commands[last].Output = append(commands[last].Output, line)
		case b.Language == "console" || strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#"):
		default:
			commands = append(commands, Command{Line: at, Shell: line, NoRun: b.NoRun})
			continued = strings.HasSuffix(line, `\`)
		}
	}
	return commands
}

// tolerance is how far a figure that is printed may be from the one on the page, relative to it:
// results differ between instruction sets, and figures of tiny texts are sensitive.
const tolerance = 0.25

var number = regexp.MustCompile(`\d+(?:\.\d+)?`)

// Match says whether lines are as the page shows them: the same words, and numbers within 25 %.
func Match(shown, printed []string) bool {
	_, ok := match(shown, printed, tolerance)
	return ok
}

// Renew returns what the page shows with the numbers that are printed now. It fails where words differ.
func Renew(shown, printed []string) ([]string, bool) { return match(shown, printed, math.Inf(1)) }

// match returns the lines that are shown with the printed numbers in place of theirs.
func match(shown, printed []string, tolerance float64) (renewed []string, ok bool) {
	if len(shown) == 0 {
		return nil, len(printed) == 0
	}
	if strings.TrimSpace(shown[0]) == "…" {
		for skip := range len(printed) + 1 {
			if renewed, ok = match(shown[1:], printed[skip:], tolerance); ok {
				return append([]string{shown[0]}, renewed...), true
			}
		}
		return nil, false
	}
	if len(printed) == 0 {
		return nil, false
	}
	line, ok := matchLine(shown[0], printed[0], tolerance)
	if ok {
		renewed, ok = match(shown[1:], printed[1:], tolerance)
	}
	return append([]string{line}, renewed...), ok
}

func matchLine(shown, printed string, tolerance float64) (renewed string, ok bool) {
	numbers := number.FindAllStringIndex(shown, -1)
	words := strings.NewReplacer("…", ".*", "\x00", `(\d+(?:\.\d+)?)`)
	pattern := words.Replace(spaces.ReplaceAllString(regexp.QuoteMeta(number.ReplaceAllString(shown, "\x00")), " +"))
	found := regexp.MustCompile("^" + pattern + "$").FindStringSubmatch(printed)
	if found == nil {
		return "", false
	}
	at := 0
	for i, n := range numbers {
		want, _ := strconv.ParseFloat(shown[n[0]:n[1]], 64)
		if got, _ := strconv.ParseFloat(found[i+1], 64); math.Abs(got-want) > tolerance*want {
			return "", false
		}
		renewed += shown[at:n[0]] + found[i+1]
		at = n[1]
	}
	return renewed + shown[at:], true
}

var spaces = regexp.MustCompile(` +`)
