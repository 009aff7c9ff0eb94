// Command lowbit quantizes large language models on a CPU, and measures,
// describes and converts what comes out.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/argv"
	"github.com/golowbit/lowbit/internal/faults"
	"github.com/golowbit/lowbit/internal/phases"
)

// Exit codes.
const (
	exitOK          = 0
	exitError       = 1   // also after a panic
	exitUsage       = 2   // a flag or an argument makes no sense
	exitInterrupted = 130 // as a shell reports SIGINT
)

func main() { os.Exit(process()) }

// process is the command as a process, up to its exit code.
func process() int {
	// What Go cannot recover from, running out of memory above all, ends with
	// SIGABRT and not with the code of wrong usage.
	debug.SetTraceback("crash")
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	a := &app{
		args: os.Args[1:], stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		terminal: term.IsTerminal(int(os.Stderr.Fd())),
	}
	return a.run(ctx)
}

// app is one call of the command.
type app struct {
	args     []string
	stdin    io.Reader
	stdout   io.Writer // results only
	stderr   io.Writer // progress, warnings and errors
	terminal bool      // stderr is one

	mode    progressMode
	verbose bool
	stream  *stream // nil without --progress json
	clock   *phases.Clock
}

// usageError is an error about the command line rather than about files.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// interrupted is the error after a signal; its text says how to go on.
type interrupted struct{ text string }

func (e interrupted) Error() string { return e.text }

func (a *app) run(ctx context.Context) (code int) {
	ctx, a.clock = phases.With(ctx)
	defer func() {
		if p := recover(); p != nil {
			code = a.end(exitError, fmt.Sprintf("internal error: %v\n%s", p, debug.Stack()))
		}
	}()
	root := a.command()
	root.SetArgs(a.args)
	if argv.WantsStream(a.args) {
		a.stream = newStream(a.stderr)
		a.stream.write(streamLine{Kind: eventStart, Version: streamVersion, Verb: argv.Verb(a.args), Args: a.args})
	}
	return a.end(outcomeOf(ctx, root.ExecuteContext(ctx)))
}

// outcomeOf is an exit code, and what there is to say of an error.
func outcomeOf(ctx context.Context, err error) (code int, message string) {
	var stopped interrupted
	var usage usageError
	switch {
	case err == nil:
		return exitOK, ""
	case errors.As(err, &stopped):
		return exitInterrupted, stopped.Error()
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted, "interrupted"
	case errors.As(err, &usage) || errors.Is(err, lowbit.ErrOptions):
		return exitUsage, faults.OneLine(err)
	}
	return exitError, faults.OneLine(err)
}

// end says the last that there is to say.
func (a *app) end(code int, message string) int {
	switch {
	case a.stream != nil:
		a.stream.end(code, message, a.clock)
	case message != "":
		fmt.Fprintf(a.stderr, "lowbit: %s\n", strings.TrimSuffix(message, "\n"))
	}
	return code
}

// note says what is worth knowing and no warning.
func (a *app) note(text string) {
	if a.stream != nil {
		a.stream.write(streamLine{Kind: eventNote, Message: text})
		return
	}
	fmt.Fprintln(a.stderr, text)
}

// command builds the tree of verbs.
func (a *app) command() *cobra.Command {
	cobra.EnableCommandSorting = false // verbs in the order of use
	root := &cobra.Command{
		Use:   "lowbit",
		Short: "Quantize large language models to 2-8 bits on a CPU",
		Long: `lowbit turns a Hugging Face model folder into a quantized one, on a CPU.

It quantizes with GPTQ or round-to-nearest and lets AdaDim choose for every
layer whether groups of weights lie inside output or input channels.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	s := root.PersistentFlags()
	option(s, "progress", "how to show progress on standard error: auto (bar on a terminal, else plain), bar, plain, json (events, one object a line: docs/progress.md) or none", parseProgress, func(m progressMode) { a.mode = m })
	s.BoolVarP(&a.verbose, "verbose", "v", false, "also log what is measured: of layers the arms that were tried, of blocks what their time went to")
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
	})
	root.AddCommand(a.quantizeCommand(), a.planCommand(), a.rotateCommand(), a.evalCommand(), a.generateCommand(), a.compareCommand(), a.sweepCommand(), a.checkCommand(), a.pushCommand(), a.inspectCommand(), a.convertCommand(), a.diagnoseCommand(), a.benchCommand(), a.versionCommand(), a.manualCommand())
	return root
}

// noArgs refuses arguments: what is left on the root is an unknown verb.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if c.HasSubCommands() {
		return usageError{fmt.Errorf("unknown command %q (see lowbit --help)", args[0])}
	}
	return usageError{fmt.Errorf("%s takes no argument, but there is %q", c.CommandPath(), args[0])}
}

// oneArg wants the one argument called name; hint says what to do about more.
func oneArg(name, hint string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return usageError{fmt.Errorf("no %s given (see %s --help)", name, c.CommandPath())}
		case len(args) > 1:
			return usageError{fmt.Errorf("one %s only, but there is also %q%s", name, args[1], hint)}
		}
		return nil
	}
}
