// Package hubcache finds models in the cache of Hugging Face's hub client:
//
//	CACHE/models--ORG--NAME/
//	  blobs/HASH                      the files, once each
//	  refs/main                       a file that holds a commit
//	  snapshots/COMMIT/config.json    links into blobs
//
// It reads only what is there; package hub loads models into it. The layout is that of
// huggingface_hub (file_download.py, constants.py).
package hubcache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrNotCached is wrapped where the cache does not have a model or revision.
var ErrNotCached = errors.New("not in the hub cache")

// URL is where the hub is; models are at URL/ORG/NAME.
const URL = "https://huggingface.co"

const (
	modelPrefix = "models--"
	snapshots   = "snapshots"
	refs        = "refs"
	mainRef     = "main"
	maxRef      = 256 // bytes of a ref file
)

// Dir is the cache's folder: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub,
// XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub, the first that
// getenv has. It is "" if there is not even a home.
func Dir(getenv func(string) string) string {
	for _, key := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"} {
		if dir := getenv(key); dir != "" {
			return expand(dir, getenv)
		}
	}
	home := Home(getenv)
	if home == "" {
		return ""
	}
	return filepath.Join(home, "hub")
}

// Home is the folder that the cache lies in if nothing else is said: HF_HOME,
// XDG_CACHE_HOME/huggingface or ~/.cache/huggingface, "" if there is not even a home.
func Home(getenv func(string) string) string {
	if home := getenv("HF_HOME"); home != "" {
		return expand(home, getenv)
	}
	if cache := getenv("XDG_CACHE_HOME"); cache != "" {
		return filepath.Join(expand(cache, getenv), "huggingface")
	}
	home := userHome(getenv)
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".cache", "huggingface")
}

func userHome(getenv func(string) string) string {
	if home := getenv("HOME"); home != "" {
		return home
	}
	return getenv("USERPROFILE")
}

// expand replaces a leading ~, as the hub client does.
func expand(path string, getenv func(string) string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		return filepath.Join(userHome(getenv), path[1:])
	}
	return path
}

// InName says whether a rune may be in a name on the hub.
func InName(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.", r)
}

// IsName says whether s has the form of a model's name on the hub: NAME or
// ORG/NAME of letters, digits, '-', '_' and '.'.
func IsName(s string) bool {
	parts := strings.Split(s, "/")
	if len(parts) > 2 {
		return false
	}
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.Contains(p, "--") || strings.ContainsFunc(p, func(r rune) bool { return !InName(r) }) {
			return false
		}
	}
	return true
}

// Find returns the snapshot folder of a model by its name on the hub, e.g.
// "Qwen/Qwen3-0.6B", in the cache folder. The revision is a ref ("main"), a
// commit, or "" for what Resolve takes.
func Find(cache, name, revision string) (string, error) {
	if !IsName(name) {
		return "", fmt.Errorf("%s is not the name of a model on the hub: %w", quote(name), ErrNotCached)
	}
	model := Repo(cache, name)
	if cache == "" || !isDir(model) {
		return "", fmt.Errorf("%s: no %s: %w", quote(name), model, ErrNotCached)
	}
	if revision == "" {
		return newest(model)
	}
	if strings.ContainsAny(revision, "\\:\x00") || !filepath.IsLocal(revision) {
		return "", fmt.Errorf("%s: revision %s: %w", quote(name), quote(revision), ErrNotCached)
	}
	if dir := filepath.Join(model, snapshots, revision); isDir(dir) && !strings.Contains(revision, "/") {
		return dir, nil
	}
	dir, err := follow(model, revision)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: revision %s: %w", quote(name), quote(revision), ErrNotCached)
	}
	return dir, err
}

// Repo is the folder of a model in the cache.
func Repo(cache, name string) string {
	return filepath.Join(cache, modelPrefix+strings.ReplaceAll(name, "/", "--"))
}

// Of is the name and the commit of the model that a snapshot, or a file in one, is of. ok
// is false for other paths.
func Of(path string) (name, commit string, ok bool) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", "", false
	}
	for _, dir := range []string{path, filepath.Dir(path)} {
		parent := filepath.Dir(dir)
		name, ok := strings.CutPrefix(filepath.Base(filepath.Dir(parent)), modelPrefix)
		name = strings.Replace(name, "--", "/", 1)
		if ok && filepath.Base(parent) == snapshots && IsName(name) {
			return name, filepath.Base(dir), true
		}
	}
	return "", "", false
}

// Resolve finds the snapshot that a path inside the cache means: the model's
// own folder (models--ORG--NAME) or its folder of snapshots. ok is false where
// the path is neither, for example a snapshot itself.
func Resolve(path string) (dir string, ok bool, err error) {
	model := path
	if filepath.Base(path) == snapshots && !exists(filepath.Join(path, "config.json")) {
		model = filepath.Dir(path)
	}
	// A model folder has config.json; the cache's outer folder never does.
	if !isDir(filepath.Join(model, snapshots)) || exists(filepath.Join(model, "config.json")) {
		return "", false, nil
	}
	if !isDir(filepath.Join(model, refs)) && !strings.HasPrefix(filepath.Base(model), modelPrefix) {
		return "", false, nil
	}
	dir, err = newest(model)
	return dir, err == nil, err
}

// newest is the snapshot that refs/main names or, where it names none, the one
// that was made last.
func newest(model string) (string, error) {
	dir, err := follow(model, mainRef)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	parent := filepath.Join(model, snapshots)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", err
	}
	best, when := "", time.Time{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.IsDir() {
			continue
		}
		if best == "" || info.ModTime().After(when) {
			best, when = e.Name(), info.ModTime()
		}
	}
	if best == "" {
		return "", fmt.Errorf("%s: no snapshot in it: %w", parent, ErrNotCached)
	}
	return filepath.Join(parent, best), nil
}

// follow is the snapshot that a ref names.
func follow(model, ref string) (string, error) {
	path := filepath.Join(model, refs, filepath.FromSlash(ref))
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRef+1))
	if err != nil {
		return "", err
	}
	commit := strings.TrimSpace(string(text))
	if commit == "" || len(text) > maxRef || strings.ContainsFunc(commit, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9')
	}) {
		return "", fmt.Errorf("%s: %s is no commit", path, quote(commit))
	}
	dir := filepath.Join(model, snapshots, commit)
	if !isDir(dir) {
		return "", fmt.Errorf("%s names commit %s, which is not among the snapshots: %w", path, commit, fs.ErrNotExist)
	}
	return dir, nil
}

// Dangling names the links of a snapshot whose file is not there, sorted:
// downloads that did not end.
func Dangling(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 && !exists(filepath.Join(dir, e.Name())) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func quote(s string) string {
	const limit = 200
	if len(s) > limit {
		return fmt.Sprintf("%q...", s[:limit])
	}
	return fmt.Sprintf("%q", s)
}
