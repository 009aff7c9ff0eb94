package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit/cmd/lowbit/internal/manual"
	builtVersion "github.com/golowbit/lowbit/internal/version"
)

// manualCommand is for those who package lowbit; help does not list it.
func (a *app) manualCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "manual FOLDER",
		Short:  "Write man pages of all verbs into a folder",
		Hidden: true,
		Args:   oneArg("folder", ""),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o777); err != nil {
				return err
			}
			return manual.Man(c.Root(), args[0], builtVersion.Module())
		},
	}
}
