package hub

import (
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/golowbit/lowbit/checkpoint/internal/hubcache"
	"github.com/golowbit/lowbit/internal/disk"
)

// fetch loads a model into the cache.
type fetch struct {
	*client
	cache string
	o     *Options
	disk  disk.FS

	repo, commit string // the model's folder in the cache; what the revision is

	mu          sync.Mutex
	done, total int64
}

// errChecksum says that what came is not what was promised.
var errChecksum = errors.New("wrong checksum")

// run returns the snapshot.
func (f *fetch) run(ctx context.Context) (string, error) {
	commit, all, err := f.list(ctx)
	if err != nil {
		return "", err
	}
	f.repo, f.commit = hubcache.Repo(f.cache, f.name), commit
	for _, dir := range []string{filepath.Join(f.repo, "blobs"), f.locks()} {
		if err := f.disk.MkdirAll(dir, 0o777); err != nil {
			return "", fmt.Errorf("%s: the hub's cache: %w", f.name, err)
		}
	}
	files := all.top()
	weights, err := files.weights(func(index string) ([]byte, error) { return f.index(ctx, index) })
	if err != nil {
		return "", fmt.Errorf("%s: %w%s", display(f.name, f.revision), err, found(err, all))
	}
	// Weights last: a snapshot that has them has all.
	wanted := append(files.beside(weights), weights...)
	missing, err := f.missing(ctx, wanted)
	if err != nil {
		return "", err
	}
	if err := f.load(ctx, missing); err != nil {
		return "", err
	}
	return f.snapshot(), f.publish(ctx, missing)
}

// found says what there is instead of weights.
func found(err error, all names) string {
	if !errors.Is(err, errNoWeights) {
		return ""
	}
	if len(all) > 5 {
		return fmt.Sprintf(" (%s and %d more)", strings.Join(all[:5], ", "), len(all)-5)
	}
	return fmt.Sprintf(" (%s)", strings.Join(all, ", "))
}

func (f *fetch) snapshot() string { return filepath.Join(f.repo, "snapshots", f.commit) }

func (f *fetch) locks() string { return filepath.Join(f.cache, ".locks", filepath.Base(f.repo)) }

func (f *fetch) blob(etag string) string { return filepath.Join(f.repo, "blobs", etag) }

