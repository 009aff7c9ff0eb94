// Package logits writes what a model predicts at every token to a file.
package logits

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// File is written as logits come.
type File struct {
	path, dir string
	ids       [][]int32
	out       *safetensors.Writer // nil until the vocabulary is known
	buf       []byte
}

// New makes a file of the logits of sequences of ids, which has its name path once it is published. What is there
// already stays, and is an error that wraps fs.ErrExist.
func New(path string, ids [][]int32) (*File, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, errors.Join(err, fs.ErrExist))
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".logits-")
	return &File{path: path, dir: dir, ids: ids}, err
}

// tensors is what the tensors are called, or their names begin with.
const tensors = "logits"

// together reports whether all sequences have one length, and so one tensor.
func (l *File) together() bool {
	for _, s := range l.ids {
		if len(s) != len(l.ids[0]) {
			return false
		}
	}
	return true
}

// start lays the file out.
func (l *File) start(vocab int) error {
	var plan []safetensors.TensorInfo
	if l.together() {
		plan = append(plan, safetensors.TensorInfo{Name: tensors, DType: safetensors.F32, Shape: []int{len(l.ids), len(l.ids[0]), vocab}})
	} else {
		for i, s := range l.ids {
			plan = append(plan, safetensors.TensorInfo{Name: fmt.Sprintf("%s.%d", tensors, i), DType: safetensors.F32, Shape: []int{len(s), vocab}})
		}
	}
	var err error
	l.out, err = safetensors.NewWriter(l.dir, plan, safetensors.Options{MaxShardBytes: -1})
	return err
}

// Add writes the logits of some tokens of a sequence.
func (l *File) Add(sequence, first int, logits *tensor.Matrix) error {
	if l.out == nil {
		if err := l.start(logits.Cols); err != nil {
			return err
		}
	}
	l.buf = l.buf[:0]
	for i := range logits.Rows {
		for _, v := range logits.Row(i) {
			l.buf = binary.LittleEndian.AppendUint32(l.buf, math.Float32bits(v))
		}
	}
	name, row := tensors, first
	if l.together() {
		row += sequence * len(l.ids[0])
	} else {
		name = fmt.Sprintf("%s.%d", tensors, sequence)
	}
	return l.out.WriteAt(name, l.buf, 4*int64(row)*int64(logits.Cols))
}

// Publish gives the finished file its name.
func (l *File) Publish() error {
	if err := l.out.Close(); err != nil {
		return err
	}
	return os.Rename(filepath.Join(l.dir, safetensors.SingleName), l.path)
}

// Close removes what is left behind.
func (l *File) Close() {
	if l.out != nil {
		l.out.Abort()
	}
	_ = os.RemoveAll(l.dir)
}
