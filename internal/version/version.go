// Package version says which version of this module the running program has.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/golowbit/lowbit/internal/kernel"
)

// Module is the version of this module, or "unknown".
func Module() string {
	const path = "github.com/golowbit/lowbit"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == path {
			return m.Version
		}
	}
	return "unknown"
}

// Line is one line about the build and the instruction set it uses here.
func Line() string {
	v, revision := "(devel)", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value
			}
		}
	}
	return fmt.Sprintf("lowbit %s%s %s %s/%s %v\n", v, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH, kernel.Active())
}
