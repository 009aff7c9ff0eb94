package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit/internal/version"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(a.stdout, version.Line())
			return err
		},
	}
}
