// Package version says which version of this module the running program has.
package version

import "runtime/debug"

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
