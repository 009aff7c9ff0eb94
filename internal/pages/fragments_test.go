package pages

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// around is what fragments of Go on pages take for given.
const around = `package main

import (
	"context"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint/hub"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

var (
	_ lowbit.Options
	_ hub.Options
	_ gptq.Quantizer
	_ quant.Scheme
	_ *tensor.Matrix
)

func main() {}
`

// signature is a method that a page speaks of, in place of statements.
var signature = regexp.MustCompile(`^\w+\(\w+ [\w.]+, `)

// TestFragments compiles the pieces of Go on pages that are no whole programs.
func TestFragments(t *testing.T) {
	found := 0
	for _, page := range all(t) {
		for _, b := range blocksOf(t, page) {
			if b.Language != "go" || strings.HasPrefix(b.Text, "package main\n") {
				continue
			}
			found++
			require.Empty(t, compile(t, b.Text), "%s, line %d", page, b.Line)
		}
	}
	require.Positive(t, found)
	require.NotEmpty(t, compile(t, "c := quant.NewCollector(true)"))
}

// compile returns what the compiler says of a fragment, but for what it leaves unused.
func compile(t *testing.T, fragment string) []string {
	t.Helper()
	text := "func _(ctx context.Context, w, x *tensor.Matrix, scheme quant.Scheme) {\n" + fragment + "\n}\n"
	if signature.MatchString(fragment) {
		text = "type _ interface {\n" + fragment + "\n}\n"
	}
	file := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(file, fmt.Append(nil, around, text), 0o666))
	cmd := exec.Command("go", "build", "-gcflags=-e", "-o", os.DevNull, file)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	var faults []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "declared and not used") {
			faults = append(faults, line)
		}
	}
	return faults
}
