package kernel

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryBodyRuns runs TestTwins with coverage and looks up the places that
// call assembly. A body that nothing calls is an error, and one that TestTwins
// does not reach though this machine has the level.
func TestEveryBodyRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the package once more")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command")
	}
	bodies, calls := assemblyCalls(t)
	if len(bodies) == 0 {
		t.Skip("this build has no assembly")
	}
	profile := filepath.Join(t.TempDir(), "cover")
	out, err := exec.Command("go", "test", "-run=^TestTwins$", "-coverprofile="+profile, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	covered := coveredLines(t, profile)
	for _, name := range bodies {
		require.NotEmpty(t, calls[name], "nothing calls the assembly of %s", name)
		if needs(name) > level {
			t.Logf("%s: needs %v, this machine has %v", name, needs(name), level)
			continue
		}
		for _, at := range calls[name] {
			require.True(t, covered[at], "TestTwins does not reach %s at %s: add a twin", name, at)
		}
	}
}

// needs is the level that a body's name tells.
func needs(name string) Level {
	switch {
	case strings.HasSuffix(name, "NEON"):
		return NEON
	case strings.HasSuffix(name, "AVX512"):
		return AVX512
	case name == "gemmBF16":
		return AVX512BF16
	}
	return AVX2
}

// assemblyCalls returns the functions without a body in this build, and the
// "file:line" of each call of them outside of tests.
func assemblyCalls(t *testing.T) (bodies []string, calls map[string][]string) {
	pkg, err := build.ImportDir(".", 0)
	require.NoError(t, err)
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range pkg.GoFiles {
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, f)
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body == nil {
				bodies = append(bodies, fn.Name.Name)
			}
		}
	}
	calls = map[string][]string{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if id, ok := call.Fun.(*ast.Ident); ok {
					p := set.Position(call.Pos())
					calls[id.Name] = append(calls[id.Name], fmt.Sprintf("%s:%d", p.Filename, p.Line))
				}
			}
			return true
		})
	}
	return bodies, calls
}

// coveredLines reads a coverage profile: "path/file.go:l0.c0,l1.c1 n count".
func coveredLines(t *testing.T, path string) map[string]bool {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	lines := map[string]bool{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		file, block, ok := strings.Cut(sc.Text(), ":")
		if !ok || file == "mode" {
			continue
		}
		var l0, c0, l1, c1, n, count int
		_, err := fmt.Sscanf(block, "%d.%d,%d.%d %d %d", &l0, &c0, &l1, &c1, &n, &count)
		require.NoError(t, err, sc.Text())
		for l := l0; l <= l1 && count > 0; l++ {
			lines[fmt.Sprintf("%s:%d", filepath.Base(file), l)] = true
		}
	}
	return lines
}
