// Package registrytest is a registry of containers for tests, which fails as it is told to.
package registrytest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is one of OCI's, as far as pushes and pulls of single files need it.
type Registry struct {
	t          *testing.T
	Host       string
	Credential string             // user:password, or "" for all
	Broken     string             // what blob is refused, by its length
	Cancel     context.CancelFunc // called in the middle of an upload

	mu        sync.Mutex
	blobs     map[string][]byte
	Manifests map[string][]byte // by digest and tag
	Uploads   int
}

// New serves until the test ends. Docker's configuration is an empty folder from then on.
func New(t *testing.T) *Registry {
	r := &Registry{t: t, blobs: map[string][]byte{}, Manifests: map[string][]byte{}}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	r.Host = strings.TrimPrefix(s.URL, "http://")
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	return r
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if user, password, _ := q.BasicAuth(); r.Credential != "" && user+":"+password != r.Credential {
		w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return // the client has gone
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	parts := strings.Split(q.URL.Path, "/") // "", v2, NAME…, kind, reference
	kind, reference := parts[len(parts)-2], parts[len(parts)-1]
	store := map[string]map[string][]byte{"blobs": r.blobs, "manifests": r.Manifests}[kind]
	switch q.Method + " " + kind {
	case "POST uploads":
		if r.Cancel != nil {
			r.Cancel()
		}
		w.Header().Set("Location", q.URL.Path+"here")
		w.WriteHeader(http.StatusAccepted)
	case "PUT uploads":
		want := q.URL.Query().Get("digest")
		if digest.FromBytes(body).String() != want || r.Broken == fmt.Sprint(len(body)) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"errors":[{"code":"DIGEST_INVALID","message":"not what was said"}]}`)
			return
		}
		r.blobs[want] = body
		r.Uploads++
		w.WriteHeader(http.StatusCreated)
	case "PUT manifests":
		d := digest.FromBytes(body).String()
		r.Manifests[d], r.Manifests[reference] = body, body
		w.WriteHeader(http.StatusCreated)
	case "HEAD blobs", "GET blobs", "HEAD manifests", "GET manifests":
		data, ok := store[reference]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if kind == "manifests" {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Docker-Content-Digest", digest.FromBytes(data).String())
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if q.Method == http.MethodGet {
			_, _ = w.Write(data)
		}
	default:
		r.t.Errorf("%s %s", q.Method, q.URL)
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}
