// Package space knows before the work how much of the disk it takes.
package space

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/memory"
)

// ErrTooLittle is wrapped by the error for a result that the file system has no
// room for.
var ErrTooLittle = errors.New("not enough room on the disk")

// Space is what a run takes of the disk, in bytes.
type Space struct {
	Output  int64 `json:"output"`  // tensors of the result
	Kept    int64 `json:"kept"`    // finished layers, until the result is complete
	Scratch int64 `json:"scratch"` // what does not fit in memory, until the last layer is done
	// Least is what is needed at any rate, at the worst moment.
	Least int64 `json:"least"`
	// Free is what there is, with what an interrupted run left there; -1 if the
	// system does not tell.
	Free int64 `json:"free"`
}

// Most is what is needed at the worst moment, as far as can be foreseen: what is
// not held in memory is gone before the result is put together.
func (s Space) Most() int64 { return s.Kept + max(s.Output, s.Scratch) }

// Check fails where the room is too little at any rate; where it may be too little,
// warning says so.
func (s Space) Check(path string) (warning string, err error) {
	if s.Free < 0 || s.Most() <= s.Free && s.Least <= s.Free {
		return "", nil
	}
	text := "the result takes about " + memory.Size(s.Output)
	if s.Kept > 0 {
		text += ", finished layers until then " + memory.Size(s.Kept)
	}
	if s.Scratch > 0 {
		text += ", what does not fit in memory before " + memory.Size(s.Scratch)
	}
	text += "; there are " + memory.Size(s.Free) + " free"
	if s.Least > s.Free {
		return "", fmt.Errorf("%s: %w: %s are needed at least (%s)", path, ErrTooLittle, memory.Size(s.Least), text)
	}
	return fmt.Sprintf("%s: the disk may be too small: %s", path, text), nil
}

// Codes is what the codes of layers take that are packed without gaps: less than
// any format needs for them.
func Codes(layers []layout.Layer) int64 {
	var n int64
	for _, l := range layers {
		n += (int64(l.Out)*int64(l.In)*int64(l.Scheme.Bits) + 7) / 8
	}
	return n
}

// Bytes is what tensors take.
func Bytes(specs []layout.Spec) int64 {
	var n int64
	for _, s := range specs {
		n += s.Bytes()
	}
	return n
}

// Free is how much there is for what is to lie at path and, until then, in a folder
// beside it: what is there already is part of what is needed. It is -1 if it is not
// known.
func Free(d disk.FS, path, folder string) int64 {
	n, ok := d.Free(path)
	if !ok {
		return -1
	}
	_ = filepath.WalkDir(folder, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil // what cannot be looked at is not counted
	})
	return n
}
