package pages

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	link   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	title  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	fenced = regexp.MustCompile("(?s)\n```.*?\n```")
	// What GitHub leaves out of a title to make the name of its place.
	left = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestLinks: what pages point to in this repository is there, headings too.
func TestLinks(t *testing.T) {
	places := func(path string) map[string]bool {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		names := map[string]bool{}
		for _, m := range title.FindAllStringSubmatch(fenced.ReplaceAllString(string(text), ""), -1) {
			names[strings.ReplaceAll(left.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
		}
		return names
	}
	links := 0
	for _, page := range all(t) {
		text, err := os.ReadFile(filepath.Join(root, page))
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(string(text), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			file, place, _ := strings.Cut(m[1], "#")
			path := filepath.Join(root, filepath.Dir(page), file)
			if file == "" {
				path = filepath.Join(root, page)
			}
			if _, err := os.Stat(path); assert.NoError(t, err, page) && place != "" {
				assert.True(t, places(path)[place], "%s: %s has no such heading", page, m[1])
			}
		}
	}
	require.Greater(t, links, 50)
}
