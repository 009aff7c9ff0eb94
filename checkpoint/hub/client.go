package hub

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/golowbit/lowbit/checkpoint/internal/hubcache"
	"github.com/golowbit/lowbit/internal/version"
)

const (
	attempts     = 5                // of a request in a row that bring nothing
	longestWait  = 30 * time.Second // between them, and
	longestAsked = 2 * time.Minute  // if the server says how long
	maxAnswer    = 64 << 20         // bytes of an answer in JSON
)

// errUnreachable is wrapped where the server could not be asked at all.
var errUnreachable = errors.New("cannot be reached")

// client asks the hub about one revision of a model.
type client struct {
	http           *http.Client
	endpoint       *url.URL
	token          string
	name, revision string
	wait, stalled  time.Duration
}

func newClient(o *Options, name, revision string) (*client, error) {
	text := strings.TrimSuffix(cmp.Or(o.getenv("HF_ENDPOINT"), hubcache.URL), "/")
	endpoint, err := url.Parse(text)
	if err != nil || endpoint.Scheme != "https" && endpoint.Scheme != "http" || endpoint.Host == "" {
		return nil, fmt.Errorf("HF_ENDPOINT %q: want an address such as %s", text, hubcache.URL)
	}
	c := &client{
		endpoint: endpoint, token: token(o.getenv), name: name, revision: revision,
		wait: cmp.Or(o.wait, time.Second), stalled: cmp.Or(o.stalled, time.Minute),
	}
	transport := o.Transport
	if transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = c.stalled
		transport = t
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: c.redirect}
	return c, nil
}

// token is what HF_TOKEN says, or the file that huggingface_hub's login writes.
func token(getenv func(string) string) string {
	if t := strings.TrimSpace(cmp.Or(getenv("HF_TOKEN"), getenv("HUGGING_FACE_HUB_TOKEN"))); t != "" {
		return t
	}
	path := getenv("HF_TOKEN_PATH")
	if home := hubcache.Home(getenv); path == "" && home != "" {
		path = filepath.Join(home, "token")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// redirect keeps the token from other hosts than the endpoint, and has a HEAD end where the
// answer about the file is: before another host.
func (c *client) redirect(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("redirected 10 times")
	}
	same := r.URL.Host == c.endpoint.Host && r.URL.Scheme == c.endpoint.Scheme
	if r.Method == http.MethodHead && !same {
		return http.ErrUseLastResponse
	}
	if !same {
		r.Header.Del("Authorization")
	}
	return nil
}

// statusError is an answer that is none.
type statusError struct {
	code  int
	kind  string        // X-Error-Code
	after time.Duration // how long to wait, if the server says so
}

func (e *statusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", e.code, http.StatusText(e.code), e.kind))
}

// again says whether the same request may succeed later.
func (e *statusError) again() bool {
	return e.code >= 500 && e.code != http.StatusNotImplemented || e.code == http.StatusTooManyRequests || e.code == http.StatusRequestTimeout
}

// once makes one request; from is the first byte wanted. Who gets a response closes it.
func (c *client) once(ctx context.Context, method, path string, from int64) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.endpoint.String()+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", "lowbit/"+strings.Trim(version.Module(), "()"))
	r.Header.Set("Accept-Encoding", "identity") // sizes and hashes are those of the file
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	if from > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode < 400 {
		return answer, nil
	}
	_ = answer.Body.Close()
	e := &statusError{code: answer.StatusCode, kind: answer.Header.Get("X-Error-Code")}
	if s, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && s > 0 {
		e.after = min(time.Duration(s)*time.Second, longestAsked)
	}
	return nil, e
}

// repeat does what may fail for a while until it does not. progress says whether an attempt
// has brought anything: only those in a row that have not are counted.
func (c *client) repeat(ctx context.Context, attempt func() (progress bool, err error)) error {
	for failed := 0; ; {
		progress, err := attempt()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case progress:
			failed = 0
		}
		if failed++; !again(err) || failed == attempts {
			return err
		}
		wait := min(c.wait<<(failed-1), longestWait)
		wait += rand.N(wait/4 + 1) // not all at the same moment
		var status *statusError
		if errors.As(err, &status) && status.after > 0 {
			wait = status.after
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// watch ends what does not call came for a while.
func (c *client) watch(ctx context.Context, work func(ctx context.Context, came func()) error) error {
	inner, stop := context.WithCancel(ctx)
	defer stop()
	timer := time.AfterFunc(c.stalled, stop)
	defer timer.Stop()
	err := work(inner, func() { timer.Reset(c.stalled) })
	if err != nil && inner.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("nothing came for %v", c.stalled)
	}
	return err
}

// permanent wraps what no repetition helps against.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func again(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return status.again()
	}
	var name *net.DNSError
	var cert *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var never permanent
	return !(errors.As(err, &name) && name.IsNotFound || errors.As(err, &cert) || errors.As(err, &authority) || errors.As(err, &never))
}

