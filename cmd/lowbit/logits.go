package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// maxIDs limits a file of token ids, in bytes.
const maxIDs = 1 << 30

// readIDs reads a JSON array of arrays of token ids.
func readIDs(path string, stdin io.Reader) ([][]int32, error) {
	r := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxIDs+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(data) > maxIDs {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxIDs)
	}
	var ids [][]int32
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\ufeff")), &ids); err != nil {
		return nil, fmt.Errorf("%s: want a JSON array of arrays of token ids: %w", path, err)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s: no sequences", path)
	}
	return ids, nil
}

// evalLogits is eval that writes the logits to a file.
func (a *app) evalLogits(ctx context.Context, o lowbit.EvalOptions, path string, asJSON, quiet bool) error {
	if !strings.HasSuffix(path, ".safetensors") {
		return usageError{fmt.Errorf("--logits %s: want a name that ends in .safetensors", path)}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, errors.Join(err, fs.ErrExist))
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".logits-")
	if err != nil {
		return err
	}
	l := &logitsFile{dir: dir, ids: o.Text.IDs}
	defer l.close()
	o.Logits = l.add
	if err := a.eval(ctx, o, o.Against, asJSON, quiet); err != nil {
		return err
	}
	return l.publish(path)
}

// logitsFile writes logits as they come.
type logitsFile struct {
	dir string
	ids [][]int32
	out *safetensors.Writer // nil until the vocabulary is known
	buf []byte
}

const logitsName = "logits"

// together reports whether all sequences have one length, and so one tensor.
func (l *logitsFile) together() bool {
	for _, s := range l.ids {
		if len(s) != len(l.ids[0]) {
			return false
		}
	}
	return true
}

// start lays the file out.
func (l *logitsFile) start(vocab int) error {
	var plan []safetensors.TensorInfo
	if l.together() {
		plan = append(plan, safetensors.TensorInfo{Name: logitsName, DType: safetensors.F32, Shape: []int{len(l.ids), len(l.ids[0]), vocab}})
	} else {
		for i, s := range l.ids {
			plan = append(plan, safetensors.TensorInfo{Name: fmt.Sprintf("%s.%d", logitsName, i), DType: safetensors.F32, Shape: []int{len(s), vocab}})
		}
	}
	var err error
	l.out, err = safetensors.NewWriter(l.dir, plan, safetensors.Options{MaxShardBytes: -1})
	return err
}

// add writes the logits of some tokens of a sequence.
func (l *logitsFile) add(sequence, first int, logits *tensor.Matrix) error {
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
	name, row := logitsName, first
	if l.together() {
		row += sequence * len(l.ids[0])
	} else {
		name = fmt.Sprintf("%s.%d", logitsName, sequence)
	}
	return l.out.WriteAt(name, l.buf, 4*int64(row)*int64(logits.Cols))
}

// publish gives the finished file its name.
func (l *logitsFile) publish(path string) error {
	if err := l.out.Close(); err != nil {
		return err
	}
	return os.Rename(filepath.Join(l.dir, safetensors.SingleName), path)
}

// close removes what is left behind.
func (l *logitsFile) close() {
	if l.out != nil {
		l.out.Abort()
	}
	_ = os.RemoveAll(l.dir)
}
