package pages

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const page = "# Title\n\n```sh\n# a comment\nlowbit plan MODEL\nlowbit eval \\\n  OUT\n```\n\n<!-- norun: needs a GPU -->\n\n```console\n$ vllm serve OUT\nup\n$ true\n```\n"

func TestParse(t *testing.T) {
	blocks, err := Parse(page)
	require.NoError(t, err)
	require.Len(t, blocks, 2)
	require.Equal(t, []Command{{Line: 5, Shell: "lowbit plan MODEL"}, {Line: 6, Shell: "lowbit eval \\\n  OUT"}}, blocks[0].Commands())
	require.Equal(t, []Command{
		{Line: 13, Shell: "vllm serve OUT", Output: []string{"up"}, NoRun: "needs a GPU"},
		{Line: 15, Shell: "true", Output: []string{}, NoRun: "needs a GPU"},
	}, blocks[1].Commands())
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ page, want string }{
		{"```\nx\n```", `line 1: a block is marked ""`},
		{"```sh\nx\n", "line 1: the block is not closed"},
		{"<!-- norun: -->\n```sh\n```", "line 1: found"},
		{"<!-- norun: slow -->\ntext\n```sh\n```", "line 2: text stands between"},
		{"<!-- norun: slow -->\n", "has no block"},
	} {
		_, err := Parse(c.page)
		require.ErrorContains(t, err, c.want)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		name           string
		shown, printed []string
		want           bool
	}{
		{"same", []string{"a  10 b"}, []string{"a 10  b"}, true},
		{"near", []string{"10.0 s"}, []string{"12.4 s"}, true},
		{"far", []string{"10.0 s"}, []string{"13 s"}, false},
		{"another sign", []string{"-1"}, []string{"+1"}, false},
		{"another word", []string{"a 1"}, []string{"b 1"}, false},
		{"any text", []string{"took … (a)"}, []string{"took 3 s (a)"}, true},
		{"any lines", []string{"a", "…", "d"}, []string{"a", "b", "c", "d"}, true},
		{"no lines", []string{"a", "…", "d"}, []string{"a", "d"}, true},
		{"a line more", []string{"a"}, []string{"a", "b"}, false},
		{"a line less", []string{"a", "b"}, []string{"a"}, false},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, Match(c.shown, c.printed)) })
	}
}

func TestRenew(t *testing.T) {
	got, ok := Renew([]string{"a  1 b", "…", "took … s, 10 MB (x)"}, []string{"a 2.5 b", "c", "took 3 s, 20 MB (x)"})
	require.True(t, ok)
	require.Equal(t, []string{"a  2.5 b", "…", "took … s, 20 MB (x)"}, got)
	_, ok = Renew([]string{"a 1"}, []string{"b 1"})
	require.False(t, ok)
}
