package pages

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/hubtest"
)

var (
	run    = flag.Bool("pages", false, "run every command of every page")
	update = flag.Bool("update", false, "with -pages: write the figures that are printed now into the pages, where the words are the same")
)

const root = "../.."

// all are the pages with commands for readers, by their paths from the root.
func all(t *testing.T) []string {
	t.Helper()
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "engines/*.md", "cmd/*/README.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, f := range found {
			page, err := filepath.Rel(root, f)
			require.NoError(t, err)
			pages = append(pages, page)
		}
	}
	require.Contains(t, pages, "README.md")
	return pages
}

func blocksOf(t *testing.T, page string) []Block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, page))
	require.NoError(t, err)
	blocks, err := Parse(string(text))
	require.NoError(t, err, page)
	return blocks
}

// TestPagesParse holds pages to what TestPages can read; it runs nothing.
func TestPagesParse(t *testing.T) {
	commands := 0
	for _, page := range all(t) {
		for _, b := range blocksOf(t, page) {
			commands += len(b.Commands())
		}
	}
	require.Greater(t, commands, 10)
}

// TestPages runs every command of every page, as it stands there, in a folder that has what the pages
// speak of: models, which are all the small one of this repository, and texts, which are short.
// Commands that begin with "go " or "./" run in the root of the repository. What cannot be run
// here is skipped with the reason that the page gives.
func TestPages(t *testing.T) {
	if !*run {
		t.Skip("runs with -pages")
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./cmd/lowbit")
	build.Dir = root
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	model := modelFolder(t)
	hub := hubtest.New(t, "", hubtest.Folder(t, model))
	hub.AnyName = true
	var used time.Duration
	for _, page := range all(t) {
		t.Run(page, func(t *testing.T) {
			r := &runner{page: page, dir: workspace(t, model), used: &used, env: append(os.Environ(),
				"PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"),
				"HF_ENDPOINT="+hub.URL, "HF_HOME="+t.TempDir(), "HF_HUB_CACHE=", "HUGGINGFACE_HUB_CACHE=", "HF_TOKEN=", "HF_HUB_OFFLINE=", "TRANSFORMERS_OFFLINE=")}
			for _, b := range blocksOf(t, page) {
				if b.Language == "go" && strings.HasPrefix(b.Text, "package main\n") {
					t.Run(fmt.Sprintf("line %d", b.Line), func(t *testing.T) { r.program(t, b) })
				}
				for _, c := range b.Commands() {
					t.Run(fmt.Sprintf("line %d", c.Line), func(t *testing.T) { r.command(t, c) })
				}
			}
		})
	}
	t.Logf("the commands took %.0f s of CPU time", used.Seconds())
}

// modelFolder is the small model with a chat template.
func modelFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(root, "testdata/tinyllama-2m"))))
	copyFile(t, "testdata/chat_template.jinja", filepath.Join(dir, "chat_template.jinja"))
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, data, 0o666))
}

// workspace is a folder with what commands take, by the names that pages give it.
func workspace(t *testing.T, model string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"MODEL", "Llama-3.2-1B"} {
		require.NoError(t, os.Symlink(model, filepath.Join(dir, name)))
	}
	calibration := beginning(t, "calibration.txt", 12000)
	for _, name := range []string{"calibration.txt", "text.txt", "wiki.txt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(calibration), 0o666))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "heldout.txt"), []byte(beginning(t, "heldout.txt", 6000)), 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "chats.jsonl"), chats(t, calibration), 0o666))
	copyFile(t, filepath.Join(root, "checkpoint/measure/testdata/questions.jsonl"), filepath.Join(dir, "questions.jsonl"))
	return dir
}

// beginning are the documents that the first n bytes of one of the model's texts hold whole.
func beginning(t *testing.T, name string, n int) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "testdata/tinyllama-2m-text", name))
	require.NoError(t, err)
	end := strings.LastIndex(string(data[:n]), "\n\n")
	require.Positive(t, end)
	return string(data[:end+1])
}

// chats are conversations, one a line, in which each document is an answer.
func chats(t *testing.T, text string) []byte {
	t.Helper()
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	var b bytes.Buffer
	for document := range strings.SplitSeq(text, "\n\n") {
		require.NoError(t, json.NewEncoder(&b).Encode(map[string][]message{"messages": {{"user", "tell me a story."}, {"assistant", document}}}))
	}
	return b.Bytes()
}

// runner runs the commands of a page one after another.
type runner struct {
	page string
	dir  string
	env  []string
	used *time.Duration
}

func (r *runner) command(t *testing.T, c Command) {
	if c.NoRun != "" {
		t.Skipf("%s: not run: %s", c.Shell, c.NoRun)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", c.Shell)
	if cmd.Dir = r.dir; strings.HasPrefix(c.Shell, "go ") || strings.HasPrefix(c.Shell, "./") {
		cmd.Dir = root
	}
	stdout := r.start(t, cmd, c.Shell)
	if c.Output != nil {
		var printed []string
		if text := strings.TrimRight(stdout, "\n"); text != "" {
			printed = strings.Split(text, "\n")
		}
		if *update {
			renewed, ok := Renew(c.Output, printed)
			require.True(t, ok, "%s: what is printed now has other words:\n%s", c.Shell, stdout)
			replaceLines(t, r.page, c.OutputLine(), renewed)
			return
		}
		require.True(t, Match(c.Output, printed), "%s: the page does not show what is printed now:\n%s", c.Shell, stdout)
	}
}

// replaceLines puts lines in the place of those of a page from the line at, counted from 1, on.
func replaceLines(t *testing.T, page string, at int, lines []string) {
	t.Helper()
	path := filepath.Join(root, page)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	all := strings.Split(string(text), "\n")
	copy(all[at-1:], lines)
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(all, "\n")), 0o666))
}

// program builds and runs a Go program.
func (r *runner) program(t *testing.T, b Block) {
	if b.NoRun != "" {
		t.Skipf("not run: %s", b.NoRun)
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(b.Text), 0o666))
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "program"), filepath.Join(dir, "main.go"))
	build.Dir = root
	r.start(t, build, "the program")
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "program"))
	cmd.Dir = r.dir
	r.start(t, cmd, "the program")
}

func (r *runner) start(t *testing.T, cmd *exec.Cmd, what string) (stdout string) {
	var out, errors bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = r.env, &out, &errors
	begin := time.Now()
	err := cmd.Run()
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	*r.used += cpu
	require.NoError(t, err, "%s:\n%s%s", what, out.String(), errors.String())
	t.Logf("%s (%.1f s, %.1f s of CPU time)", what, time.Since(begin).Seconds(), cpu.Seconds())
	return out.String()
}
