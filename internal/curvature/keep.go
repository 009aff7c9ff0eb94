package curvature

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

// keptMark begins what Keep writes: the mark, how many layers were collected, and of each,
// in the model's order: the length of its name, its outputs (0 if no token reached it), how
// much is kept beside the diagonal, the name, the lower triangle and a seal.
const (
	keptMark = "lowbit curvature 1"
	keptHead = 3
)

// Size is how many bytes Keep writes.
func (m *Moments) Size() int64 {
	n := int64(len(keptMark) + 8)
	for _, name := range m.names {
		n += 8*keptHead + int64(len(name)) + streams.SealSize
		if p := m.pieces[name]; p != nil {
			n += 2 * int64(p.Rows()) * int64(p.Rows()+1)
		}
	}
	return n
}

// Keep writes what was collected, for Restore.
func (m *Moments) Keep(ctx context.Context, out io.Writer) error {
	k, err := streams.NewKeptWriter(out, keptMark)
	if err != nil {
		return err
	}
	if err := k.Numbers(uint64(len(m.names))); err != nil {
		return err
	}
	for _, name := range m.names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := m.keepLayer(k, name); err != nil {
			return err
		}
	}
	return k.Flush()
}

func (m *Moments) keepLayer(k *streams.KeptWriter, name string) error {
	p, rows := m.pieces[name], 0
	if p != nil {
		rows = p.Rows()
	}
	err := k.Numbers(uint64(len(name)), uint64(rows), math.Float64bits(m.Kept[name]))
	if err == nil {
		err = k.Bytes([]byte(name))
	}
	if err == nil && p != nil {
		var o *tensor.Matrix
		if o, err = m.store.Load(p); err != nil {
			return err
		}
		for i := 0; i < rows && err == nil; i++ {
			err = k.Floats(o.Row(i)[:i+1])
		}
		err = errors.Join(err, m.store.Done(p, o, false))
	}
	if err != nil {
		return err
	}
	return k.Seal()
}

// Restore returns what Keep has written of the layers that wants names. Errors wrap
// streams.ErrKept, where any of these is not there or all is of another model, or are
// those of in or of the Store.
func Restore(ctx context.Context, w *walk.Walk, wants func(name string) bool, in io.ReaderAt) (*Moments, error) {
	m := newMoments(w)
	if err := m.restore(ctx, w, wants, in); err != nil {
		m.Drop()
		return nil, err
	}
	return m, nil
}

func (m *Moments) restore(ctx context.Context, w *walk.Walk, wants func(name string) bool, in io.ReaderAt) error {
	k, err := streams.NewKeptReader(in, keptMark)
	if err != nil {
		return err
	}
	count, err := k.Numbers(1)
	if err != nil {
		return err
	}
	outputs := map[string]int{}
	for _, l := range w.Model.Linears() {
		outputs[l.Name] = l.Out
	}
	found := map[string]bool{}
	for range count[0] {
		if err := ctx.Err(); err != nil {
			return err
		}
		name, err := m.restoreLayer(k, outputs, wants)
		if err != nil {
			return err
		}
		found[name] = true
	}
	for _, l := range w.Model.Linears() {
		if wants(l.Name) && !found[l.Name] {
			return fmt.Errorf("%w: without %s", streams.ErrKept, l.Name)
		}
	}
	return nil
}

// restoreLayer reads one layer; outputs are those of all there are.
func (m *Moments) restoreLayer(k *streams.KeptReader, outputs map[string]int, wants func(name string) bool) (name string, err error) {
	head, err := k.Numbers(keptHead)
	if err != nil {
		return "", err
	}
	const longest = 1 << 12
	raw := make([]byte, min(head[0], longest))
	if err := k.Bytes(raw); err != nil {
		return "", err
	}
	name = string(raw)
	out, known := outputs[name]
	if !known || head[1] != 0 && head[1] != uint64(out) {
		return "", fmt.Errorf("%w: %q with %d outputs, want %d", streams.ErrKept, name, head[1], out)
	}
	if head[1] == 0 {
		return name, k.Seal()
	}
	o := tensor.New(out, out)
	for i := range out {
		if err := k.Floats(o.Row(i)[:i+1]); err != nil {
			return "", err
		}
	}
	if err := k.Seal(); err != nil || !wants(name) {
		return name, err
	}
	tensor.Mirror(o)
	p, err := m.store.Put(o)
	if err != nil {
		return "", err
	}
	m.pieces[name], m.Kept[name] = p, math.Float64frombits(head[2])
	return name, nil
}