// index reads an index of shards, which is loaded before anything else.
func (f *fetch) index(ctx context.Context, name string) ([]byte, error) {
	path := filepath.Join(f.snapshot(), name)
	if !exists(path) {
		m, err := f.head(ctx, f.commit, name)
		if err != nil {
			return nil, err
		}
		path = f.blob(m.etag)
		if err := f.loadOne(ctx, m); err != nil {
			return nil, err
		}
	}
	f.done = 0 // told again with the rest
	return disk.ReadFile(path, maxIndex)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// missing asks about the files that the snapshot has not got, in the order of wanted.
func (f *fetch) missing(ctx context.Context, wanted []string) ([]*file, error) {
	files := make([]*file, len(wanted))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * f.atOnce())
	for i, name := range wanted {
		if exists(filepath.Join(f.snapshot(), name)) {
			continue
		}
		g.Go(func() (err error) {
			files[i], err = f.head(ctx, f.commit, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(files, func(m *file) bool { return m == nil }), nil
}

func (f *fetch) atOnce() int { return cmp.Or(max(f.o.Files, 0), 4) }

// load brings the files' blobs into the cache, several at a time.
func (f *fetch) load(ctx context.Context, files []*file) error {
	var left int64
	for _, m := range files {
		f.total += m.size
		for _, path := range []string{f.blob(m.etag), f.blob(m.etag) + incomplete} {
			if st, err := os.Stat(path); err == nil {
				left -= min(st.Size(), m.size)
				break
			}
		}
		left += m.size
	}
	if free, ok := f.disk.Free(f.repo); ok && left > free {
		return fmt.Errorf("%s: %d bytes are to be loaded, and %s has room for %d: HF_HUB_CACHE may be elsewhere", f.name, left, f.cache, free)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.atOnce())
	for _, m := range files {
		g.Go(func() error { return f.loadOne(ctx, m) })
	}
	return g.Wait()
}

// incomplete ends the name of a blob that is not all there.
const incomplete = ".incomplete"

// loadOne brings a file's blob into the cache, unless it is there or another process is
// bringing it.
func (f *fetch) loadOne(ctx context.Context, m *file) error {
	unlock, err := f.lock(ctx, m.etag)
	if err != nil {
		return err
	}
	defer unlock()
	path := f.blob(m.etag)
	if exists(path) {
		f.tell(m.size)
		return nil
	}
	for first := true; ; first = false {
		err = f.loadBlob(ctx, m, path+incomplete)
		if !errors.Is(err, errChecksum) {
			break
		}
		// What an interrupted run had left may have been at fault.
		if err := f.disk.Remove(path + incomplete); err != nil {
			return err
		}
		if !first {
			break
		}
	}
	if err != nil {
		return f.explain(err, m.name)
	}
	return f.disk.Rename(path+incomplete, path)
}

// lock waits for the lock of a blob, which is huggingface_hub's.
func (f *fetch) lock(ctx context.Context, etag string) (unlock func(), err error) {
	for {
		l, err := disk.Lock(filepath.Join(f.locks(), etag+".lock"))
		if err == nil {
			return func() { _ = l.Close() }, nil
		}
		if !errors.Is(err, disk.ErrLocked) {
			return nil, fmt.Errorf("%s: the hub's cache: %w", f.name, err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(min(f.wait, 200*time.Millisecond)):
		}
	}
}

// tell counts bytes that have come, or that come once more if n is negative.
func (f *fetch) tell(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done += n
	if f.o.Progress != nil && f.total > 0 {
		f.o.Progress(f.done, f.total)
	}
}

// part is a blob that is being loaded.
type part struct {
	file *os.File
	sum  hash.Hash // of what is there, nil if there is no checksum
	n    int64     // how much that is
	tell func(int64)
}

// newHash is what an ETag is of: SHA-256 of large files, Git's SHA-1 of small ones. Others
// tell nothing about the content.
func newHash(m *file) hash.Hash {
	if _, err := hex.DecodeString(m.etag); err != nil {
		return nil
	}
	switch len(m.etag) {
	case 2 * sha256.Size:
		return sha256.New()
	case 2 * sha1.Size:
		h := sha1.New()
		fmt.Fprintf(h, "blob %d\x00", m.size)
		return h
	}
	return nil
}

// restart forgets what is there.
func (p *part) restart(m *file) error {
	p.tell(-p.n)
	p.sum, p.n = newHash(m), 0
	return errors.Join(p.file.Truncate(0), seek(p.file, 0))
}

func seek(f *os.File, to int64) error {
	_, err := f.Seek(to, io.SeekStart)
	return err
}

// Write implements io.Writer.
func (p *part) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	if p.sum != nil {
		p.sum.Write(b[:n])
	}
	p.n += int64(n)
	p.tell(int64(n))
	if err != nil {
		return n, permanent{err} // no room
	}
	return n, nil
}

// loadBlob loads what of a file is not in path yet, and checks it.
func (f *fetch) loadBlob(ctx context.Context, m *file, path string) error {
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return permanent{err}
	}
	defer out.Close()
	p := &part{file: out, sum: newHash(m), tell: f.tell}
	if err := p.takeUp(ctx, m); err != nil {
		return permanent{err}
	}
	err = f.repeat(ctx, func() (bool, error) {
		before := p.n
		err := f.more(ctx, m, p)
		return p.n > before, err
	})
	if err != nil {
		return err
	}
	if p.sum != nil {
		if sum := hex.EncodeToString(p.sum.Sum(nil)); sum != strings.ToLower(m.etag) {
			f.tell(-p.n)
			return permanent{fmt.Errorf("%w: what came has %s, and should have %s", errChecksum, sum, m.etag)}
		}
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return permanent{err}
	}
	return nil
}

// takeUp reads what an interrupted run has left.
func (p *part) takeUp(ctx context.Context, m *file) error {
	st, err := p.file.Stat()
	if err != nil {
		return err
	}
	if st.Size() > m.size {
		return p.restart(m)
	}
	buf := make([]byte, 1<<20)
	for ctx.Err() == nil {
		n, err := p.file.Read(buf)
		if p.sum != nil {
			p.sum.Write(buf[:n])
		}
		p.n += int64(n)
		p.tell(int64(n))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// more makes one request for the rest of a file.
func (f *fetch) more(ctx context.Context, m *file, p *part) error {
	if p.n == m.size {
		return nil
	}
	return f.watch(ctx, func(ctx context.Context, came func()) error { return f.rest(ctx, m, p, came) })
}

func (f *fetch) rest(ctx context.Context, m *file, p *part, came func()) error {
	answer, err := f.once(ctx, http.MethodGet, m.path, p.n)
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusRequestedRangeNotSatisfiable && p.n > 0 {
		return errors.Join(io.ErrUnexpectedEOF, p.restart(m))
	}
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var from int64
	if answer.StatusCode == http.StatusPartialContent {
		if _, err := fmt.Sscanf(answer.Header.Get("Content-Range"), "bytes %d-", &from); err != nil {
			return permanent{fmt.Errorf("Content-Range %q of a part", answer.Header.Get("Content-Range"))}
		}
	}
	if from != p.n {
		if from != 0 {
			return permanent{fmt.Errorf("bytes from %d on came, and those from %d on were asked for", from, p.n)}
		}
		if err := p.restart(m); err != nil { // a server without parts
			return permanent{err}
		}
	}
	_, err = io.Copy(p, &watched{io.LimitReader(answer.Body, m.size-p.n), came})
	if err == nil && p.n < m.size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// watched tells whenever something comes.
type watched struct {
	io.Reader
	came func()
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if n > 0 {
		w.came()
	}
	return n, err
}

// publish makes the snapshot of what has been loaded.
func (f *fetch) publish(ctx context.Context, files []*file) error {
	unlock, err := f.lock(ctx, "refs")
	if err != nil {
		return err
	}
	defer unlock()
	if err := f.disk.MkdirAll(f.snapshot(), 0o777); err != nil {
		return fmt.Errorf("%s: the hub's cache: %w", f.name, err)
	}
	for _, m := range files {
		if err := f.link(m); err != nil {
			return fmt.Errorf("%s: the hub's cache: %w", f.name, err)
		}
	}
	return f.ref()
}

// link puts a blob into the snapshot, as a hard link where the system has no others.
func (f *fetch) link(m *file) error {
	path := filepath.Join(f.snapshot(), m.name)
	if exists(path) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // a link to nowhere
		return err
	}
	err := os.Symlink(filepath.Join("..", "..", "blobs", m.etag), path)
	if err != nil && !exists(path) {
		err = os.Link(f.blob(m.etag), path)
	}
	if exists(path) { // perhaps by another program
		return nil
	}
	return err
}

// ref notes the commit of a branch or tag.
func (f *fetch) ref() error {
	if f.revision == f.commit {
		return nil
	}
	path := filepath.Join(f.repo, "refs", filepath.FromSlash(f.revision))
	if err := f.disk.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	return f.disk.WriteFile(path, []byte(f.commit))
}