// list asks for the commit of the revision and the files at it.
func (c *client) list(ctx context.Context) (commit string, files names, err error) {
	var info struct {
		Commit   string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
		} `json:"siblings"`
	}
	path := "/api/models/" + c.name + "/revision/" + url.PathEscape(c.revision)
	err = c.repeat(ctx, func() (bool, error) {
		return false, c.watch(ctx, func(ctx context.Context, _ func()) error {
			answer, err := c.once(ctx, http.MethodGet, path, 0)
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
			if err != nil {
				return err
			}
			if err := json.Unmarshal(data, &info); err != nil {
				return permanent{fmt.Errorf("%s%s: not the answer of a hub: %w", c.endpoint, path, err)}
			}
			return nil
		})
	})
	if err != nil {
		return "", nil, c.explain(err, "")
	}
	if info.Commit == "" || strings.Trim(info.Commit, "0123456789abcdef") != "" {
		return "", nil, fmt.Errorf("%s%s: %q is no commit", c.endpoint, path, info.Commit)
	}
	for _, s := range info.Siblings {
		files = append(files, s.Name)
	}
	return info.Commit, files, nil
}

// file is one of a repository.
type file struct {
	name string
	path string // on the server
	etag string // the name of its blob, and what it is checked by
	size int64
}

// head asks for a file's size and checksum.
func (c *client) head(ctx context.Context, commit, name string) (*file, error) {
	f := &file{name: name, path: "/" + c.name + "/resolve/" + commit + "/" + url.PathEscape(name)}
	err := c.repeat(ctx, func() (bool, error) {
		var answer *http.Response
		err := c.watch(ctx, func(ctx context.Context, _ func()) (err error) {
			answer, err = c.once(ctx, http.MethodHead, f.path, 0)
			return err
		})
		if err != nil {
			return false, err
		}
		_ = answer.Body.Close()
		f.etag = strings.Trim(strings.TrimPrefix(cmp.Or(answer.Header.Get("X-Linked-Etag"), answer.Header.Get("ETag")), "W/"), `"`)
		if f.size = answer.ContentLength; answer.StatusCode >= http.StatusMultipleChoices {
			f.size = -1 // it is that of the answer
		}
		if linked := answer.Header.Get("X-Linked-Size"); linked != "" {
			if f.size, err = strconv.ParseInt(linked, 10, 64); err != nil {
				f.size = -1
			}
		}
		if at := answer.Header.Get("X-Repo-Commit"); at != "" && at != commit {
			return false, permanent{fmt.Errorf("the server answers for commit %s instead of %s", at, commit)}
		}
		return false, nil
	})
	switch {
	case err != nil:
		return nil, c.explain(err, name)
	case f.etag == "" || strings.ContainsFunc(f.etag, func(r rune) bool { return !hubcache.InName(r) }) || strings.Trim(f.etag, ".") == "":
		return nil, fmt.Errorf("%s: %s%s has the ETag %q, want a checksum", c.name, c.endpoint, f.path, f.etag)
	case f.size < 0:
		return nil, fmt.Errorf("%s: %s%s: the server does not say how large it is", c.name, c.endpoint, f.path)
	}
	return f, nil
}

// explain says what an error means for the model, or the file of it.
func (c *client) explain(err error, file string) error {
	if errors.Is(err, context.Canceled) { // nothing else is: see watch
		return err
	}
	what := c.name
	if file != "" {
		what += ": " + file
	}
	var status *statusError
	var never permanent
	switch {
	case errors.As(err, &never):
		return fmt.Errorf("%s: %w", what, never.error)
	case !errors.As(err, &status):
		return fmt.Errorf("%s: %s %w: %w", what, c.endpoint, errUnreachable, err)
	case status.again():
		return fmt.Errorf("%s: %s %w: %w, %d times", what, c.endpoint, errUnreachable, err, attempts)
	case status.kind == "GatedRepo" || status.code == http.StatusForbidden:
		help := "set HF_TOKEN to a token of yours"
		if c.token != "" {
			help = "use a token (HF_TOKEN) that may read it"
		}
		return fmt.Errorf("%s is gated: accept its licence at %s/%s, and %s (%w)", what, c.endpoint, c.name, help, err)
	case status.kind == "RevisionNotFound":
		return fmt.Errorf("%s has no revision %q at %s (%w)", what, c.revision, c.endpoint, err)
	case file != "" && status.code == http.StatusNotFound:
		return fmt.Errorf("%s is not at %s (%w)", what, c.endpoint, err)
	case status.code == http.StatusNotFound || status.code == http.StatusUnauthorized:
		help := "if it is private, set HF_TOKEN"
		if c.token != "" {
			help = "or not for the token that is set"
		}
		return fmt.Errorf("%s: no file or folder here, and no model at %s; %s (%w)", display(c.name, c.revision), c.endpoint, help, err)
	}
	return fmt.Errorf("%s: %s: %w", what, c.endpoint, err)
}
