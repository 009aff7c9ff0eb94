// Package kept holds the last few results of something slow, so that reading a tensor in
// pieces makes it once.
package kept

import (
	"slices"
	"sync"
)

// most is how many are kept: one for each layer that is worked on at a time.
const most = 4

// Last holds the last few results by name. The zero value is ready; it is safe for
// concurrent use.
type Last[T any] struct {
	mu   sync.Mutex
	list []*result[T]
}

type result[T any] struct {
	name string
	once sync.Once
	v    T
	err  error
}

// Get returns what find has returned for the name, or calls it. Who asks for the same
// name meanwhile waits. An error is returned to all who wait, and not kept.
func (l *Last[T]) Get(name string, find func() (T, error)) (T, error) {
	r := l.result(name)
	r.once.Do(func() { r.v, r.err = find() })
	if r.err != nil {
		l.mu.Lock()
		l.list = slices.DeleteFunc(l.list, func(o *result[T]) bool { return o == r })
		l.mu.Unlock()
	}
	return r.v, r.err
}

func (l *Last[T]) result(name string) *result[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.list, func(r *result[T]) bool { return r.name == name })
	r := &result[T]{name: name}
	if i >= 0 {
		r = l.list[i]
		l.list = slices.Delete(l.list, i, i+1)
	} else if len(l.list) == most {
		l.list = slices.Delete(l.list, 0, 1)
	}
	l.list = append(l.list, r)
	return r
}
