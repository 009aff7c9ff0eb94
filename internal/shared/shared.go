// Package shared keeps what runs with other settings, one after another on the same model,
// would find alike, in a file. It travels in a context; where there is none nothing is kept.
package shared

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"

	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

// Runs keeps matrices by their keys. It is of one model, and for one goroutine at a time. A nil
// Runs has nothing and keeps nothing.
type Runs struct {
	dir    string
	disk   disk.FS
	file   *os.File
	store  *streams.Store
	pieces map[string][]*streams.Piece
}

// New is one whose file, which has no name where the system allows that, is made in a folder.
func New(dir string) *Runs {
	r := &Runs{dir: dir, pieces: map[string][]*streams.Piece{}}
	r.store = streams.New(plain{}, 0, func() (streams.File, error) {
		f, err := os.CreateTemp(dir, ".lowbit-shared-")
		if err != nil {
			return nil, err
		}
		_ = os.Remove(f.Name()) // as far as it can be while it is open
		r.file = f
		return f, nil
	})
	return r
}

// plain are matrices that the garbage collector takes back.
type plain struct{}

func (plain) Matrix(rows, cols int) *tensor.Matrix { return tensor.New(rows, cols) }
func (plain) Release(*tensor.Matrix)               {}

// Close removes the file.
func (r *Runs) Close() error {
	if r == nil || r.file == nil {
		return nil
	}
	err := r.file.Close()
	_ = os.Remove(r.file.Name())
	return err
}

type key struct{}

// With is a context with r.
func (r *Runs) With(ctx context.Context) context.Context { return context.WithValue(ctx, key{}, r) }

// Of is what travels in a context, or nil.
func Of(ctx context.Context) *Runs {
	r, _ := ctx.Value(key{}).(*Runs)
	return r
}

// Has reports whether there is something.
func (r *Runs) Has(key string) bool { return r != nil && r.pieces[key] != nil }

// Put keeps matrices, without taking them over. Where the disk has less than twice the room, or
// does not take them, it does without.
func (r *Runs) Put(key string, all ...*tensor.Matrix) {
	if r == nil || r.Has(key) {
		return
	}
	var pieces []*streams.Piece
	for _, m := range all {
		if m.Stride != m.Cols {
			m = m.Clone()
		}
		if free, ok := r.disk.Free(r.dir); ok && free/2 < 4*int64(m.Rows)*int64(m.Cols) {
			return
		}
		p, err := r.store.Put(m)
		if err != nil {
			return
		}
		pieces = append(pieces, p)
	}
	r.pieces[key] = pieces
}

// Get returns what was put there, nil if nothing was. An error says that it does not come back
// as it was.
func (r *Runs) Get(key string) ([]*tensor.Matrix, error) {
	if !r.Has(key) {
		return nil, nil
	}
	var all []*tensor.Matrix
	for _, p := range r.pieces[key] {
		m, err := r.store.Load(p)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// Text is the beginning of keys of what depends on the text and how it is run.
func Text(w *walk.Walk, windows [][]int32) string {
	h := sha256.New()
	for _, ids := range windows {
		_ = binary.Write(h, binary.LittleEndian, int32(len(ids)))
		_ = binary.Write(h, binary.LittleEndian, ids)
	}
	m := w.Model
	return fmt.Sprintf("%x %d %v %d %d %d ", h.Sum(nil), w.SeqLen, w.Runner.BF16, m.Layers, m.Hidden, m.Vocab)
}
