// Package manual writes the command down: as a page of reference and as man pages.
package manual

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// Man writes a man page for the command and each of its verbs into a folder, which must be there.
// The date is not the day on which they are written, so that the same command has the same pages.
func Man(root *cobra.Command, folder, version string) error {
	root.DisableAutoGenTag = true
	day := time.Unix(0, 0).UTC()
	header := &doc.GenManHeader{Section: "1", Source: "lowbit " + version, Manual: "lowbit", Date: &day}
	if err := doc.GenManTree(root, header, folder); err != nil {
		return fmt.Errorf("man pages in %s: %w", folder, err)
	}
	return nil
}

// noRun says of verbs whose examples the tests of the pages cannot run why.
var noRun = map[string]string{"push": "needs a registry", "bench": "takes all cores for minutes; tested by TestBench"}

const head = "# Reference\n\nEvery verb and flag, written from the command itself (`go test ./cmd/lowbit -run TestReference -update`).\n" +
	"What they mean together is in [settings.md](settings.md), and how they are used in [guide.md](guide.md).\n\n"

// Markdown writes the page of reference.
func Markdown(w io.Writer, root *cobra.Command) error {
	var b bytes.Buffer
	b.WriteString(head)
	for _, c := range documented(root) {
		fmt.Fprintf(&b, "- [`%s`](#%s): %s\n", c.Name(), anchor(c), escape(c.Short))
	}
	b.WriteString("\nExit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted.\n\n## Flags of every verb\n\n")
	flags(&b, root.PersistentFlags())
	for _, c := range documented(root) {
		fmt.Fprintf(&b, "\n## %s\n\n", c.CommandPath())
		text := c.Long
		if text == "" {
			text = c.Short
		}
		fmt.Fprintf(&b, "%s\n\n```text\n%s\n```\n", escape(strings.TrimSpace(text)), c.UseLine())
		if c.HasExample() {
			b.WriteString("\n")
			if why := noRun[c.Name()]; why != "" {
				fmt.Fprintf(&b, "<!-- norun: %s -->\n", why)
			}
			fmt.Fprintf(&b, "```sh\n%s\n```\n", unindent(c.Example))
		}
		if c.HasAvailableLocalFlags() {
			b.WriteString("\n")
			flags(&b, c.LocalNonPersistentFlags())
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// documented are the verbs that help lists and that are lowbit's own.
func documented(root *cobra.Command) []*cobra.Command {
	var verbs []*cobra.Command
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() && c.Name() != "completion" {
			verbs = append(verbs, c)
		}
	}
	return verbs
}

func anchor(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// flags writes a table.
func flags(b *bytes.Buffer, set *pflag.FlagSet) {
	b.WriteString("| flag | |\n|---|---|\n")
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if f.NoOptDefVal == "" && kind != "" {
			name += " " + kind
		}
		fmt.Fprintf(b, "| `%s` | %s |\n", name, escape(usage))
	})
}

// escape keeps Markdown from reading anything into plain text.
func escape(text string) string {
	return strings.NewReplacer("|", `\|`, "<", `\<`, "*", `\*`, "_", `\_`).Replace(text)
}

// unindent takes the two blanks away that cobra wants before examples.
func unindent(example string) string {
	return strings.ReplaceAll(strings.TrimPrefix(example, "  "), "\n  ", "\n")
}
