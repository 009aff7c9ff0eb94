package team

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golowbit/lowbit/internal/disk"
)

// How parts look after each other.
const (
	soonest = 5 * time.Millisecond // between two looks at the folder, growing with the wait to
	latest  = time.Second
	share   = 20               // of which one is lost at most
	beat    = 5 * time.Second  // between two signs of life
	silent  = 60 * time.Second // without one, and a part is taken for dead
	telling = 15 * time.Second // between two words about what is waited for
)

// Folder is where parts leave what others wait for. It is safe for concurrent use.
type Folder struct {
	Part Part
	// Tell, if set, is told now and then what this part waits for.
	Tell func(message string)

	path string
	disk disk.FS

	mu   sync.Mutex
	seen map[string]sign // by file
}

// sign is the last sign of life of a part, by this process' own clock: those of others
// may be wrong.
type sign struct {
	text string
	at   time.Time
}

// NewFolder is the folder at a path, for a part; Make makes it.
func NewFolder(path string, p Part, d disk.FS) *Folder {
	return &Folder{Part: p, path: path, disk: d, seen: map[string]sign{}}
}

// Make makes the folder where it is not there.
func (f *Folder) Make() error { return f.disk.MkdirAll(f.path, 0o777) }

// Unique is the path of something that no other process makes: this part too may run twice
// at a time, as under Kubernetes it now and then does.
func (f *Folder) Unique(what string) string {
	return filepath.Join(f.path, fmt.Sprintf("%s-%d-%s.new", what, f.Part.Index, rand.Text()[:12]))
}

// Put leaves what write writes under a name, all of it at once. What was there under the
// name is replaced. It is not brought to the disk: readers find out whether it is whole.
func (f *Folder) Put(name string, write func(io.Writer) error) error {
	tmp := f.Unique("put")
	out, err := f.disk.Create(tmp)
	if err != nil {
		return err
	}
	err = write(out)
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = f.disk.Rename(tmp, f.Path(name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// Path is where a name lies.
func (f *Folder) Path(name string) string { return filepath.Join(f.path, name) }

// Open opens what was left under a name; nil if it is not there.
func (f *Folder) Open(name string) (*os.File, error) {
	file, err := os.Open(f.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return file, err
}

// Remove removes what was left under a name, if it is there.
func (f *Folder) Remove(name string) error { return f.disk.Remove(f.Path(name)) }

// Alive gives signs of life until what it returns is called.
func (f *Folder) Alive() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	name := "alive-" + strconv.Itoa(f.Part.Index)
	say := func(text string) {
		// Nothing but messages depends on it.
		_ = f.Put(name, func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
	}
	say("begun")
	done.Go(func() {
		for n := 1; ; n++ {
			if Sleep(ctx, beat) != nil {
				return
			}
			say(strconv.Itoa(n))
		}
	})
	return func() {
		cancel()
		done.Wait()
		if _, err := os.Stat(f.path); err == nil { // the result may be published
			say(stopped)
		}
	}
}

const stopped = "stopped"

// Of says how another part is.
func (f *Folder) of(part int) string {
	name := "alive-" + strconv.Itoa(part)
	data, err := disk.ReadFile(f.Path(name), 100)
	if err != nil {
		return "which has not begun"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	last := f.seen[name]
	if text := string(data); text != last.text {
		last = sign{text, time.Now()}
		f.seen[name] = last
	}
	if last.text == stopped {
		return "which has stopped: run it again"
	}
	if since := time.Since(last.at); since > silent {
		return fmt.Sprintf("which gives no sign of life for %v: if it has died, run it again", since.Round(time.Second))
	}
	return "which is at work"
}

// Wait waits until ready says that something is there which part from is to make.
func (f *Folder) Wait(ctx context.Context, what string, from int, ready func() (bool, error)) error {
	start := time.Now()
	told := start
	for {
		ok, err := ready()
		if err != nil || ok {
			return err
		}
		if f.Tell != nil && time.Since(told) > telling {
			told = time.Now()
			f.Tell(fmt.Sprintf("%v waits for %s, for %v now, of part %d, %s", f.Part, what, time.Since(start).Round(time.Second), from, f.of(from)))
		}
		if err := Sleep(ctx, min(latest, max(soonest, time.Since(start)/share))); err != nil {
			return err
		}
	}
}

// Sleep waits that long, or until ctx ends, whose error it returns then.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Lease is something that one process at a time does. It is a file, made by a call that
// one alone succeeds in on every file system, and written anew as long as its owner lives:
// locks of the system do not reach from machine to machine everywhere.
type Lease struct {
	f          *Folder
	name, text string
	cancel     func()
	done       sync.WaitGroup
}

// Lease waits for it. One whose owner is dead is taken over: at once where that was a
// process of this machine that is gone, else after a minute without a sign of life. done,
// asked now and then, says that it is not needed any more: then there is no lease.
func (f *Folder) Lease(ctx context.Context, name string, done func() (bool, error)) (*Lease, error) {
	host, _ := os.Hostname()
	l := &Lease{f: f, name: name, text: fmt.Sprintf("%d %d %s", os.Getpid(), f.Part.Index, strings.Join(strings.Fields(host), "-"))}
	over := false // done
	err := f.Wait(ctx, name, f.Part.Index, func() (bool, error) {
		if ok, err := done(); ok || err != nil {
			over = true
			return true, err
		}
		return l.take()
	})
	if err != nil || over {
		return nil, err
	}
	ctx, l.cancel = context.WithCancel(context.Background())
	l.done.Go(func() {
		for n := 1; Sleep(ctx, beat) == nil; n++ {
			// Whoever has taken it over meanwhile takes a minute to find out that this one lives.
			_ = f.Put(name, func(w io.Writer) error { _, err := fmt.Fprintf(w, "%s\n%d\n", l.text, n); return err })
		}
	})
	return l, nil
}

// take tries to.
func (l *Lease) take() (bool, error) {
	path := l.f.Path(l.name)
	if err := l.f.disk.Before("create", path); err != nil {
		return false, err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err == nil {
		_, err = io.WriteString(file, l.text+"\n0\n")
		return err == nil, errors.Join(err, file.Close())
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	data, err := disk.ReadFile(path, 1000)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // gone just now
	}
	if err != nil || !l.f.dead(l.name, string(data)) {
		return false, err
	}
	// Of several who find it dead one moves it away.
	away := l.f.Unique("lease")
	if err := os.Rename(path, away); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	return false, os.Remove(away)
}

// dead says whether the owner of a lease is, which says text.
func (f *Folder) dead(name, text string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	last, ok := f.seen[name]
	if !ok || last.text != text {
		f.seen[name] = sign{text, time.Now()}
	} else if time.Since(last.at) > silent {
		return true
	}
	owner, _, _ := strings.Cut(text, "\n")
	words := strings.Fields(owner)
	host, err := os.Hostname()
	if err != nil || len(words) != 3 || words[2] != strings.Join(strings.Fields(host), "-") {
		return false
	}
	pid, err := strconv.Atoi(words[0])
	return err == nil && gone(pid)
}

// End gives it back.
func (l *Lease) End() error {
	l.cancel()
	l.done.Wait()
	return l.f.Remove(l.name)
}
