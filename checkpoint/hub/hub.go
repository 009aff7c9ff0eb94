// Package hub finds models by their names on Hugging Face's hub: in the cache that
// other tools share, or else by loading them into it.
//
//	path, err := hub.Path(ctx, "Qwen/Qwen3-0.6B", hub.Options{})
//	report, err := lowbit.Quantize(ctx, lowbit.Options{Model: path, ...})
//
// The cache has the layout of huggingface_hub:
//
//	CACHE/models--ORG--NAME/
//	  blobs/HASH                   files, by the SHA-256 or Git's SHA-1 of what they hold
//	  blobs/HASH.incomplete        what an interrupted run has loaded of one
//	  refs/REVISION                the commit of a branch or tag
//	  snapshots/COMMIT/NAME        links into blobs
//	CACHE/.locks/models--ORG--NAME/HASH.lock
//
// Source: huggingface_hub, file_download.py and constants.py; the hub's HTTP API,
// /api/models/NAME/revision/REVISION and /NAME/resolve/COMMIT/FILE.
package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/golowbit/lowbit/checkpoint/internal/hubcache"
	"github.com/golowbit/lowbit/internal/disk"
)

// ErrOffline is wrapped where a model would have to be loaded and the environment
// forbids it (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE).
var ErrOffline = errors.New("HF_HUB_OFFLINE is set")

// Options of Path and Fetch. The zero value is what the environment says.
type Options struct {
	// Getenv looks up HF_HUB_CACHE, HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and
	// the others of huggingface_hub; nil means os.Getenv.
	Getenv func(string) string
	// Files is how many files are loaded at a time; 0 means 4.
	Files int
	// Progress, if not nil, is told of bytes loaded, those of earlier runs too, and to load
	// in all. Calls do not overlap.
	Progress func(done, total int64)
	// Transport, if not nil, takes the place of net/http's.
	Transport http.RoundTripper

	wait    time.Duration // before a request is repeated, the first time; 0 means a second
	stalled time.Duration // how long nothing may come; 0 means a minute
}

func (o *Options) getenv(key string) string {
	if o.Getenv != nil {
		return o.Getenv(key)
	}
	return os.Getenv(key)
}

// Split takes "ORG/NAME" or "ORG/NAME@REVISION" apart. ok is false for whatever has not
// exactly that form. What ends in .gguf or .safetensors is meant as a file.
func Split(s string) (name, revision string, ok bool) {
	name, revision, at := strings.Cut(s, "@")
	if strings.Count(name, "/") != 1 || !hubcache.IsName(name) || strings.HasSuffix(name, ".gguf") || strings.HasSuffix(name, ".safetensors") {
		return "", "", false
	}
	if at && !isRevision(revision) {
		return "", "", false
	}
	return name, revision, true
}

// isRevision says whether s can be a branch, a tag or a commit.
func isRevision(s string) bool {
	return s != "" && filepath.IsLocal(s) && !strings.Contains(s, "//") && !strings.ContainsFunc(s, func(r rune) bool {
		return !hubcache.InName(r) && r != '/' && r != '+'
	})
}

// Of is the name and the commit of the model that a path inside a hub's cache is of: a
// snapshot, or a file in one. ok is false for other paths.
func Of(path string) (name, commit string, ok bool) { return hubcache.Of(path) }

// Path is where a model lies that is given as people name it. A path that exists, and
// whatever has not the form of Split, is returned as it is; a name is looked up in the
// cache and, where that has not got all of it, loaded (Fetch).
func Path(ctx context.Context, model string, o Options) (string, error) {
	if _, err := os.Lstat(model); !errors.Is(err, fs.ErrNotExist) {
		return model, nil
	}
	name, revision, ok := Split(model)
	if !ok {
		return model, nil
	}
	dir, err := Fetch(ctx, name, revision, o)
	if errors.Is(err, errUnreachable) {
		err = fmt.Errorf("no file or folder %s here, and on the hub: %w", model, err)
	}
	return dir, err
}

// Fetch returns the snapshot folder of the model called name (ORG/NAME) at a revision, a
// branch, a tag or a commit; "" is main. A model that the cache has is taken from there
// without asking anyone, whatever its branch has become since. Otherwise the files
// that reading it takes are loaded into the cache; what was interrupted goes on where it
// was, and what is not what its checksum says is not taken. Errors name model, file and
// reason, and wrap ErrOffline where that is it.
func Fetch(ctx context.Context, name, revision string, o Options) (string, error) {
	if _, _, ok := Split(name); !ok || revision != "" && !isRevision(revision) {
		return "", fmt.Errorf("%q at revision %q: want ORG/NAME and the name of a revision", name, revision)
	}
	cache := hubcache.Dir(o.getenv)
	if cache == "" {
		return "", fmt.Errorf("%s: no folder for the hub's cache: set HF_HOME", name)
	}
	dir, weights, all := cached(cache, name, cmp.Or(revision, "main"))
	if all {
		return dir, nil
	}
	if offline(o.getenv) {
		if !weights && revision == "" {
			// Any revision is better than none.
			if newest, err := hubcache.Find(cache, name, ""); err == nil {
				weights, _ = complete(newest)
				dir = newest
			}
		}
		if weights {
			return dir, nil
		}
		return "", fmt.Errorf("%s: neither a file or folder here, nor complete in the hub's cache (%s), and %w", display(name, revision), cache, ErrOffline)
	}
	c, err := newClient(&o, name, cmp.Or(revision, "main"))
	if err != nil {
		return "", err
	}
	fetched, err := (&fetch{client: c, cache: cache, o: &o}).run(ctx)
	if err != nil && weights && errors.Is(err, errUnreachable) {
		return dir, nil
	}
	return fetched, err
}

// Base loads the model that the LoRA adapter in a folder names as its base, if it is
// neither a folder nor in the cache. Folders that are no adapter need none.
func Base(ctx context.Context, dir string, o Options) error {
	data, err := disk.ReadFile(filepath.Join(dir, adapterConfig), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var c struct {
		Base     string `json:"base_model_name_or_path"`
		Revision string `json:"revision"`
	}
	if err != nil || json.Unmarshal(data, &c) != nil {
		return nil // who opens the adapter says what is wrong
	}
	name, _, ok := Split(c.Base)
	for _, path := range []string{c.Base, filepath.Join(dir, c.Base)} {
		if _, err := os.Lstat(path); err == nil {
			ok = false
		}
	}
	if !ok || name != c.Base || c.Revision != "" && !isRevision(c.Revision) {
		return nil
	}
	if _, err := Fetch(ctx, name, c.Revision, o); err != nil {
		return fmt.Errorf("%s is a LoRA adapter for %q: %w; or give the base model's path (--base)", dir, name, err)
	}
	return nil
}

// cached is the snapshot that the cache has of a revision, whether its weights are all
// there, and whether everything is that a model has.
func cached(cache, name, revision string) (dir string, weights, all bool) {
	dir, err := hubcache.Find(cache, name, revision)
	if err != nil {
		return "", false, false
	}
	weights, all = complete(dir)
	return dir, weights, all
}

// offline says whether the environment forbids to load anything.
func offline(getenv func(string) string) bool {
	switch strings.ToUpper(cmp.Or(getenv("HF_HUB_OFFLINE"), getenv("TRANSFORMERS_OFFLINE"))) {
	case "1", "ON", "YES", "TRUE":
		return true
	}
	return false
}

func display(name, revision string) string {
	if revision == "" || revision == "main" {
		return name
	}
	return name + "@" + revision
}
