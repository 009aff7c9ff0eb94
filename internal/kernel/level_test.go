package kernel

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// levels returns what this machine can run, the best first.
func levels() []Level {
	var out []Level
	for l := level; l > Generic; l-- {
		if l != NEON || level == NEON {
			out = append(out, l)
		}
	}
	return append(out, Generic)
}

// at runs f at another level. Tests that use it do not run in parallel.
func atLevel(l Level, f func()) {
	defer func(old Level) { level = old }(level)
	level = l
	f()
}

func eachLevel(t *testing.T, f func(t *testing.T)) {
	for _, l := range levels() {
		t.Run(l.String(), func(t *testing.T) { atLevel(l, func() { f(t) }) })
	}
}

func benchLevels(b *testing.B, name string, f func(b *testing.B)) {
	for _, l := range levels() {
		b.Run(name+"/"+l.String(), func(b *testing.B) { atLevel(l, func() { f(b) }) })
	}
}

func TestCapLevel(t *testing.T) {
	require.Equal(t, AVX2, capLevel(AVX512, "avx2"))
	require.Equal(t, Generic, capLevel(NEON, "generic"))
	require.Equal(t, AVX2, capLevel(AVX2, "avx512bf16"))
	require.Equal(t, AVX512, capLevel(AVX512, ""))
	require.Equal(t, AVX512, capLevel(AVX512, "sse"))
}
