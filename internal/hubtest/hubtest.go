// Package hubtest is a hub of models for tests: it speaks the protocol of Hugging Face's, and
// fails as it is told to.
package hubtest

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Large is the size, in bytes, from which files lie on another host.
const Large = 1000

// Hub is a hub with one model.
type Hub struct {
	URL       string
	Name      string
	Revisions map[string]string            // commits by branch or tag
	Commits   map[string]map[string][]byte // files by commit

	AnyName   bool   // the model has every name of the form ORG/NAME
	Token     string // what must be given, if not ""
	Gated     bool
	NoRanges  bool           // files come from their beginning
	Moved     bool           // small files lie elsewhere on the same host
	Cut       map[string]int // by file: how many bytes come of a request,
	Cuts      map[string]int // and how often
	Corrupt   map[string]int // by file: how often the last byte is another one
	Busy      int            // how many requests are answered with 503 first
	Slow      time.Duration  // each large file
	WithoutIt string         // a file that the list has and the hub has not

	mu       sync.Mutex
	requests []string
	loading  int
	atOnce   int
	leaked   bool
}

// New serves a model until the test ends.
func New(t testing.TB, name string, files map[string][]byte) *Hub {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	h := &Hub{Name: name, Revisions: map[string]string{"main": commit}, Commits: map[string]map[string][]byte{commit: files}}
	cdn := httptest.NewServer(http.HandlerFunc(h.cdn))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, cdn.URL) }))
	t.Cleanup(server.Close)
	t.Cleanup(cdn.Close)
	h.URL = server.URL
	return h
}

// Folder is what lies in a folder, for New.
func Folder(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if !e.IsDir() {
			if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	return files
}

// Requests are those so far, such as "HEAD /org/name/resolve/COMMIT/config.json", with the
// range behind if there was one.
func (h *Hub) Requests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.requests)
}

// AtOnce is how many large files were under way at a time.
func (h *Hub) AtOnce() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.atOnce
}

// Leaked says whether the token came to another host.
func (h *Hub) Leaked() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leaked
}

func (h *Hub) serve(w http.ResponseWriter, r *http.Request, cdn string) {
	h.mu.Lock()
	h.requests = append(h.requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	busy := h.Busy > 0
	h.Busy--
	h.mu.Unlock()
	fail := func(code int, kind string) {
		w.Header().Set("X-Error-Code", kind)
		w.WriteHeader(code)
	}
	if busy {
		fail(http.StatusServiceUnavailable, "")
		return
	}
	if h.Token != "" && r.Header.Get("Authorization") != "Bearer "+h.Token {
		if h.Gated {
			fail(http.StatusUnauthorized, "GatedRepo")
		} else {
			fail(http.StatusUnauthorized, "RepoNotFound")
		}
		return
	}
	model := h.Name
	if h.AnyName {
		model = asked(r.URL.Path)
	}
	if revision, ok := strings.CutPrefix(r.URL.Path, "/api/models/"+model+"/revision/"); ok {
		h.list(w, revision, fail)
		return
	}
	rest, elsewhere := strings.CutPrefix(r.URL.Path, "/elsewhere/")
	ok := elsewhere
	if !ok {
		rest, ok = strings.CutPrefix(r.URL.Path, "/"+model+"/resolve/")
	}
	commit, name, _ := strings.Cut(rest, "/")
	if c, branch := h.Revisions[commit]; branch {
		commit = c
	}
	data, there := h.Commits[commit][name]
	if !ok {
		fail(http.StatusNotFound, "RepoNotFound")
		return
	}
	if !there || name == h.WithoutIt {
		fail(http.StatusNotFound, "EntryNotFound")
		return
	}
	w.Header().Set("X-Repo-Commit", commit)
	if len(data) < Large && h.Moved && !elsewhere {
		http.Redirect(w, r, "/elsewhere/"+commit+"/"+url.PathEscape(name), http.StatusTemporaryRedirect)
		return
	}
	if len(data) < Large {
		blob := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(data)), data...))
		w.Header().Set("ETag", strconv.Quote(hex.EncodeToString(blob[:])))
		h.send(w, r, name, data)
		return
	}
	sum := sha256.Sum256(data)
	w.Header().Set("X-Linked-Etag", strconv.Quote(hex.EncodeToString(sum[:])))
	w.Header().Set("X-Linked-Size", strconv.Itoa(len(data)))
	w.Header().Set("ETag", `"of-another-kind"`)
	http.Redirect(w, r, cdn+"/"+commit+"/"+url.PathEscape(name)+"?signature=1", http.StatusFound)
}

// asked is the name of the model that a path is about.
func asked(path string) string {
	parts := strings.SplitN(strings.TrimPrefix(strings.TrimPrefix(path, "/api/models"), "/"), "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func (h *Hub) list(w http.ResponseWriter, revision string, fail func(int, string)) {
	commit, ok := h.Revisions[revision]
	if !ok {
		commit = revision
	}
	files, ok := h.Commits[commit]
	if !ok {
		fail(http.StatusNotFound, "RevisionNotFound")
		return
	}
	type sibling struct {
		Name string `json:"rfilename"`
	}
	var siblings []sibling
	for _, name := range slices.Sorted(maps.Keys(files)) {
		siblings = append(siblings, sibling{name})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"id": h.Name, "sha": commit, "siblings": siblings})
}

// cdn is the host of large files.
func (h *Hub) cdn(w http.ResponseWriter, r *http.Request) {
	commit, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	h.mu.Lock()
	h.requests = append(h.requests, strings.TrimSpace("CDN "+r.Method+" "+name+" "+r.Header.Get("Range")))
	h.leaked = h.leaked || r.Header.Get("Authorization") != ""
	h.loading++
	h.atOnce = max(h.atOnce, h.loading)
	h.mu.Unlock()
	select {
	case <-time.After(h.Slow):
	case <-r.Context().Done(): // the client has gone
	}
	h.send(w, r, name, h.Commits[commit][name])
	h.mu.Lock()
	h.loading--
	h.mu.Unlock()
}

// send answers with a file, or the range of it that is asked for.
func (h *Hub) send(w http.ResponseWriter, r *http.Request, name string, data []byte) {
	h.mu.Lock()
	limit, cut := h.Cut[name]
	if cut = cut && h.Cuts[name] > 0 && r.Method == http.MethodGet; cut {
		h.Cuts[name]--
	}
	if h.Corrupt[name] > 0 && r.Method == http.MethodGet {
		h.Corrupt[name]--
		data = slices.Clone(data)
		data[len(data)-1] ^= 1
	}
	h.mu.Unlock()
	var from int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && !h.NoRanges {
		if from >= len(data) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
		w.Header().Set("Content-Length", strconv.Itoa(len(data)-from))
		w.WriteHeader(http.StatusPartialContent)
	} else {
		from = 0
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	}
	if r.Method == http.MethodHead {
		return
	}
	if data = data[from:]; cut {
		_, _ = w.Write(data[:min(limit, len(data))])
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(data)
}
