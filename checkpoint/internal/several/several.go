// Package several is about models in one file that lies in a folder, or in several files.
package several

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
)

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// PartsOf lists the files that are there of the model in one file of which path is one.
func PartsOf(path string, formats []layout.Format) []string {
	for _, f := range formats {
		if p, ok := f.(layout.Parted); ok && strings.HasSuffix(path, p.Ending()) {
			if parts := slices.DeleteFunc(p.Parts(path), func(p string) bool { return !isFile(p) }); len(parts) > 0 {
				return parts
			}
		}
	}
	return []string{path}
}

// StandsAlone reports whether a file has the name of a model in one file.
func StandsAlone(path string, formats []layout.Format) bool {
	return slices.ContainsFunc(formats, func(f layout.Format) bool {
		p, ok := f.(layout.Parted)
		return ok && strings.HasSuffix(path, p.Ending())
	})
}

// FileIn finds the model in one file, or the first of its parts, that a folder holds; ""
// if there is none. Of several none is meant. What llama.cpp has beside a model for
// images is no model.
func FileIn(dir string, formats []layout.Format) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, f := range formats {
		p, ok := f.(layout.Parted)
		if !ok {
			continue
		}
		for _, e := range entries {
			name := e.Name()
			if !strings.HasSuffix(name, p.Ending()) || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "mmproj") || !isFile(filepath.Join(dir, name)) {
				continue
			}
			if first := p.Parts(filepath.Join(dir, name))[0]; !slices.Contains(found, first) {
				found = append(found, first)
			}
		}
	}
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%s: %d models, %s and %s among them: give the path of one instead of the folder's", dir, len(found), filepath.Base(found[0]), filepath.Base(found[1]))
}
