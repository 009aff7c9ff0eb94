// Package argv looks at arguments before flags are parsed.
package argv

import "slices"

// WantsStream reports whether arguments ask for events: also those that are refused are then
// answered by events.
func WantsStream(args []string) bool {
	wants := false
	for i, a := range args {
		switch {
		case a == "--":
			return wants
		case a == "--progress" && i+1 < len(args):
			wants = args[i+1] == "json"
		case len(a) > 11 && a[:11] == "--progress=":
			wants = a[11:] == "json"
		}
	}
	return wants
}

// Verb is the first argument that is no flag.
func Verb(args []string) string {
	if i := slices.IndexFunc(args, func(a string) bool { return a != "" && a[0] != '-' }); i >= 0 {
		return args[i]
	}
	return ""
}
