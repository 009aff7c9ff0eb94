package pattern

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
)

// TestSplittersAgainstRegexes holds the hand-written splitters to the patterns.
func TestSplittersAgainstRegexes(t *testing.T) {
	runes := []rune("aZsStTrRevVmMlLdD''''19  \t\n\r.!_-é日Яſ٣½²\u0301\u00a0\u3000\u0085\u200b\u1c89🦙" + string(rune(0x10d40)) + string(rune(0x13460)))
	for _, p := range []string{GPT2, Llama3, Qwen2} {
		re, err := Compile(p)
		require.NoError(t, err)
		require.NotNil(t, re.next)
		rapid.Check(t, func(t *rapid.T) {
			s := rapid.OneOf(rapid.StringOfN(rapid.RuneFrom(runes), 0, 30, -1), rapid.String()).Draw(t, "s")
			requireSameSplits(t, re, s)
		})
	}
}

func requireSameSplits(t require.TestingT, re *Regex, s string) {
	var want, got []string
	re.findGeneral(s, func(start, end int, match bool) { want = append(want, fmt.Sprint(match, s[start:end])) })
	re.Find(s, func(start, end int, match bool) { got = append(got, fmt.Sprint(match, s[start:end])) })
	require.Equal(t, want, got, "text %q", s)
}

func TestTranslate(t *testing.T) {
	for in, want := range map[string]string{
		`a++b`: `(?>a+)b`, `(ab)*+`: `(?>(ab)*)`, `a{2}?`: `(?:a{2})?`, `a{2,3}+`: `(?:(?:a{2,3})+)`, `a{,3}`: `(?:a{0,3})`,
		`(?m:.)s`: `(?s:.)s`, `(?i)s`: `(?i)[sſ]`, `(?i:s)s`: `(?i:[sſ])s`, `(?i:[r-t])`: `(?i:[r-tſ])`, `x{`: `x\{`, `\h`: `[0-9a-fA-F]`,
		`[^\r\n]`: `[^\r\n]`, `[]a]`: `[\]a]`, `[a\-z]`: `[a\-z]`, `\p{^Zs}`: `\P{Zs}`, `\u0041`: `A`, `\x{1F600}`: "😀", `(?<n>a)`: `(?<n>a)`,
	} {
		got, err := translate(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for in, want := range map[string]string{
		`a)`: "unmatched )", `(a`: "missing )", `[a`: "missing ]", `+a`: "nothing before", `[[a]b]`: "class inside a class", `[a&&b]`: "intersection",
		`\R`: `\R is not supported`, `\K`: `\K is not supported`, `\`: `ends in \`, `\pL`: `\p without {`, `\p{L`: `without }`, `[\W]`: `\W inside a class`,
		`[\S\p{L}]`: `beside another property`, `(?~a)`: "(?~ is not supported", `[[:magic:]]`: "[:magic:]", `\x{zz}`: "is no character", `\xE9`: "byte escape",
	} {
		_, err := translate(in)
		require.ErrorContains(t, err, want, in)
	}
}

func FuzzSplitters(f *testing.F) {
	var all []*Regex
	for _, p := range []string{GPT2, Llama3, Qwen2} {
		re, err := Compile(p)
		require.NoError(f, err)
		all = append(all, re)
	}
	f.Add("it's  a\n\n 'ſx 1234 ...\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		s = chars.ValidUTF8(s)
		for _, re := range all {
			requireSameSplits(t, re, s)
		}
	})
}
